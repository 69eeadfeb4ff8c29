//! Minting, and when it is due again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use tracing::{debug, warn};

use super::{
    reload::{Credential, Reloading},
    token::{Token, TokenError},
};
use crate::{
    base::chain,
    status::{Failure, MintingStatus},
    token::{ClaimsTemplate, SigningKey, claims::renew_at},
};

/// Mints tokens, and keeps the last one for as long as it is fresh.
#[derive(Debug)]
pub struct Minter {
    key: Reloading<SigningKey>,
    template: ClaimsTemplate,
    cache: ArcSwapOption<Minted>,
    /// Held by the one caller that mints. The others go on with what there is.
    minting: Mutex<()>,
    minted: AtomicU64,
    failures: AtomicU64,
    last_failure: Mutex<Option<Failure>>,
}

#[derive(Debug)]
struct Minted {
    token: Token,
    key: Arc<SigningKey>,
    minted_at: SystemTime,
    renew_at: SystemTime,
    expires_at: SystemTime,
}

impl Minted {
    /// By the wall clock, because a monotonic one stands still while a laptop sleeps; and a clock
    /// that was set back makes a token from the future, which the server would refuse.
    fn fresh(&self, now: SystemTime, key: &Arc<SigningKey>) -> bool {
        now < self.renew_at
            && now + TOLERATED_STEP_BACK > self.minted_at
            && Arc::ptr_eq(&self.key, key)
    }

    fn usable(&self, now: SystemTime) -> bool {
        now < self.expires_at
    }
}

/// How far the clock may be set back before the cached token is minted again: less than tokens
/// are dated back, so that it is valid all along.
const TOLERATED_STEP_BACK: Duration = Duration::from_secs(30);

impl Minter {
    /// Mints with this key what the template says.
    pub fn new(key: Reloading<SigningKey>, template: ClaimsTemplate) -> Self {
        Self {
            key,
            template,
            cache: ArcSwapOption::empty(),
            minting: Mutex::new(()),
            minted: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_failure: Mutex::new(None),
        }
    }

    /// The key that signs, for whoever watches its file.
    pub fn key(&self) -> &Reloading<SigningKey> {
        &self.key
    }

    /// What its tokens say.
    pub fn template(&self) -> &ClaimsTemplate {
        &self.template
    }

    pub(super) fn token(&self, now: SystemTime) -> Result<Token, TokenError> {
        if let Some(minted) = &*self.cache.load()
            && minted.fresh(now, &self.key.peek())
        {
            return Ok(minted.token.clone());
        }
        self.renew(now)
    }

    /// The token in use, if any was minted yet.
    pub(super) fn current(&self) -> Option<Token> {
        self.cache
            .load()
            .as_ref()
            .map(|minted| minted.token.clone())
    }

    /// When the token in use was minted, if any was yet.
    pub fn minted_at(&self) -> Option<SystemTime> {
        self.cache.load().as_ref().map(|minted| minted.minted_at)
    }

    /// How minting has gone.
    pub fn status(&self) -> MintingStatus {
        MintingStatus {
            minted: self.minted.load(Ordering::Relaxed),
            failed: self.failures.load(Ordering::Relaxed),
            last_failure: self.last_failure.lock().clone(),
        }
    }

    #[cold]
    fn renew(&self, now: SystemTime) -> Result<Token, TokenError> {
        let _minting = match self.minting.try_lock() {
            Some(guard) => guard,
            None => {
                if let Some(minted) = &*self.cache.load()
                    && minted.usable(now)
                {
                    return Ok(minted.token.clone());
                }
                // Nothing to go on with: wait for the other one's token.
                self.minting.lock()
            }
        };
        let key = self.key.current();
        let cached = self.cache.load_full();
        if let Some(minted) = &cached
            && minted.fresh(now, &key)
        {
            return Ok(minted.token.clone());
        }
        match self.mint(now, key) {
            Ok(minted) => {
                let token = minted.token.clone();
                self.cache.store(Some(Arc::new(minted)));
                self.minted.fetch_add(1, Ordering::Relaxed);
                *self.last_failure.lock() = None;
                Ok(token)
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                Failure::note(&mut self.last_failure.lock(), chain(&error), now);
                match cached {
                    Some(minted) if minted.usable(now) => {
                        warn!(
                            error = chain(&error),
                            "minting failed: kept the token in use"
                        );
                        Ok(minted.token.clone())
                    }
                    _ => Err(error),
                }
            }
        }
    }

    fn mint(&self, now: SystemTime, key: Arc<SigningKey>) -> Result<Minted, TokenError> {
        let raw: SecretString = key.mint(&self.template.at(now)).map_err(TokenError::Mint)?;
        let token = Token::parse(raw.expose_secret(), now)?;
        let expires_at = token.expires_at().unwrap_or(now);
        debug!(kid = key.kid(), lifetime = ?self.template.lifetime, "token minted");
        Ok(Minted {
            token,
            key,
            minted_at: now,
            renew_at: renew_at(now, expires_at),
            expires_at,
        })
    }
}

impl Credential for SigningKey {
    const KIND: &'static str = "signing key";

    fn id(&self) -> Option<String> {
        Some(self.kid().to_owned())
    }

    fn identify(&self) -> String {
        format!("kid {}", self.kid())
    }

    fn expires_at(&self) -> Option<SystemTime> {
        None
    }
}
