//! What the token permits.

use keyutil::{
    connect::{ConnectError, Session, check::Program},
    diagnosis::{Diagnose, Step},
    explain::Explanation,
};
use tonic::Status;

use super::{Report, server::Probe};

/// What the token permits.
pub(super) async fn look(
    session: &Session,
    report: &mut Report,
    program: Option<Program>,
    probe: Probe,
    why: Option<&Explanation>,
) -> bool {
    match probe {
        Probe::Accepted => {}
        Probe::NoNamespace(error) => {
            report.fail(error.diagnosis());
            return false;
        }
        Probe::Failed(error) => {
            let diagnosis = error.diagnosis();
            // What is said already need not be said again.
            if report.has_failed_at(&[diagnosis.step]) {
                report.skip(Step::Permission, "the call was not answered: see above");
            } else {
                report.fail(diagnosis);
            }
            return false;
        }
        Probe::Refused(status) => {
            refused(session, report, status, why);
            return false;
        }
    }
    let how = match session.token_source() {
        Some(_) => "",
        None => ", and no token was sent",
    };
    report.ok(
        Step::Permission,
        format!(
            "`DescribeNamespace` of `{}` is answered{how}",
            session.namespace()
        ),
    );
    if session.token_source().is_some()
        && session.with_token(None).describe_namespace().await.is_ok()
    {
        report.warn(
            Step::Permission,
            "it is answered without a token, too: this server asks nobody for permission",
            "if that is not meant, set `authorizer: default` and `claimMapper: default` in \
             `global.authorization` of the server",
        );
    }
    let Some(program) = program else {
        return true;
    };
    match session.permits(program).await {
        Ok(()) => {
            let purpose = program.purpose();
            report.ok(Step::Permission, format!("the token suffices to {purpose}"));
            true
        }
        Err(diagnosis) => {
            report.fail(diagnosis);
            false
        }
    }
}

fn refused(session: &Session, report: &mut Report, status: Status, why: Option<&Explanation>) {
    let Some(explanation) = why else {
        return;
    };
    let diagnosis = refusal(session, status, explanation.clone()).diagnosis();
    match explanation {
        Explanation::Possible(suspects) => {
            // What is the matter with the key set is told there; it may not be the cause.
            let others = if report.has_failed_at(&[Step::Jwks]) {
                suspects
                    .iter()
                    .filter(|other| other.step != Step::Jwks)
                    .map(|other| format!("perhaps, too: {}", other.cause))
                    .collect()
            } else {
                report.fail(diagnosis);
                Vec::new()
            };
            report.skip(Step::Permission, "not known: the token is not accepted");
            report.detail(others);
        }
        Explanation::Certain(causes) => {
            // Those of the token and of the key set are told there.
            let here = [Step::Clock, Step::Permission];
            for cause in causes.iter().filter(|cause| here.contains(&cause.step)) {
                report.fail(cause.clone());
            }
            if !report.has_failed_at(&[Step::Permission]) {
                report.skip(Step::Permission, "not known: the token is not accepted");
            }
        }
    }
}

fn refusal(session: &Session, status: Status, explanation: Explanation) -> ConnectError {
    ConnectError::Refused {
        target: session.target(),
        namespace: session.namespace().to_owned(),
        explanation,
        status,
    }
}
