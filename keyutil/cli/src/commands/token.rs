//! `keyutil token …`

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Context;
use clap::{
    Args, Subcommand,
    builder::{NonEmptyStringValueParser, TypedValueParser},
};
use keyutil::{
    base::{chain, read::read_at_most, redact::is_content},
    credentials::FileWatcher,
    diagnosis::{Class, Diagnosed, Diagnosis, ResultExt, Step},
    health::{Health, ListenError},
    program::{self, UsageError},
    settings::{ClaimsArgs, SettingsErrors},
    token::{ClaimsTemplate, PermissionsClaim, SigningKey, UnverifiedToken, claims, permission},
};
use keyutil_cli::{
    agent::{self, Renewal, RenewalError, SHORTEST_LIFETIME},
    keys::{
        fetch,
        keyring::{Keyring, read_signing_key},
        verify,
    },
};
use secrecy::ExposeSecret;
use tracing::info;

use super::{cannot_listen, unusable};

#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  keyutil token mint --namespace orders
  keyutil token mint | keyutil token inspect
  keyutil token renew --output /run/token/worker")]
pub enum Token {
    /// Mint a token and print only the token
    Mint(Mint),
    /// Show the content of a token, and check whether a server would accept it
    Inspect(Inspect),
    Renew(Renew),
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil token mint --namespace orders
  keyutil token mint --permissions orders:read,billing:write --token-lifetime 1h
  eval \"$(keyutil token mint --export)\"")]
pub struct Mint {
    #[command(flatten)]
    minting: Minting,

    /// Print an `export` of TEMPORAL_API_KEY, which the Temporal CLI reads, for a shell to evaluate
    #[arg(long)]
    export: bool,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil token mint | keyutil token inspect
  keyutil token inspect --file token.jwt --namespace orders
  keyutil token inspect --file token.jwt \\
      --jwks http://127.0.0.1:8090/.well-known/jwks.json --audience temporal")]
pub struct Inspect {
    /// Token; `-` or nothing reads it from standard input. Other users can see the arguments of a
    /// process
    // A list, because clap would print the excess argument: `Bearer <token>` without quotes.
    #[arg(conflicts_with = "file")]
    token: Vec<String>,

    /// File that holds the token
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Key set to verify the signature with: a file, or an `http://` or `https://` URL
    #[arg(long, value_name = "FILE|URL")]
    jwks: Option<String>,

    /// Audience that the token must be for
    #[arg(long, value_name = "NAME", requires = "jwks")]
    audience: Option<String>,

    /// Namespace that the permissions are checked against
    #[arg(short, long)]
    namespace: Option<String>,

    /// Claim that holds the permissions: the server's `permissionsClaimName`
    #[arg(
        long,
        env = "KEYUTIL_PERMISSIONS_CLAIM",
        default_value = "permissions",
        value_name = "NAME",
        value_parser = NonEmptyStringValueParser::new().try_map(|name| name.parse::<PermissionsClaim>())
    )]
    permissions_claim: PermissionsClaim,
}

/// The flags of commands that mint tokens.
#[derive(Args)]
struct Minting {
    /// Private key to sign with (PEM, P-256 or RSA)
    #[arg(
        long,
        env = "KEYUTIL_SIGNING_KEY_PATH",
        default_value = "certs/signing/active/current.pem",
        value_name = "FILE"
    )]
    signing_key: PathBuf,

    /// Namespace that the token is for
    #[arg(short, long, env = "TEMPORAL_NAMESPACE", default_value = "default")]
    namespace: String,

    #[command(flatten)]
    claims: ClaimsArgs,
}

impl Minting {
    /// Returns the claims of the tokens. Mistakes are added to `problems`.
    fn template(&self, problems: &mut SettingsErrors) -> ClaimsTemplate {
        let namespace = self.namespace.trim();
        if namespace.is_empty() {
            problems.add("`--namespace` is empty");
        }
        self.claims.template(namespace, "keyutil", problems)
    }

