//! Who polls the task queue.

use keyutil::{
    connect::{Session, check::Program},
    diagnosis::Step,
};

use super::Report;

pub(super) async fn look(
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
