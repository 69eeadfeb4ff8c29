//! The JWKS endpoint as a process: what it answers, and that it goes on answering.

use std::{
    fs,
    net::TcpListener,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use crate::common::endpoint::{Endpoint, Running};
use crate::common::program::{keyutil, run};
use keyutil_cli::keys::{
    Jwks,
    keyring::{Keyring, RotationPolicy, RotationTimes, read_signing_key},
};
use reqwest::{Client, Method, Response, StatusCode, header};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

#[tokio::test]
async fn the_key_set_is_answered_with_all_that_a_cache_needs() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start(folder.path(), &["--generate"]);
    let published = fs::read(folder.path().join("certs/signing/jwks.json")).unwrap();

    let answer = ask(Method::GET, &endpoint.url).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(
        text(&answer, header::CONTENT_TYPE),
        "application/jwk-set+json"
    );
    assert_eq!(text(&answer, header::CACHE_CONTROL), "public, max-age=5");
    let etag = text(&answer, header::ETAG).to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
    assert_eq!(answer.bytes().await.unwrap(), published);

    let head = ask(Method::HEAD, &endpoint.url).await;
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(text(&head, header::ETAG), etag);
    let length = published.len().to_string();
    assert_eq!(text(&head, header::CONTENT_LENGTH), length);
    assert!(head.bytes().await.unwrap().is_empty());

    let again = client().get(&endpoint.url);
    let again = again.header(header::IF_NONE_MATCH, &etag);
    let again = again.send().await.unwrap();
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(text(&again, header::ETAG), etag);
    assert!(again.bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn errors_are_never_json() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start(folder.path(), &["--generate"]);
    let root = endpoint.url.replace("/.well-known/jwks.json", "");
    let json = format!("{root}/.well-known/jwks.json");
    for (method, url, status) in [
        (Method::GET, format!("{root}/healthz"), StatusCode::OK),
        (Method::GET, format!("{root}/"), StatusCode::NOT_FOUND),
        (Method::GET, format!("{json}/"), StatusCode::NOT_FOUND),
        (
            Method::GET,
            format!("{root}/jwks.json"),
            StatusCode::NOT_FOUND,
        ),
        (Method::POST, json.clone(), StatusCode::METHOD_NOT_ALLOWED),
        (Method::DELETE, json.clone(), StatusCode::METHOD_NOT_ALLOWED),
        (
            Method::OPTIONS,
            json.clone(),
            StatusCode::METHOD_NOT_ALLOWED,
        ),
    ] {
        let answer = ask(method.clone(), &url).await;
        assert_eq!(answer.status(), status, "{method} {url}");
        let kind = text(&answer, header::CONTENT_TYPE);
        assert!(kind.starts_with("text/plain"), "{method} {url}: {kind}");
        let body = answer.text().await.unwrap();
        assert!(serde_json::from_str::<Value>(&body).is_err(), "{body}");
    }
}

#[tokio::test]
async fn a_broken_file_does_not_change_what_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start(folder.path(), &["--generate"]);
    let path = folder.path().join("certs/signing/jwks.json");
    let good = fs::read_to_string(&path).unwrap();
    let mut private: Value = serde_json::from_str(&good).unwrap();
    private["keys"][0]["d"] = "tops3cret".into();
    for (broken, words) in [
        (Some("garbage"), "not JSON"),
        (Some("{}"), "no array `keys`"),
        (Some(r#"{"keys":[]}"#), "the key set is empty"),
        (Some(&good[..good.len() / 2]), "not JSON"),
        (Some(&private.to_string()), "private member `d`"),
        (None, "No such file"),
    ] {
        match broken {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let logged = endpoint.logged("kept the one in use");
        assert!(logged.contains(words), "{words}: {logged}");
        assert!(!logged.contains("tops3cret"), "{logged}");
        let answer = ask(Method::GET, &endpoint.url).await;
        assert_eq!(answer.status(), StatusCode::OK, "{words}");
        assert_eq!(answer.text().await.unwrap(), good, "{words}");
    }

    let elsewhere = tempfile::tempdir().unwrap();
    let ring = Keyring::at(elsewhere.path());
    ring.generate(false, SystemTime::now).unwrap();
    let new = fs::read_to_string(ring.jwks_path()).unwrap();
    let started = Instant::now();
    fs::copy(ring.jwks_path(), &path).unwrap();
    while ask(Method::GET, &endpoint.url).await.text().await.unwrap() != new {
        // Once a second, and as much again for a machine with much to do.
        assert!(started.elapsed() < Duration::from_secs(5), "not served");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_during_rotations_and_faults_is_a_whole_key_set() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start(folder.path(), &["--generate"]);
    let ring = Keyring::at(folder.path().join("certs/signing"));
    let asking = tokio::spawn({
        let url = endpoint.url.clone();
        async move {
            loop {
                let answer = ask(Method::GET, &url).await;
                assert_eq!(answer.status(), StatusCode::OK);
                let body = answer.bytes().await.unwrap();
                let read = Jwks::parse(&body);
                assert!(read.is_ok(), "{read:?} of {body:?}");
            }
        }
    });

    let path = ring.jwks_path();
    for broken in [
        r#"{"keys":[]}"#,
        r#"{"error":"down"}"#,
        r#"{"keys":[{"kty""#,
    ] {
        ring.rotate_in_emergency(None, SystemTime::now).unwrap();
        let published = fs::read(&path).unwrap();
        served(&endpoint, &published).await;
        // As by a program that writes into the file instead of replacing it.
        fs::write(&path, broken).unwrap();
        endpoint.logged("kept the one in use");
        served(&endpoint, &published).await;
        fs::write(&path, &published).unwrap();
    }
    ring.generate(true, SystemTime::now).unwrap();
    served(&endpoint, &fs::read(&path).unwrap()).await;

    assert!(!asking.is_finished(), "{:?}", asking.await);
    asking.abort();
}

async fn served(endpoint: &Endpoint, document: &[u8]) {
    let started = Instant::now();
    let answer = async || ask(Method::GET, &endpoint.url).await.bytes().await.unwrap();
    while answer().await != document {
        assert!(started.elapsed() < Duration::from_secs(10), "not served");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// 1,000 idle connections, 100 that send a byte now and then, 100 that do not read: each comes back
/// a second after it was closed. The endpoint has 256 descriptors.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_set_is_answered_whatever_other_clients_do() {
    keyutil::base::descriptors::raise_limit();
    let folder = tempfile::tempdir().unwrap();
    let mut limited = Command::new("sh");
    let script = r#"ulimit -n 256 && exec "$0" "$@""#;
    limited.args(["-c", script, env!("CARGO_BIN_EXE_keyutil")]);
    limited.current_dir(folder.path()).stderr(Stdio::piped());
    let endpoint = Endpoint::start_as(limited, &["--generate"]);
    let url = reqwest::Url::parse(&endpoint.url).unwrap();
    let address = url.socket_addrs(|| None).unwrap()[0];

    let opened = Arc::new(AtomicUsize::new(0));
    let mut attack = JoinSet::new();
    for number in 0..1200 {
        let opened = opened.clone();
        attack.spawn(async move {
            loop {
                let Ok(mut stream) = TcpStream::connect(address).await else {
                    continue;
                };
                opened.fetch_add(1, Ordering::Relaxed);
                match number % 12 {
                    0 => drip(&mut stream).await,
                    1 => ask_without_reading(&mut stream).await,
                    _ => _ = stream.read(&mut [0; 8]).await,
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    while opened.load(Ordering::Relaxed) < 1000 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // On a machine with other work one of them may be late: a packet that the kernel drops comes again
    // after a second. None stays without an answer.
    let client = client();
    let mut times = Vec::new();
    for _ in 0..20 {
        let asked = Instant::now();
        let answer = client.get(&endpoint.url).timeout(Duration::from_secs(10));
        let answer = answer.send().await.and_then(Response::error_for_status);
        let body = answer.unwrap().bytes().await.unwrap();
        assert!(Jwks::parse(&body).is_ok(), "{body:?}");
        times.push(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    times.sort();
    assert!(times[times.len() / 2] < Duration::from_secs(1), "{times:?}");
    assert_eq!(endpoint.terminate().code(), Some(0));
}

/// Sends the head of a request byte by byte, until the connection is closed.
async fn drip(stream: &mut TcpStream) {
    let head = b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\nX: ";
    for byte in head.iter().chain(std::iter::repeat(&b'x')) {
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Sends requests until the connection is closed, and reads no answer.
async fn ask_without_reading(stream: &mut TcpStream) {
    let request = b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n";
    while stream.write_all(request).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_connection_is_for_one_request_and_has_time_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start(folder.path(), &["--generate"]);
    let url = reqwest::Url::parse(&endpoint.url).unwrap();
    let address = url.socket_addrs(|| None).unwrap()[0];
    for sent in ["", "GET / HT", "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let ended = stream.read_to_string(&mut answer);
        let ended = tokio::time::timeout(Duration::from_secs(15), ended).await;
        assert!(ended.is_ok(), "after {sent:?} the connection stays open");
        assert_eq!(answer.ends_with("ok\n"), sent.ends_with("\n"), "{answer}");
    }
}

#[tokio::test]
async fn an_emergency_that_was_interrupted_is_finished_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start(folder.path(), &["--generate"]);
    let ring = Keyring::at(folder.path().join("certs/signing"));
    let stolen = ring.look(SystemTime::now()).unwrap().current.unwrap().kid;
    // The first operation of an emergency rotation, and no more.
    let record = fs::read_to_string(ring.ring_path()).unwrap();
    let marked = record.replacen(r#""current""#, r#""compromised""#, 1);
    fs::write(ring.ring_path(), marked).unwrap();

    endpoint.logged("signing key rotated");
    assert!(!ring.jwks().unwrap().kids().contains(&stolen));
    served(&endpoint, &fs::read(ring.jwks_path()).unwrap()).await;
}

#[test]
fn a_terminated_endpoint_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start(folder.path(), &["--generate"]);
    assert_eq!(endpoint.terminate().code(), Some(0));
}

#[test]
fn a_lock_that_another_process_holds_does_not_delay_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let ring = Keyring::at(folder.path().join("certs/signing"));
    ring.generate(false, SystemTime::now).unwrap();
    let path = folder.path().join("certs/signing/.lock");
    let lock = fs::File::options().append(true).open(path).unwrap();
    lock.lock().unwrap();
    let endpoint = Endpoint::start(folder.path(), &["--rotate-every", "1h"]);
    endpoint.logged("waiting for the lock");

    let asked = Instant::now();
    assert_eq!(endpoint.terminate().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "{asked:?}");
}

#[test]
fn keys_that_are_there_are_kept_by_generate() {
    let folder = tempfile::tempdir().unwrap();
    drop(Endpoint::start(folder.path(), &["--generate"]));
    let path = folder.path().join("certs/signing/active/current.pem");
    let before = fs::read(&path).unwrap();
    drop(Endpoint::start(folder.path(), &["--generate"]));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn without_a_key_set_nothing_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let serve = ["jwks", "serve", "--listen=127.0.0.1:0"];
    let refused = run(keyutil(folder.path()).args(serve));
    assert_eq!(refused.code, Some(64), "{refused:?}");
    for words in [
        "no key set to serve",
        "`certs/signing/jwks.json`",
        "--generate",
    ] {
        assert!(refused.stderr.contains(words), "{words}: {refused:?}");
    }

    let signing = folder.path().join("certs/signing");
    fs::create_dir_all(&signing).unwrap();
    fs::write(signing.join("jwks.json"), r#"{"keys":[]}"#).unwrap();
    let refused = run(keyutil(folder.path()).args(serve));
    assert_eq!(refused.code, Some(64), "{refused:?}");
    assert!(
        refused.stderr.contains("the key set is empty"),
        "{refused:?}"
    );
}

#[test]
fn a_port_that_is_taken_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let args = ["jwks", "serve", "--generate", "--listen", &address];
    let failed = run(keyutil(folder.path()).args(args));
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let words = format!("failed to listen at `{address}`: Address already in use");
    assert!(failed.stderr.contains(&words), "{failed:?}");
    let hint = "hint: another process uses the port: stop it, or name another port with `--listen`";
    assert!(failed.stderr.contains(hint), "{failed:?}");
}

fn policy() -> RotationPolicy {
    RotationPolicy::new(RotationTimes::default(), None).unwrap()
}

/// The next key may sign after a second, and the rotation is due.
const OVERDUE: [&str; 6] = [
    "--refresh-interval=1s",
    "--clock-skew=0s",
    "--propagation=0s",
    "--token-lifetime=2s",
    "--retire-after=3s",
    "--rotate-every=1s",
];

/// A ring whose keys were made an hour ago.
fn with_old_keys() -> (tempfile::TempDir, Keyring) {
    let folder = tempfile::tempdir().unwrap();
    let ring = Keyring::at(folder.path().join("certs/signing"));
    let earlier = SystemTime::now() - Duration::from_secs(3600);
    ring.generate(false, || earlier).unwrap();
    (folder, ring)
}

fn signs(ring: &Keyring) -> String {
    let key = read_signing_key(&ring.current_path()).unwrap();
    key.kid().to_owned()
}

async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !reached().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "not {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn page(endpoint: &Endpoint, path: &str) -> (StatusCode, String) {
    let url = endpoint.url.replace("/.well-known/jwks.json", path);
    let answer = ask(Method::GET, &url).await;
    (answer.status(), answer.text().await.unwrap())
}

#[tokio::test]
async fn a_key_that_no_server_has_fetched_does_not_sign() {
    let (folder, ring) = with_old_keys();
    let before = signs(&ring);
    let endpoint = Endpoint::start(folder.path(), &OVERDUE);
    // None of these is a fetch of a server.
    let mut etag = None;
    for agent in ["keyutil/1.0", "kube-probe/1.34", "curl/8.0"] {
        let probe = client()
            .get(&endpoint.url)
            .header(header::USER_AGENT, agent);
        let answer = probe.send().await.unwrap();
        etag = Some(text(&answer, header::ETAG).to_owned());
        assert_eq!(answer.status(), StatusCode::OK);
    }
    ask(Method::HEAD, &endpoint.url).await;
    let known = client().get(&endpoint.url);
    let known = known.header(header::IF_NONE_MATCH, etag.unwrap());
    assert_eq!(
        known.send().await.unwrap().status(),
        StatusCode::NOT_MODIFIED
    );
    let mut probe = keyutil(folder.path());
    assert_eq!(run(probe.args(["probe", &endpoint.url])).code, Some(0));

    until("unready", async || {
        page(&endpoint, "/readyz").await.0 != StatusCode::OK
    })
    .await;
    let (status, reason) = page(&endpoint, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let next = ring.look(SystemTime::now()).unwrap().next.unwrap().kid;
    let words = format!("0 of 1 expected servers have fetched the next key `{next}`");
    assert!(reason.contains(&words), "{reason}");
    endpoint.logged(&words);
    let (_, metrics) = page(&endpoint, "/metrics").await;
    let value = |name: &str| -> f64 {
        let mut lines = metrics.lines();
        let line = lines.find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}"))
            .parse()
            .unwrap()
    };
    assert_eq!(value("keyutil_ready"), 0.0);
    assert!(value("keyutil_rotation_stalled_seconds") > 3000.0);
    assert!(value("keyutil_signing_key_since_timestamp_seconds") > 1e9);
    assert_eq!(value("keyutil_jwks_fetches_total"), 0.0);
    assert!(
        !metrics.contains("keyutil_jwks_last_fetch_timestamp_seconds "),
        "{metrics}"
    );
    assert_eq!(page(&endpoint, "/healthz").await.0, StatusCode::OK);
    assert_eq!(signs(&ring), before);

    // A server.
    ask(Method::GET, &endpoint.url).await.bytes().await.unwrap();
    until("rotated", async || signs(&ring) != before).await;
    assert_eq!(signs(&ring), next);
    until("ready", async || {
        page(&endpoint, "/readyz").await.0 == StatusCode::OK
    })
    .await;
    let (_, metrics) = page(&endpoint, "/metrics").await;
    assert!(
        metrics.contains("keyutil_rotation_stalled_seconds 0\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("keyutil_jwks_last_fetch_timestamp_seconds "),
        "{metrics}"
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn servers_are_told_apart_by_their_addresses() {
    let (folder, ring) = with_old_keys();
    let before = signs(&ring);
    let arguments = [&OVERDUE[..], &["--expect-fetchers=2"]].concat();
    let endpoint = Endpoint::start(folder.path(), &arguments);
    let fetch = async |address: [u8; 4]| {
        let client = Client::builder().no_proxy();
        let client = client
            .local_address(std::net::IpAddr::from(address))
            .build();
        let answer = client.unwrap().get(&endpoint.url).send().await.unwrap();
        answer.bytes().await.unwrap();
    };
    fetch([127, 0, 0, 1]).await;
    fetch([127, 0, 0, 1]).await;
    let counted = async || {
        page(&endpoint, "/readyz")
            .await
            .1
            .contains("1 of 2 expected")
    };
    until("counted", counted).await;
    assert_eq!(signs(&ring), before);
    fetch([127, 0, 0, 2]).await;
    until("rotated", async || signs(&ring) != before).await;
}

#[tokio::test]
async fn a_rotation_by_hand_asks_the_endpoint() {
    let (folder, ring) = with_old_keys();
    let before = signs(&ring);
    let endpoint = Endpoint::start(folder.path(), &[]);
    let rotate = |jwks: &str, arguments: &[&str]| {
        let mut command = keyutil(folder.path());
        command
            .env("KEYUTIL_JWKS", jwks)
            .args(["key", "rotate"])
            .args(&OVERDUE[..5]);
        command.args(arguments);
        command
    };
    let refused = run(&mut rotate(&endpoint.url, &[]));
    assert_eq!(refused.code, Some(75), "{refused:?}");
    let words = "too early: 0 of 1 expected servers have fetched the next key `";
    assert!(refused.stderr.contains(words), "{refused:?}");
    let gone = run(&mut rotate("http://127.0.0.1:1/.well-known/jwks.json", &[]));
    assert_eq!(gone.code, Some(69), "{gone:?}");
    assert!(
        gone.stderr.contains("failed to ask the JWKS endpoint"),
        "{gone:?}"
    );
    assert_eq!(signs(&ring), before);

    // With `--wait` it goes on as soon as a server has fetched the key set.
    let waiting = Running::start(&mut rotate(&endpoint.url, &["--wait"]));
    waiting.logged("too early: 0 of 1");
    ask(Method::GET, &endpoint.url).await.bytes().await.unwrap();
    until("rotated", async || signs(&ring) != before).await;

    let before = signs(&ring);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let rotated = run(&mut rotate(&endpoint.url, &["--expect-fetchers=0"]));
    assert_eq!(rotated.code, Some(0), "{rotated:?}");
    assert_ne!(signs(&ring), before);
}

#[test]
fn what_writes_nothing_needs_no_lock() {
    let (folder, ring) = with_old_keys();
    ring.retire(&policy(), SystemTime::now).unwrap();
    ring.rotate(&policy(), SystemTime::now).unwrap();
    let path = folder.path().join("certs/signing/.lock");
    let lock = fs::File::options().append(true).open(path).unwrap();
    lock.lock().unwrap();
    let begun = Instant::now();
    for (arguments, code) in [
        (&["key", "list"][..], 0),
        (&["key", "retire"], 0),
        (&["key", "rotate"], 75),
        (&["jwks", "print"], 0),
    ] {
        let ended = run(keyutil(folder.path()).args(arguments));
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(25), "{begun:?}");
}

#[tokio::test]
async fn a_broken_file_makes_the_endpoint_unready_and_it_serves_on() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start(folder.path(), &["--generate"]);
    assert_eq!(
        page(&endpoint, "/readyz").await,
        (StatusCode::OK, "ok\n".to_owned())
    );
    fs::write(folder.path().join("certs/signing/jwks.json"), "{}").unwrap();
    until("unready", async || {
        page(&endpoint, "/readyz").await.0 != StatusCode::OK
    })
    .await;
    let (_, reason) = page(&endpoint, "/readyz").await;
    assert!(reason.contains("no array `keys`"), "{reason}");
    assert_eq!(
        ask(Method::GET, &endpoint.url).await.status(),
        StatusCode::OK
    );
}

async fn ask(method: Method, url: &str) -> Response {
    client().request(method, url).send().await.unwrap()
}

/// Not through a proxy that this machine may have.
fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

fn text(answer: &Response, name: header::HeaderName) -> &str {
    answer.headers()[name].to_str().unwrap()
}
