//! The server's certificate is not what it must be.

use futures::FutureExt;
use keyutil_cli::{
    files::{self, Mode},
    pki::{AuthorityKind, Leaf, Purpose},
};
use secrecy::ExposeSecret;

use super::{
    case::{
        Attempt, Case,
        Cause::{Made, Told},
        Row,
        Starter::Same,
    },
    world::{World, issue, namesake, now, seconds, stranger},
};
use crate::support::intermediate::root_and_intermediate;

const NAMES: &[&str] = &["localhost", "127.0.0.1"];

pub const ROWS: &[Row] = &[
    Row {
        message: "failed to verify the certificate of … UnknownIssuer",
        exit_code: 76,
        cause: "the server's certificate was issued by a CA that is not trusted here",
        advice: "set `--tls-ca-path` to the CA that the hint names",
        cases: &[
            Case {
                name: "a server certificate of an unknown CA",
                step: Some("server_tls"),
                starter: Same,
                cause: Told(|_, attempt| {
                    let trust = attempt.write("ca.crt", stranger("frontend").certificate_pem());
                    attempt.with("TEMPORAL_TLS_SERVER_CA_CERT_PATH", trust)
                }),
            },
            Case {
                name: "a server certificate that the CAs of this machine do not know",
                step: Some("server_tls"),
                starter: Same,
                cause: Told(|_, attempt| {
                    let trust = attempt.write("machine.crt", stranger("machine").certificate_pem());
                    attempt
                        .without("TEMPORAL_TLS_SERVER_CA_CERT_PATH")
                        .with("SSL_CERT_FILE", trust)
                }),
            },
            Case {
                name: "a server certificate whose intermediate CA the server does not send",
                step: Some("server_tls"),
                starter: Same,
                cause: Made(|world, attempt| {
                    without_the_intermediate(world, attempt).boxed_local()
                }),
            },
        ],
    },
    Row {
        message: "failed to verify the certificate of … BadSignature",
        exit_code: 76,
        cause: "the CA was created again under the same name, and the bundle here has the old one",
        advice: "copy the new CA certificate to this machine",
        cases: &[Case {
            name: "a server certificate of another CA with the same name",
            step: Some("server_tls"),
            starter: Same,
            cause: Told(|world, attempt| {
                let authority = world.authority(AuthorityKind::Frontend);
                let namesake = namesake(&authority, &attempt.folder);
                let trust = attempt.write("ca.crt", namesake.certificate_pem());
                attempt.with("TEMPORAL_TLS_SERVER_CA_CERT_PATH", trust)
            }),
        }],
    },
    Row {
        message: "failed to verify the certificate of … it expired at …",
        exit_code: 76,
        cause: "it was not renewed, or the clock of this machine is ahead",
        advice: "renew it, or correct the clock; the message has both times",
        cases: &[Case {
            name: "a server certificate that has expired",
            step: Some("server_tls"),
            starter: Same,
            cause: Made(|world, attempt| {
                let leaf = world.server_leaf(NAMES, seconds(-7200, -3600));
                presenting(world, attempt, leaf).boxed_local()
            }),
        }],
    },
    Row {
        message: "failed to verify the certificate of … is not valid before",
        exit_code: 76,
        cause: "the clock of this machine is behind, or that of the issuer was ahead",
        advice: "correct the clock; the message has both times",
        cases: &[Case {
            name: "a server certificate that is not valid yet",
            step: Some("server_tls"),
            starter: Same,
            cause: Made(|world, attempt| {
                let leaf = world.server_leaf(NAMES, seconds(3600, 7200));
                presenting(world, attempt, leaf).boxed_local()
            }),
        }],
    },
    Row {
        message: "failed to verify the certificate of … not valid for the name",
        exit_code: 76,
        cause: "the certificate does not contain the host of the address",
        advice: "set `--tls-server-name` to one of the names in the message",
        cases: &[
            Case {
                name: "a server certificate for another name",
                step: Some("server_tls"),
                starter: Same,
                cause: Told(|_, attempt| attempt.with("TEMPORAL_TLS_SERVER_NAME", "other.example")),
            },
            Case {
                name: "a server certificate for names alone, and an IP address that is dialled",
                step: Some("server_tls"),
                starter: Same,
                cause: Made(|world, attempt| {
                    let leaf = world.server_leaf(&["temporal.example"], now());
                    presenting(world, attempt, leaf).boxed_local()
                }),
            },
        ],
    },
    Row {
        message: "failed to verify the certificate of … it lacks the extended key usage",
        exit_code: 76,
        cause: "the server presents a certificate for TLS clients",
        advice: "reissue it with the extended key usage `serverAuth`",
        cases: &[Case {
            name: "a server certificate with `clientAuth` only",
            step: Some("server_tls"),
            starter: Same,
            cause: Made(|world, attempt| {
                let authority = world.authority(AuthorityKind::Frontend);
                let leaf = issue(&authority, Purpose::Client, NAMES, now());
                presenting(world, attempt, leaf).boxed_local()
            }),
        }],
    },
];

/// A server with this certificate.
async fn presenting(world: &World, attempt: Attempt, leaf: Leaf) -> Attempt {
    let certificate = attempt.folder.join("server.crt");
    files::replace(&certificate, leaf.certificate_pem.as_bytes(), Mode::Public).unwrap();
    let key = attempt.write("server.key", leaf.key_pem.expose_secret());
    let (address, server) = world
        .another_server(&attempt, |settings| {
            let tls = settings.tls.as_mut().unwrap();
            (tls.frontend.cert, tls.frontend.key) = (certificate, key);
        })
        .await;
    attempt.address(address).holding(server)
}

async fn without_the_intermediate(world: &World, attempt: Attempt) -> Attempt {
    let [root, intermediate] = root_and_intermediate("temporal frontend CA 0A1B2C3D", 1);
    let mut leaf = issue(&intermediate, Purpose::Server, NAMES, now());
    leaf.certificate_pem = first(&leaf.certificate_pem);
    let trust = attempt.write("ca.crt", root.certificate_pem());
    presenting(world, attempt, leaf)
        .await
        .with("TEMPORAL_TLS_SERVER_CA_CERT_PATH", trust)
}

/// The first certificate of a PEM file.
pub fn first(pem: &str) -> String {
    const END: &str = "-----END CERTIFICATE-----\n";
    let end = pem.find(END).unwrap();
    pem[..end + END.len()].to_owned()
}
