//! From flags to something that can be dialled: every mistake is found before any socket is
//! opened, and all of them are reported at once.

mod address;
mod args;
mod errors;
mod names;
mod tokens;

use std::{sync::Arc, time::Duration};

use tokio_rustls::rustls::pki_types::ServerName;
use tonic::codec::CompressionEncoding;

pub use args::{ClaimsArgs, Compression, ConnectArgs, TokenArgs, non_empty, non_empty_text};
pub use errors::SettingsErrors;
pub use names::Names;

use self::{address::Address, tokens::token_source};
use crate::{
    credentials::{Identity, Refresh, TokenSource, TrustBundle},
    transport::{Connector, Security, TrustSource},
};

/// A token's life where none is asked for.
pub const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_secs(300);

/// A connection that can be dialled: everything is parsed, and every file has been read once.
#[derive(Debug)]
pub struct Settings {
    /// Where to, and under what protection.
    pub connector: Connector,
    /// The namespace to work in.
    pub namespace: String,
    /// Where tokens come from, if any are sent.
    pub token: Option<TokenSource>,
    /// How messages are compressed, if they are.
    pub compression: Option<CompressionEncoding>,
    /// How long to wait for a server that is still starting.
    pub connect_timeout: Duration,
    /// What is allowed but probably not meant, in sentences.
    pub warnings: Vec<String>,
}

/// The settings as far as they are usable, and every mistake in them.
#[derive(Debug)]
pub struct Checked {
    /// Where to connect, if all of it is usable.
    pub connector: Option<Connector>,
    /// Where the address is usable, and what it is to be protected with is not.
    pub bare: Option<Connector>,
    /// Where tokens come from.
    pub token: Option<TokenSource>,
    /// How messages are compressed.
    pub compression: Option<CompressionEncoding>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<String>,
    /// Every mistake.
    pub problems: SettingsErrors,
}

impl Settings {
    /// Checks the arguments, and loads the files that they name. `program` is the subject of
    /// minted tokens where none is given.
    ///
    /// # Errors
    /// [`SettingsErrors`], with every mistake there is.
    pub fn new(args: &ConnectArgs, program: &str) -> Result<Self, SettingsErrors> {
        let Checked {
            connector,
            token,
            compression,
            warnings,
            problems,
            ..
        } = Self::check(args, program);
        let Some(connector) = connector else {
            return Err(problems);
        };
        problems.into_result()?;
        Ok(Self {
            connector,
            namespace: args.namespace.trim().to_owned(),
            token,
            compression,
            connect_timeout: args.connect_timeout,
            warnings,
        })
    }

    /// The same, as far as it goes.
    pub fn check(args: &ConnectArgs, program: &str) -> Checked {
        let mut problems = SettingsErrors::naming(args.names);
        let address = problems.note(Address::parse(&args.address));
        let namespace = args.namespace.trim();
        if namespace.is_empty() {
            problems.add("`--namespace` is empty: name the namespace to work in");
        }
        let (token, mut warnings) = token_source(&args.token, namespace, program, &mut problems);
        let security = security(args, address.as_ref(), &mut problems);
        if args.connect_timeout.is_zero() {
            problems.add("`--connect-timeout` is zero: give the server some time, as in `30s`");
        }
        warnings.extend(security.as_ref().and_then(unfit_identity));
        let connector = |security| {
            let address = address.as_ref()?;
            let connector = Connector::new(address.host.clone(), address.port, security);
            Some(connector.within(args.connect_timeout))
        };
        Checked {
            connector: security.and_then(connector),
            bare: connector(Security::Plaintext {
                loopback_only: false,
            }),
            token,
            compression: match args.grpc_compression {
                Compression::None => None,
                Compression::Gzip => Some(CompressionEncoding::Gzip),
            },
            warnings: warnings
                .iter()
                .map(|warning| args.names.apply(warning))
                .collect(),
            problems,
        }
    }

