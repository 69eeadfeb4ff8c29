//! Connections through an HTTP proxy.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::common::client::{World, open_with};
use crate::common::peer::{Peer, call, mutual};
use crate::common::program::{Ended, keyutil, run};
use keyutil::{ConnectArgs, connect::PendingConnection, diagnosis::Diagnose, probe::Proxy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// The name of the server, which only the proxy can resolve.
const TARGET: &str = "temporal.invalid:7233";

/// A proxy for `CONNECT`. Ends with its owner.
struct HttpProxy {
    port: u16,
    /// The heads of the requests.
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl HttpProxy {
    /// Resolves [`TARGET`] to this port. Requests without this authorization are answered with 407.
    async fn start(port: u16, authorization: Option<&'static str>) -> Self {
        let names = HashMap::from([(TARGET.to_owned(), port)]);
        Self::answering(move |tcp, head| serve(tcp, head, names.clone(), authorization)).await
    }

    /// Reads the request, and never answers.
    async fn silent() -> Self {
        Self::answering(|tcp, _| async move {
            let _open = tcp;
            std::future::pending().await
        })
        .await
    }

    async fn answering<F: Future<Output = ()> + Send>(
        answer: impl Fn(TcpStream, String) -> F + Clone + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let task = tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let (answer, seen) = (answer.clone(), seen.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(tcp.read_u8().await.unwrap());
                    }
                    let head = String::from_utf8(head).unwrap();
                    seen.lock().unwrap().push(head.clone());
                    answer(tcp, head).await;
                });
            }
        });
        Self {
            port,
            requests,
            task,
        }
    }

    fn url(&self) -> String {
        format!("http://joe:hunter2@127.0.0.1:{}", self.port)
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut tcp: TcpStream,
    head: String,
    names: HashMap<String, u16>,
    authorization: Option<&str>,
) {
    let target = head.split(' ').nth(1).unwrap();
    let header = |value| format!("\r\nProxy-Authorization: {value}\r\n");
    let answer = match (authorization, names.get(target)) {
        _ if !head.starts_with("CONNECT ") => "405 Method Not Allowed",
        (Some(value), _) if !head.contains(&header(value)) => "407 Proxy Authentication Required",
        (_, None) => "502 Bad Gateway",
        (_, Some(_)) => "200 Connection established",
    };
    let answer = format!("HTTP/1.1 {answer}\r\nVia: test\r\n\r\n");
    tcp.write_all(answer.as_bytes()).await.unwrap();
    if let Some(port) = names.get(target) {
        let mut server = TcpStream::connect(("127.0.0.1", *port)).await.unwrap();
        let _ = copy_bidirectional(&mut tcp, &mut server).await;
    }
}

#[tokio::test]
async fn the_proxy_resolves_the_name_and_gets_the_password() {
    let world = World::new();
    let peer = Peer::start(mutual(&world.server(), world.clients.certificate_pem())).await;
    let proxy = HttpProxy::start(peer.port, Some("Basic am9lOmh1bnRlcjI=")).await;
    let opened = through(&world, &proxy);
    assert_eq!(call(opened.session().channel()).await.handshake, "Full");
    let requests = proxy.requests.lock().unwrap().clone();
    assert_eq!(
        requests,
        [format!(
            "CONNECT {TARGET} HTTP/1.1\r\nHost: {TARGET}\r\n\
             Proxy-Authorization: Basic am9lOmh1bnRlcjI=\r\n\r\n"
        )]
    );
    let status = opened.observer().status();
    assert_eq!(
        status.connection.proxy,
        Some(format!("127.0.0.1:{}", proxy.port))
    );
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_with_its_answer_and_without_the_password() {
    let world = World::new();
    let peer = Peer::start(mutual(&world.server(), world.clients.certificate_pem())).await;
    let proxy = HttpProxy::start(peer.port, Some("Basic other")).await;
    let opened = through(&world, &proxy);
    let begun = Instant::now();
    let error = opened.wait_until_authorized().await.unwrap_err();
    // Waiting does not cure it.
    assert!(begun.elapsed() < Duration::from_millis(900), "{error}");
    let told = format!("{}\n{error:?}", keyutil::chain(&error));
    for words in [
        "`HTTP/1.1 407 Proxy Authentication Required`".to_owned(),
        format!("through the proxy `127.0.0.1:{}`", proxy.port),
    ] {
        assert!(told.contains(&words), "no {words} in {told}");
    }
    for secret in ["hunter2", "am9lOmh1bnRlcjI"] {
        assert!(!told.contains(secret), "{told}");
        assert!(!format!("{opened:?}").contains(secret), "{opened:?}");
    }
    let hint = error.diagnosis().hint.unwrap();
    assert!(hint.contains("user and password"), "{hint}");
}

#[tokio::test]
async fn a_proxy_that_hangs_is_given_up() {
    let world = World::new();
    let proxy = HttpProxy::silent().await;
    let begun = Instant::now();
    let opened = through(&world, &proxy);
    let error = opened.wait_until_authorized().await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(4), "{error}");
    let told = keyutil::chain(&error);
    for words in [
        format!("through the proxy `127.0.0.1:{}`", proxy.port),
        "no answer within 1s".to_owned(),
    ] {
        assert!(told.contains(&words), "no {words} in {told}");
    }
}

