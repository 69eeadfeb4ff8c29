//! Wrong credentials are refused, and a person is told why and what to do.

use keyutil_cli::keys::keyring::read_signing_key;
use sandbox::{
    StackOptions,
    refusals::{self, Wrong},
};
use tokio::{net::TcpSocket, process::Command};

use crate::support;

const DENIED: &str = "PermissionDenied: Request unauthorized.";

/// The alert or status that the server answers with, and the words that explain it.
fn expected(wrong: Wrong) -> (&'static str, &'static [&'static str]) {
    match wrong {
        Wrong::NoCertificate => (
            "the server ended the connection with the TLS alert `CertificateRequired`",
            &["no certificate was presented, and this server asks for one"],
        ),
        Wrong::UnknownAuthority => (
            "the server ended the connection with the TLS alert `UnknownCA`",
            &[
                "does not accept the one that was presented: serial ",
                "unknown CA",
            ],
        ),
        Wrong::NoToken => (DENIED, &["no token was sent, and this server requires one"]),
        Wrong::Expired => (DENIED, &["the token expired 55m", "ago"]),
        Wrong::OtherNamespace => (
            DENIED,
            &[
                "the token has the permissions `another:write`, and the call requires `default:read`",
            ],
        ),
        Wrong::WorkerRole => (
            DENIED,
            &[
                "the token has the permissions `default:worker`, and the call requires `default:read`",
            ],
        ),
        Wrong::UnpublishedKey => (DENIED, &["kid `", "` is not in the key set, which has `"]),
        Wrong::WrongAudience => (
            DENIED,
            &["the token is for the audience `another`, and the server expects `temporal-sandbox`"],
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_credential_is_refused_for_its_own_reason() {
    let stack = support::stack(StackOptions::default()).await;
    refusals::control(&stack).await.unwrap();
    for wrong in Wrong::ALL {
        let refused = refusals::attempt(&stack, wrong).await;
        let refused = refused.unwrap_or_else(|error| panic!("{wrong:?}: {error:#}"));
        let (answer, because) = expected(wrong);
        assert_eq!(refused.answer, answer, "{wrong:?}");
        for words in because {
            assert!(refused.because.contains(words), "{wrong:?}: {refused:?}");
        }
        assert!(
            !refused.because.contains("; "),
            "more than one reason: {refused:?}"
        );
        if wrong == Wrong::UnpublishedKey {
            let signs = read_signing_key(&stack.keyring().current_path()).unwrap();
            assert!(refused.because.contains(signs.kid()), "{refused:?}");
        }
    }
    refusals::control(&stack).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_exit_code() {
    let stack = support::stack(StackOptions::default()).await;

    let mut starter = support::starter_command(&stack).await;
    starter.env_remove("TEMPORAL_TLS_CLIENT_CERT_PATH");
    starter.env_remove("TEMPORAL_TLS_CLIENT_KEY_PATH");
    let words = [
        "rejected the client certificate (presented: none)",
        "TLS alert `CertificateRequired`",
        "hint: this server requires a client certificate issued by `CN=temporal clients CA ",
    ];
    assert_ends(&mut starter, 79, &words).await;

    let mut starter = support::starter_command(&stack).await;
    starter.env_remove("KEYUTIL_SIGNING_KEY_PATH");
    starter.env_remove("KEYUTIL_AUDIENCE");
    let words = [
        "refused a call in namespace `default` with `PermissionDenied: Request unauthorized.`",
        "no token was sent, and this server requires one",
        "hint: ",
        "`--signing-key`",
    ];
    assert_ends(&mut starter, 80, &words).await;

    let mut starter = support::starter_command(&stack).await;
    starter.args(["--permissions", "another:write"]);
    let words = [
        "WARN",
        "refused a call in namespace `default` with `PermissionDenied: Request unauthorized.`",
        "the token has the permissions `another:write`, and the call requires `default:read`",
        "hint: issue the token with `--permissions default:write`",
    ];
    assert_ends(&mut starter, 77, &words).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_other_failure_has_its_exit_code_too() {
    let stack = support::stack(StackOptions::default()).await;

    let mut starter = support::starter_command(&stack).await;
    starter.args(["--tls-server-name", "other.example"]);
    let words = [
        "failed to verify the certificate of",
        "other.example",
        "hint: set `--tls-server-name localhost` (TEMPORAL_TLS_SERVER_NAME) to a name in the certificate",
    ];
    assert_ends(&mut starter, 76, &words).await;

    let (unused, _held) = unused_address();
    let mut starter = support::starter_command(&stack).await;
    starter.args(["--connect-timeout", "1s", "--address", &unused]);
    let words = [
        "waiting for the server",
        "failed to connect to",
        &unused,
        "hint: check that the server is running",
    ];
    assert_ends(&mut starter, 69, &words).await;

    // As when the variables for TLS were not sourced.
    let mut starter = support::starter_command(&stack).await;
    support::untold(&stack, &mut starter);
    starter.args(["--connect-timeout", "1s", "--address", &stack.address()]);
    let words = [
        "the server closed the connection, which does not use TLS, without an answer",
        "hint: if the server uses TLS, set `--tls`",
    ];
    assert_ends(&mut starter, 76, &words).await;

    let mut starter = support::starter_command(&stack).await;
    starter.args(["--address", "no-port", "--token-file", "/nowhere/token"]);
    let words = [
        "the settings have 2 errors",
        "`--address` must be `host:port`",
        "more than one token source is set",
    ];
    assert_ends(&mut starter, 64, &words).await;

    let mut starter = support::starter_command(&stack).await;
    starter.args(["--count", "0"]);
    assert_ends(&mut starter, 64, &["--count"]).await;

    let mut starter = support::starter_command(&stack).await;
    starter.args(["--namespace", "Default"]);
    let words = [
        "namespace `Default` does not exist on",
        "hint: register it with `keyutil namespace register --namespace Default`",
    ];
    assert_ends(&mut starter, 81, &words).await;
}

/// An address of this machine without a listener, as long as the socket lives that is bound to it.
fn unused_address() -> (String, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    (socket.local_addr().unwrap().to_string(), socket)
}

async fn assert_ends(starter: &mut Command, code: i32, words: &[&str]) {
    let output = support::run(starter).await;
    let said = support::stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for words in words {
        assert!(said.contains(words), "`{words}` is missing in\n{said}");
    }
    assert_eq!(support::stdout(&output), "");
    assert!(!said.contains("eyJ"), "a token is shown:\n{said}");
}
