//! What is presented, and what the server is verified with.

use std::time::SystemTime;

use serde::Serialize;

use super::{Failure, time};
use crate::{
    credentials::{Credential, Minter, Reloading, TokenSource},
    transport::{
        Security,
        dial::{Credentials, TrustSource},
    },
};

/// The credentials of a connection. One that it does without is `None`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CredentialsStatus {
    /// What is sent with each call.
    pub token: Option<CredentialStatus>,
    /// What tokens are signed with, where they are minted here.
    pub signing_key: Option<CredentialStatus>,
    /// How minting has gone, where tokens are minted here.
    pub minting: Option<MintingStatus>,
    /// What is presented in TLS handshakes.
    pub client_certificate: Option<CredentialStatus>,
    /// What the server's certificate is verified with.
    pub server_ca: Option<CredentialStatus>,
}

impl CredentialsStatus {
    /// Those that there are, each with a name that is fit for a label.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &CredentialStatus)> {
        [
            ("token", &self.token),
            ("signing_key", &self.signing_key),
            ("client_certificate", &self.client_certificate),
            ("server_ca", &self.server_ca),
        ]
        .into_iter()
        .filter_map(|(name, credential)| Some((name, credential.as_ref()?)))
    }

    /// Where the server has rejected newer TLS credentials, those in use are not those of the files.
    pub(crate) fn name_those_kept(&mut self, kept: &Credentials) {
        if let (Some(status), Some(identity)) = (&mut self.client_certificate, &kept.identity) {
            status.name(identity.as_ref());
        }
        if let (Some(status), Some(trust)) = (&mut self.server_ca, &kept.trust) {
            status.name(trust.as_ref());
        }
    }

    pub(crate) fn of(security: &Security, source: Option<&TokenSource>) -> Self {
        let mut status = Self::default();
        if let Security::Tls {
            identity, trust, ..
        } = security
        {
            status.client_certificate = identity.as_ref().map(CredentialStatus::of);
            status.server_ca = Some(match trust {
                TrustSource::File(trust) => CredentialStatus::of(trust),
                TrustSource::System(trust) => CredentialStatus {
                    in_use: Some(trust.identify()),
                    ..CredentialStatus::fixed("this machine")
                },
            });
        }
        if let Some(source) = source {
            status.note_token(source);
        }
        status
    }

    /// Of a token alone.
    pub(crate) fn of_token(source: &TokenSource) -> Self {
        let mut status = Self::default();
        status.note_token(source);
        status
    }

    fn note_token(&mut self, source: &TokenSource) {
        match source {
            TokenSource::Minted(minter) => {
                self.token = Some(CredentialStatus::minted(minter, source));
                self.signing_key = Some(CredentialStatus::of(minter.key()));
                self.minting = Some(minter.status());
            }
            TokenSource::File(token) => self.token = Some(CredentialStatus::of(token)),
            TokenSource::Fixed(token) => {
                self.token = Some(CredentialStatus {
                    in_use: Some(token.identify()),
                    id: token.id(),
                    valid_until: token.expires_at(),
                    ..CredentialStatus::fixed("TEMPORAL_API_KEY")
                });
            }
        }
    }
}

/// One credential.
#[derive(Clone, Debug, Serialize)]
pub struct CredentialStatus {
    /// What a person can recognise it by: kid, or serial and issuer. `None` before a first token
    /// was minted.
    pub in_use: Option<String>,
    /// The same for a machine: serial number or kid.
    pub id: Option<String>,
    /// Where it is read from.
    pub from: Vec<String>,
    /// When it was taken into use; `None` for what is never replaced.
    #[serde(with = "time::option")]
    pub since: Option<SystemTime>,
    /// When it stops being of use, if ever.
    #[serde(with = "time::option")]
    pub valid_until: Option<SystemTime>,
    /// How often a new one has replaced the one before.
    pub reloads: u64,
    /// How many new contents were unusable.
    pub failed_reloads: u64,
    /// What is wrong with the content of the files, while they hold something unusable.
    pub last_failure: Option<Failure>,
}