    fn read_key(&self) -> anyhow::Result<SigningKey> {
        let path = &self.signing_key;
        check_name(path)?;
        read_signing_key(path)
            .diagnosed()
            .context("failed to mint a token")
    }
}

pub async fn run(command: Token) -> anyhow::Result<()> {
    match command {
        Token::Mint(arguments) => mint(arguments),
        Token::Inspect(arguments) => run_inspect(arguments).await,
        Token::Renew(arguments) => run_renew(arguments).await,
    }
}

fn mint(arguments: Mint) -> anyhow::Result<()> {
    let mut problems = SettingsErrors::naming(keyutil::settings::Names::Flags);
    let template = arguments.minting.template(&mut problems);
    problems.into_result().diagnosed()?;
    for warning in permission::lint(&template.permissions, None) {
        program::print_warning(warning);
    }
    let ring = Keyring::of_signing_key(&arguments.minting.signing_key);
    if let Some(warning) = ring.and_then(|ring| ring.outlived_by(template.lifetime)) {
        program::print_warning(warning);
    }
    let key = arguments.minting.read_key()?;
    let token = key.mint(&template.at(SystemTime::now()))?;
    if arguments.export {
        // A token consists of base64url and dots: no character needs quotes.
        program::print_line(format_args!(
            "export TEMPORAL_API_KEY={}",
            token.expose_secret()
        ))?;
    } else {
        program::print_line(format_args!("{}", token.expose_secret()))?;
    }
    Ok(())
}

async fn run_inspect(arguments: Inspect) -> anyhow::Result<()> {
    let text = read_token(&arguments)?;
    let raw = bare(&text);
    if raw.is_empty() {
        return Err(UsageError("the input is empty: expected a token".to_owned()).into());
    }
    let token = UnverifiedToken::parse(raw)
        .map_err(|error| refused(&error))?
        .with_permissions_claim(arguments.permissions_claim);
    program::print_line(format_args!(
        "header     {}",
        serde_json::to_string(&token.header)?
    ))?;
    program::print_line(format_args!(
        "claims     {}",
        serde_json::to_string(&token.claims)?
    ))?;
    program::print_line(format_args!(
        "lifetime   {}",
        token.lifetime(SystemTime::now())
    ))?;
    for warning in token.lint(arguments.namespace.as_deref()) {
        program::print_line(format_args!("warning    {warning}"))?;
    }
    let Some(source) = &arguments.jwks else {
        program::print_line(format_args!(
            "signature  not verified: do not rely on the content; `--jwks` verifies it"
        ))?;
        return Ok(());
    };
    let key_set = fetch::fetch(source, fetch::TIMEOUT)
        .await
        .diagnosed()?
        .document;
    match verify::verify(raw, &key_set, arguments.audience.as_deref()) {
        Ok(()) => {
            program::print_line(format_args!(
                "signature  verified with the key `{}`",
                token.kid().unwrap_or_default()
            ))?;
            Ok(())
        }
        Err(error) => {
            program::print_line(format_args!("signature  REFUSED"))?;
            Err(refused(&error)).context("the token would be refused")
        }
    }
}

/// Strips byte order mark, white space and the scheme `Bearer`.
fn bare(text: &str) -> &str {
    let text = text.trim_start_matches('\u{feff}').trim();
    match text.split_once(char::is_whitespace) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim(),
        _ if text.eq_ignore_ascii_case("bearer") => "",
        _ => text,
    }
}

/// Refuses a key or token in the place of a path: messages repeat paths.
pub(super) fn check_name(path: &Path) -> Result<(), UsageError> {
    if is_content(path) {
        let problem = "expected the path of a file, found a key or token";
        return Err(UsageError(problem.to_owned()));
    }
    Ok(())
}

