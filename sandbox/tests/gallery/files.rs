//! Files that cannot be used, and files that only look as if they could not.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use secrecy::ExposeSecret;

use super::{
    case::{
        Attempt, Case,
        Cause::Told,
        Row,
        Starter::{KnowsLess, Same, Works},
    },
    client_certificate::{issued, present},
    world::{World, issue, now, seconds, told},
};
use crate::support::intermediate::root_and_intermediate;

pub const ROWS: &[Row] = &[
    Row {
        message: "failed to read … No such file or directory",
        exit_code: 64,
        cause: "the path is wrong, or relative to another working directory",
        advice: "check the path; for development run `keyutil pki init` and `keyutil key generate`",
        cases: &[
            Case {
                name: "a certificate file that is not there",
                step: Some("files"),
                starter: Same,
                cause: Told(|_, attempt| {
                    attempt.with("TEMPORAL_TLS_CLIENT_CERT_PATH", "certs/tls.crt")
                }),
            },
            Case {
                name: "a signing key that is not there",
                step: Some("files"),
                starter: Same,
                cause: Told(|_, attempt| attempt.with("KEYUTIL_SIGNING_KEY_PATH", "current.pem")),
            },
        ],
    },
    Row {
        message: "the settings have 2 errors",
        exit_code: 64,
        cause: "flags, variables or files are wrong; each error is listed",
        advice: "follow each line",
        cases: &[Case {
            name: "an address without a port, and a certificate without a key",
            step: Some("configuration"),
            starter: KnowsLess,
            cause: Told(|_, attempt| {
                attempt
                    .address("no-port")
                    .without("TEMPORAL_TLS_CLIENT_KEY_PATH")
            }),
        }],
    },
    Row {
        message: "unusable client certificate in …",
        exit_code: 79,
        cause: "the certificate has expired or is not valid yet by the clock of this machine, is \
                not PEM or is in the wrong order, or the key is encrypted or belongs to another \
                certificate: the message says which. The certificate is not presented to the \
                server",
        advice: "follow the hint",
        cases: &[
            Case {
                name: "a client certificate that has expired",
                step: Some("files"),
                starter: Same,
                cause: Told(|world, attempt| {
                    present(attempt, &issued(world, seconds(-7200, -3600)))
                }),
            },
            Case {
                name: "a client certificate that is not valid yet",
                step: Some("files"),
                starter: Same,
                cause: Told(|world, attempt| present(attempt, &issued(world, seconds(3600, 7200)))),
            },
            Case {
                name: "a certificate and another one's key",
                step: Some("files"),
                starter: Same,
                cause: Told(|world, attempt| {
                    let (_, key) = world.client_pem();
                    let key = attempt.write("other.key", key);
                    present(attempt, &issued(world, now()))
                        .with("TEMPORAL_TLS_CLIENT_KEY_PATH", key)
                }),
            },
            Case {
                name: "an encrypted key",
                step: Some("files"),
                starter: Same,
                cause: Told(|world, attempt| {
                    let (_, key) = world.client_pem();
                    let plain = attempt.write("plain.key", key);
                    let key = attempt.folder.join("tls.key");
                    openssl(
                        &attempt.folder,
                        "pkcs8 -topk8 -v2 aes-256-cbc -passout pass:tops3cret -in plain.key -out tls.key",
                    );
                    fs::remove_file(plain).unwrap();
                    attempt.with("TEMPORAL_TLS_CLIENT_KEY_PATH", key)
                }),
            },
            Case {
                name: "a public key in the place of the private one",
                step: Some("files"),
                starter: Same,
                cause: Told(|world, attempt| {
                    let (_, key) = world.client_pem();
                    attempt.write("tls.key", key);
                    openssl(&attempt.folder, "pkey -in tls.key -pubout -out public.pem");
                    let key = attempt.folder.join("public.pem");
                    attempt.with("TEMPORAL_TLS_CLIENT_KEY_PATH", key)
                }),
            },
            Case {
                name: "certificate and key in each other's place",
                step: Some("files"),
                starter: Same,
                cause: Told(|world, attempt| {
                    let [key, certificate] = [
                        "TEMPORAL_TLS_CLIENT_KEY_PATH",
                        "TEMPORAL_TLS_CLIENT_CERT_PATH",
                    ]
                    .map(|name| told(&world.stack, name));
                    attempt.client_certificate(&key, &certificate)
                }),
            },
            Case {
                name: "a key on a curve that TLS does not use",
                step: Some("files"),
                starter: Same,
                cause: Told(|_, attempt| {
                    openssl(
                        &attempt.folder,
                        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:secp256k1 -nodes -keyout \
                         tls.key -out tls.crt -subj /CN=test",
                    );
                    let (certificate, key) = (
                        attempt.folder.join("tls.crt"),
                        attempt.folder.join("tls.key"),
                    );
                    attempt.client_certificate(&certificate, &key)
                }),
            },
            Case {
                name: "a chain in the wrong order",
                step: Some("files"),
                starter: Same,
                cause: Told(|_, attempt| {
                    let [leaf, intermediate, root] = chain(&attempt);
                    dressed(attempt, &format!("{intermediate}{leaf}{root}"))
                }),
            },
        ],
    },
    Row {
        message: "unusable server CA in …",
        exit_code: 76,
        cause: "the file of `--tls-ca-path` contains no certificate",
        advice: "copy it again from the CA that issued the server's certificate",
        cases: &[Case {
            name: "a file of CAs without one",
            step: Some("files"),
            starter: Same,
            cause: Told(|_, attempt| {
                let trust = attempt.write("ca.crt", "nothing of the kind\n");
                attempt.with("TEMPORAL_TLS_SERVER_CA_CERT_PATH", trust)
            }),
        }],
    },
    Row {
        message: "every user of this machine can read the private key …",
        exit_code: 0,
        cause: "users other than the owner of the key file can read it",
        advice: "run `chmod 600`; in Kubernetes set `defaultMode: 0440` and `fsGroup`",
        cases: &[Case {
            name: "a private key that every user may read",
            step: Some("files"),
            starter: Works,
            cause: Told(|world, attempt| {
                let (_, key) = world.client_pem();
                let key = attempt.write("tls.key", key);
                fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
                attempt.with("TEMPORAL_TLS_CLIENT_KEY_PATH", key)
            }),
        }],
    },
    Row::elsewhere(
        "",
        0,
        &[
            Case {
                name: "certificate and key with the line ends of Windows",
                step: None,
                starter: Works,
                cause: Told(|world, attempt| {
                    texts(world, attempt, &|text| text.replace('\n', "\r\n"))
                }),
            },
            Case {
                name: "certificate and key with a byte order mark",
                step: None,
                starter: Works,
                cause: Told(|world, attempt| {
                    texts(world, attempt, &|text| format!("\u{feff}{text}"))
                }),
            },
            Case {
                name: "certificate and key with text around them",
                step: None,
                starter: Works,
                cause: Told(|world, attempt| {
                    texts(world, attempt, &|text| {
                        format!("subject=CN = x\n\n{text}-- \nregards\n")
                    })
                }),
            },
        ],
    ),
];

