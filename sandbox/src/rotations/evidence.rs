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

/// What the workers and, last, the starter say of themselves.
#[derive(Debug)]
pub(super) struct Observation(Vec<Value>);

impl Observation {
    pub(super) async fn of(
        workers: &[WorkerProcess],
        starter: &Connection,
    ) -> anyhow::Result<Self> {
        let mut all = try_join_all(workers.iter().map(WorkerProcess::status)).await?;
        all.push(serde_json::to_value(starter.status())?);
        Ok(Self(all))
    }

    fn texts(&self, pointer: &str) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(move |status| {
            let text = status.pointer(pointer).and_then(Value::as_str);
            text.unwrap_or_default()
        })
    }

    fn times(&self, pointer: &str) -> impl ExactSizeIterator<Item = Option<SystemTime>> {
        self.texts(pointer)
            .map(|text| humantime::parse_rfc3339(text).ok())
    }

    pub(super) fn token_expiries(&self) -> Vec<Option<SystemTime>> {
        self.times("/credentials/token/valid_until").collect()
    }

    /// Of the first, for a person: tokens have no name of their own.
    pub(super) fn token_expiry(&self) -> String {
        let mut expiries = self.texts("/credentials/token/valid_until");
        format!("valid until {}", expiries.next().unwrap_or_default())
    }

    pub(super) fn signs_with(&self, kid: &str) -> bool {
        self.texts("/credentials/token/in_use")
            .all(|token| token.contains(kid))
    }

    /// Whether the last handshake of each worker, and of the starter, was with this serial.
    pub(super) fn presents(&self, worker: &str, starter: &str) -> bool {
        let starters = self.0.len() - 1;
        self.texts("/connection/last_handshake/client/serial")
            .enumerate()
            .all(|(n, serial)| serial == if n == starters { starter } else { worker })
    }

    /// Whether the server presented this serial in the last handshake of each.
    pub(super) fn server_presents(&self, serial: &str) -> bool {
        self.texts("/connection/last_handshake/server/serial")
            .all(|presented| presented == serial)
    }

    /// Whether all have had an answer to a call after this.
    pub(super) fn accepted_since(&self, time: SystemTime) -> bool {
        self.last_success()
            .all(|last| last.is_some_and(|last| last > time))
    }

    pub(super) fn accepted_since_handshake(&self) -> bool {
        self.last_success()
            .zip(self.times("/connection/last_handshake/at"))
            .all(|(last, handshake)| last > handshake)
    }

    fn last_success(&self) -> impl Iterator<Item = Option<SystemTime>> {
        let others = self.times("/calls/others/last_success");
        self.times("/calls/polls/last_success")
            .zip(others)
            .map(|(poll, other)| poll.max(other))
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
