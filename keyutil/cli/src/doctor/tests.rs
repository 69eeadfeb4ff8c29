use clap::Parser;

use super::*;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    connect: Sourced<ConnectArgs>,
}

/// The findings of one step, with nothing of the environment.
async fn findings(step: Step, arguments: &[&str]) -> Vec<Finding> {
    let arguments = [&["test"], arguments].concat();
    let Sourced { args, origins } = Arguments::parse_from(arguments).connect;
    let report = examine(&Examination {
        connect: &args,
        origins: &origins,
        program: None,
        task_queue: None,
        jwks: None,
        jwks_refresh: Duration::from_secs(60),
        audience: None,
    })
    .await;
    let findings = report.findings().iter();
    findings
        .filter(|finding| finding.step == step)
        .cloned()
        .collect()
}

#[tokio::test]
async fn a_configuration_that_failed_is_not_in_order_too() {
    let found = findings(Step::Configuration, &["--address", "no-port"]).await;
    let marks: Vec<_> = found.iter().map(Finding::mark).collect();
    assert_eq!(marks, ["failed"], "{found:?}");
    let settings = &found[0].details;
    assert!(
        settings.iter().any(|line| line.contains("no-port")),
        "{settings:?}"
    );
}
