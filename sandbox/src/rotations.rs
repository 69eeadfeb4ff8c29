//! Each credential replaced while work is under way, and proof that the other side saw it.
//!
//! A replaced file proves nothing. A rotation is complete when workers and starter use the new
//! credential and the server has accepted it. For the signing key and the CAs, the server must also
//! refuse the old one.

mod evidence;

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use keyutil::Connection;
use keyutil_cli::{
    keys::keyring::{KeyringError, RotationPolicy, RotationTimes, read_signing_key},
    pki::{
        self, AuthorityKind, AuthorityOptions, AuthorityRotated, Layout, LeafOptions, Party,
        RotateError, RotationStep,
    },
};
use serde::Serialize;
use tokio::time::sleep;

pub use evidence::accepts_token_of;

use self::evidence::Certificate;
pub(crate) use self::evidence::Observed;
use crate::{
    process::WorkerProcess,
    stack::{REFRESH, Stack},
};

/// What rotates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Credential {
    /// Minted anew by worker and starter.
    Token,
    /// The key that signs tokens.
    SigningKey,
    /// The client certificates of worker and starter.
    ClientCertificate,
    /// The CA that signs them.
    ClientCa,
    /// The CA of the server's certificate, and that certificate.
    FrontendCa,
}

impl Credential {
    /// All of them, in the order of a call's way.
    pub const ALL: [Self; 5] = [
        Self::Token,
        Self::SigningKey,
        Self::ClientCertificate,
        Self::ClientCa,
        Self::FrontendCa,
    ];

    /// For a person.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::SigningKey => "signing key",
            Self::ClientCertificate => "client certificate",
            Self::ClientCa => "client CA",
            Self::FrontendCa => "frontend CA",
        }
    }
}

/// A credential that was replaced, and was seen to be by the other side.
#[derive(Clone, Debug, Serialize)]
pub struct Rotation {
    /// When the new one was put in place, since the clock of [`Rotations`] began.
    #[serde(serialize_with = "seconds")]
    pub at: Duration,
    /// What was replaced.
    pub credential: Credential,
    /// What told the old one: kid, serial, issuer.
    pub before: String,
    /// What tells the new one.
    pub now: String,
    /// What showed that it is in effect.
    pub seen: &'static str,
    /// How long it took from putting it in place until all workers and the starter used it.
    #[serde(serialize_with = "seconds")]
    pub seen_after: Duration,
}

/// A duration in seconds, to the millisecond.
pub(crate) fn seconds<S: serde::Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1000.0).round() / 1000.0)
}

/// Replaces credentials of a stack with workers and a starter at work.
pub struct Rotations<'a> {
    stack: &'a Stack,
    workers: &'a [WorkerProcess],
    starter: &'a Connection,
    token_lifetime: Duration,
    begun: Instant,
}

impl<'a> Rotations<'a> {
    /// Workers and starter mint tokens of this life; times count from `begun`.
    pub fn new(
        stack: &'a Stack,
        workers: &'a [WorkerProcess],
        starter: &'a Connection,
        token_lifetime: Duration,
        begun: Instant,
    ) -> Self {
        Self {
            stack,
            workers,
            starter,
            token_lifetime,
            begun,
        }
    }

    /// Replaces this one.
    ///
    /// # Errors
    /// When it cannot be replaced, or was not seen to take effect.
    pub async fn rotate(&self, credential: Credential) -> anyhow::Result<Rotation> {
        let rotated = match credential {
            Credential::Token => self.token().await,
            Credential::SigningKey => self.signing_key().await,
            Credential::ClientCertificate => self.client_certificate().await,
            Credential::ClientCa => self.client_ca().await,
            Credential::FrontendCa => self.frontend_ca().await,
        };
        rotated.with_context(|| format!("the rotation of the {} failed", credential.name()))
    }

