//! What is presented, and what the server is verified with.

use std::time::SystemTime;

use serde::Serialize;

use super::Failure;
use crate::base::time;

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
    /// Of one that is never replaced.
    pub fn fixed(from: &str) -> Self {
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
