//! The server verifies tokens with other keys than those that sign them.

use std::{
    fs,
    time::{Duration, Instant, SystemTime},
};

use futures::FutureExt;
use keyutil::{connect, settings::Settings};
use keyutil_cli::{keys::keyring::Keyring, pki::Party};
use secrecy::ExposeSecret;

use super::{
    case::{
        Attempt, Case,
        Cause::{Made, Told},
        Row,
        Starter::KnowsLess,
    },
    token::file,
    tokens::{Jwt, new_key},
    world::World,
};
use crate::support::{
    HOUR, LIMIT,
    jwks::{Endpoint, Manner},
};

pub const ROWS: &[Row] = &[
    Row {
        message: "kid … is not in the key set",
        exit_code: 80,
        cause: "the key that signs is not published",
        advice: "publish it before it signs, as `keyutil key rotate` does. Worker and starter do \
                 not read the key set; run `keyutil doctor --jwks`",
        cases: &[
            Case {
                name: "a signing key that is not published",
                step: Some("jwks"),
                starter: KnowsLess,
                cause: Told(|world, attempt| {
                    let key = attempt.write("signing.pem", new_key().0.expose_secret());
                    attempt
                        .with("KEYUTIL_SIGNING_KEY_PATH", key)
                        .asking(["--jwks", world.stack.jwks_uri()])
                }),
            },
            Case {
                name: "a token file, signed with a key that is not published",
                step: Some("jwks"),
                starter: KnowsLess,
                cause: Told(|world, attempt| {
                    let (pem, kid) = new_key();
                    file(
                        attempt,
                        &Jwt::good(world).by(&pem).header("kid", kid.into()),
                    )
                    .asking(["--jwks", world.stack.jwks_uri()])
                }),
            },
        ],
    },
    Row::elsewhere(
        "kid … is not in the key set",
        80,
        &[Case {
            // The server is asked whether it accepts the token, so this is not taken for the cause.
            name: "the same, and too small a permission",
            step: Some("jwks"),
            starter: KnowsLess,
            cause: Told(|world, attempt| {
                let key = attempt.write("signing.pem", new_key().0.expose_secret());
                attempt
                    .with("KEYUTIL_SIGNING_KEY_PATH", key)
                    .with("KEYUTIL_PERMISSIONS", "another:write")
                    .asking(["--jwks", world.stack.jwks_uri()])
            }),
        }],
    ),
    Row {
        message: "the signature does not match the published key",
        exit_code: 80,
        cause: "two keys have the same `kid`",
        advice: "publish the key that signs",
        cases: &[Case {
            name: "a `kid` that is published for another key",
            step: Some("jwks"),
            starter: KnowsLess,
            cause: Told(|world, attempt| {
                file(attempt, &Jwt::good(world).by(&new_key().0))
                    .asking(["--jwks", world.stack.jwks_uri()])
            }),
        }],
    },
    Row::elsewhere(
        "the server does not know the key …",
        80,
        &[
            Case {
                name: "a signing key that is not published, and no `--jwks`",
                step: Some("jwks"),
                starter: KnowsLess,
                cause: Told(|_, attempt| {
                    let key = attempt.write("signing.pem", new_key().0.expose_secret());
                    attempt.with("KEYUTIL_SIGNING_KEY_PATH", key)
                }),
            },
            Case {
                name: "a `kid` that is published for another key, and no `--jwks`",
                step: Some("jwks"),
                starter: super::case::Starter::Same,
                cause: Told(|world, attempt| file(attempt, &Jwt::good(world).by(&new_key().0))),
            },
        ],
    ),
    Row {
        message: "the server has not fetched the JWKS since …",
        exit_code: 80,
        cause: "the key was published a moment ago; or the endpoint served a document without \
                keys, or was down when the server started",
        advice: "wait for one `refreshInterval`; check the endpoint and the server's log",
        cases: &[
            Case {
                name: "the server was given a key set without keys, and the right one is there again",
                step: Some("jwks"),
                starter: KnowsLess,
                cause: Made(|world, attempt| served(world, attempt, Manner::Empty).boxed_local()),
            },
            Case {
                name: "the key was published after the server's last fetch",
                step: Some("jwks"),
                starter: KnowsLess,
                cause: Made(|world, attempt| published_late(world, attempt).boxed_local()),
            },
        ],
    },
    Row {
        message: "the key set … has no keys",
        exit_code: 80,
        cause: "the endpoint serves JSON without keys: the server drops all its keys",
        advice: "publish the keys; `keyutil jwks serve` never serves an empty key set",
        cases: &[Case {
            name: "the endpoint serves an empty key set",
            step: Some("jwks"),
            starter: KnowsLess,
            cause: Made(|world, attempt| serving(world, attempt, Manner::Empty).boxed_local()),
        }],
    },
    Row {
        message: "failed to fetch the key set …",
        exit_code: 80,
        cause: "the key set cannot be fetched; a server that starts without it knows no key",
        advice: "check that the endpoint is running, and that `keySourceURIs` names it",
        cases: &[
            Case {
                name: "the endpoint serves an error as JSON",
                step: Some("jwks"),
                starter: KnowsLess,
                cause: Made(|world, attempt| {
                    serving(world, attempt, Manner::JsonError).boxed_local()
                }),
            },
            Case {
                name: "the endpoint was down when the server started, and is",
                step: Some("jwks"),
                starter: KnowsLess,
                cause: Made(|world, attempt| serving(world, attempt, Manner::Down).boxed_local()),
            },
        ],
    },
    Row::elsewhere(
        "the server accepts the token nevertheless",
        0,
        &[
            Case {
                name: "another key set than the server's is named",
                step: Some("jwks"),
                starter: super::case::Starter::Works,
                cause: Told(|_, attempt| {
                    let ring = Keyring::at(attempt.folder.join("other"));
                    ring.generate(false, SystemTime::now).unwrap();
                    let path = ring.jwks_path();
                    attempt.asking(["--jwks".as_ref(), path.as_os_str()])
                }),
            },
            Case {
                name: "a page in the place of the key set",
                step: Some("jwks"),
                starter: super::case::Starter::Works,
                cause: Told(|_, attempt| {
                    let page = attempt.write("jwks.json", "<html></html>");
                    attempt.asking(["--jwks".as_ref(), page.as_os_str()])
                }),
            },
        ],
    ),
];

