//! The order in which the addresses of a name are tried, and attempts that overlap (RFC 8305).

use std::{
    collections::HashSet,
    future::{self, Future},
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;

use super::error::ConnectorError;

/// How long one attempt runs alone before the next address is tried, too (RFC 8305 section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// For how long an address that failed is tried after the others. If this had no end, a server that
/// was restarted would get no connections from a fleet that stays connected.
const FAILED_FOR: Duration = Duration::from_secs(60);

/// The order in which the addresses of a name are tried.
#[derive(Debug)]
pub(super) struct AddressOrder {
    /// The turn of the next connection. It starts at random, so that the connections of a fleet are
    /// spread over the addresses.
    turn: AtomicUsize,
    /// The addresses that failed, the most recent one last.
    failed: Mutex<Vec<(SocketAddr, Instant)>>,
}

impl Default for AddressOrder {
    fn default() -> Self {
        // The keys of the standard library's maps are random.
        let random = RandomState::new().hash_one(()) >> 32;
        Self {
            turn: AtomicUsize::new(usize::try_from(random).unwrap_or_default()),
            failed: Mutex::default(),
        }
    }
}

impl AddressOrder {
    /// Sorts the addresses for one connection. IPv6 and IPv4 alternate, starting with the family of
    /// the first address (RFC 8305 section 4). Each family starts with its next address at each
    /// call. Addresses that failed come last.
    pub(super) fn sort(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let mut known = HashSet::new();
        addresses.retain(|address| known.insert(*address));
        let preferred = addresses.first().map(SocketAddr::is_ipv6);
        let (mut first, mut second): (Vec<_>, Vec<_>) = addresses
            .into_iter()
            .partition(|address| Some(address.is_ipv6()) == preferred);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        for family in [&mut first, &mut second] {
            let turn = turn.checked_rem(family.len());
            family.rotate_left(turn.unwrap_or_default());
        }
        let mut second = second.into_iter();
        let mut sorted: Vec<_> = first
            .into_iter()
            .flat_map(|address| [Some(address), second.next()])
            .flatten()
            .collect();
        sorted.extend(second);
        let mut failed = self.failed.lock();
        failed.retain(|(_, at)| at.elapsed() < FAILED_FOR);
        sorted.sort_by_key(|address| failed.iter().position(|(failed, _)| failed == address));
        sorted
    }

    fn forget(&self, address: SocketAddr) {
        let mut failed = self.failed.lock();
        failed.retain(|(failed, _)| *failed != address);
    }
}

/// An attempt at one address. If it is dropped before the server has sent data, the address counts
/// as failed: also if TLS failed, if the server was silent, or if another address was faster.
pub(super) struct AddressAttempt {
    order: Arc<AddressOrder>,
    address: SocketAddr,
    answered: bool,
}

impl AddressAttempt {
    pub(super) fn new(order: &Arc<AddressOrder>, address: SocketAddr) -> Self {
        Self {
            order: order.clone(),
            address,
            answered: false,
        }
    }

    /// Records that the server has sent data. Called for each read.
    pub(super) fn answered(&mut self) {
        if !self.answered {
            self.answered = true;
            self.order.forget(self.address);
        }
    }
}

impl Drop for AddressAttempt {
    fn drop(&mut self) {
        if !self.answered {
            self.order.forget(self.address);
            let mut failed = self.order.failed.lock();
            failed.push((self.address, Instant::now()));
        }
    }
}

/// Tries the addresses in order until one succeeds. The next attempt begins when the previous one
/// fails, or after [`ATTEMPT_DELAY`] while the previous ones go on.
pub(super) async fn race<T, F>(
    addresses: Vec<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, ConnectorError>
where
    F: Future<Output = Result<T, ConnectorError>>,
{
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut failed = Vec::new();
    loop {
        if let Some(address) = waiting.next() {
            let attempt = attempt(address);
            running.push(async move { (address, attempt.await) });
        }
        let next = async {
            match waiting.len() {
                0 => future::pending().await,
                _ => tokio::time::sleep(ATTEMPT_DELAY).await,
            }
        };
        tokio::select! {
            ended = running.next() => match ended {
                Some((_, Ok(done))) => return Ok(done),
                Some((address, Err(error))) => failed.push((address, error)),
                None => return Err(ConnectorError::of_addresses(failed)),
            },
            () = next => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(hosts: &[&str]) -> Vec<SocketAddr> {
        let address = |host: &&str| SocketAddr::new(host.parse().unwrap(), 1);
        hosts.iter().map(address).collect()
    }

    fn order(turn: usize) -> Arc<AddressOrder> {
        Arc::new(AddressOrder {
            turn: AtomicUsize::new(turn),
            failed: Mutex::default(),
        })
    }

    #[test]
    fn families_alternate_and_each_begins_with_the_next_address() {
        let of_name = || addresses(&["::1", "::2", "::1", "1.1.1.1", "2.2.2.2", "3.3.3.3"]);
        let order = order(0);
        for expected in [
            ["::1", "1.1.1.1", "::2", "2.2.2.2", "3.3.3.3"],
            ["::2", "2.2.2.2", "::1", "3.3.3.3", "1.1.1.1"],
            ["::1", "3.3.3.3", "::2", "1.1.1.1", "2.2.2.2"],
        ] {
            assert_eq!(order.sort(of_name()), addresses(&expected));
        }
    }

    #[test]
    fn connectors_begin_with_different_addresses() {
        let of_name = addresses(&["1.1.1.1", "2.2.2.2", "3.3.3.3"]);
        let first = |_| AddressOrder::default().sort(of_name.clone())[0];
        let firsts: HashSet<_> = (0..100).map(first).collect();
        assert_eq!(firsts.len(), 3);
    }

    #[test]
    fn an_address_that_failed_comes_last_until_it_has_answered() {
        let of_name = addresses(&["1.1.1.1", "2.2.2.2", "3.3.3.3"]);
        let order = order(0);
        drop(AddressAttempt::new(&order, of_name[0]));
        drop(AddressAttempt::new(&order, of_name[2]));
        for _ in 0..3 {
            let sorted = order.sort(of_name.clone());
            assert_eq!(sorted, addresses(&["2.2.2.2", "1.1.1.1", "3.3.3.3"]));
        }
        AddressAttempt::new(&order, of_name[0]).answered();
        assert_eq!(order.sort(of_name.clone())[0], of_name[0]);
        assert_eq!(order.sort(of_name.clone())[2], of_name[2]);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_overlap_and_one_that_fails_is_not_waited_for() {
        let of_name = addresses(&["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"]);
        let begun = tokio::time::Instant::now();
        let first = race(of_name.clone(), async |address| {
            // Hangs, fails at once, succeeds after a while, and is not reached.
            match of_name.iter().position(|one| *one == address) {
                Some(0) => future::pending().await,
                Some(1) => return Err(ConnectorError::NoTls),
                Some(2) => tokio::time::sleep(Duration::from_millis(100)).await,
                _ => unreachable!(),
            }
            Ok(address)
        });
        assert_eq!(first.await.unwrap(), of_name[2]);
        assert_eq!(begun.elapsed(), Duration::from_millis(350));
    }

    #[tokio::test]
    async fn the_errors_of_all_addresses_are_told() {
        let of_name = addresses(&["1.1.1.1", "2.2.2.2"]);
        let failing = race(of_name.clone(), async |address| {
            Err::<(), _>(match address == of_name[0] {
                true => ConnectorError::HungUp,
                false => ConnectorError::NoTls,
            })
        });
        let error = failing.await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "2 addresses failed: 1.1.1.1:1: the connection was closed during the TLS handshake; \
             2.2.2.2:1: the server answered without TLS"
        );
        // Waiting does not cure the second error.
        assert!(!error.may_pass());
        let one = race(vec![of_name[0]], async |_| {
            Err::<(), _>(ConnectorError::NoTls)
        });
        assert!(matches!(one.await, Err(ConnectorError::NoTls)));
    }
}
