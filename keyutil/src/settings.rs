//! The settings of a connection, checked before a socket is opened.
//!
//! [`ConnectArgs`] holds the settings as flags, variables or fields. [`Settings::new`] checks them,
//! loads the files, and reports all errors at once.

mod args;
mod errors;

use std::{
    ffi::OsString,
    sync::Arc,
    time::{Duration, SystemTime},
};

use secrecy::ExposeSecret;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::codec::CompressionEncoding;

use crate::{
    base::{chain, redact::without_user},
    credentials::{
        Identity, Refresh, RevocationLists, Token, TokenSource, TrustBundle, token::TokenError,
    },
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    token::{
        ClaimsTemplate, Permission, PermissionsClaim,
        claims::{LONGEST_LIFETIME, SHORTEST_LIFETIME},
        permission::{self, CLUSTER_SCOPE, ReservedClaim},
    },
    transport::{Connector, Proxy, Security, TrustSource},
};

/// The time limit of one attempt to connect.
pub(crate) const ATTEMPT_LIMIT: Duration = Duration::from_secs(30);

pub use args::{ClaimsArgs, Compression, ConnectArgs, TokenArgs, id, non_empty, non_empty_text};
pub use errors::{Names, SettingsErrors};

/// The default of `--token-lifetime`.
pub const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_secs(300);

/// Checked settings: everything is parsed, and every file has been read once.
#[derive(Debug)]
pub struct Settings {
    /// The server and the TLS credentials.
    pub connector: Connector,
    /// The namespace of the calls.
    pub namespace: String,
    /// The source of the tokens, if tokens are sent.
    pub token: Option<TokenSource>,
    /// The compression of messages.
    pub compression: Option<CompressionEncoding>,
    /// The time limit for connecting to a server that is still starting.
    pub connect_timeout: Duration,
    /// Settings that are valid but probably unintended, one sentence each.
    pub warnings: Vec<String>,
}

/// The settings as far as they are usable, and the errors in the rest.
#[derive(Debug)]
pub struct Checked {
    /// The connector, if the address and the TLS settings are usable.
    pub connector: Option<Connector>,
    /// A connector without TLS, if the address is usable.
    pub bare: Option<Connector>,
    /// The source of the tokens.
    pub token: Option<TokenSource>,
    /// The compression of messages.
    pub compression: Option<CompressionEncoding>,
    /// Settings that are valid but probably unintended.
    pub warnings: Vec<String>,
    /// The errors.
    pub problems: SettingsErrors,
}

impl Settings {
    /// Checks the arguments and loads the files that they name. `program` is the default subject
    /// of minted tokens.
    ///
    /// # Errors
    /// [`SettingsErrors`], with all errors.
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

