//! What shows that a new credential is in use, and that an old one is refused.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, bail};
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

/// What worker and starter say of themselves, in this order.
#[derive(Debug)]
pub(super) struct Observation([Value; 2]);

impl Observation {
    pub(super) async fn of(worker: &WorkerProcess, starter: &Connection) -> anyhow::Result<Self> {
        let starter = serde_json::to_value(starter.status())?;
        Ok(Self([worker.status().await?, starter]))
    }

    fn texts(&self, pointer: &str) -> [&str; 2] {
        let [worker, starter] = &self.0;
        [worker, starter].map(|status| {
            let text = status.pointer(pointer).and_then(Value::as_str);
            text.unwrap_or_default()
        })
    }

    fn times(&self, pointer: &str) -> [Option<SystemTime>; 2] {
        self.texts(pointer)
            .map(|text| humantime::parse_rfc3339(text).ok())
    }

    pub(super) fn token_expiries(&self) -> [Option<SystemTime>; 2] {
        self.times("/credentials/token/valid_until")
    }

    /// Of the worker, for a person: tokens have no name of their own.
    pub(super) fn token_expiry(&self) -> String {
        format!(
            "valid until {}",
            self.texts("/credentials/token/valid_until")[0]
        )
    }

    pub(super) fn signs_with(&self, kid: &str) -> bool {
        let tokens = self.texts("/credentials/token/in_use");
        tokens.iter().all(|token| token.contains(kid))
    }

    pub(super) fn client_serials(&self) -> [&str; 2] {
        self.texts("/connection/last_handshake/client/serial")
    }

    pub(super) fn server_serials(&self) -> [&str; 2] {
        self.texts("/connection/last_handshake/server/serial")
    }

    /// Whether both have had an answer to a call after this.
    pub(super) fn accepted_since(&self, time: SystemTime) -> bool {
        let answered = self.last_success();
        answered
            .iter()
            .all(|last| last.is_some_and(|last| last > time))
    }

    pub(super) fn accepted_since_handshake(&self) -> bool {
        let handshakes = self.times("/connection/last_handshake/at");
        let mut pairs = self.last_success().into_iter().zip(handshakes);
        pairs.all(|(last, handshake)| last > handshake)
    }

    fn last_success(&self) -> [Option<SystemTime>; 2] {
        let polls = self.times("/calls/polls/last_success");
        let others = self.times("/calls/others/last_success");
        [polls[0].max(others[0]), polls[1].max(others[1])]
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