    /// The files to look at while the connection is in use.
    pub fn watched(&self) -> Vec<Box<dyn Refresh>> {
        let mut watched: Vec<Box<dyn Refresh>> = Vec::new();
        if let Security::Tls {
            identity, trust, ..
        } = self.connector.security()
        {
            if let Some(identity) = identity {
                watched.push(Box::new(identity.clone()));
            }
            if let TrustSource::File(trust) = trust {
                watched.push(Box::new(trust.clone()));
            }
        }
        match &self.token {
            Some(TokenSource::Minted(minter)) => watched.push(Box::new(minter.key().clone())),
            Some(TokenSource::File(token)) => watched.push(Box::new(token.clone())),
            Some(TokenSource::Fixed(_)) | None => {}
        }
        watched
    }
}

fn security(
    args: &ConnectArgs,
    address: Option<&Address>,
    problems: &mut SettingsErrors,
) -> Option<Security> {
    let (certificate, key) = (
        non_empty(&args.tls_cert_path),
        non_empty(&args.tls_key_path),
    );
    let authority = non_empty(&args.tls_ca_path);
    let server_name = non_empty_text(&args.tls_server_name);
    let tokens = args.token.sources().next().is_some();

    let asked = match (args.tls, address.and_then(|address| address.tls)) {
        (Some(flag), Some(scheme)) if flag != scheme => {
            problems.add(format!(
                "`--tls={flag}` contradicts the scheme of `--address`: leave one of them out"
            ));
            Some(flag)
        }
        (flag, scheme) => flag.or(scheme),
    };
    let options = [
        ("--tls-cert-path", certificate.is_some()),
        ("--tls-key-path", key.is_some()),
        ("--tls-ca-path", authority.is_some()),
        ("--tls-server-name", server_name.is_some()),
    ];
    let set: Vec<_> = options
        .iter()
        .filter(|(_, set)| *set)
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    if asked == Some(false) && !set.is_empty() {
        problems.add(format!(
            "TLS is switched off, and {} would have no effect: leave out one or the other",
            set.join(", ")
        ));
    }

    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            problems.note_error(Identity::follow(certificate.clone(), key.clone()))
        }
        (Some(_), None) => {
            problems.add("`--tls-cert-path` is set and `--tls-key-path` is not: a client certificate needs both");
            None
        }
        (None, Some(_)) => {
            problems.add("`--tls-key-path` is set and `--tls-cert-path` is not: a client certificate needs both");
            None
        }
        (None, None) => None,
    };
    let server_name = match server_name.or(address.map(|address| address.host.as_str())) {
        Some(name) => problems.note(ServerName::try_from(name.to_owned()).map_err(|_| {
            format!("`--tls-server-name` must be a DNS name or an IP address: `{name}`")
        })),
        None => None,
    };
    let followed = authority.map(|bundle| problems.note_error(TrustBundle::follow(bundle.clone())));

    if asked == Some(false) || (asked.is_none() && set.is_empty() && !tokens) {
        if tokens && address.is_some_and(|address| !address.looks_like_loopback()) {
            problems.add(format!(
                "a token would travel in plaintext to another machine: take away what switches TLS off, or connect to this machine: `{}`",
                args.address
            ));
        }
        return Some(Security::Plaintext {
            loopback_only: tokens,
        });
    }
    let trust = match followed {
        Some(followed) => TrustSource::File(followed?),
        None => TrustSource::System(Arc::new(problems.note_error(TrustBundle::system())?)),
    };
    Some(Security::Tls {
        server_name: server_name?,
        identity,
        trust,
    })
}

/// Go's TLS, which the server uses, refuses such a certificate; a proxy in between may not.
fn unfit_identity(security: &Security) -> Option<String> {
    let Security::Tls {
        identity: Some(identity),
        ..
    } = security
    else {
        return None;
    };
    let identity = identity.current();
    let leaf = identity.leaf();
    (!leaf.permits_client()).then(|| {
        format!(
            "the client certificate with serial {} is not for TLS clients: its extended key usage \
             lacks `clientAuth`, and the server will refuse it",
            leaf.serial
        )
    })
}

#[cfg(test)]
mod tests;
