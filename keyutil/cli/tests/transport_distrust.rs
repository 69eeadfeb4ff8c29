//! A CA that was removed from the bundle, and a server with a certificate of that CA in the path:
//! calls go to it until the CA is distrusted, and not afterwards.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicU32,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant, SystemTime},
};

use crate::common::client::{World, authority, issue, look, now, open};
use crate::common::peer::mutual;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyutil::{
    connect::{Observer, PendingConnection},
    status::{RemovedCa, readiness},
};
use keyutil_cli::pki::{Authority, Purpose};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tonic::{Code, Status};

const LIMIT: Duration = Duration::from_secs(30);

/// Long enough for some trials.
const DISTRUST_AFTER: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_ca_is_distrusted_when_its_time_is_up_whatever_else_changes() {
    let Attack {
        world,
        server,
        client,
    } = Attack::begin(DISTRUST_AFTER).await;
    let (new, other) = (authority("new"), authority("other"));
    world.trust(&[&new]);
    look(&client);
    // A call that starts later must not reach the server.
    let deadline = Instant::now() + DISTRUST_AFTER;
    let held = tokio::spawn({
        let session = client.session().clone();
        async move { session.system_info().await }
    });
    server
        .until(|server| server.seen.waiting.load(SeqCst) == 1)
        .await;
    server.end_each_connection(true);

    let mut bundles = [vec![&new, &other], vec![&new]].into_iter().cycle();
    let mut told = None;
    loop {
        // A sync that flaps.
        world.trust(&bundles.next().unwrap());
        look(&client);
        let started = Instant::now();
        match call(&client).await {
            Ok(()) => assert!(started < deadline, "{:?} late", started - deadline),
            Err(status) if started < deadline => assert_retried(&status),
            Err(_) => {}
        }
        if started < deadline
            && let Some(removed) = removed_ca(&client)
        {
            told = Some(removed);
        }
        if started > deadline + Duration::from_secs(1) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // There were new connections while the CA was trusted, and none after that.
    assert!(server.handshakes() > 3, "{}", server.handshakes());
    let removed = told.unwrap();
    assert!(
        removed.ca.contains("CN=temporal frontend CA"),
        "{removed:?}"
    );
    let refused_after = removed.refused_at.duration_since(removed.removed_at);
    let difference = refused_after.unwrap().abs_diff(DISTRUST_AFTER);
    assert!(difference < Duration::from_secs(1), "{removed:?}");

    let (handshakes, tokens) = (server.handshakes(), server.tokens());
    for _ in 0..20 {
        call(&client).await.unwrap_err();
    }
    assert_eq!((server.handshakes(), server.tokens()), (handshakes, tokens));
    let reasons = reasons(client.observer());
    for words in [
        "was last verified with a CA that is no longer in `",
        "and has been refused since",
    ] {
        assert!(reasons.contains(words), "{reasons}");
    }

    // The call that was made before that continues, and its connection closes after it.
    server.until(|server| server.open() == 1).await;
    assert!(!held.is_finished());
    server.answer_held_calls();
    held.await.unwrap().unwrap();
    server.until(|server| server.open() == 0).await;

    // The server goes over to the new CA.
    server.present(&world, &new);
    until(async || call(&client).await.is_ok()).await;
    assert_eq!(removed_ca(&client), None);
}

#[tokio::test]
async fn a_removed_ca_is_told_of_as_such_and_not_as_a_refused_certificate() {
    let Attack {
        world,
        server: _server,
        client,
    } = Attack::begin(Duration::from_secs(250)).await;
    world.trust(&[&authority("new")]);
    look(&client);
    call(&client).await.unwrap();

    let status = client.observer().status();
    assert_eq!(status.connection.rejected, None);
    let removed = status.connection.removed_ca.clone().unwrap();
    assert_eq!(removed.file, world.path("ca.crt").display().to_string());
    let reason = removed.reason.clone().unwrap();
    assert!(reason.contains("UnknownIssuer"), "{reason}");
    let reasons = readiness(&status, removed.refused_at - Duration::from_secs(250));
    let reasons = reasons.unwrap_err().join("\n");
    let expected = format!(
        "the server is verified with a CA that is no longer in `{}`, and will be refused in 4m 10s: \
         `CN=temporal frontend CA",
        removed.file
    );
    assert!(reasons.contains(&expected), "{reasons}");
    let metrics = keyutil::health::render(&status, SystemTime::now()).unwrap();
    for line in [
        "keyutil_server_ca_removed 1\n",
        "keyutil_connection_rejected 0\n",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }

    // The other reason for which a trial fails.
    world.trust(&[&world.frontend]);
    world.present(&issue(&authority("others"), Purpose::Client, now()));
    look(&client);
    call(&client).await.unwrap();
    let connection = client.observer().status().connection;
    assert_eq!(connection.removed_ca, None);
    assert!(connection.rejected.unwrap().reason.contains("UnknownCA"));
}

#[tokio::test]
async fn a_ca_that_is_put_back_is_trusted_as_before() {
    let Attack {
        world,
        server: _server,
        client,
    } = Attack::begin(DISTRUST_AFTER).await;
    let new = authority("new");
    world.trust(&[&new]);
    look(&client);
    call(&client).await.unwrap();
    assert!(removed_ca(&client).is_some());

    world.trust(&[&new, &world.frontend]);
    look(&client);
    call(&client).await.unwrap();
    assert_eq!(removed_ca(&client), None);
    tokio::time::sleep(DISTRUST_AFTER).await;
    call(&client).await.unwrap();
}

#[tokio::test]
async fn zero_is_at_once() {
    let Attack {
        world,
        server,
        client,
    } = Attack::begin(Duration::ZERO).await;
    let new = authority("new");
    world.trust(&[&new]);
    look(&client);
    let known = (server.handshakes(), server.tokens());
    call(&client).await.unwrap_err();
    assert_eq!((server.handshakes(), server.tokens()), known);
    server.until(|server| server.open() == 0).await;

    server.present(&world, &new);
    until(async || call(&client).await.is_ok()).await;
}

/// It could let every trial time out, so that the client learns nothing of its certificate.
#[tokio::test]
async fn a_server_that_does_not_answer_trials_is_distrusted_all_the_same() {
    let after = Duration::from_secs(10);
    let Attack {
        world,
        server,
        client,
    } = Attack::begin(after).await;
    server.fall_silent();
    world.trust(&[&authority("new")]);
    look(&client);
    let deadline = Instant::now() + after;
    let told = tokio::spawn({
        let observer = client.observer().clone();
        async move {
            let begun = Instant::now();
            while !reasons(&observer).contains("and will be refused in") {
                assert!(begun.elapsed() < LIMIT);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    let tokens = loop {
        let (started, tokens) = (Instant::now(), server.tokens());
        if started > deadline {
            break tokens;
        }
        // One of these makes a trial for 5 s, over the deadline.
        let answered = call(&client).await;
        assert!(
            answered.is_ok() || Instant::now() > deadline,
            "{answered:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(tokens > 10);
    told.await.unwrap();
    call(&client).await.unwrap_err();
    assert_eq!(server.tokens(), tokens);
    server.until(|server| server.open() == 0).await;
}

/// A client that is connected to a server with a certificate of a CA that is about to be removed.
struct Attack {
    world: World,
    server: Server,
    client: PendingConnection,
}

impl Attack {
    async fn begin(distrust_after: Duration) -> Self {
        let world = World::new();
        let server = Server::start(mutual(&world.server(), world.clients.certificate_pem())).await;
        let mut args = world.args(server.port);
        args.distrust_after = distrust_after;
        args.token.api_key = Some("bearer-token".to_owned().into());
        let client = open(&args);
        call(&client).await.unwrap();
        assert_eq!((server.handshakes(), server.tokens()), (1, 1));
        Self {
            world,
            server,
            client,
        }
    }
}

/// Makes a call with a token.
async fn call(client: &PendingConnection) -> Result<(), Status> {
    client.session().describe_namespace().await
}

/// The call was queued on a connection that ended.
fn assert_retried(status: &Status) {
    let codes = [
        Code::Unavailable,
        Code::Unknown,
        Code::Cancelled,
        Code::Internal,
    ];
    assert!(codes.contains(&status.code()), "{status}");
}

fn removed_ca(client: &PendingConnection) -> Option<RemovedCa> {
    client.observer().status().connection.removed_ca
}

fn reasons(observer: &Observer) -> String {
    let reasons = readiness(&observer.status(), SystemTime::now());
    reasons.unwrap_err().join("\n")
}

async fn until(mut reached: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !reached().await {
        assert!(begun.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A server that counts what reaches it. It answers `GetSystemInfo` when it is told to, and all
/// other calls at once.
struct Server {
    port: u16,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

struct Seen {
    config: Mutex<Arc<ServerConfig>>,
    handshakes: AtomicU32,
    open: AtomicU32,
    tokens: AtomicU32,
    waiting: AtomicU32,
    held: Semaphore,
    ends_connections: AtomicBool,
    silent: AtomicBool,
}

impl Server {
    async fn start(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Seen {
            config: Mutex::new(Arc::new(config)),
            handshakes: AtomicU32::new(0),
            open: AtomicU32::new(0),
            tokens: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            held: Semaphore::new(0),
            ends_connections: AtomicBool::new(false),
            silent: AtomicBool::new(false),
        });
        let accepting = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                // The client reports a connection that fails.
                tokio::spawn(accepting.clone().serve(tcp));
            }
        });
        Self { port, seen, task }
    }

    /// Presents a certificate of this CA on the connections to come.
    fn present(&self, world: &World, authority: &Authority) {
        let leaf = issue(authority, Purpose::Server, now());
        let config = mutual(&leaf, world.clients.certificate_pem());
        *self.seen.config.lock().unwrap() = Arc::new(config);
    }

    /// Ends each connection after its next answer.
    fn end_each_connection(&self, ends: bool) {
        self.seen.ends_connections.store(ends, SeqCst);
    }

    /// Says nothing after the handshake on the connections to come.
    fn fall_silent(&self) {
        self.seen.silent.store(true, SeqCst);
    }

    fn answer_held_calls(&self) {
        self.seen.held.add_permits(1000);
    }

    fn handshakes(&self) -> u32 {
        self.seen.handshakes.load(SeqCst)
    }

    fn open(&self) -> u32 {
        self.seen.open.load(SeqCst)
    }

    /// The number of calls with a token.
    fn tokens(&self) -> u32 {
        self.seen.tokens.load(SeqCst)
    }

    async fn until(&self, reached: impl Fn(&Self) -> bool) {
        until(async || reached(self)).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    async fn serve(self: Arc<Self>, tcp: TcpStream) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let config = self.config.lock().unwrap().clone();
        let mut tls = TlsAcceptor::from(config).accept(tcp).await?;
        if self.silent.load(SeqCst) {
            while tls.read(&mut [0; 1024]).await? > 0 {}
            return Ok(());
        }
        self.handshakes.fetch_add(1, SeqCst);
        self.open.fetch_add(1, SeqCst);
        let ends = Arc::new(Semaphore::new(0));
        let service = service_fn({
            let (seen, ends) = (self.clone(), ends.clone());
            move |request| seen.clone().answer(request, ends.clone())
        });
        let connection =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tls), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => {}
            _ = ends.acquire() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
        self.open.fetch_sub(1, SeqCst);
        Ok(())
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        ends: Arc<Semaphore>,
    ) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible>
    {
        if request.headers().contains_key("authorization") {
            self.tokens.fetch_add(1, SeqCst);
        }
        if request.uri().path().ends_with("/GetSystemInfo") {
            self.waiting.fetch_add(1, SeqCst);
            let _ = self.held.acquire().await;
        }
        if self.ends_connections.load(Relaxed) {
            ends.add_permits(1);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        // The empty message.
        let body = Full::new(Bytes::from_static(&[0; 5]));
        let answer = Response::builder()
            .header("content-type", "application/grpc")
            .body(body.with_trailers(async { Some(Ok(trailers)) }));
        Ok(answer.unwrap())
    }
}