/// A server that reads its keys from an endpoint which became like this, and is no other since.
async fn serving(world: &World, attempt: Attempt, manner: Manner) -> Attempt {
    let (attempt, url) = spoiled(world, attempt, manner).await;
    attempt.asking(["--jwks", url.as_str()])
}

/// The same, seen from a machine that has the right keys.
async fn served(world: &World, attempt: Attempt, manner: Manner) -> Attempt {
    spoiled(world, attempt, manner).await.0
}

async fn spoiled(world: &World, attempt: Attempt, manner: Manner) -> (Attempt, String) {
    let document = world.stack.keyring().jwks_path();
    let first = match manner {
        Manner::Down => Manner::Down,
        _ => Manner::Good,
    };
    let endpoint = Endpoint::start(document, first).await;
    let url = endpoint.url();
    let (address, server) = world
        .another_server(&attempt, |settings| {
            settings.authorization.as_mut().unwrap().jwks_uri = url.clone();
        })
        .await;
    endpoint.become_like(manner);
    until_refused(world, &address).await;
    let attempt = attempt.address(address).holding((server, endpoint));
    (attempt, url)
}

/// A server that fetches once an hour, and a key that came after it had.
async fn published_late(world: &World, attempt: Attempt) -> Attempt {
    let document = attempt.write(
        "served.json",
        fs::read(world.stack.keyring().jwks_path()).unwrap(),
    );
    let endpoint = Endpoint::start(document, Manner::Good).await;
    let url = endpoint.url();
    let (address, server) = world
        .another_server(&attempt, |settings| {
            let authorization = settings.authorization.as_mut().unwrap();
            authorization.jwks_uri = url.clone();
            authorization.jwks_refresh = HOUR;
        })
        .await;
    let ring = Keyring::at(attempt.folder.join("signing"));
    ring.generate(false, SystemTime::now).unwrap();
    attempt.write("served.json", fs::read(ring.jwks_path()).unwrap());
    attempt
        .address(address)
        .with("KEYUTIL_SIGNING_KEY_PATH", ring.current_path())
        .asking(["--jwks", url.as_str(), "--refresh-interval", "1h"])
        .holding((server, endpoint))
}

/// Waits until that server has no keys any more.
async fn until_refused(world: &World, address: &str) {
    let mut args = world.stack.connect_args(Party::Starter);
    args.address = address.to_owned();
    let opened = connect::open(Settings::new(&args, "gallery").unwrap()).unwrap();
    let begun = Instant::now();
    loop {
        if let Err(keyutil::ConnectError::Refused { .. }) = opened.session().probe().await {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "the server keeps its keys");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