    /// Waits: a token is minted anew at two thirds of its life.
    async fn token(&self) -> anyhow::Result<Rotation> {
        let before = self.observe().await?;
        let expiries: Vec<_> = before.iter().map(Observed::token_expiry).collect();
        self.until("a new token", self.token_lifetime, |number, now| {
            now.token_expiry() > expiries[number]
        })
        .await?;
        let minted = Instant::now();
        let after = SystemTime::now();
        let now = self
            .until("a call with the new token", Duration::ZERO, |_, now| {
                now.accepted_since(after)
            })
            .await?;
        let name = |all: &[Observed]| all.first().map(Observed::token_name).unwrap_or_default();
        Ok(Rotation {
            at: minted - self.begun,
            credential: Credential::Token,
            before: name(&before),
            now: name(&now),
            seen: "calls are accepted with it",
            seen_after: minted.elapsed(),
        })
    }

    async fn signing_key(&self) -> anyhow::Result<Rotation> {
        let times = RotationTimes {
            refresh_interval: REFRESH,
            token_lifetime: self.token_lifetime,
            // One machine, one clock; times of the ring are whole seconds.
            clock_skew: Duration::from_secs(1),
            propagation: PROPAGATION,
        };
        let policy = RotationPolicy::new(times, None)?;
        let ring = self.stack.keyring();
        let old = read_signing_key(&ring.current_path())?;
        let rotated = loop {
            match ring.rotate(&policy, SystemTime::now) {
                Err(KeyringError::TooEarly { left, .. }) => sleep(left.max(TICK)).await,
                rotated => break rotated?,
            }
        };
        let (replaced, after) = (Instant::now(), SystemTime::now());
        self.until("calls with the new kid", Duration::ZERO, |_, now| {
            now.signs_with(&rotated.now) && now.accepted_since(after)
        })
        .await?;
        let seen_after = replaced.elapsed();
        // What was signed with the old one is accepted until the last of it has expired.
        evidence::accepts_token_of(self.stack, &old)
            .await
            .context("the old key was refused too early")?;
        while !ring
            .retire(&policy, SystemTime::now)?
            .contains(&old.kid().to_owned())
        {
            sleep(TICK).await;
        }
        evidence::until_refused(EFFECT_LIMIT, async || {
            evidence::accepts_token_of(self.stack, &old).await
        })
        .await
        .context("the old key")?;
        Ok(Rotation {
            at: replaced - self.begun,
            credential: Credential::SigningKey,
            before: format!("kid {}", old.kid()),
            now: format!("kid {}", rotated.now),
            seen: "tokens with the new kid are accepted, those with the old one refused after its time",
            seen_after,
        })
    }

    async fn client_certificate(&self) -> anyhow::Result<Rotation> {
        let (layout, options) = (self.layout(), LeafOptions::default());
        let [worker, starter] = [Party::Worker, Party::Starter]
            .map(|party| pki::rotate_leaf(&layout, party, &options, SystemTime::now));
        let (worker, starter) = (worker?, starter?);
        let replaced = Instant::now();
        self.until_presented(&worker.new.serial, &starter.new.serial)
            .await?;
        Ok(Rotation {
            at: replaced - self.begun,
            credential: Credential::ClientCertificate,
            before: format!("serial {}", serial(worker.old.as_ref())),
            now: format!("serial {}", worker.new.serial),
            seen: "full handshakes with it, and calls accepted after them",
            seen_after: replaced.elapsed(),
        })
    }

    async fn client_ca(&self) -> anyhow::Result<Rotation> {
        let old = Certificate::copy(self.stack, Party::Worker)?;
        self.step(AuthorityKind::Clients, RotationStep::Trust)
            .await?;
        let reissued = self
            .step(AuthorityKind::Clients, RotationStep::Reissue)
            .await?;
        let replaced = Instant::now();
        let new = |party| {
            let mut leaves = reissued.leaves.iter();
            let leaf = leaves.find(|leaf| leaf.party == party);
            leaf.map(|leaf| leaf.new.serial.clone())
                .with_context(|| format!("no new certificate for {}", Party::name(party)))
        };
        let (worker, starter) = (new(Party::Worker)?, new(Party::Starter)?);
        self.until_presented(&worker, &starter).await?;
        let seen_after = replaced.elapsed();
        old.is_accepted(self.stack)
            .await
            .context("a certificate of the old CA was refused too early")?;
        self.step(AuthorityKind::Clients, RotationStep::Retire)
            .await?;
        evidence::until_refused(EFFECT_LIMIT, async || old.is_accepted(self.stack).await)
            .await
            .context("a certificate of the old client CA")?;
        Ok(Rotation {
            at: replaced - self.begun,
            credential: Credential::ClientCa,
            before: authority(reissued.old.as_ref()),
            now: authority(Some(&reissued.new)),
            seen: "its certificates are accepted, one of the old CA is refused",
            seen_after,
        })
    }

