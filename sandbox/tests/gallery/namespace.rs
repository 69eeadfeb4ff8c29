//! Namespaces that are not there.

use super::case::{Case, Cause::Told, Row, Starter::Same};

pub const ROWS: &[Row] = &[Row {
    message: "namespace … does not exist",
    exit_code: 81,
    cause: "it is not registered, or is spelled differently",
    advice: "register it with `keyutil namespace register`",
    cases: &[
        Case {
            name: "a namespace that is not registered",
            step: Some("permission"),
            starter: Same,
            cause: Told(|_, attempt| attempt.with("TEMPORAL_NAMESPACE", "nowhere")),
        },
        Case {
            name: "a namespace in another case",
            step: Some("permission"),
            starter: Same,
            cause: Told(|_, attempt| attempt.with("TEMPORAL_NAMESPACE", "Default")),
        },
    ],
}];
