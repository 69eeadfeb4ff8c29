//! The way to the server, and what it answers: name, TCP, TLS, the calls that need no permission, the
//! smallest call that needs one, and the task queue.
//!
//! Each step is taken on its own, with what a connection of worker and starter is made of.

use std::time::{Instant, SystemTime};

use temporalio_common::protos::grpc::health::v1::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tokio::net::TcpStream;
use tonic::{Code, Status};

use super::{Report, local::soon};
use crate::keys::verify::verify;
use keyutil::{
    base::time::when,
    connect::{ConnectError, Session, check::Program},
    credentials::{Credential, Token, TokenSource},
    diagnosis::{Class, Diagnose, Diagnosis, Step},
    explain::{Explanation, KeySetCheck, Refusal, Sent, TokenVerdict},
    probe::{
        Connector, PeerInfo, Secured, Security, TlsCredentials, explain_connection, first_words,
        is_refusal,
    },
    settings::{ConnectArgs, non_empty},
    status::Handshake,
    token::Role,
};

/// The steps that are taken here.
const STEPS: [Step; 4] = [Step::Name, Step::Tcp, Step::ServerTls, Step::ClientTls];

/// Comes back with whether calls can be made.
pub(super) async fn check_network(
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
    soon(
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

/// What the health service knows a frontend by (`service/frontend/service.go`).
const FRONTEND: &str = "temporal.api.workflowservice.v1.WorkflowService";

/// `Health/Check` and `GetSystemInfo`, both without a token.
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
                    "the server says of its health: `{}`",
                    answer.get_ref().status().as_str_name()
                ),
                hint: Some(
                    "wait: it is starting or stopping; if it stays so, see its log".to_owned(),
                ),
            });
        }
        // Another implementation of the server may have none.
        Err(status) if status.code() == Code::Unimplemented => {}
        Err(status) => return report.fail(session.explain(status, Role::Read).diagnosis()),
    }
    match session.with_token(None).system_info().await {
        Ok(info) => {
            let version = &info.server_version;
            report.ok(
                Step::Grpc,
                format!(
                    "healthy, and `GetSystemInfo` is answered without a token: server {version}"
                ),
            );
        }
        // A proxy, or Temporal Cloud, may ask for the token here too.
        Err(status) if is_refusal(&status) => {
            report.ok(Step::Grpc, "healthy, and answers nothing without a token");
        }
        Err(status) => report.fail(session.explain(status, Role::Read).diagnosis()),
    }
}

/// What came of a call that takes permission.
pub(super) enum Probe {
    Accepted,
    /// The token is accepted, and the namespace does not exist.
    NoNamespace(ConnectError),
    Refused(Status),
    /// The call was not sent, or not answered.
    Failed(ConnectError),
}

impl Probe {
    /// Asks for the namespace, which takes `read`.
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

    /// Whether the server accepts the token, which may permit too little all the same.
    pub(super) async fn verdict(&self, session: &Session) -> TokenVerdict {
        match self {
            Self::Accepted | Self::NoNamespace(_) => TokenVerdict::Accepted,
            Self::Failed(_) => TokenVerdict::Unknown,
            Self::Refused(_) => session.token_verdict().await,
        }
    }
}

/// Whether a call that takes no permission is answered with this token: a bad one spoils it.
/// `None`, where that cannot be learnt.
pub(super) async fn takes(session: &Session, token: &Token) -> Option<bool> {
    let session = session.with_token(Some(TokenSource::Fixed(token.clone())));
    match session.system_info().await {
        Ok(_) => Some(true),
        Err(status) => is_refusal(&status).then_some(false),
    }
}

/// What is known of the server beside its answers.
pub(super) struct Facts<'a> {
    pub(super) key_set: Option<&'a [u8]>,
    pub(super) key_is_new: bool,
    pub(super) audience: Option<&'a str>,
    pub(super) verdict: TokenVerdict,
}

/// Why a call that takes `read` was refused, as far as can be told from this side.
pub(super) fn why(session: &Session, facts: &Facts<'_>) -> Explanation {
    let token = session.token_source().and_then(TokenSource::current);
    let refused_by_the_key_set = match (&token, facts.key_set) {
        // Times and audience are told by the other checks, in more words.
        (Some(token), Some(key_set)) => verify(token.text(), key_set, None)
            .err()
            .and_then(|error| error.of_the_key_set()),
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
        report.ok(Step::TaskQueue, format!("somebody polls `{task_queue}`"));
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
