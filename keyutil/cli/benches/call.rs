//! What a call costs, over one connection with TLS on loopback, answered by a peer that does
//! nothing: with a bare tonic channel, with ours, and with the service that the SDK calls.
//!
//! `cargo bench -p keyutil-cli --bench call`. Compare within one run.
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

use std::{fs, sync::Arc};

use bytes::Bytes;
use client::World;
use divan::{AllocProfiler, Bencher};
use http::{HeaderMap, HeaderValue, Uri, uri::PathAndQuery};
use hyper_util::rt::TokioIo;
use keyutil::{
    connect::{self, PendingConnection},
    probe::BytesCodec,
    settings::Settings,
    token::signing_key,
};
use peer::Peer;
use secrecy::ExposeSecret;
use temporalio_client::callback_based::GrpcRequest;
use tokio::{net::TcpStream, runtime::Runtime};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};
use tonic::{
    Request,
    client::Grpc,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const SERVICE: &str = "temporal.api.workflowservice.v1.WorkflowService";
const RPC: &str = "StartWorkflowExecution";

/// What the SDK sends with a call, apart from the token.
fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("client-name", HeaderValue::from_static("temporal-rust"));
    headers.insert("client-version", HeaderValue::from_static("1.1.1"));
    headers.insert("grpc-timeout", HeaderValue::from_static("30S"));
    headers
}

/// A workflow start with a small argument is about this long.
fn message() -> Bytes {
    Bytes::from_static(&[7; 300])
}

#[divan::bench]
fn bare_tonic_channel(bencher: Bencher<'_, '_>) {
    let setting = Setting::new();
    let channel = setting.bare();
    let token = setting.token();
    bencher.bench_local(|| {
        setting.runtime.block_on(async {
            let mut request = Request::new(message());
            *request.metadata_mut() = MetadataMap::from_headers(headers());
            request
                .metadata_mut()
                .insert("authorization", token.parse().unwrap());
            let mut grpc = Grpc::new(channel.clone());
            grpc.ready().await.unwrap();
            grpc.unary(request, path(), BytesCodec).await.unwrap()
        })
    });
}

#[divan::bench]
fn channel_that_rotates_with_interceptor(bencher: Bencher<'_, '_>) {
    let setting = Setting::new();
    let channel = setting.opened().session().authorized_channel();
    bencher.bench_local(|| {
        setting.runtime.block_on(async {
            let mut request = Request::new(message());
            *request.metadata_mut() = MetadataMap::from_headers(headers());
            let mut grpc = Grpc::new(channel.clone());
            grpc.ready().await.unwrap();
            grpc.unary(request, path(), BytesCodec).await.unwrap()
        })
    });
}

#[divan::bench]
fn sdk_service_as_the_sdk_calls_it(bencher: Bencher<'_, '_>) {
    let setting = Setting::new();
    let opened = setting.opened();
    let service = {
        let _runtime = setting.runtime.enter();
        opened.sdk_service()
    };
    bencher.bench_local(|| {
        let request = GrpcRequest {
            service: SERVICE.to_owned(),
            rpc: RPC.to_owned(),
            headers: headers(),
            proto: message(),
        };
        setting
            .runtime
            .block_on((service.callback)(request))
            .unwrap()
    });
}

fn path() -> PathAndQuery {
    format!("/{SERVICE}/{RPC}").parse().unwrap()
}

struct Setting {
    runtime: Runtime,
    world: World,
    peer: Peer,
}

impl Setting {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let world = World::new();
        fs::write(
            world.path("signing.pem"),
            signing_key::generate_pem().unwrap().expose_secret(),
        )
        .unwrap();
        let config = peer::mutual(&world.server(), world.clients.certificate_pem());
        let peer = runtime.block_on(Peer::start(config));
        Self {
            runtime,
            world,
            peer,
        }
    }

    /// As long as one that is minted here.
    fn token(&self) -> String {
        format!("Bearer {}", "e".repeat(400))
    }

    fn opened(&self) -> PendingConnection {
        let mut args = self.world.args(self.peer.port);
        args.token.signing_key = Some(self.world.path("signing.pem"));
        let _runtime = self.runtime.enter();
        connect::open(Settings::new(&args, "bench").unwrap()).unwrap()
    }

    fn bare(&self) -> Channel {
        let read = |name: &str| fs::read(self.world.path(name)).unwrap();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&read("ca.crt")).unwrap())
            .unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(&read("tls.crt")).unwrap()],
                PrivateKeyDer::from_pem_slice(&read("tls.key")).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (config, port) = (Arc::new(config), self.peer.port);
        let connector = service_fn(move |_: Uri| {
            let config = config.clone();
            async move {
                let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
                tcp.set_nodelay(true)?;
                let name = ServerName::try_from("localhost").unwrap();
                let tls = TlsConnector::from(config).connect(name, tcp).await?;
                Ok::<_, std::io::Error>(TokioIo::new(tls))
            }
        });
        let _runtime = self.runtime.enter();
        Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
    }
}
