//! What one connection is made with.

use std::sync::Arc;

use super::{Security, TrustSource};
use crate::credentials::{Identity, Trust};

/// What one connection is made with: identity and trust as they were at one moment. In plaintext
/// there is neither.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// What we present.
    pub identity: Option<Arc<Identity>>,
    /// What we verify the server with.
    pub trust: Option<Arc<Trust>>,
}

impl Credentials {
    /// As the files have them now.
    pub(in crate::transport) fn now(security: &Security) -> Self {
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

    /// Whether they still are. On the path of every call, so no reference is counted.
    pub(in crate::transport) fn are_of_now(&self, security: &Security) -> bool {
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
