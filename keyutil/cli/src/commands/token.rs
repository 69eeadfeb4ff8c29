//! `keyutil token …`

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Context;
use clap::{Args, Subcommand};
use keyutil::{
    base::{chain, read::read_at_most, redact::is_content},
    credentials::FileWatcher,
    diagnosis::{Class, Diagnosed, Diagnosis, ResultExt, Step},
    health::{Health, ListenError},
    program::{self, UsageError},
    settings::{ClaimsArgs, SettingsErrors},
    token::{ClaimsTemplate, Permission, SigningKey, UnverifiedToken, claims, permission},
};
use keyutil_cli::{
    agent::{self, Renewal, RenewalError, SHORTEST_LIFETIME},
    keys::{fetch, keyring::read_signing_key, verify},
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
    /// Mint a token and print it, and nothing else
    Mint(Mint),
    /// Show what a token says, and whether it would be accepted
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

    /// Print a line for the shell that sets TEMPORAL_API_KEY, which the Temporal CLI reads
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
    /// The token itself; `-` or nothing reads it from standard input. Others can read the
    /// arguments of a process
    // Many, because clap would print what is one too many: `Bearer <token>` without quotes.
    #[arg(conflicts_with = "file")]
    token: Vec<String>,

    /// File with the token
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Verify the signature with this key set: a file, or an `http://` or `https://` URL
    #[arg(long, value_name = "FILE|URL")]
    jwks: Option<String>,

    /// Verify that the token is for this audience
    #[arg(long, value_name = "NAME", requires = "jwks")]
    audience: Option<String>,

    /// Check the permissions against this namespace
    #[arg(short, long)]
    namespace: Option<String>,
}

/// What a token is minted with, once or again and again.
#[derive(Args)]
struct Minting {
    /// Private key to mint with, PEM, P-256 or RSA
    #[arg(
        long,
        env = "KEYUTIL_SIGNING_KEY_PATH",
        default_value = "certs/signing/current.pem",
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
    /// What the token says. Mistakes go to `problems`.
    fn template(&self, problems: &mut SettingsErrors) -> ClaimsTemplate {
        let namespace = self.namespace.trim();
        let template = self.claims.template(namespace, "keyutil", problems);
        // What the permissions are made of, where none are asked for.
        if self.claims.permissions.is_none()
            && let Err(error) = format!("{namespace}:write").parse::<Permission>()
        {
            problems.add(format!("`--namespace`: {error}"));
        }
        template
    }

    fn read_key(&self) -> anyhow::Result<SigningKey> {
        let path = &self.signing_key;
        check_name(path)?;
        read_signing_key(path)
            .diagnosed()
            .context("no token can be minted")
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
    let key = arguments.minting.read_key()?;
    let token = key.mint(&template.at(SystemTime::now()))?;
    if arguments.export {
        // A token is base64url and dots: nothing in it that a shell would touch.
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
        return Err(
            UsageError("there is no token to inspect: the input is empty".to_owned()).into(),
        );
    }
    let token = UnverifiedToken::parse(raw).map_err(|error| refused(&error))?;
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
            "signature  not verified: give `--jwks` for that, and do not rely on what stands above"
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

/// The token without what surrounds it in files and headers.
fn bare(text: &str) -> &str {
    let text = text.trim_start_matches('\u{feff}').trim();
    match text.split_once(char::is_whitespace) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim(),
        _ if text.eq_ignore_ascii_case("bearer") => "",
        _ => text,
    }
}

/// Refuses a key or token in place of the name of its file, which messages repeat.
pub(super) fn check_name(path: &Path) -> Result<(), UsageError> {
    if is_content(path) {
        let problem = "a key or token stands where the name of its file should";
        return Err(UsageError(problem.to_owned()));
    }
    Ok(())
}

/// A token that the server would not accept.
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
    // More than any header may have.
    let content = read_at_most(from, 1 << 20)?;
    String::from_utf8(content).map_err(|_| io::Error::other("it is not text (UTF-8)"))
}

/// Keep a token in a file current, for a process that does not hold the signing key
///
/// The token is minted anew at two thirds of its life, at once when the key changes, and when the
/// file holds something else. It is written under another name and renamed, with mode 0600, so readers
/// see the old token or the new one. This goes on until SIGINT or SIGTERM, and leaves the file: the
/// token in it lasts for a restart. What fails after the first token is tried again every second,
/// and told.
#[derive(Args)]
#[command(after_help = "\
Examples:
  keyutil token renew --output /run/token/worker --namespace orders
  keyutil token renew --output /run/token/ui --subject ui --permissions temporal-system:read
  keyutil token renew --output /run/token/worker --health-listen 127.0.0.1:9090")]
pub struct Renew {
    /// File to write the token to; its folder is made if it is missing. Nothing but a token is
    /// written over
    #[arg(long, value_name = "FILE")]
    output: PathBuf,

    #[command(flatten)]
    minting: Minting,

    /// Address to answer at for `/healthz`, `/readyz` and `/metrics`; port 0 takes a free one,
    /// which the log names [default: no such answers]
    #[arg(long, env = "KEYUTIL_HEALTH_LISTEN", value_name = "ADDRESS:PORT")]
    health_listen: Option<SocketAddr>,
}

async fn run_renew(arguments: Renew) -> anyhow::Result<()> {
    let mut problems = SettingsErrors::naming(keyutil::settings::Names::Flags);
    let template = arguments.minting.template(&mut problems);
    if (claims::SHORTEST_LIFETIME..SHORTEST_LIFETIME).contains(&template.lifetime) {
        problems.add(format!(
            "`--token-lifetime` must be {} or more for a token in a file, or its readers are late: `{}`",
            humantime::format_duration(SHORTEST_LIFETIME),
            humantime::format_duration(template.lifetime),
        ));
    }
    problems.into_result().diagnosed()?;
    for warning in permission::lint(&template.permissions, None) {
        program::print_warning(warning);
    }
    // For the error that says what to do.
    arguments.minting.read_key()?;
    let signing_key = arguments.minting.signing_key;
    let renewal = Renewal::start(signing_key, template, arguments.output).map_err(judged)?;
    // From here on, and not before: what hangs at the start can be ended.
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
    let watch = FileWatcher::start(vec![Box::new(renewal)]);
    let reason = interrupted.await;
    info!(reason, "stopping: the token in the file stays");
    drop(watch);
    if let Some(health) = health {
        health.stop().await;
    }
    Ok(())
}

fn judged(error: RenewalError) -> anyhow::Error {
    if error.is_usage() {
        UsageError(error.to_string()).into()
    } else {
        error.into()
    }
}
