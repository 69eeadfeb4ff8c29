//! Name, TCP and TLS: each on its own, with what a connection of worker and starter is made of.

use std::time::{Instant, SystemTime};

use tokio::net::TcpStream;

use super::{Report, files};
use keyutil::{
    base::time::when,
    credentials::Credential,
    diagnosis::{Diagnose, Diagnosis, Step},
    probe::{
        Connector, PeerInfo, Secured, Security, TlsCredentials, explain_connection, first_words,
    },
    settings::{ConnectArgs, non_empty},
    status::Handshake,
};

/// The steps that are taken here.
const STEPS: [Step; 4] = [Step::Name, Step::Tcp, Step::ServerTls, Step::ClientTls];

/// Comes back with whether calls can be made.
pub(super) async fn look(
    report: &mut Report,
    args: &ConnectArgs,
    connector: Option<&Connector>,
    bare: Option<&Connector>,
) -> bool {
    let Some(reached) = connector.or(bare) else {
        for step in STEPS {
            report.skip(step, "there is no usable address");
        }
        return false;
    };
    let Some(tcp) = reach(report, reached).await else {
        return false;
    };
    let Some(connector) = connector else {
        for step in [Step::ServerTls, Step::ClientTls] {
            report.skip(step, "the settings of TLS are not usable: see above");
        }
        return false;
    };
    if let Security::Plaintext { .. } = connector.security() {
        report.skip(Step::ServerTls, "TLS is off");
        report.skip(Step::ClientTls, "TLS is off");
        return true;
    }
    let Err(diagnosis) = secure(report, connector, tcp).await else {
        return true;
    };
    let unusable = non_empty(&args.tls_cert_path).is_some() && !has_identity(connector);
    if diagnosis.step == Step::ClientTls && unusable {
        report.skip(
            Step::ClientTls,
            "the server wants a client certificate, and ours is not usable: see above",
        );
        return false;
    }
    if diagnosis.step == Step::ServerTls {
        report.skip(Step::ClientTls, "there is no TLS connection");
    }
    report.fail(diagnosis);
    false
}

fn has_identity(connector: &Connector) -> bool {
    matches!(
        connector.security(),
        Security::Tls {
            identity: Some(_),
            ..
        }
    )
}

async fn reach(report: &mut Report, connector: &Connector) -> Option<TcpStream> {
    let deadline = connector.deadline();
    let addresses = match connector.resolve(deadline).await {
        Ok(addresses) => addresses,
        Err(error) => {
            let credentials = TlsCredentials::now(connector.security());
            report.fail(explain_connection(connector, &credentials, error).diagnosis());
            for step in &STEPS[1..] {
                report.skip(*step, "the name has no address");
            }
            return None;
        }
    };
    let shown: Vec<_> = addresses
        .iter()
        .map(|address| address.ip().to_string())
        .collect();
    report.ok(
        Step::Name,
        format!("`{}` is at {}", connector.host(), shown.join(", ")),
    );
    let started = Instant::now();
    match connector.tcp(&addresses, deadline).await {
        Ok(tcp) => {
            let peer = tcp.peer_addr().map(|address| address.to_string());
            report.ok(
                Step::Tcp,
                format!(
                    "connected to {} in {:.1?}",
                    peer.unwrap_or_default(),
                    started.elapsed()
                ),
            );
            Some(tcp)
        }
        Err(error) => {
            let credentials = TlsCredentials::now(connector.security());
            report.fail(explain_connection(connector, &credentials, error).diagnosis());
            for step in &STEPS[2..] {
                report.skip(*step, "there is no TCP connection");
            }
            None
        }
    }
}

async fn secure(
    report: &mut Report,
    connector: &Connector,
    tcp: TcpStream,
) -> Result<(), Diagnosis> {
    let credentials = TlsCredentials::now(connector.security());
    let failed = |error| explain_connection(connector, &credentials, error).diagnosis();
    let secured = connector.tls(tcp, &credentials, connector.deadline()).await;
    let (tls, secured) = secured.map_err(failed)?;
    look_at_server(report, &secured);
    let spoke = first_words(tls, &secured).await.map_err(failed)?;
    look_at_client(report, &secured, &credentials, spoke);
    Ok(())
}

fn look_at_server(report: &mut Report, secured: &Secured) {
    let now = SystemTime::now();
    let version = secured.handshake.tls_version.as_deref().unwrap_or("TLS");
    let Some(leaf) = secured.peer.presented() else {
        report.ok(Step::ServerTls, version);
        return;
    };
    report.ok(
        Step::ServerTls,
        format!(
            "{version}, ALPN `h2`; the certificate is for `{}`, serial {}, issued by `{}`, valid \
             until {}",
            leaf.names().join("`, `"),
            leaf.serial,
            leaf.issuer,
            when(leaf.not_after, now)
        ),
    );
    files::soon(
        report,
        Step::ServerTls,
        "the server's certificate",
        leaf,
        now,
    );
}

fn look_at_client(
    report: &mut Report,
    secured: &Secured,
    credentials: &TlsCredentials,
    spoke: bool,
) {
    let Secured { peer, handshake } = secured;
    let seen = match (asked(peer), &credentials.identity, handshake) {
        (None, None, _) => "the server asks for no certificate".to_owned(),
        (None, Some(_), _) => {
            "the server asks for no certificate: ours was not presented".to_owned()
        }
        (Some(of), None, _) => {
            format!("the server asks for a certificate{of}, and does without one")
        }
        (Some(of), Some(identity), Handshake { .. }) => format!(
            "the server asked for a certificate{of}, and {} ours: {}",
            if spoke { "accepted" } else { "has not refused" },
            identity.identify()
        ),
    };
    report.ok(Step::ClientTls, seen);
}

fn asked(peer: &PeerInfo) -> Option<String> {
    let names = peer.asked_for()?;
    Some(if names.is_empty() {
        String::new()
    } else {
        format!(" of `{}`", names.join("` or `"))
    })
}
