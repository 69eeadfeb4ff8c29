//! The token that a call would bear now.

use std::time::SystemTime;

use super::{Examination, Report};
use keyutil::{
    base::{chain, time::when},
    credentials::{Credential, TokenSource},
    diagnosis::{Class, Diagnosis, Step},
    explain::Explanation,
    settings::SettingsErrors,
};

/// Proxies have limits of 8 KiB and less for all headers together (nginx: `large_client_header_buffers`).
const LARGE: usize = 6 * 1024;

/// `refused` is why, if the server has refused it.
pub(super) fn look(
    report: &mut Report,
    examination: &Examination<'_>,
    source: Option<&TokenSource>,
    problems: &SettingsErrors,
    refused: Option<&Explanation>,
) {
    let mut unusable = problems
        .all()
        .iter()
        .filter(|problem| problem.step == Step::Token)
        .peekable();
    if unusable.peek().is_some() {
        for problem in unusable {
            report.fail(problem.clone());
        }
        return;
    }
    let Some(source) = source else {
        if let Some(source) = examination.connect.token.sources().next() {
            let seen = format!("no token is sent: {source} is not usable, see above");
            report.skip(Step::Token, seen);
        } else if !failed(report, refused, Vec::new()) {
            report.skip(
                Step::Token,
                "no token is sent: there is no `--signing-key`, `--token-file` or `--api-key`",
            );
        }
        return;
    };
    let now = SystemTime::now();
    let token = match source.token(now) {
        Ok(token) => token,
        Err(error) => {
            report.fail(Diagnosis {
                step: Step::Token,
                class: Class::Token,
                cause: format!("no token can be sent: {}", chain(&error)),
                hint: Some("see to whoever renews the token, or to the signing key".to_owned()),
            });
            return;
        }
    };
    let content = token.content();
    let details = content
        .map(|content| {
            let lifetime = match content.expires_at() {
                Some(until) => format!("valid until {}", when(until, now)),
                None => content.lifetime(now).to_string(),
            };
            vec![
                format!("header   {}", content.header),
                format!("claims   {}", content.claims),
                format!("lifetime {lifetime}"),
                format!("size     {} bytes", token.header().len()),
            ]
        })
        .unwrap_or_default();
    if failed(report, refused, details.clone()) {
        return;
    }
    let identity = token.identify();
    report.ok(Step::Token, format!("{source}: {identity}"));
    report.detail(details);
    if token.header().len() > LARGE {
        report.warn(
            Step::Token,
            format!(
                "the token has {} bytes: proxies refuse headers that large",
                token.header().len()
            ),
            "have it made with the permissions that are needed, and no more",
        );
    }
    // Of a token that was refused the explanation says it.
    if refused.is_none()
        && let Some(content) = content.filter(|content| !content.permissions().is_empty())
    {
        for warning in content.lint(Some(&examination.connect.namespace)) {
            report.warn(Step::Token, warning, "see `keyutil token inspect --help`");
        }
    }
}

/// Whether what is wrong with the token is certain; then it stands in the report.
fn failed(report: &mut Report, refused: Option<&Explanation>, details: Vec<String>) -> bool {
    let Some(Explanation::Certain(causes)) = refused else {
        return false;
    };
    let mut details = Some(details);
    let mut any = false;
    for cause in causes.iter().filter(|cause| cause.step == Step::Token) {
        any = true;
        report.fail(cause.clone());
        report.detail(details.take().unwrap_or_default());
    }
    any
}