/// Returns the error for a token that a server would not accept.
fn refused(error: &(dyn std::error::Error + 'static)) -> Diagnosed {
    Diagnosed::from(Diagnosis {
        step: Step::Token,
        class: Class::Token,
        cause: chain(error),
        hint: None,
    })
}

fn read_token(arguments: &Inspect) -> anyhow::Result<String> {
    match (&arguments.token[..], &arguments.file) {
        (_, Some(path)) => {
            check_name(path)?;
            let read = fs::File::open(path).and_then(read_text);
            Ok(read.map_err(|error| {
                let cause = format!("failed to read token file `{}`: {error}", path.display());
                unusable(cause, None)
            })?)
        }
        (words, None) if !words.is_empty() && words != ["-"] => Ok(words.join(" ")),
        _ => Ok(read_text(io::stdin()).map_err(|error| {
            let cause = format!("failed to read the token from standard input: {error}");
            unusable(cause, None)
        })?),
    }
}

fn read_text(from: impl io::Read) -> io::Result<String> {
    // Longer than any header may be.
    let content = read_at_most(from, 1 << 20)?;
    String::from_utf8(content).map_err(|_| io::Error::other("not UTF-8"))
}

/// Keep the token in a file current, for a process that does not hold the signing key
///
/// - A new token is minted when two thirds of the lifetime have passed, when the key changes, and
///   when the file no longer holds the token.
///
/// - The token is written to a temporary file with mode 0600 and renamed: readers see the old token
///   or the new one.
///
/// - A failure after the first token is logged and retried every second.
///
/// - The command runs until SIGINT or SIGTERM, and leaves the file in place for the time of a
///   restart.
#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil token renew --output /run/token/worker --namespace orders
  keyutil token renew --output /run/token/ui --subject ui --permissions temporal-system:read
  keyutil token renew --output /run/token/worker --health-listen 127.0.0.1:9090")]
pub struct Renew {
    /// File to write the token to; missing folders are created. A file that does not hold a token
    /// is never overwritten
    #[arg(long, value_name = "FILE")]
    output: PathBuf,

    /// Address that serves `/healthz`, `/readyz` and `/metrics`; port 0 picks a free port, which
    /// the log names [default: disabled]
    #[arg(long, env = "KEYUTIL_HEALTH_LISTEN", value_name = "ADDRESS:PORT")]
    health_listen: Option<SocketAddr>,

    #[command(flatten)]
    minting: Minting,
}

async fn run_renew(arguments: Renew) -> anyhow::Result<()> {
    let mut problems = SettingsErrors::naming(keyutil::settings::Names::Flags);
    let template = arguments.minting.template(&mut problems);
    if (claims::SHORTEST_LIFETIME..SHORTEST_LIFETIME).contains(&template.lifetime) {
        problems.add(format!(
            "`--token-lifetime` must be {} or more, so that readers of the file find the next token in time: `{}`",
            humantime::format_duration(SHORTEST_LIFETIME),
            humantime::format_duration(template.lifetime),
        ));
    }
    problems.into_result().diagnosed()?;
    for warning in permission::lint(&template.permissions, None) {
        program::print_warning(warning);
    }
    // Its error has a hint, that of the agent has none.
    arguments.minting.read_key()?;
    let signing_key = arguments.minting.signing_key;
    let renewal = Renewal::start(signing_key, template, arguments.output).map_err(classified)?;
    // A signal is caught from here on: until now it ends the process, even if a file system hangs.
    let interrupted = program::interrupted();
    let health = match arguments.health_listen {
        Some(address) => {
            let served = Health::serve(address, agent::router(renewal.clone())).await;
            let failed =
                |error: ListenError| cannot_listen(address, "--health-listen", &error.source);
            Some(served.map_err(failed)?)
        }
        None => None,
    };
    let watch = FileWatcher::start(renewal.watched());
    let reason = interrupted.await;
    info!(reason, "stopping; the token file is left in place");
    drop(watch);
    if let Some(health) = health {
        health.stop().await;
    }
    Ok(())
}

fn classified(error: RenewalError) -> anyhow::Error {
    if error.is_usage() {
        let hint = matches!(error, RenewalError::Read { .. })
            .then_some("`--output` must name a file, such as `/run/token/worker`");
        unusable(chain(&error), hint).into()
    } else {
        error.into()
    }
}
