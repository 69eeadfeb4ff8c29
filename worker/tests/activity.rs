//! The activity runs without a server, in the SDK's test environment.

use temporalio_sdk::testing::ActivityEnvironment;
use worker::canary::Greetings;

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
