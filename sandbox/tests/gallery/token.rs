//! Tokens that are none, or that the server does not accept.

use serde_json::{Value, json};

use super::{
    case::{
        Attempt, Case,
        Cause::Told,
        Row,
        Starter::{KnowsLess, Same, Works},
    },
    tokens::Jwt,
    world::World,
};

/// The key is known to the server for many of these intervals.
const FETCHED_LONG_AGO: [&str; 2] = ["--refresh-interval", "1ms"];

pub const ROWS: &[Row] = &[
    Row {
        message: "no token was sent, and this server requires one",
        exit_code: 80,
        cause: "no token source is set",
        advice: "set `--signing-key`, `--token-file` or `TEMPORAL_API_KEY`",
        cases: &[Case {
            name: "no token",
            step: Some("token"),
            starter: Same,
            cause: Told(|_, attempt| attempt.without_token()),
        }],
    },
    Row {
        message: "unusable token in …",
        exit_code: 80,
        cause: "the file is empty, does not contain exactly one JWT, or contains one that has \
                expired: the message says which",
        advice: "check the program that writes the file, or use `keyutil token mint`",
        cases: &[
            Case {
                name: "an empty token file",
                step: Some("token"),
                starter: Same,
                cause: Told(|_, attempt| attempt.token_file("")),
            },
            Case {
                name: "a token file with something else",
                step: Some("token"),
                starter: Same,
                cause: Told(|_, attempt| attempt.token_file("tops3cret")),
            },
            Case {
                name: "half a token",
                step: Some("token"),
                starter: Same,
                cause: Told(|world, attempt| {
                    let token = Jwt::good(world).signed();
                    attempt.token_file(&token[..token.len() / 2])
                }),
            },
            Case {
                name: "a token file that is not renewed",
                step: Some("token"),
                starter: Same,
                cause: Told(|world, attempt| file(attempt, &Jwt::good(world).time("exp", -3600))),
            },
        ],
    },
    Row {
        message: "--api-key (TEMPORAL_API_KEY) is unusable …",
        exit_code: 80,
        cause: "a fixed token that has expired; it is not sent",
        advice: "set a new one; a long-running process needs `--signing-key` or `--token-file`",
        cases: &[Case {
            name: "a fixed token that has expired",
            step: Some("token"),
            starter: Same,
            cause: Told(|world, attempt| {
                let token = Jwt::good(world).time("exp", -3600).signed();
                attempt.without_token().with("TEMPORAL_API_KEY", token)
            }),
        }],
    },
    Row {
        message: "the API key is not valid, or not valid for this namespace",
        exit_code: 80,
        cause: "the value is not a JWT, and the server rejects it",
        advice: "compare it with the key that was issued",
        cases: &[Case {
            name: "an API key for a server that wants a JWT",
            step: Some("token"),
            starter: Same,
            cause: Told(|_, attempt| {
                attempt
                    .without_token()
                    .with("TEMPORAL_API_KEY", "tops3cret")
            }),
        }],
    },
    Row {
        message: "the token is not valid yet",
        exit_code: 80,
        cause: "the clock of this machine is behind, or that of the program that minted it is ahead",
        advice: "correct the clock",
        cases: &[Case {
            name: "a token that is not valid yet",
            step: Some("token"),
            starter: Same,
            cause: Told(|world, attempt| {
                let token = Jwt::good(world).time("nbf", 3600).time("exp", 7200);
                file(attempt, &token)
            }),
        }],
    },
    Row {
        message: "the token has no …",
        exit_code: 80,
        cause: "the server requires `kid` and `sub`",
        advice: "issue it with both, as `keyutil token mint` does",
        cases: &[
            Case {
                name: "a token without `kid`",
                step: Some("token"),
                starter: Same,
                cause: Told(|world, attempt| {
                    file(attempt, &Jwt::good(world).header("kid", Value::Null))
                }),
            },
            Case {
                name: "a token without `sub`",
                step: Some("token"),
                starter: Same,
                cause: Told(|world, attempt| {
                    file(attempt, &Jwt::good(world).claim("sub", Value::Null))
                }),
            },
        ],
    },
    Row {
        message: "the token is signed neither with ES256 nor with RS256",
        exit_code: 80,
        cause: "the server supports no other algorithms",
        advice: "sign it with a P-256 or an RSA key",
        cases: &[
            Case {
                name: "a token with the algorithm `HS256`",
                step: Some("token"),
                starter: Same,
                cause: Told(|world, attempt| {
                    file(attempt, &Jwt::good(world).header("alg", "HS256".into()))
                }),
            },
            Case {
                name: "a token with the algorithm `none`",
                step: Some("token"),
                starter: Same,
                cause: Told(|world, attempt| {
                    file(attempt, &Jwt::good(world).header("alg", "none".into()))
                }),
            },
        ],
    },
    Row {
        message: "the token's exp is not a number",
        exit_code: 80,
        cause: "the issuer writes times as strings",
        advice: "issue it with times in seconds since 1970",
        cases: &[Case {
            name: "a token whose `exp` is a text",
            step: Some("token"),
            starter: Same,
            cause: Told(|world, attempt| {
                file(attempt, &Jwt::good(world).claim("exp", "2040-01-01".into()))
            }),
        }],
    },
    Row {
        message: "the token is for the audience … and the server expects …",
        exit_code: 80,
        cause: "`aud` differs from the server's `authorization.audience`",
        advice: "set `--audience`. The server does not report the audience that it expects; \
                 `keyutil doctor --server-audience` compares the token with the audience that you \
                 name",
        cases: &[Case {
            name: "a token for another audience",
            step: Some("token"),
            starter: KnowsLess,
            cause: Told(|_, attempt| {
                attempt
                    .with("KEYUTIL_AUDIENCE", "another")
                    .asking(["--server-audience", sandbox::stack::AUDIENCE])
            }),
        }],
    },
    Row {
        message: "the token looks correct from the client's side; possible causes: …",
        exit_code: 80,
        cause: "the server does not know the key, expects another audience, or its clock differs",
        advice: "run `keyutil doctor --jwks <the server's JWKS>`; the server's log says which",
        cases: &[
            Case {
                name: "a token for another audience, without `--audience`",
                step: Some("token"),
                starter: KnowsLess,
                cause: Told(|_, attempt| {
                    attempt
                        .with("KEYUTIL_AUDIENCE", "another")
                        .asking(FETCHED_LONG_AGO)
                }),
            },
            Case {
                name: "a token without an audience",
                step: Some("token"),
                starter: KnowsLess,
                cause: Told(|_, attempt| {
                    attempt.without("KEYUTIL_AUDIENCE").asking(FETCHED_LONG_AGO)
                }),
            },
            Case {
                name: "a token for another audience, with a key that was published just now",
                step: Some("jwks"),
                starter: KnowsLess,
                cause: Told(|_, attempt| attempt.with("KEYUTIL_AUDIENCE", "another")),
            },
        ],
    },
    Row {
        message: "the token has … bytes",
        exit_code: 0,
        cause: "the token has more permissions than necessary",
        advice: "issue it with fewer",
        cases: &[Case {
            name: "a token with three hundred permissions",
            step: Some("token"),
            starter: Works,
            cause: Told(|world, attempt| file(attempt, &with_permissions(world, 300))),
        }],
    },
    Row::elsewhere(
        "",
        0,
        &[
            Case {
                name: "a token file with a line end",
                step: None,
                starter: Works,
                cause: Told(|world, attempt| {
                    attempt.token_file(&format!("{}\r\n", Jwt::good(world).signed()))
                }),
            },
            Case {
                name: "a token file with `Bearer ` before the token",
                step: None,
                starter: Works,
                cause: Told(|world, attempt| {
                    attempt.token_file(&format!("Bearer {}\n", Jwt::good(world).signed()))
                }),
            },
        ],
    ),
];

pub fn file(attempt: Attempt, token: &Jwt) -> Attempt {
    attempt.token_file(&token.signed())
}

pub fn with_permissions(world: &World, count: usize) -> Jwt {
    let others = (1..count).map(|number| format!("some-other-namespace-{number}:write"));
    let permissions: Vec<_> = others.chain(["default:write".to_owned()]).collect();
    Jwt::good(world).claim("permissions", json!(permissions))
}
