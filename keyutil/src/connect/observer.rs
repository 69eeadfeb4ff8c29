//! Who sees how a connection is doing.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::{ConnectError, connection_failed, failed_with};
use crate::{
    base::chain,
    credentials::{Credential, TokenSource},
    diagnosis::Diagnosed,
    status::{ConnectionStatus, CredentialStatus, CredentialsStatus, Failure, Phase, Status},
    transport::{
        AuthInterceptor, CallOutcomes, RotatingChannel, Security, TlsCredentials, TrustSource,
    },
};

/// Sees how a connection and its credentials are doing. Clones see the same.
#[derive(Clone)]
pub struct Observer {
    channel: RotatingChannel,
    interceptor: AuthInterceptor,
    namespace: Arc<str>,
    phase: Arc<Mutex<Phase>>,
    calls: Arc<CallOutcomes>,
}

impl Observer {
    pub(super) fn new(
        channel: &RotatingChannel,
        interceptor: &AuthInterceptor,
        namespace: &str,
    ) -> Self {
        Self {
            channel: channel.clone(),
            interceptor: interceptor.clone(),
            namespace: namespace.into(),
            phase: Arc::new(Mutex::new(Phase::Connecting { last_attempt: None })),
            calls: Arc::default(),
        }
    }

    /// How all is doing now.
    pub fn status(&self) -> Status {
        let connector = self.channel.connector();
        let log = connector.log();
        let mut credentials = credentials(connector.security(), self.interceptor.source());
        if self.channel.rejection().is_some() {
            name_those_kept(&mut credentials, &self.channel.credentials());
        }
        Status {
            target: connector.target(),
            namespace: self.namespace.to_string(),
            phase: self.phase().clone(),
            credentials,
            connection: ConnectionStatus {
                handshakes: log.handshakes(),
                last_handshake: log.last_handshake(),
                failures: log.failures(),
                last_failure: log.ongoing_failure().map(|standing| Failure {
                    reason: chain(&connection_failed(&self.channel, standing.error)),
                    since: standing.since,
                }),
                rejected: self.channel.rejection().map(|rejection| Failure {
                    reason: chain(&failed_with(
                        self.channel.connector(),
                        &rejection.credentials,
                        rejection.error,
                    )),
                    since: rejection.since,
                }),
            },
            calls: self.calls.status(),
        }
    }

    /// Adds to an error of a call what keeps calls from going well at this time, if anything does:
    /// the SDK hands on the words of an error alone.
    pub fn diagnosed(&self, error: anyhow::Error) -> anyhow::Error {
        match self.calls.ongoing() {
            Some(diagnosis) => anyhow::Error::new(Diagnosed {
                diagnosis,
                error: error.into_boxed_dyn_error(),
            }),
            None => error,
        }
    }

    /// From now on the process finishes what is in hand, and takes nothing new.
    pub fn stopping(&self) {
        *self.phase() = Phase::Stopping;
    }

    pub fn channel(&self) -> &RotatingChannel {
        &self.channel
    }

    pub fn interceptor(&self) -> &AuthInterceptor {
        &self.interceptor
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(super) fn working(&self) {
        *self.phase() = Phase::Working {
            since: SystemTime::now(),
        };
    }

    pub(super) fn connecting_failed(&self, error: &ConnectError) {
        *self.phase() = Phase::Connecting {
            last_attempt: Some(chain(error)),
        };
    }

    pub(super) fn calls(&self) -> Arc<CallOutcomes> {
        self.calls.clone()
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer")
            .field("target", &self.channel.connector().target())
            .finish_non_exhaustive()
    }
}

fn credentials(security: &Security, source: Option<&TokenSource>) -> CredentialsStatus {
    let mut status = CredentialsStatus::default();
    if let Security::Tls {
        identity, trust, ..
    } = security
    {
        status.client_certificate = identity.as_ref().map(CredentialStatus::from);
        status.server_ca = Some(match trust {
            TrustSource::File(trust) => trust.into(),
            TrustSource::System(trust) => CredentialStatus {
                in_use: Some(trust.identify()),
                ..CredentialStatus::fixed("this machine")
            },
        });
    }
    if let Some(source) = source {
        source.add_status(&mut status);
    }
    status
}

/// Where the server has rejected newer TLS credentials, those in use are not those of the files.
fn name_those_kept(status: &mut CredentialsStatus, kept: &TlsCredentials) {
    fn name(status: &mut Option<CredentialStatus>, kept: Option<&Arc<impl Credential>>) {
        if let (Some(status), Some(kept)) = (status, kept) {
            let CredentialStatus {
                in_use,
                id,
                valid_until,
                ..
            } = CredentialStatus::of(&**kept);
            (status.in_use, status.id, status.valid_until) = (in_use, id, valid_until);
        }
    }
    name(&mut status.client_certificate, kept.identity.as_ref());
    name(&mut status.server_ca, kept.trust.as_ref());
}
