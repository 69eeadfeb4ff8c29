//! The status of a connection, as seen from inside the process.

use std::{fmt, sync::Arc, time::SystemTime};

use parking_lot::Mutex;

use super::{ConnectError, Session, explain_connection};
use crate::{
    base::chain,
    credentials::{Credential, TokenSource},
    diagnosis::Diagnosed,
    status::{
        ConnectionStatus, CredentialStatus, CredentialsStatus, Failure, Phase, RemovedCa, Status,
    },
    transport::{CallOutcomes, Rejection, Security, TlsCredentials, TrustSource},
};

/// Reports the status of a connection and its credentials. Clones observe the same connection.
#[derive(Clone)]
pub struct Observer {
    session: Session,
    phase: Arc<Mutex<Phase>>,
    outcomes: Arc<CallOutcomes>,
}

impl Observer {
    pub(super) fn new(session: &Session) -> Self {
        Self {
            session: session.clone(),
            phase: Arc::new(Mutex::new(Phase::Connecting { last_attempt: None })),
            outcomes: Arc::default(),
        }
    }

    /// The status at this moment.
    pub fn status(&self) -> Status {
        let connector = self.session.connector();
        let log = connector.log();
        let mut credentials = credentials(connector.security(), self.session.token_source());
        let channel = self.session.channel();
        let rejection = channel.rejection();
        let reason = |rejection: &Rejection| {
            let Rejection {
                credentials, error, ..
            } = rejection.clone();
            chain(&explain_connection(connector, &credentials, error))
        };
        if rejection.is_some() {
            name_those_kept(&mut credentials, &channel.credentials());
        }
        let removed_ca = channel.removed_ca().map(|removed| RemovedCa {
            reason: rejection.as_ref().map(reason),
            ..removed
        });
        // A handshake that fails because the new CAs do not verify the server says nothing about
        // the client certificate.
        let rejection = rejection.filter(|rejection| {
            removed_ca.is_none() || rejection.error.client_certificate_alert().is_some()
        });
        Status {
            target: connector.target(),
            namespace: self.session.namespace().to_owned(),
            phase: self.phase.lock().clone(),
            credentials,
            connection: ConnectionStatus {
                proxy: connector.proxy().map(ToString::to_string),
                handshakes: log.handshakes(),
                last_handshake: log.last_handshake(),
                failures: log.failures(),
                last_failure: log.ongoing_failure().map(|standing| Failure {
                    reason: chain(&self.session.connection_failed(standing.error)),
                    since: standing.since,
                }),
                rejected: rejection.map(|rejection| Failure {
                    reason: reason(&rejection),
                    since: rejection.since,
                }),
                removed_ca,
            },
            calls: self.outcomes.status(),
        }
    }

    /// Attaches the diagnosis of the ongoing failure of calls to an error of the SDK, if there is
    /// one. Where the SDK wraps a status without making it the source of its error, the status
    /// takes the place of the error.
    pub fn diagnosed(&self, error: anyhow::Error) -> anyhow::Error {
        let error = super::rpc_status(error);
        match self.outcomes.ongoing() {
            Some(diagnosis) => anyhow::Error::new(Diagnosed {
                diagnosis,
                error: error.into_boxed_dyn_error(),
            }),
            None => error,
        }
    }

    /// Sets the phase to [`Phase::Stopping`].
    pub fn stopping(&self) {
        *self.phase.lock() = Phase::Stopping;
    }

    pub(super) fn working(&self) {
        *self.phase.lock() = Phase::Working {
            since: SystemTime::now(),
        };
    }

    pub(super) fn connecting_failed(&self, error: &ConnectError) {
        *self.phase.lock() = Phase::Connecting {
            last_attempt: Some(chain(error)),
        };
    }

    pub(super) fn outcomes(&self) -> Arc<CallOutcomes> {
        self.outcomes.clone()
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer")
            .field("target", &self.session.connector().target())
            .finish_non_exhaustive()
    }
}

fn credentials(security: &Security, source: Option<&TokenSource>) -> CredentialsStatus {
    let mut status = CredentialsStatus::default();
    if let Security::Tls {
        identity,
        trust,
        revoked,
        ..
    } = security
    {
        status.revocation_lists = revoked.as_ref().map(CredentialStatus::from);
        status.client_certificate = identity.as_ref().map(CredentialStatus::from);
        status.server_ca = Some(match trust {
            TrustSource::File(trust) => trust.into(),
            TrustSource::System(trust) => CredentialStatus {
                in_use: Some(trust.identify()),
                ..CredentialStatus::fixed("the operating system")
            },
        });
    }
    if let Some(source) = source {
        source.add_status(&mut status);
    }
    status
}

/// While the server rejects the TLS credentials in the files, the previous ones are in use.
fn name_those_kept(status: &mut CredentialsStatus, kept: &TlsCredentials) {
    fn name(status: &mut Option<CredentialStatus>, kept: Option<&Arc<impl Credential>>) {
        if let (Some(status), Some(kept)) = (status, kept) {
            let CredentialStatus {
                in_use,
                id,
                valid_from,
                valid_until,
                ..
            } = CredentialStatus::of(&**kept);
            (status.in_use, status.id) = (in_use, id);
            (status.valid_from, status.valid_until) = (valid_from, valid_until);
        }
    }
    name(&mut status.client_certificate, kept.identity.as_ref());
    name(&mut status.server_ca, kept.trust.as_ref());
}
