//! The checks of the server: name, TCP, TLS, gRPC, and the task queue.
//!
//! Each step is taken on its own, with the same code as a connection of worker and starter.

use std::{
    net::SocketAddr,
    time::{Instant, SystemTime},
};

use temporalio_common::protos::grpc::health::v1::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tokio::net::TcpStream;
use tonic::{Code, Status};

use super::{Report, local::warn_of_expiry};
use crate::keys::verify::verify;
use keyutil::{
    base::time::when,
    connect::{ConnectError, Session, check::Program},
    credentials::{Credential, Token, TokenSource},
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    explain::{Explanation, KeySetCheck, Refusal, Sent, TokenVerdict},
    probe::{
        Connector, ConnectorError, PeerInfo, Secured, Security, TlsCredentials, explain_connection,
        first_words, is_refusal,
    },
    settings::{ConnectArgs, non_empty},
    status::Handshake,
    token::Role,
};

/// The steps of [`check_network`].
const STEPS: [Step; 4] = [Step::Name, Step::Tcp, Step::ServerTls, Step::ClientTls];

/// Returns whether calls can be made.
pub(super) async fn check_network(
    report: &mut Report,
    args: &ConnectArgs,
    connector: Option<&Connector>,
    bare: Option<&Connector>,
) -> bool {
    let Some(reached) = connector.or(bare) else {
        for step in STEPS {
            report.skip(step, "no usable address");
        }
        return false;
    };
    let Some(addresses) = resolve(report, reached).await else {
        return false;
    };
    let last = addresses.len() - 1;
    for (index, address) in addresses.into_iter().enumerate() {
        let failed = match check_address(report, reached, connector, address).await {
            Ok(connected) => return connected,
            Err(failed) => failed,
        };
        // A connection uses the first address that works: the later ones are not checked.
        if index < last {
            let hint = failed.hint.unwrap_or_default();
            report.warn(failed.step, format!("{address}: {}", failed.cause), hint);
            continue;
        }
        let unusable =
            non_empty(&args.tls_cert_path).is_some() && !connector.is_some_and(has_identity);
        match failed.step {
            Step::ClientTls if unusable => {
                report.skip(
                    Step::ClientTls,
                    "the server requires a client certificate; the configured one is unusable, see above",
                );
                return false;
            }
            Step::ClientTls => {}
            Step::ServerTls => report.skip(Step::ClientTls, "no TLS connection"),
            _ => {
                for step in &STEPS[2..] {
                    report.skip(*step, "no TCP connection");
                }
            }
        }
        report.fail(failed);
    }
    false
}

