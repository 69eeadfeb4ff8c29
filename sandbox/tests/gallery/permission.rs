//! Tokens that the server accepts, and that permit too little.

use serde_json::json;

use super::{
    case::{
        Case,
        Cause::Told,
        Row,
        Starter::{KnowsLess, NotRun, Same},
    },
    token::file,
    tokens::Jwt,
};

pub const ROWS: &[Row] = &[Row {
    message: "the token has … and the call requires …",
    exit_code: 77,
    cause: "another namespace, an insufficient role, or a role that the server does not know",
    advice: "mint a token with `<namespace>:write`",
    cases: &[
        Case {
            name: "a token for another namespace",
            step: Some("permission"),
            starter: Same,
            cause: Told(|_, attempt| attempt.with("KEYUTIL_PERMISSIONS", "another:write")),
        },
        Case {
            name: "a token for the namespace in another case",
            step: Some("permission"),
            starter: Same,
            cause: Told(|_, attempt| attempt.with("KEYUTIL_PERMISSIONS", "Default:write")),
        },
        Case {
            name: "a token with `worker` alone",
            step: Some("permission"),
            starter: Same,
            cause: Told(|_, attempt| attempt.with("KEYUTIL_PERMISSIONS", "default:worker")),
        },
        Case {
            name: "a token with `system:admin`",
            step: Some("permission"),
            starter: Same,
            cause: Told(|_, attempt| attempt.with("KEYUTIL_PERMISSIONS", "system:admin")),
        },
        Case {
            name: "a token with `default:writer`",
            step: Some("permission"),
            starter: Same,
            cause: Told(|world, attempt| {
                let token = Jwt::good(world).claim("permissions", json!(["default:writer"]));
                file(attempt, &token)
            }),
        },
        Case {
            name: "a token whose permissions are one text",
            step: Some("permission"),
            starter: Same,
            cause: Told(|world, attempt| {
                let token = Jwt::good(world).claim("permissions", json!("default:write"));
                file(attempt, &token)
            }),
        },
        Case {
            name: "a token without permissions",
            step: Some("permission"),
            starter: Same,
            cause: Told(|world, attempt| {
                let token = Jwt::good(world).claim("permissions", json!(null));
                file(attempt, &token)
            }),
        },
        Case {
            name: "a token with `write`, to register namespaces",
            step: Some("permission"),
            starter: NotRun,
            cause: Told(|_, attempt| {
                attempt
                    .with("KEYUTIL_PERMISSIONS", "default:write")
                    .asking(["--as", "admin"])
            }),
        },
        Case {
            name: "a token with `read`, to start workflows",
            step: Some("permission"),
            // It connects, which takes no more, and fails at what it does then.
            starter: KnowsLess,
            cause: Told(|_, attempt| {
                attempt
                    .with("KEYUTIL_PERMISSIONS", "default:read")
                    .asking(["--as", "starter"])
            }),
        },
    ],
}];
