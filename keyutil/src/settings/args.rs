//! The flags and environment variables of a connection, the same in all programs.
//!
//! Where Temporal's own command line has a name for something, it is that name. An environment
//! variable that is set and empty counts as not set. What is contradictory or incomplete is found
//! by [`ConnectArgs::settings`](crate::settings), all of it at once.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{
    Args, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
};
use secrecy::SecretString;

use crate::{
    settings::Names,
    token::{Permission, Role},
};

/// How to reach the server, and as whom.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub struct ConnectArgs {
    /// Server, as `host:port`; `https://` or `http://` before it turns TLS on or off
    #[arg(
        long,
        global = true,
        env = "TEMPORAL_ADDRESS",
        default_value = "localhost:7233",
        value_name = "HOST:PORT"
    )]
    pub address: String,

    /// Namespace to work in
    #[arg(
        short,
        long,
        global = true,
        env = "TEMPORAL_NAMESPACE",
        default_value = "default"
    )]
    pub namespace: String,

    /// TLS on or off [default: on as soon as a certificate, CA, server name or token is given]
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

    /// Client certificate chain, PEM, leaf first; followed while running
    #[arg(long, global = true, env = "TEMPORAL_TLS_CLIENT_CERT_PATH", value_name = "FILE", value_parser = path())]
    pub tls_cert_path: Option<PathBuf>,

    /// Private key of the client certificate, PEM; followed while running
    #[arg(long, global = true, env = "TEMPORAL_TLS_CLIENT_KEY_PATH", value_name = "FILE", value_parser = path())]
    pub tls_key_path: Option<PathBuf>,

    /// CA certificates to verify the server with, PEM; followed while running [default: those of
    /// this machine]
    #[arg(long, global = true, env = "TEMPORAL_TLS_SERVER_CA_CERT_PATH", value_name = "FILE", value_parser = path())]
    pub tls_ca_path: Option<PathBuf>,

    /// Name that the server's certificate must be for [default: the host of the address]
    #[arg(
        long,
        global = true,
        env = "TEMPORAL_TLS_SERVER_NAME",
        value_name = "NAME"
    )]
    pub tls_server_name: Option<String>,

    /// Compress the messages of calls
    #[arg(
        long,
        global = true,
        env = "KEYUTIL_GRPC_COMPRESSION",
        default_value = "none",
        value_name = "METHOD"
    )]
    pub grpc_compression: Compression,

    /// How long to wait for a server that is still starting
    #[arg(long, global = true, env = "KEYUTIL_CONNECT_TIMEOUT", default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub connect_timeout: Duration,

    /// Where the token comes from.
    #[command(flatten)]
    pub token: TokenArgs,

    /// How messages name these settings. clap sets it to flags, and [`Default`] to fields.
    #[arg(skip = Names::Flags)]
    pub names: Names,
}

/// The three ways to come by a token; at most one of them.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Token: from a signing key, or a file, or fixed")]
pub struct TokenArgs {
    /// A fixed token: an API key of Temporal Cloud, or a JWT. Better given by the variable, since
    /// others can read the arguments of a process
    #[arg(long, global = true, env = "TEMPORAL_API_KEY", value_name = "TOKEN", hide_env_values = true, value_parser = secret)]
    pub api_key: Option<SecretString>,

    /// File with a token that someone else renews; followed while running
    #[arg(long, global = true, env = "KEYUTIL_TOKEN_FILE", value_name = "FILE", value_parser = path())]
    pub token_file: Option<PathBuf>,

    /// Private key to mint tokens with, PEM, P-256 or RSA; followed while running
    #[arg(long, global = true, env = "KEYUTIL_SIGNING_KEY_PATH", value_name = "FILE", value_parser = path())]
    pub signing_key: Option<PathBuf>,

    /// What the minted token says.
    #[command(flatten)]
    pub claims: ClaimsArgs,
}

/// What a minted token says.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Minted tokens")]
pub struct ClaimsArgs {
    /// What the bearer may do, as `<namespace>:<role>`, parted by commas [default:
    /// `write` in the namespace]
    #[arg(long, global = true, env = "KEYUTIL_PERMISSIONS", value_name = "LIST")]
    pub permissions: Option<String>,

    /// Claim that holds the permissions, as in the server's `permissionsClaimName`; also of a token
    /// that is read from a file [default: permissions]
    #[arg(
        long,
        global = true,
        env = "KEYUTIL_PERMISSIONS_CLAIM",
        value_name = "NAME"
    )]
    pub permissions_claim: Option<String>,

    /// `aud`, for a server that has an audience configured
    #[arg(long, global = true, env = "KEYUTIL_AUDIENCE", value_name = "NAME")]
    pub audience: Option<String>,

    /// `sub`, which the server requires [default: the name of the program]
    #[arg(long, global = true, env = "KEYUTIL_SUBJECT", value_name = "NAME")]
    pub subject: Option<String>,

    /// From minting to expiry, between 2s and 24h [default: 5m]
    #[arg(long, global = true, env = "KEYUTIL_TOKEN_LIFETIME", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub token_lifetime: Option<Duration>,
}

impl ConnectArgs {
    /// Has tokens minted with `<namespace>:admin`, if they are minted here and nothing else is asked
    /// for.
    pub fn mint_for_admin(&mut self) {
        let claims = &mut self.token.claims;
        if non_empty(&self.token.signing_key).is_some()
            && non_empty_text(&claims.permissions).is_none()
        {
            let admin = Permission {
                namespace: self.namespace.trim().to_owned(),
                role: Role::Admin,
            };
            claims.permissions = Some(admin.to_string());
        }
    }
}

impl Default for ConnectArgs {
    /// What stands here when no flag and no variable says otherwise.
    fn default() -> Self {
        Self {
            address: "localhost:7233".to_owned(),
            namespace: "default".to_owned(),
            tls: None,
            tls_cert_path: None,
            tls_key_path: None,
            tls_ca_path: None,
            tls_server_name: None,
            grpc_compression: Compression::None,
            connect_timeout: Duration::from_secs(30),
            token: TokenArgs::default(),
            names: Names::Fields,
        }
    }
}

/// Compression of gRPC messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// As they are: less work for both sides
    None,
    /// gzip: fewer bytes, for slow networks
    Gzip,
}

/// Accepts an empty path, which an empty environment variable is; [`non_empty`] leaves it out.
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

/// The text without the white space around it, unless nothing is left.
pub fn non_empty_text(text: &Option<String>) -> Option<&str> {
    text.as_deref()
        .map(str::trim)
        .filter(|text| !text.is_empty())
}
