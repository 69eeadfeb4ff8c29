//! The flags and environment variables of a connection.
//!
//! Flags and variables have the names of Temporal's own command line where it has them. An empty
//! environment variable counts as not set. [`Settings::new`](super::Settings::new) checks that the
//! arguments are complete and do not contradict each other.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{
    Args, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
};
use secrecy::SecretString;

use crate::{
    base::text::printable,
    settings::Names,
    token::{Permission, Role},
};

/// The settings of a connection: server, namespace, TLS and token.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub struct ConnectArgs {
    /// Address of the server, as `host:port`; the scheme `https://` turns TLS on, `http://` off
    #[arg(
        long,
        global = true,
        env = "TEMPORAL_ADDRESS",
        default_value = "localhost:7233",
        value_name = "HOST:PORT"
    )]
    pub address: String,

    /// Namespace of the calls
    #[arg(
        short,
        long,
        global = true,
        env = "TEMPORAL_NAMESPACE",
        default_value = "default"
    )]
    pub namespace: String,

    /// Use TLS [default: true if a certificate, CA, server name or token is set]
    #[arg(
        long,
        global = true,
        env = "TEMPORAL_TLS",
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true,
        value_name = "BOOL",
        value_parser = clap::builder::BoolishValueParser::new(),
        hide_possible_values = true
    )]
    pub tls: Option<bool>,

    /// File with the client certificate chain in PEM, leaf first; reloaded when it changes
    #[arg(long, global = true, env = "TEMPORAL_TLS_CLIENT_CERT_PATH", value_name = "FILE", value_parser = path())]
    pub tls_cert_path: Option<PathBuf>,

    /// File with the private key of the client certificate in PEM; reloaded when it changes
    #[arg(long, global = true, env = "TEMPORAL_TLS_CLIENT_KEY_PATH", value_name = "FILE", value_parser = path())]
    pub tls_key_path: Option<PathBuf>,

    /// File with the CA certificates that verify the server, in PEM; reloaded when it changes
    /// [default: the CAs of the operating system]
    #[arg(long, global = true, env = "TEMPORAL_TLS_SERVER_CA_CERT_PATH", value_name = "FILE", value_parser = path())]
    pub tls_ca_path: Option<PathBuf>,

    /// File with revocation lists (CRLs) for server certificates, in PEM; reloaded when it changes
    #[arg(long, global = true, env = "KEYUTIL_TLS_CRL_PATH", value_name = "FILE", value_parser = path())]
    pub tls_crl_path: Option<PathBuf>,

    /// Time after which a CA that was removed from the CA file is distrusted, and a connection that
    /// was verified with earlier revocation lists is no longer used, even if no new one can be made;
    /// `0s`: at once
    #[arg(long, global = true, env = "KEYUTIL_DISTRUST_AFTER", default_value = "5m", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub distrust_after: Duration,

    /// Name that the server's certificate must contain [default: the host of the address]
    #[arg(
        long,
        global = true,
        env = "TEMPORAL_TLS_SERVER_NAME",
        value_name = "NAME"
    )]
    pub tls_server_name: Option<String>,

    /// Compression of gRPC messages
    #[arg(
        long,
        global = true,
        env = "KEYUTIL_GRPC_COMPRESSION",
        default_value = "none",
        value_name = "METHOD"
    )]
    pub grpc_compression: Compression,

    /// Connect directly, and ignore `HTTPS_PROXY` and `NO_PROXY`
    #[arg(
        long,
        global = true,
        env = "KEYUTIL_NO_PROXY",
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true,
        value_name = "BOOL",
        value_parser = clap::builder::BoolishValueParser::new(),
        hide_possible_values = true
    )]
    pub no_proxy: Option<bool>,

    /// Time limit for connecting to a server that is still starting, or that may accept the token
    /// after its next fetch of the key set
    #[arg(long, global = true, env = "KEYUTIL_CONNECT_TIMEOUT", default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub connect_timeout: Duration,

    /// The source of the token.
    #[command(flatten)]
    pub token: TokenArgs,

    /// How error messages name these settings. clap sets [`Names::Flags`], and [`Default`] sets
    /// [`Names::Fields`].
    #[arg(skip = Names::Flags)]
    pub names: Names,
}

/// The source of the token: at most one of a fixed token, a file and a signing key.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Token (at most one source)")]
pub struct TokenArgs {
    /// Fixed token: an API key of Temporal Cloud, or a JWT. Prefer the variable: other users can
    /// read the arguments of a process
    #[arg(long, global = true, env = "TEMPORAL_API_KEY", value_name = "TOKEN", hide_env_values = true, value_parser = secret)]
    pub api_key: Option<SecretString>,

