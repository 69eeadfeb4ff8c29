//! What the server makes of a client certificate.

use keyutil_cli::pki::{AuthorityKind, Leaf, Purpose, Validity};
use secrecy::ExposeSecret;

use super::{
    case::{Attempt, Case, Cause::Told, Row, Starter::Same},
    clock::at,
    server_certificate::first,
    world::{World, issue, namesake, now, seconds, stranger},
};
use crate::support::intermediate::root_and_intermediate;

pub const ROWS: &[Row] = &[
    Row {
        message: "rejected the client certificate (presented: none)",
        exit_code: 79,
        cause: "the server requires one",
        advice: "set `--tls-cert-path` and `--tls-key-path`",
        cases: &[Case {
            name: "no client certificate",
            step: Some("client_tls"),
            starter: Same,
            cause: Told(|_, attempt| attempt.without_client_certificate()),
        }],
    },
    Row {
        message: "rejected the client certificate … UnknownCA",
        exit_code: 79,
        cause: "it was issued by a CA that the server does not trust for clients; or an \
                intermediate certificate is missing from the file",
        advice: "have it issued by another CA, or add its CA to `clientCaFiles`; append the \
                 intermediate certificates to the file",
        cases: &[
            Case {
                name: "a client certificate of an unknown CA",
                step: Some("client_tls"),
                starter: Same,
                cause: Told(|_, attempt| present(attempt, &client(&stranger("another"), now()))),
            },
            Case {
                name: "a client certificate without its intermediate CA",
                step: Some("client_tls"),
                starter: Same,
                cause: Told(|_, attempt| {
                    let [_, intermediate] =
                        root_and_intermediate("temporal another CA 0A1B2C3D", 1);
                    let mut leaf = client(&intermediate, now());
                    leaf.certificate_pem = first(&leaf.certificate_pem);
                    present(attempt, &leaf)
                }),
            },
            Case {
                name: "a client certificate of another CA with the same name",
                step: Some("client_tls"),
                starter: Same,
                cause: Told(|world, attempt| {
                    let authority = world.authority(AuthorityKind::Clients);
                    let namesake = namesake(&authority, &attempt.folder);
                    present(attempt, &client(&namesake, now()))
                }),
            },
            Case {
                name: "the server's own certificate as a client's",
                step: Some("client_tls"),
                starter: Same,
                cause: Told(|world, attempt| {
                    let authority = world.authority(AuthorityKind::Frontend);
                    present(attempt, &client(&authority, now()))
                }),
            },
        ],
    },
    Row {
        message: "rejected the client certificate … BadCertificate",
        exit_code: 79,
        cause: "it is a server certificate: the extended key usage `clientAuth` is missing; or an \
                issuer breaks a rule",
        advice: "reissue it with `clientAuth`; `openssl verify -purpose sslclient` says which rule",
        cases: &[Case {
            name: "a client certificate with `serverAuth` only",
            step: Some("client_tls"),
            starter: Same,
            cause: Told(|world, attempt| {
                let authority = world.authority(AuthorityKind::Clients);
                let leaf = issue(&authority, Purpose::Server, &["worker.example"], now());
                present(attempt, &leaf)
            }),
        }],
    },
    Row {
        message: "rejected the client certificate … CertificateExpired",
        exit_code: 79,
        cause: "it has expired or is not valid yet by the server's clock, but is valid by the \
                clock of this machine",
        advice: "correct the clock that is wrong; the hint has the times",
        cases: &[
            Case {
                name: "a client certificate that has expired by the server's clock",
                step: Some("client_tls"),
                starter: Same,
                cause: Told(|world, attempt| {
                    let leaf = issued(world, seconds(-3600, -60));
                    at(world, present(attempt, &leaf), -120)
                }),
            },
            Case {
                name: "a client certificate that is not valid yet by the server's clock",
                step: Some("client_tls"),
                starter: Same,
                cause: Told(|world, attempt| {
                    let leaf = issued(world, seconds(600, 3600));
                    at(world, present(attempt, &leaf), 1200)
                }),
            },
        ],
    },
];

/// Presents this one.
pub fn present(attempt: Attempt, leaf: &Leaf) -> Attempt {
    let certificate = attempt.write("tls.crt", &leaf.certificate_pem);
    let key = attempt.write("tls.key", leaf.key_pem.expose_secret());
    attempt.client_certificate(&certificate, &key)
}

/// By the CA that the server trusts.
pub fn issued(world: &World, validity: Validity) -> Leaf {
    client(&world.authority(AuthorityKind::Clients), validity)
}

fn client(authority: &keyutil_cli::pki::Authority, validity: Validity) -> Leaf {
    issue(authority, Purpose::Client, &[], validity)
}
