//! Mutual TLS 1.3 in memory, between two sides that have certificates of `keyutil_cli::pki`.

use std::{fs, io, sync::Arc};

use keyutil_cli::pki::{Authority, Layout, Leaf, Party};
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        server::WebPkiClientVerifier,
        version::TLS13,
    },
};

/// What one side of a connection has, in PEM.
#[derive(Clone)]
pub struct Side {
    pub chain: String,
    pub key: String,
    pub trust: String,
}

impl Side {
    pub fn new(leaf: Leaf, trust: &Authority) -> Self {
        Self {
            chain: leaf.certificate_pem,
            key: leaf.key_pem.expose_secret().to_owned(),
            trust: trust.certificate_pem().to_owned(),
        }
    }

    pub fn read(layout: &Layout, party: Party) -> Self {
        let files = layout.party(party);
        Self {
            chain: fs::read_to_string(files.certificate).unwrap(),
            key: fs::read_to_string(files.key).unwrap(),
            trust: fs::read_to_string(files.trust).unwrap(),
        }
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes());
        chain.collect::<Result<_, _>>().unwrap()
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }

    fn trust(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.trust.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        roots.into()
    }
}

/// One byte there and one back; a client learns only on its first read whether it was accepted.
pub async fn handshake(server: &Side, client: &Side, name: &str) -> Result<(), String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(server.trust(), Arc::clone(&provider));
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(server.chain(), server.key())
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(client.trust())
        .with_client_auth_cert(client.chain(), client.key())
        .unwrap();

    let (near, far) = tokio::io::duplex(64 * 1024);
    let serve = async {
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await?;
        let byte = stream.read_u8().await?;
        stream.write_u8(byte).await?;
        stream.flush().await
    };
    let ask = async {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(client));
        let mut stream = connector.connect(name, near).await?;
        stream.write_u8(7).await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    let (_, answer): (io::Result<()>, io::Result<u8>) = tokio::join!(serve, ask);
    match answer {
        Ok(7) => Ok(()),
        Ok(other) => Err(format!("got {other}")),
        Err(error) => Err(error.to_string()),
    }
}
