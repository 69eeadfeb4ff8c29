//! The smallest worker whose credentials rotate, with nothing but the Temporal SDK.
//!
//! A thread reads the files every second. A new client certificate goes to rustls through
//! `TlsOptions::client_cert_resolver`, a new token to the SDK through `Connection::set_api_key`.
//! To run it, source the environment file of `sandbox up`, and keep a token file fresh:
//!
//! ```text
//! cargo keyutil token renew --subject worker --output token.jwt &
//! KEYUTIL_TOKEN_FILE=token.jwt cargo run -p worker --example sdk_only
//! ```
//!
//! Where it stops being enough (`docs/design.md` says more, `sandbox/tests/sdk_only.rs` shows it):
//!
//! - A reconnect resumes the TLS session and does not present the new certificate, until the old
//!   one expires or the server no longer trusts its CA.
//! - A certificate that the server does not accept replaces one that it does.
//! - An expired token is sent. The server refuses it, and within about a minute the SDK ends the
//!   worker.
//! - Errors do not name the certificate, and the TLS alert only at times.
//! - The server's CA is read once. A file system that hangs stops both rotations.

use std::{env, fs, sync::Arc, thread, time::Duration};

use anyhow::Context;
use arc_swap::ArcSwap;
use temporalio_client::{
    CertifiedKey, Client, ClientOptions, Connection, ConnectionOptions, ResolvesClientCert,
    SignatureScheme, TlsOptions,
};
use temporalio_sdk::{Runtime, Worker, WorkerOptions, runtime::RuntimeOptions};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;
use worker::canary::{Greetings, HelloWorkflow};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).init();
    let certificate = Arc::new(Rotating(ArcSwap::from_pointee(read_certificate()?)));
    let token = read_token()?;
    let tls = TlsOptions::builder()
        .server_root_ca_cert(fs::read(variable("TEMPORAL_TLS_SERVER_CA_CERT_PATH")?)?)
        .client_cert_resolver(certificate.clone())
        .build();
    let address = variable("TEMPORAL_ADDRESS")?;
    // tonic refuses an `https` target behind the connector that a resolver brings with it.
    let options = ConnectionOptions::new(url::Url::parse(&format!("http://{address}"))?)
        .override_origin(format!("https://{address}").parse()?)
        .tls_options(tls)
        .api_key(token.clone())
        // The SDK refuses it together with a resolver (temporalio-client 1.1.1, dns.rs:103).
        .dns_load_balancing(None)
        .build();
    let connection = Connection::connect(options).await?;
    let rotated = connection.clone();
    thread::spawn(move || rotate(&certificate, token, &rotated));

    let options = ClientOptions::new(variable("TEMPORAL_NAMESPACE")?).build();
    let client = Client::new(connection, options)?;
    let options = WorkerOptions::new(variable("TEMPORAL_TASK_QUEUE")?)
        .register_workflow::<HelloWorkflow>()?
        .register_activities(Greetings)
        .build();
    let runtime = RuntimeOptions::builder().build();
    let runtime = Runtime::from_current_tokio(runtime.map_err(anyhow::Error::msg)?)?;
    let mut worker = Worker::new(&runtime, client, options)?;
    let stop = worker.shutdown_handle();
    tokio::spawn(async move { tokio::signal::ctrl_c().await.map(|()| stop()) });
    info!("worker started");
    Ok(worker.run().await?)
}

/// Replaces certificate and token when their files have changed.
fn rotate(certificate: &Rotating, mut token: String, connection: &Connection) {
    loop {
        thread::sleep(Duration::from_secs(1));
        match read_certificate() {
            Ok(new) if new.cert == certificate.0.load().cert => {}
            Ok(new) => {
                certificate.0.store(Arc::new(new));
                info!("client certificate replaced");
            }
            Err(error) => warn!("kept the client certificate: {error:#}"),
        }
        match read_token() {
            Ok(new) if new == token => {}
            Ok(new) => {
                connection.set_api_key(Some(new.clone()));
                token = new;
                info!("token replaced");
            }
            Err(error) => warn!("kept the token: {error:#}"),
        }
    }
}

/// What the next full handshake presents.
#[derive(Debug)]
struct Rotating(ArcSwap<CertifiedKey>);

impl ResolvesClientCert for Rotating {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        info!("client certificate presented");
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Fails when the key is of another certificate, as it is between two renames.
fn read_certificate() -> anyhow::Result<CertifiedKey> {
    let path = variable("TEMPORAL_TLS_CLIENT_CERT_PATH")?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)?.collect();
    let key = PrivateKeyDer::from_pem_file(variable("TEMPORAL_TLS_CLIENT_KEY_PATH")?)?;
    let provider = aws_lc_rs::default_provider();
    Ok(CertifiedKey::from_der(chain?, key, &provider)?)
}

fn read_token() -> anyhow::Result<String> {
    let token = fs::read_to_string(variable("KEYUTIL_TOKEN_FILE")?)?;
    Ok(token.trim().to_owned())
}

fn variable(name: &'static str) -> anyhow::Result<String> {
    env::var(name).with_context(|| format!("`{name}` is not set"))
}