    async fn frontend_ca(&self) -> anyhow::Result<Rotation> {
        let old = evidence::OldTrust::copy(self.stack)?;
        self.step(AuthorityKind::Frontend, RotationStep::Trust)
            .await?;
        let reissued = self
            .step(AuthorityKind::Frontend, RotationStep::Reissue)
            .await?;
        let replaced = Instant::now();
        let leaf = reissued.leaves.first().context("no new certificate")?;
        self.until(
            "the new certificate of the server",
            Duration::ZERO,
            |_, now| now.server_serial() == leaf.new.serial,
        )
        .await?;
        let seen_after = replaced.elapsed();
        self.step(AuthorityKind::Frontend, RotationStep::Retire)
            .await?;
        ensure!(
            old.refuses_the_server(self.stack).await?,
            "a client that trusts the old CA alone still accepts the server"
        );
        Ok(Rotation {
            at: replaced - self.begun,
            credential: Credential::FrontendCa,
            before: authority(reissued.old.as_ref()),
            now: authority(Some(&reissued.new)),
            seen: "the server presents a certificate of it, which the old CA does not verify",
            seen_after,
        })
    }

    /// Does one step of a CA's rotation as soon as it may be done.
    async fn step(
        &self,
        kind: AuthorityKind,
        step: RotationStep,
    ) -> anyhow::Result<AuthorityRotated> {
        let options = AuthorityOptions {
            refresh_interval: REFRESH,
            propagation: PROPAGATION,
            ..AuthorityOptions::default()
        };
        let layout = self.layout();
        loop {
            match pki::rotate_authority(&layout, kind, step, &options, SystemTime::now) {
                Err(RotateError::TooEarly { left, .. }) => sleep(left.max(TICK)).await,
                rotated => return Ok(rotated?),
            }
        }
    }

    async fn until_presented(&self, worker: &str, starter: &str) -> anyhow::Result<()> {
        let what = "handshakes with the new certificates";
        self.until(what, Duration::ZERO, |_, now| {
            let expected = match now.party {
                Party::Starter => starter,
                _ => worker,
            };
            now.client_serial() == expected
        })
        .await?;
        let after = SystemTime::now();
        let what = "a call after the handshake";
        self.until(what, Duration::ZERO, |_, now| now.accepted_since(after))
            .await?;
        Ok(())
    }

    /// Reads the state of workers and starter until each of them fulfils the condition.
    async fn until(
        &self,
        what: &str,
        expected: Duration,
        like_this: impl Fn(usize, &Observed) -> bool,
    ) -> anyhow::Result<Vec<Observed>> {
        let begun = Instant::now();
        loop {
            let all = self.observe().await?;
            let mut numbered = all.iter().enumerate();
            let Some((_, late)) = numbered.find(|(number, now)| !like_this(*number, now)) else {
                return Ok(all);
            };
            ensure!(
                begun.elapsed() < expected + EFFECT_LIMIT,
                "not seen within {:?}: {what}, in {late:?}",
                expected + EFFECT_LIMIT
            );
            sleep(TICK).await;
        }
    }

    async fn observe(&self) -> anyhow::Result<Vec<Observed>> {
        Observed::all(self.workers, self.starter).await
    }

    fn layout(&self) -> Layout {
        Layout::new(&self.stack.certs())
    }
}

fn serial(certificate: Option<&keyutil::x509::certificate::CertificateSummary>) -> &str {
    certificate.map_or("none", |certificate| &certificate.serial)
}

fn authority(certificate: Option<&keyutil::x509::certificate::CertificateSummary>) -> String {
    certificate.map_or("none".to_owned(), |certificate| certificate.subject.clone())
}

/// The time in which every reader has seen a replaced file: each looks once a second.
const PROPAGATION: Duration = Duration::from_secs(2);

/// For a new credential to be seen by the other side; far more than it takes.
const EFFECT_LIMIT: Duration = Duration::from_secs(30);

/// How often is looked.
const TICK: Duration = Duration::from_millis(100);
