//! What protects a connection, and what one connection is made with.

use std::sync::Arc;

use tokio_rustls::rustls::pki_types::ServerName;

use crate::credentials::{Identity, Reloading, TrustBundle};

/// What protects the connection.
#[derive(Clone, Debug)]
pub enum Security {
    /// Nothing. With `loopback_only` the connection is made to this machine alone, because tokens
    /// travel on it.
    Plaintext {
        /// Whether tokens travel on it.
        loopback_only: bool,
    },
    /// TLS, and mutual TLS where there is an identity.
    Tls {
        /// The name that the server's certificate must be for.
        server_name: ServerName<'static>,
        /// What we present.
        identity: Option<Reloading<Identity>>,
        /// What we verify the server with.
        trust: TrustSource,
    },
}

/// A bundle that is followed, or the machine's own CAs.
#[derive(Clone, Debug)]
pub enum TrustSource {
    /// A file of the user's.
    File(Reloading<TrustBundle>),
    /// The machine's.
    System(Arc<TrustBundle>),
}

impl TrustSource {
    /// What is trusted now.
    pub fn current(&self) -> Arc<TrustBundle> {
        match self {
            Self::File(trust) => trust.current(),
            Self::System(trust) => trust.clone(),
        }
    }
}

/// What one connection is made with: identity and trust as they were at one moment. In plaintext
/// there is neither.
#[derive(Clone, Debug, Default)]
pub struct TlsCredentials {
    /// What we present.
    pub identity: Option<Arc<Identity>>,
    /// What we verify the server with.
    pub trust: Option<Arc<TrustBundle>>,
}

impl TlsCredentials {
    /// As the files have them now.
    pub fn now(security: &Security) -> Self {
        match security {
            Security::Plaintext { .. } => Self::default(),
            Security::Tls {
                identity, trust, ..
            } => Self {
                identity: identity.as_ref().map(|identity| identity.current()),
                trust: Some(trust.current()),
            },
        }
    }

    /// One new and the other as it was: what is left to try where both are new and do not do. A bad
    /// certificate must not keep a good CA bundle from use, nor the other way round.
    pub(super) fn partial_updates(&self, new: &Self) -> Vec<Self> {
        let partial_updates = [
            Self {
                identity: self.identity.clone(),
                trust: new.trust.clone(),
            },
            Self {
                identity: new.identity.clone(),
                trust: self.trust.clone(),
            },
        ];
        let known = |half: &Self| half.same(self) || half.same(new);
        partial_updates
            .into_iter()
            .filter(|half| !known(half))
            .collect()
    }

    fn same(&self, other: &Self) -> bool {
        fn one<T>(some: Option<&Arc<T>>, others: Option<&Arc<T>>) -> bool {
            some.map(Arc::as_ptr) == others.map(Arc::as_ptr)
        }
        one(self.identity.as_ref(), other.identity.as_ref())
            && one(self.trust.as_ref(), other.trust.as_ref())
    }

    /// Whether they still are. On the path of every call, so no reference is counted.
    pub(super) fn is_current(&self, security: &Security) -> bool {
        let Security::Tls {
            identity, trust, ..
        } = security
        else {
            return true;
        };
        let same_identity = match (identity, &self.identity) {
            (Some(now), Some(then)) => Arc::ptr_eq(&now.peek(), then),
            (None, None) => true,
            _ => false,
        };
        let same_trust = match (trust, &self.trust) {
            (TrustSource::File(now), Some(then)) => Arc::ptr_eq(&now.peek(), then),
            _ => true,
        };
        same_identity && same_trust
    }
}
