//! Where on the way an error lies, and what to do about it.

use tokio_rustls::rustls::CertificateError;
use tonic::{Code, Status};

use crate::{
    diagnosis::{Class, Step},
    transport::{ConnectorError, PeerInfo, Phase},
    x509::certificate::CertificateSummary,
};

pub(super) fn unreachable(error: &ConnectorError) -> (Step, Class, Option<String>) {
    let (step, class, hint) = match error {
        ConnectorError::Resolve { .. } => (
            Step::Name,
            Class::Unreachable,
            "check the host name in `--address` (TEMPORAL_ADDRESS), and that this machine, or \
             container, can resolve it: `getent hosts <name>`",
        ),
        ConnectorError::Connect { .. } => (
            Step::Tcp,
            Class::Unreachable,
            "check that the server is running and that `--address` (TEMPORAL_ADDRESS) is right",
        ),
        ConnectorError::TimedOut { phase, .. } => {
            let step = match phase {
                Phase::Name => Step::Name,
                Phase::Tcp => Step::Tcp,
                Phase::Handshake => Step::ServerTls,
                Phase::Answer => Step::Grpc,
            };
            let hint = match phase {
                Phase::Name => "check the name servers of this machine: `getent hosts <name>`",
                Phase::Tcp => {
                    "something drops the packets: check the port, and the firewalls on the way"
                }
                Phase::Handshake | Phase::Answer => {
                    "something accepts the connection and says nothing: check that the port is the \
                     server's frontend (7233, if nobody changed it), and the proxies on the way; a \
                     server that hangs looks the same"
                }
            };
            (step, Class::Unreachable, hint)
        }
        ConnectorError::TokenInPlaintext { .. } => (
            Step::Configuration,
            Class::Usage,
            "take away what switches TLS off, or connect to this machine",
        ),
        ConnectorError::PlaintextClosed => (
            Step::ServerTls,
            Class::ServerTls,
            "for a server with TLS give `--tls`, and a CA and a client certificate where it needs \
             them: `--tls-ca-path`, `--tls-cert-path`, `--tls-key-path`; without TLS something that \
             speaks no HTTP/2, as the Web UI, looks the same: check the port",
        ),
        ConnectorError::NoHttp2 => (
            Step::ServerTls,
            Class::ServerTls,
            "check that the port is that of the server's gRPC frontend (7233, if nobody changed \
             it), not of the Web UI or the HTTP API; let a proxy in between speak HTTP/2, or pass \
             TLS through",
        ),
        ConnectorError::NoTls => (
            Step::ServerTls,
            Class::ServerTls,
            "leave out the TLS options and the token, or use `--tls=false` for a server on this \
             machine; or check that the port is that of the server's gRPC frontend",
        ),
        ConnectorError::HungUp => (
            Step::ServerTls,
            Class::Unreachable,
            "check that the server is running and that `--address` (TEMPORAL_ADDRESS) is right, \
             and look at the log of the server, or of the proxy before it",
        ),
        ConnectorError::Handshake { .. }
        | ConnectorError::Alert { .. }
        | ConnectorError::ServerCertificate { .. } => (
            Step::ServerTls,
            Class::ServerTls,
            "see what the server says to `openssl s_client -connect <host:port> -alpn h2`, and \
             what it logs",
        ),
    };
    (step, class, Some(hint.to_owned()))
}

pub(super) fn call(status: &Status) -> (Step, Class, Option<String>) {
    let (class, hint) = match status.code() {
        Code::InvalidArgument => (
            Class::Usage,
            "the server does not take the arguments: see what it says of them",
        ),
        Code::Unavailable if status.message().contains("not healthy yet") => (
            Class::Unreachable,
            "the server is still starting: wait, or give it longer with `--connect-timeout`",
        ),
        Code::Unimplemented | Code::Unknown | Code::Internal => (
            Class::ServerTls,
            "check that the port is that of a Temporal frontend; a proxy or another gRPC server \
             answers like this",
        ),
        _ => (
            Class::Unreachable,
            "the server, or a proxy before it, answers, and is not well: see its log",
        ),
    };
    (Step::Grpc, class, Some(hint.to_owned()))
}

pub(super) fn server_certificate_hint(source: &ConnectorError) -> String {
    use CertificateError as E;
    let presented = source.peer().and_then(PeerInfo::presented);
    let hint = match source.server_certificate_error() {
        Some(E::NotValidForName | E::NotValidForNameContext { .. }) => {
            let names = presented.map(CertificateSummary::names).unwrap_or_default();
            let example = match names.first() {
                Some(name) => format!("`--tls-server-name {name}`"),
                None => "`--tls-server-name`".to_owned(),
            };
            return format!(
                "give a name that the certificate is for with {example} \
                 (TEMPORAL_TLS_SERVER_NAME), or connect by that name"
            );
        }
        Some(E::BadSignature) => {
            "its CA was made anew, it seems: copy the new CA certificate to the file of \
             `--tls-ca-path` (TEMPORAL_TLS_SERVER_CA_CERT_PATH)"
        }
        Some(E::Expired | E::ExpiredContext { .. }) => {
            "have the server's certificate renewed, or set the clock of this machine"
        }
        Some(E::NotValidYet | E::NotValidYetContext { .. }) => {
            "set the clock of this machine, or wait: the server's certificate is not valid yet"
        }
        Some(E::InvalidPurpose | E::InvalidPurposeContext { .. }) => {
            "have the server's certificate issued with the extended key usage `serverAuth`"
        }
        _ => {
            let issuer = presented.map(|leaf| format!(", `{}`,", leaf.issuer));
            return format!(
                "name the CA that issued the server's certificate{} with `--tls-ca-path` \
                 (TEMPORAL_TLS_SERVER_CA_CERT_PATH); if that is an intermediate CA, have the server \
                 send its certificate, too",
                issuer.unwrap_or_default()
            );
        }
    };
    hint.to_owned()
}
