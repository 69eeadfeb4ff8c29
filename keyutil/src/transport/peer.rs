//! What the server presents and asks for in a TLS handshake, including one that fails.

use std::{
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use tokio_rustls::rustls::{
    self, ClientConnection, DigitallySignedStruct, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime},
    sign::CertifiedKey,
};
use tracing::{debug, info};

use crate::{
    credentials::{Identity, TrustBundle},
    status::{Handshake, Presented},
    x509::certificate::{self, CertificateSummary},
};

/// What the server has shown in one handshake.
#[derive(Debug, Default)]
pub struct PeerInfo {
    presented: OnceLock<CertificateSummary>,
    issuers: OnceLock<Vec<TrustAnchor<'static>>>,
    asked: OnceLock<Vec<String>>,
}

impl PeerInfo {
    /// The certificate that the server presented, whether it was verified or not.
    pub fn presented(&self) -> Option<&CertificateSummary> {
        self.presented.get()
    }

    /// The CAs of the CA file that verify the certificate. Empty if none does.
    pub fn issuers(&self) -> &[TrustAnchor<'static>] {
        self.issuers.get().map_or(&[], Vec::as_slice)
    }

    /// The CAs of the certificates that the server asked for, if it asked. An empty list means any
    /// CA (RFC 8446 section 4.3.2).
    pub fn asked_for(&self) -> Option<&[String]> {
        self.asked.get().map(Vec::as_slice)
    }
}

/// Verifies as rustls does, and records the certificate.
#[derive(Debug)]
pub(super) struct RecordingVerifier {
    pub(super) verifier: Arc<WebPkiServerVerifier>,
    pub(super) trust: Arc<TrustBundle>,
    pub(super) peer: Arc<PeerInfo>,
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Ok(summary) = CertificateSummary::from_der(leaf) {
            let _ = self.peer.presented.set(summary);
        }
        let verified = self.verifier.verify_server_cert(
            leaf,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        let issuers = self.trust.issuers(leaf, intermediates, now);
        let _ = self.peer.issuers.set(issuers);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier
            .verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier
            .verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Presents the certificate, if there is one, and records the request.
#[derive(Debug)]
pub(super) struct RecordingCertResolver {
    pub(super) certified: Option<Arc<CertifiedKey>>,
    pub(super) peer: Arc<PeerInfo>,
}

impl ResolvesClientCert for RecordingCertResolver {
    fn resolve(&self, issuers: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let names = issuers
            .iter()
            .map(|name| certificate::distinguished_name(name));
        let _ = self.peer.asked.set(names.collect());
        self.certified.clone()
    }

    fn has_certs(&self) -> bool {
        self.certified.is_some()
    }
}

/// A finished handshake.
#[derive(Clone, Debug)]
pub struct Secured {
    /// What both sides have presented.
    pub handshake: Handshake,
    /// What the server has shown.
    pub peer: Arc<PeerInfo>,
}

/// The record of a handshake that has just finished.
pub(super) fn handshake(
    session: &ClientConnection,
    identity: Option<&Identity>,
    peer: &PeerInfo,
) -> Handshake {
    Handshake {
        at: SystemTime::now(),
        tls_version: session
            .protocol_version()
            .and_then(|version| version.as_str())
            .map(str::to_owned),
        server: session
            .peer_certificates()
            .and_then(|chain| CertificateSummary::from_der(chain.first()?).ok())
            .map(|leaf| Presented::from(&leaf)),
        client: identity
            .filter(|_| peer.asked_for().is_some())
            .map(|identity| Presented::from(identity.leaf())),
    }
}

/// Logs the handshake: at INFO if a certificate changed, otherwise at DEBUG.
pub(super) fn report(target: &str, handshake: &Handshake, before: Option<&Handshake>) {
    let (server, client) = (handshake.server.as_ref(), handshake.client.as_ref());
    macro_rules! report {
        ($level:ident) => {
            $level!(
                target,
                version = handshake.tls_version.as_deref(),
                server_serial = server.map(|leaf| leaf.serial.as_str()),
                server_issuer = server.map(|leaf| leaf.issuer.as_str()),
                client_serial = client.map(|leaf| leaf.serial.as_str()),
                client_issuer = client.map(|leaf| leaf.issuer.as_str()),
                "TLS handshake"
            )
        };
    }
    if before.is_some_and(|before| before.same_serials(handshake)) {
        report!(debug);
    } else {
        report!(info);
    }
}
