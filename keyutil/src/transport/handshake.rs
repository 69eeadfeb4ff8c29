//! What both sides have presented, for the journal and the log.

use std::{sync::Arc, time::SystemTime};

use tokio_rustls::rustls::ClientConnection;
use tracing::{debug, info};

use super::peer::PeerInfo;
use crate::{
    credentials::Identity,
    status::{Handshake, Presented},
    x509::certificate::CertificateSummary,
};

/// A finished handshake.
#[derive(Debug)]
pub struct Secured {
    /// What both sides have presented.
    pub handshake: Handshake,
    /// What the server has shown of itself.
    pub peer: Arc<PeerInfo>,
}

/// A handshake that was finished just now.
pub(super) fn done(
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

/// A person wants to see that a new certificate is in use, and not each connection.
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
