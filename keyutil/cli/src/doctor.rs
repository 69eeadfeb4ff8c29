//! `keyutil doctor`: walks the way of a call, looks at each step on its own, and goes on as far as
//! it can.
//!
//! What it says of a failure is what worker and starter say of it: both have it from
//! [`diagnosis`](keyutil::diagnosis). Nothing on the server is changed, and nothing is written.
//!
//! | step | file |
//! |---|---|
//! | configuration, files | `local.rs` |
//! | name, TCP, TLS, gRPC, task queue | `server.rs` |
//! | token, JWKS, clock, permission | `token.rs` |
//!
//! `report.rs` has what was found.

use std::time::Duration;

mod local;
mod report;
mod server;
mod token;

pub use local::{Origin, Sourced};
pub use report::{Finding, Mark, Report};

use self::{
    local::{check_configuration, check_files},
    server::{Facts, Probe, check_grpc, check_network, check_task_queue},
    token::{
        KeySet, check_clock, check_key_set, check_permission, check_token, clock_cause,
        measure_clock,
    },
};
use keyutil::{
    connect::{Session, check::Program},
    credentials::TokenSource,
    diagnosis::Step,
    explain::{Explanation, TokenVerdict},
    probe::RotatingChannel,
    settings::{Checked, ConnectArgs, Settings},
};

/// What to look at.
#[derive(Debug)]
pub struct Examination<'a> {
    /// The connection. Each step that waits for somebody waits for 5 s, or for
    /// `--connect-timeout` where that is shorter.
    pub connect: &'a ConnectArgs,
    /// Where each setting came from.
    pub origins: &'a [Origin],
    /// The program whose permissions are looked for.
    pub program: Option<Program>,
    /// The task queue to look for pollers of.
    pub task_queue: Option<&'a str>,
    /// The key set that the server reads: a URL, or a file.
    pub jwks: Option<&'a str>,
    /// `jwtKeyProvider.refreshInterval` of the server.
    pub jwks_refresh: Duration,
    /// `aud` that the server expects, if it is known.
    pub audience: Option<&'a str>,
}

impl Examination<'_> {
    /// For each step that waits for somebody.
    fn limit(&self) -> Duration {
        self.connect.connect_timeout.min(LIMIT)
    }
}

/// For each step that waits for somebody, at most.
const LIMIT: Duration = Duration::from_secs(5);

/// Walks the way. Needs a tokio runtime.
pub async fn examine(examination: &Examination<'_>) -> Report {
    let args = examination.connect;
    let limit = examination.limit();
    let Checked {
        connector,
        bare,
        token,
        compression,
        problems,
        ..
    } = Settings::check(args, "keyutil");
    let connector = connector.map(|connector| connector.within(limit));
    let bare = bare.map(|connector| connector.within(limit));
    let mut report = Report::default();

    check_configuration(&mut report, examination.origins, &problems);
    check_files(&mut report, args, connector.as_ref(), &problems);
    let connected = check_network(&mut report, args, connector.as_ref(), bare.as_ref()).await;

    let token = token.as_ref();
    let channel = connector.filter(|_| connected).map(RotatingChannel::new);
    let Some(Ok(channel)) = channel else {
        for step in [Step::Grpc, Step::Permission, Step::TaskQueue] {
            report.skip(step, "there is no connection to make calls on");
        }
        let key_set = check_key_set(&mut report, examination, token, TokenVerdict::Unknown).await;
        check_token(&mut report, examination, token, &problems, None);
        check_clock(&mut report, token, &key_set, false);
        report.sort();
        return report;
    };

    let session =
        Session::new(channel, token.cloned(), args.namespace.trim(), compression).within(limit);
    check_grpc(&session, &mut report).await;
    let probe = Probe::of(&session).await;
    let verdict = probe.verdict(&session).await;
    let key_set = check_key_set(&mut report, examination, token, verdict).await;
    let why = match &probe {
        Probe::Refused(_) => Some(why(&session, examination, token, &key_set, verdict).await),
        _ => None,
    };
    check_token(&mut report, examination, token, &problems, why.as_ref());
    check_clock(
        &mut report,
        token,
        &key_set,
        verdict == TokenVerdict::Accepted,
    );
    let program = examination.program;
    if check_permission(&session, &mut report, program, probe, why.as_ref()).await {
        match examination.task_queue {
            Some(name) => check_task_queue(&session, &mut report, program, name).await,
            None => report.skip(Step::TaskQueue, "none is named: give `--task-queue`"),
        }
    } else {
        report.skip(
            Step::TaskQueue,
            "not known: the call that shows it is not permitted",
        );
    }
    report.sort();
    report
}

/// Why the server refuses the token, with all that can be found out about it.
async fn why(
    session: &Session,
    examination: &Examination<'_>,
    token: Option<&TokenSource>,
    key_set: &KeySet,
    verdict: TokenVerdict,
) -> Explanation {
    let explanation = server::why(
        session,
        &Facts {
            key_set: key_set.document(),
            key_is_new: key_set.key_is_new,
            audience: examination.audience,
            verdict,
        },
    );
    let Explanation::Possible(suspects) = explanation else {
        return explanation;
    };
    let Some(TokenSource::Minted(minter)) = token else {
        return Explanation::Possible(suspects);
    };
    match measure_clock(session, minter).await {
        Some(seconds_ahead) => Explanation::Certain(vec![clock_cause(seconds_ahead)]),
        // The server takes no token of this key, whatever its times are.
        None => Explanation::Possible(
            suspects
                .into_iter()
                .filter(|suspect| suspect.step != Step::Clock)
                .collect(),
        ),
    }
}
