//! What is wrong with a credential file.

use std::{error::Error, io};

use super::{Class, Diagnosis, Step};
use crate::{
    chain,
    credentials::{
        Credential, Identity, IdentityError, Token, Trust, reload::LoadError, token::TokenError,
        trust::TrustError,
    },
    jwt::{SigningKey, key::KeyError},
};

impl From<&LoadError> for Diagnosis {
    fn from(error: &LoadError) -> Self {
        let (step, class, hint) = match error {
            LoadError::NotAPath { .. } => (Step::Files, Class::Usage, None),
            LoadError::Read { source, .. } => (Step::Files, Class::Usage, unreadable(source)),
            LoadError::Content { kind, source, .. } => {
                let source: &(dyn Error + 'static) = source.as_ref();
                let hint = content(source);
                match *kind {
                    Identity::KIND => (Step::Files, Class::ClientCertificate, hint),
                    Trust::KIND => (Step::Files, Class::ServerTls, hint),
                    Token::KIND | SigningKey::KIND => (Step::Token, Class::Token, hint),
                    _ => (Step::Files, Class::Usage, hint),
                }
            }
        };
        Self {
            step,
            class,
            cause: chain(error),
            hint,
        }
    }
}

impl From<&TrustError> for Diagnosis {
    fn from(error: &TrustError) -> Self {
        Self {
            step: Step::Files,
            class: Class::ServerTls,
            cause: chain(error),
            hint: content(error),
        }
    }
}

fn unreadable(error: &io::Error) -> Option<String> {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => {
            "check the path, and whether it is relative to another folder than this process runs \
             in; for development `keyutil pki init` and `keyutil key generate` make the files"
        }
        io::ErrorKind::PermissionDenied => {
            "run as the owner of the file, or have its owner changed: keys are for their owner alone"
        }
        io::ErrorKind::IsADirectory => "name the file in the folder, not the folder",
        _ => return None,
    };
    Some(hint.to_owned())
}

fn content(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<IdentityError>() {
        return identity(error).map(str::to_owned);
    }
    if let Some(error) = error.downcast_ref::<TrustError>() {
        return trust(error).map(str::to_owned);
    }
    if let Some(error) = error.downcast_ref::<TokenError>() {
        return token(error).map(str::to_owned);
    }
    let key = error.downcast_ref::<KeyError>()?;
    signing_key(key).map(str::to_owned)
}

fn identity(error: &IdentityError) -> Option<&'static str> {
    Some(match error {
        IdentityError::Expired { .. } => {
            "have the certificate renewed, or set the clock of this machine; for development: \
             `keyutil pki rotate worker` (or `starter`, `admin`)"
        }
        IdentityError::NotYetValid { .. } => {
            "set the clock of this machine, or wait until the certificate is valid"
        }
        IdentityError::Mismatch => {
            "give the key with which the certificate was requested: `openssl x509 -noout -pubkey \
             -in <certificate>` and `openssl pkey -pubout -in <key>` must print the same"
        }
        IdentityError::Order => {
            "put the certificate of the client first in the file, and the one that issued it next"
        }
        // Its message says how.
        IdentityError::EncryptedKey => return None,
        // Its message says what to do.
        IdentityError::SeveralKeys { .. } => return None,
        IdentityError::UnusableKey { .. } => {
            "have a certificate issued for another key: `openssl genpkey -algorithm EC -pkeyopt \
             ec_paramgen_curve:P-256`"
        }
        IdentityError::Key(_) => {
            "give the private key in PEM with `--tls-key-path`, and the certificate with \
             `--tls-cert-path`"
        }
        _ => {
            "give the certificate in PEM, as `openssl x509 -noout -subject -in <file>` reads it: \
             copy it again from where it was issued"
        }
    })
}

fn trust(error: &TrustError) -> Option<&'static str> {
    match error {
        // Its message says what to do.
        TrustError::NoSystemRoots => None,
        _ => Some(
            "give the CA certificates in PEM, one after the other, with `--tls-ca-path`: copy them \
             again from whoever issued the server's certificate",
        ),
    }
}

fn token(error: &TokenError) -> Option<&'static str> {
    Some(match error {
        TokenError::Expired { .. } => {
            "have the token renewed, by whoever writes the file; `keyutil token mint` makes one"
        }
        TokenError::FileExpired { .. } | TokenError::FixedExpired { .. } | TokenError::Mint(_) => {
            return None;
        }
        _ => {
            "the file must hold one JWT and nothing else but white space and `Bearer ` around it: \
             `keyutil token mint` makes one"
        }
    })
}

fn signing_key(error: &KeyError) -> Option<&'static str> {
    match error {
        KeyError::Pem(_) | KeyError::Public => Some(
            "give the private signing key, P-256 or RSA, with `--signing-key`: `keyutil key \
             generate` makes one in `certs/signing/current.pem`",
        ),
        // Their messages say what to do.
        _ => None,
    }
}
