//! Certificates, keys and CAs in files: can they be used, for how long, and who may read them.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use super::Report;
use keyutil::{
    base::time::when,
    credentials::{Identity, TrustBundle},
    diagnosis::Step,
    probe::{Connector, Security, TrustSource},
    settings::{ConnectArgs, SettingsErrors, non_empty},
    x509::certificate::{self, CertificateSummary},
};

pub(super) fn look(
    report: &mut Report,
    args: &ConnectArgs,
    connector: Option<&Connector>,
    problems: &SettingsErrors,
) {
    for problem in problems.all() {
        if problem.step == Step::Files {
            report.fail(problem.clone());
        }
    }
    let now = SystemTime::now();
    if let Some(Security::Tls {
        identity, trust, ..
    }) = connector.map(Connector::security)
    {
        if let Some(identity) = identity {
            look_at_identity(report, &identity.current(), now);
        }
        match trust {
            TrustSource::File(trust) => look_at_trust(report, &trust.current(), now),
            TrustSource::System(_) => {
                report.ok(
                    Step::Files,
                    "the server is verified with the CAs of this machine",
                );
            }
        }
    }
    for (what, path) in [
        ("private key", non_empty(&args.tls_key_path)),
        ("signing key", non_empty(&args.token.signing_key)),
        ("token file", non_empty(&args.token.token_file)),
    ] {
        if let Some(path) = path {
            look_at_mode(report, what, path);
        }
    }
    if !report
        .findings()
        .iter()
        .any(|finding| finding.step == Step::Files)
    {
        report.skip(Step::Files, "no files are named");
    }
}

fn look_at_identity(report: &mut Report, identity: &Identity, now: SystemTime) {
    let leaf = identity.leaf();
    report.ok(
        Step::Files,
        format!(
            "client certificate `{}`, serial {}, issued by `{}`, valid until {}; the key belongs \
             to it",
            leaf.subject,
            leaf.serial,
            leaf.issuer,
            when(leaf.not_after, now)
        ),
    );
    if !leaf.permits_client() {
        report.warn(
            Step::Files,
            format!(
                "the client certificate with serial {} lacks the extended key usage `clientAuth`: \
                 the server will refuse it",
                leaf.serial
            ),
            "have the certificate issued for TLS clients",
        );
    }
    let certified = identity.certified();
    let broken = certified
        .cert
        .windows(2)
        .position(|pair| !certificate::names_as_issuer(&pair[0], &pair[1]));
    if let Some(index) = broken {
        report.warn(
            Step::Files,
            format!(
                "certificate {} of the certificate file is not the issuer of certificate {}: who \
                 verifies the chain may not find the way to a CA",
                index + 2,
                index + 1
            ),
            "put each certificate's issuer right behind it, the client's own first",
        );
    }
    soon(report, Step::Files, "the client certificate", leaf, now);
}

fn look_at_trust(report: &mut Report, trust: &TrustBundle, now: SystemTime) {
    report.ok(Step::Files, format!("the server is verified with {trust}"));
    for authority in trust.authorities() {
        let what = format!("the CA certificate `{}`", authority.subject);
        soon(report, Step::Files, &what, authority, now);
    }
}

/// Less than a tenth of its life left: whoever renews it should have done so.
pub(super) fn soon(
    report: &mut Report,
    step: Step,
    what: &str,
    certificate: &CertificateSummary,
    now: SystemTime,
) {
    let CertificateSummary {
        serial,
        not_before,
        not_after,
        ..
    } = certificate;
    let life = not_after.duration_since(*not_before).unwrap_or_default();
    let left = not_after.duration_since(now).unwrap_or_default();
    if left < life / 10 {
        let until = when(*not_after, now);
        let seen = if left == Duration::ZERO {
            format!("{what} with serial {serial} expired at {until}")
        } else {
            format!(
                "{what} with serial {serial} is valid until {until}: less than a tenth of its life is left"
            )
        };
        report.warn(step, seen, "see to whoever renews it");
    }
}

#[cfg(unix)]
fn look_at_mode(report: &mut Report, what: &str, path: &Path) {
    use std::os::unix::fs::MetadataExt;
    // What cannot be read is told by whoever reads it.
    let Ok(metadata) = fs::metadata(path) else {
        return;
    };
    let mode = metadata.mode() & 0o777;
    let shown = path.display();
    if mode & 0o007 != 0 {
        report.warn(
            Step::Files,
            format!("everybody on this machine may read the {what} `{shown}` (mode {mode:04o})"),
            format!("`chmod 600 {shown}`; for a mounted Kubernetes secret, `defaultMode: 0400`"),
        );
    } else {
        report.ok(
            Step::Files,
            format!("the {what} `{shown}` is kept from others (mode {mode:04o})"),
        );
    }
}

#[cfg(not(unix))]
fn look_at_mode(_: &mut Report, _: &str, _: &Path) {}