    /// File with a token that another process renews; reloaded when it changes
    #[arg(long, global = true, env = "KEYUTIL_TOKEN_FILE", value_name = "FILE", value_parser = path())]
    pub token_file: Option<PathBuf>,

    /// File with the private key that signs minted tokens, in PEM, P-256 or RSA; reloaded when it
    /// changes
    #[arg(long, global = true, env = "KEYUTIL_SIGNING_KEY_PATH", value_name = "FILE", value_parser = path())]
    pub signing_key: Option<PathBuf>,

    /// The claims of minted tokens.
    #[command(flatten)]
    pub claims: ClaimsArgs,
}

/// The claims of minted tokens.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Minted tokens")]
pub struct ClaimsArgs {
    /// Permissions to grant, comma-separated, each `<namespace>:<role>` [default: `write` on the
    /// namespace]
    #[arg(long, global = true, env = "KEYUTIL_PERMISSIONS", value_name = "LIST")]
    pub permissions: Option<String>,

    /// Name of the claim that holds the permissions: the server's `permissionsClaimName`. Applies
    /// to minted and to other tokens [default: permissions]
    #[arg(
        long,
        global = true,
        env = "KEYUTIL_PERMISSIONS_CLAIM",
        value_name = "NAME"
    )]
    pub permissions_claim: Option<String>,

    /// `aud` claim: the audience that the server is configured with
    #[arg(long, global = true, env = "KEYUTIL_AUDIENCE", value_name = "NAME")]
    pub audience: Option<String>,

    /// `sub` claim, which the server requires [default: the name of the program]
    #[arg(long, global = true, env = "KEYUTIL_SUBJECT", value_name = "NAME")]
    pub subject: Option<String>,

    /// `kid` of the header, where the key is published under another one [default: the RFC 7638
    /// thumbprint of the key]
    #[arg(long, global = true, env = "KEYUTIL_KID", value_name = "KID")]
    pub kid: Option<String>,

    /// Time from minting to expiry, between 2s and 24h [default: 5m]
    #[arg(long, global = true, env = "KEYUTIL_TOKEN_LIFETIME", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub token_lifetime: Option<Duration>,
}

impl ConnectArgs {
    /// Sets the permissions of minted tokens to `<namespace>:admin`, unless permissions are set.
    pub fn mint_for_admin(&mut self) {
        let claims = &mut self.token.claims;
        if non_empty(&self.token.signing_key).is_some()
            && non_empty_text(&claims.permissions).is_none()
        {
            let admin = Permission {
                namespace: self.namespace.trim().to_owned(),
                role: Role::Admin,
            };
            let admin = admin.to_string();
            // A namespace that cannot be in a permission is refused by its own name.
            if admin.parse::<Permission>().is_ok() {
                claims.permissions = Some(admin);
            }
        }
    }
}

impl Default for ConnectArgs {
    /// The defaults of the flags.
    fn default() -> Self {
        Self {
            address: "localhost:7233".to_owned(),
            namespace: "default".to_owned(),
            tls: None,
            tls_cert_path: None,
            tls_key_path: None,
            tls_ca_path: None,
            tls_crl_path: None,
            distrust_after: Duration::from_secs(300),
            tls_server_name: None,
            grpc_compression: Compression::None,
            no_proxy: None,
            connect_timeout: Duration::from_secs(30),
            token: TokenArgs::default(),
            names: Names::Fields,
        }
    }
}

/// Compression of gRPC messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// No compression
    None,
    /// gzip, for slow networks
    Gzip,
}

/// Accepts an empty path, as from an empty environment variable. [`non_empty`] filters it out.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(|text: OsString| PathBuf::from(text))
}

fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(SecretString::from(text))
}

/// The path, unless it is empty.
pub fn non_empty(path: &Option<PathBuf>) -> Option<&PathBuf> {
    path.as_ref().filter(|path| !path.as_os_str().is_empty())
}

/// The trimmed text, unless it is empty.
pub fn non_empty_text(text: &Option<String>) -> Option<&str> {
    text.as_deref()
        .map(str::trim)
        .filter(|text| !text.is_empty())
}

/// Parses a workflow id or the name of a task queue by the rules of the server: not empty, and at
/// most 1,000 bytes (`limit.maxIDLength`). Control characters, which can control a terminal, are
/// refused as well.
///
/// # Errors
/// The rule that the text breaks.
pub fn id(text: &str) -> Result<String, String> {
    const LONGEST: usize = 1000;
    if text.is_empty() {
        return Err("it must not be empty".to_owned());
    }
    if text.len() > LONGEST {
        return Err(format!(
            "it has {} bytes; the server permits {LONGEST}",
            text.len()
        ));
    }
    if printable(text) != text {
        return Err("it contains control characters".to_owned());
    }
    Ok(text.to_owned())
}