impl CredentialStatus {
    fn of<T: Credential>(reloading: &Reloading<T>) -> Self {
        let (status, current) = (reloading.status(), reloading.current());
        Self {
            in_use: Some(current.identify()),
            id: current.id(),
            from: reloading
                .files()
                .iter()
                .map(|path| path.display().to_string())
                .collect(),
            since: Some(status.since),
            valid_until: current.expires_at(),
            reloads: status.generation,
            failed_reloads: status.failures,
            last_failure: status.last_failure,
        }
    }

    fn name(&mut self, credential: &impl Credential) {
        self.in_use = Some(credential.identify());
        self.id = credential.id();
        self.valid_until = credential.expires_at();
    }

    /// A minted token. That it is minted again is no reload.
    fn minted(minter: &Minter, source: &TokenSource) -> Self {
        let token = source.current();
        Self {
            in_use: token.as_ref().map(Credential::identify),
            id: token.as_ref().and_then(Credential::id),
            since: minter.minted_at(),
            valid_until: token.as_ref().and_then(Credential::expires_at),
            ..Self::fixed("minted in this process")
        }
    }

    fn fixed(from: &str) -> Self {
        Self {
            in_use: None,
            id: None,
            from: vec![from.to_owned()],
            since: None,
            valid_until: None,
            reloads: 0,
            failed_reloads: 0,
            last_failure: None,
        }
    }
}

/// How minting has gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MintingStatus {
    /// How many tokens were minted.
    pub minted: u64,
    /// How often minting has failed.
    pub failed: u64,
    /// Why, if the last attempt did.
    pub last_failure: Option<Failure>,
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::credentials::{
        Look, Token,
        samples::{template, write_key},
    };

    fn plaintext() -> Security {
        Security::Plaintext {
            loopback_only: true,
        }
    }

    #[test]
    fn a_minted_token_and_its_key_are_told_and_no_secret_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("current.pem");
        write_key(&path);
        let source = TokenSource::minted(path.clone(), template()).unwrap();
        let status = || CredentialsStatus::of(&plaintext(), Some(&source));
        assert_eq!(status().token.unwrap().in_use, None);

        source.token(SystemTime::now()).unwrap();
        let first = status();
        write_key(&path);
        let TokenSource::Minted(minter) = &source else {
            unreachable!()
        };
        minter.key().look();
        source.token(SystemTime::now()).unwrap();
        fs::write(&path, "-----BEGIN PRIVATE KEY----- tops3cret").unwrap();
        minter.key().look();
        minter.key().look();

        let second = status();
        assert_eq!(second.minting.as_ref().unwrap().minted, 2);
        let (token, key) = (
            second.token.clone().unwrap(),
            second.signing_key.clone().unwrap(),
        );
        assert_ne!(token.in_use, first.token.unwrap().in_use);
        assert!(token.since.is_some() && token.valid_until > token.since);
        assert_eq!((key.reloads, key.failed_reloads), (1, 1));
        let kid = key.in_use.unwrap().replace("kid ", "");
        assert!(token.in_use.unwrap().contains(&kid));
        let shown = serde_json::to_string(&second).unwrap();
        assert!(shown.contains(&kid), "{shown}");
        for secret in ["eyJ", "PRIVATE KEY---", "tops3cret"] {
            assert!(!shown.contains(secret), "{secret}: {shown}");
        }
    }

    #[test]
    fn a_fixed_key_is_not_shown() {
        let token = Token::parse_api_key("tops3cret", SystemTime::now()).unwrap();
        let source = TokenSource::Fixed(token);
        let status = CredentialsStatus::of(&plaintext(), Some(&source));
        let shown = serde_json::to_string(&status).unwrap();
        assert!(shown.contains("an opaque key"), "{shown}");
        assert!(!shown.contains("tops3cret"), "{shown}");
    }
}
