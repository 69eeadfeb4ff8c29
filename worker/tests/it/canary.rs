//! The canary: its activity in the SDK's test environment, and a replay that must fail.

use temporalio_sdk::testing::ActivityEnvironment;
use worker::canary::Greetings;

use crate::replay::replay;

const HISTORY: &str = include_str!("../history/hello.json");

#[tokio::test]
async fn greets_by_name() {
    let environment = ActivityEnvironment::builder()
        .register_activities(Greetings)
        .build();
    for (name, expected) in [
        ("Temporal", "Hello Temporal!"),
        ("Jörg & Söhne", "Hello Jörg & Söhne!"),
        ("", "Hello !"),
    ] {
        let greeting = environment.run(Greetings::greet, name.to_owned()).await;
        assert_eq!(greeting.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_run_of_other_code_does_not_replay() {
    // As if the run had called an activity of another name.
    let altered = HISTORY.replace("Greetings::greet", "Greetings::wave");
    assert_ne!(altered, HISTORY, "the recording names no activity");
    let error = replay(&altered).await.unwrap_err();
    assert!(error.contains("nondeterminis"), "{error}");
}
