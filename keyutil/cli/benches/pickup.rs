//! From a file replaced to the first call that uses the new credential: median and worst of a
//! hundred rotations of the client certificate, and of the signing key.
//!
//! `cargo bench -p keyutil-cli --bench pickup`
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark says what went wrong by panicking"
)]

// The tests use more of these modules than a benchmark does.
#[allow(dead_code)]
#[path = "../tests/common/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "../tests/common/frames.rs"]
mod frames;
#[allow(dead_code)]
#[path = "../tests/common/peer.rs"]
mod peer;

use std::{
    fs,
    time::{Duration, Instant, SystemTime},
};

use client::{World, issue, now};
use keyutil::{
    connect,
    credentials::TokenSource,
    settings::Settings,
    token::{SigningKey, signing_key},
    x509::certificate::CertificateSummary,
};
use keyutil_cli::{
    files::{self, Mode},
    pki::Purpose,
};
use peer::Peer;
use secrecy::ExposeSecret;
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};

const ROTATIONS: usize = 100;

/// Calls are made this often, as by a busy worker.
const BETWEEN_CALLS: Duration = Duration::from_millis(1);

#[tokio::main]
async fn main() {
    // cargo passes `--bench`; `cargo test --benches` does not, and wants no hundred seconds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let (certificate, key) = tokio::join!(client_certificate(), signing_key());
    report("client certificate", certificate);
    report("signing key", key);
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{what}: median {median:.0?}, worst {worst:.0?} of {}",
        times.len()
    );
}

/// By the serial number that the peer sees in a handshake of the connection that the call is on.
async fn client_certificate() -> Vec<Duration> {
    let world = World::new();
    let peer = Peer::start(peer::mutual(
        &world.server(),
        world.clients.certificate_pem(),
    ))
    .await;
    let settings = Settings::new(&world.args(peer.port), "bench").unwrap();
    let opened = connect::open(settings).unwrap();
    let mut times = Vec::new();
    for rotation in 0..ROTATIONS {
        out_of_step(rotation).await;
        let leaf = issue(&world.clients, Purpose::Client, now());
        let der = CertificateDer::from_pem_slice(leaf.certificate_pem.as_bytes()).unwrap();
        let serial = CertificateSummary::from_der(&der).unwrap().serial;
        let key = leaf.key_pem.expose_secret().as_bytes();
        files::replace(&world.path("tls.key"), key, Mode::Private).unwrap();
        let certificate = leaf.certificate_pem.as_bytes();
        files::replace(&world.path("tls.crt"), certificate, Mode::Public).unwrap();
        let replaced = Instant::now();
        while peer::call(opened.session().channel()).await.serial != serial {
            tokio::time::sleep(BETWEEN_CALLS).await;
        }
        times.push(replaced.elapsed());
    }
    times
}

/// By the kid of the token that the interceptor puts into a call.
async fn signing_key() -> Vec<Duration> {
    let world = World::new();
    let path = world.path("signing.pem");
    fs::write(&path, signing_key::generate_pem().unwrap().expose_secret()).unwrap();
    let mut args = world.args(1);
    args.token.signing_key = Some(path.clone());
    let settings = Settings::new(&args, "bench").unwrap();
    let source: TokenSource = settings.token.clone().unwrap();
    let opened = connect::open(settings).unwrap();
    let mut times = Vec::new();
    for rotation in 0..ROTATIONS {
        out_of_step(rotation).await;
        let pem = signing_key::generate_pem().unwrap();
        let pem = pem.expose_secret().as_bytes();
        let kid = SigningKey::from_pem(pem).unwrap().kid().to_owned();
        files::replace(&path, pem, Mode::Private).unwrap();
        let replaced = Instant::now();
        loop {
            source.token(SystemTime::now()).unwrap();
            let token = source.current().unwrap();
            if token.content().unwrap().kid() == Some(&kid) {
                break;
            }
            tokio::time::sleep(BETWEEN_CALLS).await;
        }
        times.push(replaced.elapsed());
    }
    drop(opened);
    times
}

/// Varies the moment at which a file is replaced between two looks at it.
async fn out_of_step(rotation: usize) {
    let milliseconds = rotation as u64 * 37 % 1000;
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}
