//! From flags to something that can be dialled: every mistake is found before any socket is
//! opened, and all of them are reported at once.

mod args;
mod errors;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use secrecy::ExposeSecret;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::codec::CompressionEncoding;

use crate::{
    base::{chain, redact::without_user},
    credentials::{Identity, Refresh, Token, TokenSource, TrustBundle, token::TokenError},
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    token::{
        ClaimsTemplate, Permission, PermissionsClaim,
        claims::{LONGEST_LIFETIME, SHORTEST_LIFETIME},
        permission::{self, ReservedClaim},
    },
    transport::{Connector, Security, TrustSource},
};

pub use args::{ClaimsArgs, Compression, ConnectArgs, TokenArgs, non_empty, non_empty_text};
pub use errors::{Names, SettingsErrors};

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

/// `--address`.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    host: String,
    port: u16,
    /// What the scheme says of TLS, if there is one.
    tls: Option<bool>,
}

impl Address {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let refused = |reason: &str| {
            Err(format!(
                "`--address` must be `host:port`, as in `localhost:7233`, and {reason}: `{}`",
                without_user(text)
            ))
        };
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (Some(true), rest),
            Some(("http", rest)) => (Some(false), rest),
            Some(_) => return refused("the only schemes are `https` and `http`"),
            None => (None, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // The last colon may be one of the address.
        let Some((host, port)) = rest.rsplit_once(':').filter(|_| !rest.ends_with(']')) else {
            return refused("the port is missing");
        };
        let host = match (host.strip_prefix('['), host.contains(':')) {
            (Some(bracketed), _) => match bracketed.strip_suffix(']') {
                Some(inside) if inside.parse::<std::net::Ipv6Addr>().is_ok() => inside,
                _ => return refused("there is no IPv6 address in the brackets"),
            },
            (None, true) => {
                return refused("an IPv6 address is put in brackets, as in `[::1]:7233`");
            }
            (None, false) => host,
        };
        if ServerName::try_from(host).is_err() {
            return refused("the host is neither a name nor an IP address");
        }
        match port.parse() {
            // Rust takes a sign for part of a number.
            _ if port.starts_with('+') => refused("the port is no number from 1 to 65535"),
            Ok(0) | Err(_) => refused("the port is no number from 1 to 65535"),
            Ok(port) => Ok(Self {
                host: host.to_owned(),
                port,
                tls,
            }),
        }
    }

    /// By its name alone; what the name resolves to is checked again when it is dialled.
    fn looks_like_loopback(&self) -> bool {
        match self.host.parse::<std::net::IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => {
                let name = self.host.to_ascii_lowercase();
                name == "localhost" || name.ends_with(".localhost")
            }
        }
    }
}

impl TokenArgs {
    /// The token sources that are given, by the names of their flags.
    pub fn sources(&self) -> impl Iterator<Item = &'static str> {
        let api_key = self
            .api_key
            .as_ref()
            .is_some_and(|key| !key.expose_secret().trim().is_empty());
        [
            ("`--api-key` (TEMPORAL_API_KEY)", api_key),
            (
                "`--token-file` (KEYUTIL_TOKEN_FILE)",
                non_empty(&self.token_file).is_some(),
            ),
            (
                "`--signing-key` (KEYUTIL_SIGNING_KEY_PATH)",
                non_empty(&self.signing_key).is_some(),
            ),
        ]
        .into_iter()
        .filter_map(|(name, non_empty)| non_empty.then_some(name))
    }
}