    /// Checks the arguments, and returns the usable part together with the errors.
    pub fn check(args: &ConnectArgs, program: &str) -> Checked {
        let mut problems = SettingsErrors::naming(args.names);
        let address = problems.note(Address::parse(&args.address));
        let namespace = args.namespace.trim();
        if namespace.is_empty() {
            problems.add("`--namespace` is empty");
        }
        let (token, mut warnings) = token_source(&args.token, namespace, program, &mut problems);
        let security = security(args, address.as_ref(), &mut problems);
        if args.connect_timeout.is_zero() {
            problems.add("`--connect-timeout` is zero: set a duration such as `30s`");
        }
        warnings.extend(security.as_ref().and_then(unfit_identity));
        let proxy = match &address {
            Some(address) if args.no_proxy != Some(true) => {
                problems.note(proxy(address, |name| std::env::var_os(name)))
            }
            _ => None,
        };
        let connector = |security| {
            let address = address.as_ref()?;
            let connector = Connector::new(address.host.clone(), address.port, security);
            let connector = connector.through(proxy.clone().flatten());
            Some(connector.within(args.connect_timeout.min(ATTEMPT_LIMIT)))
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

    /// The credentials whose files are reloaded while the connection is in use.
    pub fn watched(&self) -> Vec<Box<dyn Refresh>> {
        let mut watched: Vec<Box<dyn Refresh>> = Vec::new();
        if let Security::Tls {
            identity,
            trust,
            revoked,
            ..
        } = self.connector.security()
        {
            if let Some(revoked) = revoked {
                watched.push(Box::new(revoked.clone()));
            }
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
    let revoked = non_empty(&args.tls_crl_path);
    let server_name = non_empty_text(&args.tls_server_name);
    let tokens = args.token.sources().next().is_some();

    let asked = match (args.tls, address.and_then(|address| address.tls)) {
        (Some(flag), Some(scheme)) if flag != scheme => {
            problems.add(format!(
                "`--tls={flag}` contradicts the scheme of `--address`: remove one of them"
            ));
            Some(flag)
        }
        (flag, scheme) => flag.or(scheme),
    };
    let options = [
        ("--tls-cert-path", certificate.is_some()),
        ("--tls-key-path", key.is_some()),
        ("--tls-ca-path", authority.is_some()),
        ("--tls-crl-path", revoked.is_some()),
        ("--tls-server-name", server_name.is_some()),
    ];
    let set: Vec<_> = options
        .iter()
        .filter(|(_, set)| *set)
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    let switched_off_by = match args.tls {
        Some(_) => "`--tls=false`",
        None => "the scheme `http://` of `--address`",
    };
    if asked == Some(false) && !set.is_empty() {
        problems.add(format!(
            "{switched_off_by} switches TLS off, and {} would have no effect: remove one of them",
            set.join(", ")
        ));
    }

    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let files = [
                (
                    "`--tls-cert-path` (TEMPORAL_TLS_CLIENT_CERT_PATH)",
                    &**certificate,
                ),
                ("`--tls-key-path` (TEMPORAL_TLS_CLIENT_KEY_PATH)", &**key),
            ];
            problems.note_loaded(&files, Identity::follow(certificate.clone(), key.clone()))
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
    let followed = authority.map(|bundle| {
        let files = [(
            "`--tls-ca-path` (TEMPORAL_TLS_SERVER_CA_CERT_PATH)",
            &**bundle,
        )];
        problems.note_loaded(
            &files,
            TrustBundle::follow(bundle.clone(), args.distrust_after),
        )
    });

    let revoked = revoked.map(|file| {
        let files = [("`--tls-crl-path` (KEYUTIL_TLS_CRL_PATH)", &**file)];
        let followed = RevocationLists::follow(file.clone(), args.distrust_after);
        problems.note_loaded(&files, followed)
    });

    if asked == Some(false) || (asked.is_none() && set.is_empty() && !tokens) {
        if tokens && address.is_some_and(|address| !address.looks_like_loopback()) {
            problems.add(format!(
                "{switched_off_by} switches TLS off, and the token would travel in plaintext to another machine, `{}`: use TLS, or connect to this machine",
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
        revoked: match revoked {
            Some(followed) => Some(followed?),
            None => None,
        },
    })
}

/// A warning and not an error: Go's TLS, which the server uses, rejects such a certificate, but a
/// proxy in front of the server may accept it.
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
            "the client certificate with serial {} is not valid for TLS clients: its extended key \
             usage lacks `clientAuth`, and the server will reject it",
            leaf.serial
        )
    })
}

/// A parsed `--address`.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    host: String,
    port: u16,
    /// Whether to use TLS, by the scheme.
    tls: Option<bool>,
}

impl Address {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let refused = |reason: &str| {
            Err(format!(
                "`--address` must be `host:port`, for example `localhost:7233`, but {reason}: `{}`",
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
        if rest.contains('@') {
            return refused("it has a user name");
        }
        if rest.contains('/') {
            return refused("it has a path");
        }
        // In an IPv6 address without a port, the last colon is part of the address.
        let Some((host, port)) = rest.rsplit_once(':').filter(|_| !rest.ends_with(']')) else {
            return refused("the port is missing");
        };
        let host = match (host.strip_prefix('['), host.contains(':')) {
            (Some(bracketed), _) => match bracketed.strip_suffix(']') {
                Some(inside) if inside.parse::<std::net::Ipv6Addr>().is_ok() => inside,
                _ => return refused("the brackets do not contain an IPv6 address"),
            },
            (None, true) => {
                return refused("an IPv6 address needs brackets, for example `[::1]:7233`");
            }
            (None, false) => host,
        };
        if ServerName::try_from(host).is_err() {
            return refused("the host is neither a name nor an IP address");
        }
        match port.parse() {
            // `u16::from_str` accepts a sign.
            _ if port.starts_with('+') => refused("the port is not a number from 1 to 65535"),
            Ok(0) | Err(_) => refused("the port is not a number from 1 to 65535"),
            Ok(port) => Ok(Self {
                host: host.to_owned(),
                port,
                tls,
            }),
        }
    }

    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Judges by the name alone. The connector checks the resolved address again.
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

/// The proxy for this address, by the environment. As with Go's `net/http`, the upper-case variable
/// has precedence, and loopback addresses and `localhost` are never reached through a proxy.
fn proxy(
    address: &Address,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<Proxy>, String> {
    let first = |names: [&'static str; 2]| {
        let set = |name| variable(name).map(|value| (name, value));
        let mut set = names.into_iter().filter_map(set);
        let (name, value) = set.find(|(_, value)| !value.is_empty())?;
        Some((name, value.into_string()))
    };
    let Some((name, proxy)) = first(["HTTPS_PROXY", "https_proxy"]) else {
        return Ok(None);
    };
    if address.looks_like_loopback() {
        return Ok(None);
    }
    let no_proxy = match first(["NO_PROXY", "no_proxy"]) {
        Some((_, Ok(list))) => list,
        Some((name, Err(_))) => return Err(format!("`{name}` is not UTF-8")),
        None => String::new(),
    };
    let refused = |reason: String| {
        format!("`{name}` is not usable: {reason}; correct it, or set `--no-proxy`")
    };
    let proxy = proxy.map_err(|_| refused("it is not UTF-8".to_owned()))?;
    Proxy::of(&address.authority(), &proxy, &no_proxy).map_err(refused)
}

impl TokenArgs {
    /// The token sources that are set, by flag and variable.
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
            "more than one token source is set: {}: remove all but one",
            sources.join(" and ")
        ));
    }
    let signing_key = non_empty(&args.signing_key);
    if signing_key.is_none() {
        for flag in args.claims.non_empty() {
            problems.add(format!(
                "{flag} applies to minted tokens, and `--signing-key` is not set: remove it, or unset the variable"
            ));
        }
    }
    if let Some(path) = signing_key {
        let template = args.claims.template(namespace, program, problems);
        let warnings = permission::lint(&template.permissions, Some(namespace));
        let files = [("`--signing-key` (KEYUTIL_SIGNING_KEY_PATH)", &**path)];
        let loaded = TokenSource::minted(path.clone(), template);
        let source = problems.note_loaded(&files, loaded);
        return (source, warnings);
    }
    let source = if let Some(path) = non_empty(&args.token_file) {
        let claim = args.claims.permissions_claim(problems);
        let files = [("`--token-file` (KEYUTIL_TOKEN_FILE)", &**path)];
        problems.note_loaded(&files, TokenSource::file(path.clone(), claim))
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
            hint: Some("mint a new one with `keyutil token mint`".to_owned()),
        }
    }
}

impl ClaimsArgs {
    /// The settings of minted tokens that are set, by flag and variable.
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
            ("`--kid` (KEYUTIL_KID)", non_empty_text(&self.kid).is_some()),
            (
                "`--token-lifetime` (KEYUTIL_TOKEN_LIFETIME)",
                self.token_lifetime.is_some(),
            ),
        ]
        .into_iter()
        .filter_map(|(name, non_empty)| non_empty.then_some(name))
    }

    /// The name of the claim that holds the permissions. An error goes to `problems`.
    pub fn permissions_claim(&self, problems: &mut SettingsErrors) -> PermissionsClaim {
        let parsed = non_empty_text(&self.permissions_claim).map(str::parse);
        let parsed = parsed.transpose().map_err(|error: ReservedClaim| {
            format!("`--permissions-claim` (KEYUTIL_PERMISSIONS_CLAIM): {error}")
        });
        problems.note(parsed).flatten().unwrap_or_default()
    }

    /// The claims of minted tokens. Errors go to `problems`, and a default takes their place.
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
            None => {
                let write = Permission::write(namespace);
                let parsed = write.to_string().parse::<Permission>();
                // An empty namespace is reported where it is set.
                if !namespace.is_empty() {
                    problems.note(parsed.map_err(|error| format!("`--namespace`: {error}")));
                }
                // As the scope of a permission, the name of this namespace means all namespaces.
                if namespace == CLUSTER_SCOPE {
                    problems.add(format!(
                        "a token for `--namespace {CLUSTER_SCOPE}` would be valid for every \
                         namespace: name its permissions with `--permissions`"
                    ));
                }
                vec![write]
            }
            Some(list) => list
                .split(',')
                .filter_map(|text| {
                    let parsed = text.trim().parse::<Permission>();
                    problems.note(parsed.map_err(|error| format!("`--permissions`: {error}")))
                })
                .collect(),
        };
        ClaimsTemplate {
            kid: non_empty_text(&self.kid).map(str::to_owned),
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