/// By the variables, as a program reads them.
#[tokio::test(flavor = "multi_thread")]
async fn the_variables_choose_the_proxy() {
    let world = World::new();
    let peer = Peer::start(mutual(&world.server(), world.clients.certificate_pem())).await;
    let proxy = HttpProxy::start(peer.port, None).await;
    let through = format!("through the proxy `127.0.0.1:{}`", proxy.port);
    for variable in ["HTTPS_PROXY", "https_proxy"] {
        let told = doctor(&world, &[(variable, &proxy.url())]).await;
        assert!(told.stdout.contains(&through), "{told:?}");
        assert!(!told.stdout.contains("hunter2"), "{told:?}");
    }
    let used = proxy.requests.lock().unwrap().len();
    assert!(used >= 2);
    for (variable, value) in [
        ("KEYUTIL_NO_PROXY", "true"),
        ("NO_PROXY", "*"),
        ("no_proxy", "other, invalid:7233"),
        ("TEMPORAL_ADDRESS", "localhost:1"),
        ("TEMPORAL_ADDRESS", "127.0.0.1:1"),
    ] {
        let told = doctor(&world, &[("HTTPS_PROXY", &proxy.url()), (variable, value)]).await;
        assert!(!told.stdout.contains("proxy `"), "{variable}: {told:?}");
    }
    assert_eq!(proxy.requests.lock().unwrap().len(), used);
    let socks = "socks5://joe:hunter2@127.0.0.1:1";
    let told = doctor(&world, &[("https_proxy", socks)]).await;
    let refused = "`https_proxy` is not usable: its scheme must be `http`";
    assert!(told.stdout.contains(refused), "{told:?}");
    assert!(!told.stdout.contains("hunter2"), "{told:?}");
}

fn args(world: &World) -> ConnectArgs {
    ConnectArgs {
        address: TARGET.to_owned(),
        tls_server_name: Some("localhost".to_owned()),
        ..world.args(1)
    }
}

fn through(world: &World, proxy: &HttpProxy) -> PendingConnection {
    let proxy = Proxy::of(TARGET, &proxy.url(), "").unwrap();
    open_with(&args(world), |connector| connector.through(proxy))
}

/// The report of the doctor, on a thread that may wait for it.
async fn doctor(world: &World, set: &[(&str, &str)]) -> Ended {
    let args = args(world);
    let mut command = keyutil(world.path("").as_path());
    command.arg("doctor");
    for (variable, path) in [
        ("TEMPORAL_TLS_CLIENT_CERT_PATH", args.tls_cert_path),
        ("TEMPORAL_TLS_CLIENT_KEY_PATH", args.tls_key_path),
        ("TEMPORAL_TLS_SERVER_CA_CERT_PATH", args.tls_ca_path),
    ] {
        command.env(variable, path.unwrap());
    }
    command
        .env("TEMPORAL_ADDRESS", args.address)
        .env("TEMPORAL_TLS_SERVER_NAME", "localhost")
        .env("KEYUTIL_CONNECT_TIMEOUT", "2s");
    command.envs(set.iter().copied());
    tokio::task::spawn_blocking(move || run(&mut command))
        .await
        .unwrap()
}