fn token_source(
    args: &TokenArgs,
    namespace: &str,
    program: &str,
    problems: &mut SettingsErrors,
) -> (Option<TokenSource>, Vec<String>) {
    let sources: Vec<_> = args.sources().collect();
    if sources.len() > 1 {
        problems.add(format!(
            "there is more than one source of tokens: {}: keep one of them",
            sources.join(" and ")
        ));
    }
    let signing_key = non_empty(&args.signing_key);
    if signing_key.is_none() {
        for flag in args.claims.non_empty() {
            problems.add(format!(
                "{flag} shapes tokens that are minted here, and there is no `--signing-key` to mint them with: leave it out, or unset the variable"
            ));
        }
    }
    if let Some(path) = signing_key {
        let template = args.claims.template(namespace, program, problems);
        let warnings = permission::lint(&template.permissions, Some(namespace));
        let source = problems.note_error(TokenSource::minted(path.clone(), template));
        return (source, warnings);
    }
    let source = if let Some(path) = non_empty(&args.token_file) {
        let claim = args.claims.permissions_claim(problems);
        problems.note_error(TokenSource::file(path.clone(), claim))
    } else if sources.is_empty() {
        None
    } else {
        args.api_key.as_ref().and_then(|key| {
            let parsed = Token::parse_api_key(key.expose_secret(), SystemTime::now());
            let named = parsed.map_err(UnusableApiKey);
            let claim = args.claims.permissions_claim(problems);
            let token = problems.note_error(named)?;
            Some(TokenSource::Fixed(token.with_permissions_claim(&claim)))
        })
    };
    let warnings = match source.as_ref().and_then(TokenSource::current) {
        Some(token) => token
            .content()
            // An API key of Temporal Cloud has no permissions in it.
            .filter(|content| !content.permissions().is_empty())
            .map(|content| content.lint(Some(namespace)))
            .unwrap_or_default(),
        None => Vec::new(),
    };
    (source, warnings)
}

#[derive(Debug, thiserror::Error)]
#[error("`--api-key` (TEMPORAL_API_KEY) is unusable")]
struct UnusableApiKey(#[source] TokenError);

impl Diagnose for UnusableApiKey {
    fn diagnosis(&self) -> Diagnosis {
        Diagnosis {
            step: Step::Token,
            class: Class::Token,
            cause: chain(self),
            hint: Some("`keyutil token mint` makes a new one".to_owned()),
        }
    }
}

impl ClaimsArgs {
    /// The flags that are given, by name.
    fn non_empty(&self) -> impl Iterator<Item = &'static str> {
        [
            (
                "`--permissions` (KEYUTIL_PERMISSIONS)",
                non_empty_text(&self.permissions).is_some(),
            ),
            (
                "`--audience` (KEYUTIL_AUDIENCE)",
                non_empty_text(&self.audience).is_some(),
            ),
            (
                "`--subject` (KEYUTIL_SUBJECT)",
                non_empty_text(&self.subject).is_some(),
            ),
            (
                "`--token-lifetime` (KEYUTIL_TOKEN_LIFETIME)",
                self.token_lifetime.is_some(),
            ),
        ]
        .into_iter()
        .filter_map(|(name, non_empty)| non_empty.then_some(name))
    }

    /// The claim that holds the permissions, of minted tokens and of those that are read.
    pub fn permissions_claim(&self, problems: &mut SettingsErrors) -> PermissionsClaim {
        let parsed = non_empty_text(&self.permissions_claim).map(str::parse);
        let parsed = parsed.transpose().map_err(|error: ReservedClaim| {
            format!("`--permissions-claim` (KEYUTIL_PERMISSIONS_CLAIM): {error}")
        });
        problems.note(parsed).flatten().unwrap_or_default()
    }

    /// What minted tokens say. Mistakes go to `problems`, with something harmless in their place.
    pub fn template(
        &self,
        namespace: &str,
        program: &str,
        problems: &mut SettingsErrors,
    ) -> ClaimsTemplate {
        let lifetime = self.token_lifetime.unwrap_or(DEFAULT_TOKEN_LIFETIME);
        if !(SHORTEST_LIFETIME..=LONGEST_LIFETIME).contains(&lifetime) {
            problems.add(format!(
                "`--token-lifetime` must be between {} and {}: `{}`",
                humantime::format_duration(SHORTEST_LIFETIME),
                "24h",
                humantime::format_duration(lifetime)
            ));
        }
        let permissions = match non_empty_text(&self.permissions) {
            None => vec![Permission::write(namespace)],
            Some(list) => list
                .split(',')
                .filter_map(|text| {
                    let parsed = text.trim().parse::<Permission>();
                    problems.note(parsed.map_err(|error| format!("`--permissions`: {error}")))
                })
                .collect(),
        };
        ClaimsTemplate {
            subject: non_empty_text(&self.subject).unwrap_or(program).to_owned(),
            audience: non_empty_text(&self.audience).map(str::to_owned),
            permissions,
            permissions_claim: self.permissions_claim(problems),
            lifetime,
        }
    }
}

#[cfg(test)]
mod tests;