/// The right certificate and key, in another dress.
fn texts(world: &World, attempt: Attempt, dress: &dyn Fn(&str) -> String) -> Attempt {
    let (certificate, key) = world.client_pem();
    let certificate = attempt.write("tls.crt", dress(&certificate));
    let key = attempt.write("tls.key", dress(&key));
    attempt.client_certificate(&certificate, &key)
}

/// A leaf, whose key is written, and those above it.
fn chain(attempt: &Attempt) -> [String; 3] {
    let [root, intermediate] = root_and_intermediate("temporal another CA 0A1B2C3D", 1);
    let leaf = issue(&intermediate, keyutil_cli::pki::Purpose::Client, &[], now());
    attempt.write("tls.key", leaf.key_pem.expose_secret());
    let first = super::server_certificate::first;
    [
        first(&leaf.certificate_pem),
        first(intermediate.certificate_pem()),
        root.certificate_pem().to_owned(),
    ]
}

fn dressed(attempt: Attempt, pem: &str) -> Attempt {
    let certificate = attempt.write("tls.crt", pem);
    let key = attempt.folder.join("tls.key");
    attempt.client_certificate(&certificate, &key)
}

fn openssl(folder: &Path, words: &str) {
    let mut command = Command::new("openssl");
    let output = command
        .current_dir(folder)
        .args(words.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "openssl {words}: {output:?}");
}