/// Returns whether calls can be made over this address.
async fn check_address(
    report: &mut Report,
    reached: &Connector,
    connector: Option<&Connector>,
    address: SocketAddr,
) -> Result<bool, Diagnosis> {
    let tcp = reach(report, reached, address).await?;
    let Some(connector) = connector else {
        for step in [Step::ServerTls, Step::ClientTls] {
            report.skip(step, "the TLS settings are unusable, see above");
        }
        return Ok(false);
    };
    if let Security::Plaintext { .. } = connector.security() {
        report.skip(Step::ServerTls, "TLS is off");
        report.skip(Step::ClientTls, "TLS is off");
        return Ok(true);
    }
    secure(report, connector, tcp).await?;
    Ok(true)
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

async fn resolve(report: &mut Report, connector: &Connector) -> Option<Vec<SocketAddr>> {
    let addresses = match connector.resolve(connector.deadline()).await {
        Ok(addresses) => addresses,
        Err(error) => {
            report.fail(explained(connector, error));
            for step in &STEPS[1..] {
                report.skip(*step, "the host name has no address");
            }
            return None;
        }
    };
    let shown: Vec<_> = addresses
        .iter()
        .map(|address| address.ip().to_string())
        .collect();
    let shown = shown.join(", ");
    report.ok(
        Step::Name,
        match connector.proxy() {
            None => format!("`{}` resolves to {shown}", connector.host()),
            Some(proxy) => format!(
                "the proxy `{proxy}` (HTTPS_PROXY) resolves to {shown}; the proxy resolves `{}`",
                connector.host()
            ),
        },
    );
    Some(addresses)
}

async fn reach(
    report: &mut Report,
    connector: &Connector,
    address: SocketAddr,
) -> Result<TcpStream, Diagnosis> {
    let started = Instant::now();
    let tcp = connector.tcp(address, connector.deadline()).await;
    let tcp = tcp.map_err(|error| explained(connector, error))?;
    let through = match connector.proxy() {
        None => String::new(),
        Some(proxy) => format!(" through the proxy `{proxy}`"),
    };
    report.ok(
        Step::Tcp,
        format!(
            "connected to {address}{through} in {:.1?}",
            started.elapsed()
        ),
    );
    Ok(tcp)
}

fn explained(connector: &Connector, error: ConnectorError) -> Diagnosis {
    let credentials = TlsCredentials::now(connector.security());
    explain_connection(connector, &credentials, error).diagnosis()
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
    warn_of_expiry(
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
    let seen = match (requested_issuers(peer), &credentials.identity, handshake) {
        (None, None, _) => "the server requests no client certificate".to_owned(),
        (None, Some(_), _) => {
            "the server requests no client certificate: the configured one was not presented"
                .to_owned()
        }
        (Some(of), None, _) => {
            format!(
                "the server requests a client certificate{of}, but accepts a connection without one"
            )
        }
        (Some(of), Some(identity), Handshake { .. }) => format!(
            "the server requested a client certificate{of}, and {} the certificate with {}",
            if spoke {
                "accepted"
            } else {
                "has not rejected"
            },
            identity.identify()
        ),
    };
    report.ok(Step::ClientTls, seen);
}

fn requested_issuers(peer: &PeerInfo) -> Option<String> {
    let names = peer.asked_for()?;
    Some(if names.is_empty() {
        String::new()
    } else {
        format!(" issued by `{}`", names.join("` or `"))
    })
}

/// The name of the frontend in the health service (`service/frontend/service.go`).
const FRONTEND: &str = "temporal.api.workflowservice.v1.WorkflowService";

/// Calls `Health/Check` and `GetSystemInfo`, both without a token.
pub(super) async fn check_grpc(session: &Session, report: &mut Report) {
    let mut health = HealthClient::new(session.channel().clone());
    let request = HealthCheckRequest {
        service: FRONTEND.to_owned(),
    };
    match session.limited(health.check(request)).await {
        Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => {}
        Ok(answer) => {
            return report.fail(Diagnosis {
                step: Step::Grpc,
                class: Class::Unreachable,
                cause: format!(
                    "the server reports its health as `{}`",
                    answer.get_ref().status().as_str_name()
                ),
                hint: Some(
                    "the server is starting or stopping: wait; if this persists, check the log of the server".to_owned(),
                ),
            });
        }
        // Other server implementations may have no health service.
        Err(status) if status.code() == Code::Unimplemented => {}
        Err(status) => return report.fail(session.explain(status, Role::Read).diagnosis()),
    }
    match session.with_token(None).system_info().await {
        Ok(info) => {
            let version = &info.server_version;
            report.ok(
                Step::Grpc,
                format!("healthy; `GetSystemInfo` is answered without a token: server {version}"),
            );
        }
        // A proxy or Temporal Cloud may require the token for these calls too.
        Err(status) if is_refusal(&status) => {
            report.ok(Step::Grpc, "healthy; no call is answered without a token");
        }
        Err(status) => report.fail(session.explain(status, Role::Read).diagnosis()),
    }
}

/// The result of a call that needs a permission.
pub(super) enum Probe {
    Accepted,
    /// The token is accepted, and the namespace does not exist.
    NoNamespace(ConnectError),
    Refused(Status),
    /// The call was not sent or not answered.
    Failed(ConnectError),
}

impl Probe {
    /// Calls `DescribeNamespace`, which needs `read`.
    pub(super) async fn of(session: &Session) -> Self {
        match session.describe_namespace().await {
            Ok(()) => Self::Accepted,
            Err(status) if is_refusal(&status) => Self::Refused(status),
            Err(status) => match session.explain(status, Role::Read) {
                error @ ConnectError::NoNamespace { .. } => Self::NoNamespace(error),
                other => Self::Failed(other),
            },
        }
    }

    /// Returns whether the server accepts the token, even if the token permits too little.
    pub(super) async fn verdict(&self, session: &Session) -> TokenVerdict {
        match self {
            Self::Accepted | Self::NoNamespace(_) => TokenVerdict::Accepted,
            Self::Failed(_) => TokenVerdict::Unknown,
            Self::Refused(_) => session.token_verdict().await,
        }
    }
}

/// Returns whether a call that needs no permission is answered with this token; the server refuses
/// even such a call with a token that it does not accept. `None` if the call failed in another way.
pub(super) async fn accepts_token(session: &Session, token: &Token) -> Option<bool> {
    let session = session.with_token(Some(TokenSource::Fixed(token.clone())));
    match session.system_info().await {
        Ok(_) => Some(true),
        Err(status) => is_refusal(&status).then_some(false),
    }
}

/// What is known of the server besides its answers.
pub(super) struct Facts<'a> {
    pub(super) key_set: Option<&'a [u8]>,
    pub(super) key_is_new: bool,
    pub(super) audience: Option<&'a str>,
    pub(super) verdict: TokenVerdict,
}

/// Explains why a call that needs `read` was refused, as far as the client can tell.
pub(super) fn why(session: &Session, facts: &Facts<'_>) -> Explanation {
    let token = session.token_source().and_then(TokenSource::current);
    let refused_by_the_key_set = match (&token, facts.key_set) {
        // Other checks report times and audience in more detail.
        (Some(token), Some(key_set)) => verify(token.text(), key_set, None)
            .err()
            .and_then(|error| error.key_set_diagnosis()),
        _ => None,
    };
    let refusal = Refusal {
        token: Sent::of(token.as_ref().map(Token::content)),
        namespace: session.namespace(),
        needed: Role::Read,
        key_set: match (&refused_by_the_key_set, facts.key_set) {
            (Some(refused), _) => KeySetCheck::Refuses(refused),
            (None, Some(_)) => KeySetCheck::Verifies,
            (None, None) => KeySetCheck::Unknown,
        },
        key_is_new: facts.key_is_new,
        audience: facts.audience,
        verdict: facts.verdict,
    };
    refusal.explain(SystemTime::now())
}

pub(super) async fn check_task_queue(
    session: &Session,
    report: &mut Report,
    program: Option<Program>,
    task_queue: &str,
) {
    let pollers = match session.pollers(task_queue).await {
        Ok(pollers) => pollers,
        Err(diagnosis) => return report.fail(diagnosis),
    };
    let Some(unpolled) = pollers.unpolled else {
        report.ok(Step::TaskQueue, format!("workers poll `{task_queue}`"));
        report.detail(pollers.polling);
        return;
    };
    match program {
        Some(Program::Starter) => report.fail(unpolled),
        Some(Program::Worker | Program::Admin) => report.ok(Step::TaskQueue, unpolled.cause),
        None => report.warn(
            Step::TaskQueue,
            unpolled.cause,
            unpolled.hint.unwrap_or_default(),
        ),
    }
    report.detail(pollers.gone);
}
