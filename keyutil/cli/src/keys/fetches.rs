//! The fetches of the key set that this process serves.
//!
//! A key that no server has fetched must not sign. This process knows which addresses have been
//! sent the whole document. Servers behind one proxy or NAT count as one, and a person with a
//! browser counts, too: the fetches are evidence in addition to the waits, and do not replace them.

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;

use super::Jwks;
use keyutil::credentials::reload::Reloading;

/// The fetches of the current key set. Clones share them.
#[derive(Clone, Debug)]
pub struct Fetches {
    document: Reloading<Jwks>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// The document that was fetched.
    of: Bytes,
    since: SystemTime,
    peers: HashSet<IpAddr>,
    count: u64,
    last: Option<SystemTime>,
}

/// The fetches of the current key set at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// The `kid`s of the key set.
    pub kids: Vec<String>,
    /// When this process began to serve it.
    pub since: SystemTime,
    /// The number of addresses that have fetched it.
    pub fetchers: usize,
    /// The number of complete fetches of any key set.
    pub fetches: u64,
    /// The time of the last one.
    pub last_fetch: Option<SystemTime>,
}

impl Present {
    /// Returns how many addresses have fetched a key set with this key.
    pub fn fetchers_of(&self, kid: &str) -> usize {
        let has = self.kids.iter().any(|one| one == kid);
        if has { self.fetchers } else { 0 }
    }
}

impl Fetches {
    /// Starts to count the fetches of this document.
    pub fn of(document: Reloading<Jwks>) -> Self {
        let state = State {
            of: document.current().document(),
            since: SystemTime::now(),
            peers: HashSet::new(),
            count: 0,
            last: None,
        };
        Self {
            document,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Records that a peer was sent the whole of `fetched`.
    pub fn note(&self, peer: IpAddr, fetched: &Bytes, now: SystemTime) {
        let present = self.document.current();
        let mut state = self.state.lock();
        state.follow(&present, now);
        state.count += 1;
        state.last = Some(now);
        if *fetched == state.of && state.peers.len() < MOST_PEERS {
            state.peers.insert(peer.to_canonical());
        }
    }

    /// Returns the fetches of the current key set.
    pub fn present(&self, now: SystemTime) -> Present {
        let present = self.document.current();
        let mut state = self.state.lock();
        state.follow(&present, now);
        Present {
            kids: present.kids().to_vec(),
            since: state.since,
            fetchers: state.peers.len(),
            fetches: state.count,
            last_fetch: state.last,
        }
    }
}

impl State {
    /// Starts anew if the current document is another one.
    fn follow(&mut self, present: &Jwks, now: SystemTime) {
        let document = present.document();
        if document != self.of {
            self.of = document;
            self.since = now;
            self.peers.clear();
        }
    }
}

/// Far more than there are servers. The limit keeps a client with many addresses from filling the
/// memory.
const MOST_PEERS: usize = 4096;
