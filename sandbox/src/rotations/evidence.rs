//! What shows that a new credential is in use, and that an old one is refused.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, bail};
use futures::future::try_join_all;
use keyutil::{
    ConnectArgs, ConnectError, Connection, connect,
    settings::Settings,
    token::{ClaimsTemplate, Permission, SigningKey},
};
use keyutil_cli::{
    files::{self, Mode},
    pki::{Layout, Party},
};
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    process::WorkerProcess,
    stack::{AUDIENCE, Stack},
};

/// The state that a worker or the starter reports of itself.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(super) party: Party,
    status: Value,
}

impl Observed {
    /// Returns the state of each worker and, last, of the starter.
    pub(super) async fn all(
        workers: &[WorkerProcess],
        starter: &Connection,
    ) -> anyhow::Result<Vec<Self>> {
        let statuses = try_join_all(workers.iter().map(WorkerProcess::status)).await?;
        let workers = statuses.into_iter().map(Self::worker);
        let starter = Self {
            party: Party::Starter,
            status: serde_json::to_value(starter.status())?,
        };
        Ok(workers.chain([starter]).collect())
    }

    /// Of a worker, with its answer at `/status`.
    pub(crate) fn worker(status: Value) -> Self {
        Self {
            party: Party::Worker,
            status,
        }
    }

    fn text(&self, pointer: &str) -> &str {
        let text = self.status.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_default()
    }

    fn time(&self, pointer: &str) -> Option<SystemTime> {
        humantime::parse_rfc3339(self.text(pointer)).ok()
    }

    pub(super) fn token_expiry(&self) -> Option<SystemTime> {
        self.time("/credentials/token/valid_until")
    }

    /// A name for people, because tokens have none.
    pub(super) fn token_name(&self) -> String {
        let expiry = self.text("/credentials/token/valid_until");
        format!("valid until {expiry}")
    }

    pub(super) fn signs_with(&self, kid: &str) -> bool {
        self.text("/credentials/token/in_use").contains(kid)
    }

    pub(super) fn client_serial(&self) -> &str {
        self.text("/connection/last_handshake/client/serial")
    }

    pub(super) fn server_serial(&self) -> &str {
        self.text("/connection/last_handshake/server/serial")
    }

    /// Whether a call was answered after this time.
    pub(crate) fn accepted_since(&self, time: SystemTime) -> bool {
        self.last_success() > Some(time)
    }

    fn last_success(&self) -> Option<SystemTime> {
        let polls = self.time("/calls/polls/last_success");
        polls.max(self.time("/calls/others/last_success"))
    }
}

/// The certificate and key of a party, before they were replaced.
pub(super) struct Certificate {
    party: Party,
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificate {
    pub(super) fn copy(stack: &Stack, party: Party) -> anyhow::Result<Self> {
        let files = Layout::new(&stack.certs()).party(party);
        let folder = stack.guard().folder().join("old");
        let copied = |from: &PathBuf, name: &str, mode| {
            let to = folder.join(name);
            files::replace(&to, &fs::read(from)?, mode)?;
            anyhow::Ok(to)
        };
        Ok(Self {
            party,
            certificate: copied(&files.certificate, "tls.crt", Mode::Public)?,
            key: copied(&files.key, "tls.key", Mode::Private)?,
        })
    }

    /// Whether the server accepts it, in a call on a connection of its own.
    pub(super) async fn is_accepted(&self, stack: &Stack) -> Result<(), ConnectError> {
        let mut args = stack.connect_args(self.party);
        args.tls_cert_path = Some(self.certificate.clone());
        args.tls_key_path = Some(self.key.clone());
        probe(&args).await
    }
}

/// The CA that the worker trusts, before it was replaced.
pub(super) struct OldTrust(PathBuf);

impl OldTrust {
    pub(super) fn copy(stack: &Stack) -> anyhow::Result<Self> {
        let trusted = Layout::new(&stack.certs()).party(Party::Worker).trust;
        let copy = stack.guard().folder().join("old/ca.crt");
        files::replace(&copy, &fs::read(trusted)?, Mode::Public)?;
        Ok(Self(copy))
    }

    /// Whether a client with it, and nothing newer, refuses the server.
    pub(super) async fn refuses_the_server(&self, stack: &Stack) -> anyhow::Result<bool> {
        let mut args = stack.connect_args(Party::Worker);
        args.tls_ca_path = Some(self.0.clone());
        match probe(&args).await {
            Ok(()) => Ok(false),
            Err(ConnectError::ServerCertificate { .. }) => Ok(true),
            Err(other) => Err(other).context("failed otherwise than by refusing the server"),
        }
    }
}

/// One call that takes permission, with a token that this key has signed.
///
/// # Errors
/// [`ConnectError::Refused`], if the server does not accept it; any other, if it was not asked.
pub async fn accepts_token_of(stack: &Stack, key: &SigningKey) -> Result<(), ConnectError> {
    let claims = ClaimsTemplate {
        kid: None,
        subject: "sandbox".to_owned(),
        permissions_claim: Default::default(),
        audience: Some(AUDIENCE.to_owned()),
        permissions: vec![Permission::write(stack.namespace())],
        lifetime: Duration::from_secs(60),
    };
    let mut args = stack.connect_args(Party::Worker);
    args.token.signing_key = None;
    args.token.claims.audience = None;
    let token = key.mint(&claims.at(SystemTime::now()));
    // Without a token the call would be refused too, and prove nothing.
    args.token.api_key = Some(token.map_err(|error| ConnectError::NoToken {
        reason: keyutil::chain(&error),
    })?);
    probe(&args).await
}

async fn probe(args: &ConnectArgs) -> Result<(), ConnectError> {
    let settings = Settings::new(args, "sandbox").map_err(ConnectError::Settings)?;
    connect::open(settings)?.session().probe().await
}

/// Tries until the server refuses.
pub(super) async fn until_refused(
    limit: Duration,
    attempt: impl AsyncFn() -> Result<(), ConnectError>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        match attempt().await {
            Err(ConnectError::Refused { .. } | ConnectError::ClientCertificate { .. }) => {
                return Ok(());
            }
            Err(other) => return Err(other).context("failed otherwise than by a refusal"),
            Ok(()) if begun.elapsed() > limit => bail!("still accepted after {limit:?}"),
            Ok(()) => sleep(Duration::from_millis(200)).await,
        }
    }
}
