//! The output, parsed as Prometheus does.

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::status::{
    CallsStatus, ConnectionStatus, CredentialStatus, CredentialsStatus, MintingStatus, Outcomes,
    Phase, RefusalStatus, RemovedCa, StalledRead,
};

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn status() -> Status {
    let certificate = CredentialStatus {
        in_use: Some("serial 0A, issued by `CN=\"a\\b\"\nO=c`".into()),
        id: None,
        from: Vec::new(),
        since: Some(at(1_700_000_000)),
        valid_from: Some(at(1_699_999_700)),
        valid_until: Some(at(1_700_003_600)),
        reloads: 2,
        failed_reloads: 1,
        last_failure: None,
        stalled: Some(StalledRead {
            path: "tls.key".into(),
            since: at(1_700_000_050),
        }),
        warnings: Vec::new(),
    };
    Status {
        target: "temporal:7233".into(),
        namespace: "default".into(),
        phase: Phase::Working {
            since: at(1_700_000_000),
        },
        credentials: CredentialsStatus {
            client_certificate: Some(certificate),
            minting: Some(MintingStatus {
                minted: 7,
                ..MintingStatus::default()
            }),
            ..CredentialsStatus::default()
        },
        connection: ConnectionStatus {
            handshakes: 3,
            removed_ca: Some(RemovedCa {
                ca: "`CN=ca`".into(),
                file: "ca.crt".into(),
                removed_at: at(1_700_000_000),
                refused_at: at(1_700_000_300),
                reason: None,
            }),
            ..ConnectionStatus::default()
        },
        calls: CallsStatus {
            polls: Outcomes {
                by_code: BTreeMap::from([("Ok".into(), 5), ("PermissionDenied".into(), 4)]),
                last_success: Some(at(1_700_000_001)),
            },
            refusals: RefusalStatus {
                count: 4,
                ..RefusalStatus::default()
            },
            ..CallsStatus::default()
        },
    }
}

/// The samples by name and labels; each line is valid, and its family has `HELP` and `TYPE`.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut family = "";
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(!words.is_empty(), "{line}");
            family = name;
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, family, "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let name = sample.split('{').next().unwrap();
            assert_eq!(name, family, "{line}");
            assert!(name.starts_with("keyutil_"), "{line}");
            assert!(sample == name || sample.ends_with("\"}"), "{line}");
            assert!(
                samples
                    .insert(sample.to_owned(), value.parse().unwrap())
                    .is_none()
            );
        }
    }
    samples
}

#[test]
fn known_values_are_exported_in_base_units() {
    let text = render(&status(), at(1_700_000_060)).unwrap();
    let samples = samples(&text);
    for (sample, value) in [
        ("keyutil_ready", 0.0),
        ("keyutil_server_ca_removed", 1.0),
        (
            "keyutil_server_ca_refused_timestamp_seconds",
            1_700_000_300.0,
        ),
        (
            "keyutil_credential_expiry_timestamp_seconds{credential=\"client_certificate\"}",
            1_700_003_600.0,
        ),
        (
            "keyutil_credential_valid_from_timestamp_seconds{credential=\"client_certificate\"}",
            1_699_999_700.0,
        ),
        (
            "keyutil_credential_in_use_since_timestamp_seconds{credential=\"client_certificate\"}",
            1_700_000_000.0,
        ),
        (
            "keyutil_credential_reloads_total{credential=\"client_certificate\",result=\"failed\"}",
            1.0,
        ),
        (
            "keyutil_credential_reloads_total{credential=\"client_certificate\",result=\"ok\"}",
            2.0,
        ),
        (
            "keyutil_credential_read_stalled_seconds{credential=\"client_certificate\"}",
            10.0,
        ),
        (
            "keyutil_credential_files_broken{credential=\"client_certificate\"}",
            0.0,
        ),
        ("keyutil_tokens_minted_total", 7.0),
        ("keyutil_token_mint_failures_total", 0.0),
        ("keyutil_tls_handshakes_total", 3.0),
        ("keyutil_connection_failures_total", 0.0),
        ("keyutil_calls_total{code=\"Ok\",kind=\"other\"}", 0.0),
        ("keyutil_calls_total{code=\"Ok\",kind=\"poll\"}", 5.0),
        (
            "keyutil_calls_total{code=\"PermissionDenied\",kind=\"poll\"}",
            4.0,
        ),
        ("keyutil_refusals_total", 4.0),
        (
            "keyutil_last_successful_poll_timestamp_seconds",
            1_700_000_001.0,
        ),
    ] {
        assert_eq!(samples.get(sample), Some(&value), "{sample} in\n{text}");
    }
}

#[test]
fn labels_are_escaped() {
    let text = render(&status(), at(1_700_000_060)).unwrap();
    let escaped = r#"id="serial 0A, issued by `CN=\"a\\b\"\nO=c`"} 1"#;
    assert!(text.contains(escaped), "{text}");
}

#[test]
fn unreadiness_is_exported_and_unknown_values_are_omitted() {
    let mut status = status();
    status.phase = Phase::Connecting { last_attempt: None };
    status.credentials = CredentialsStatus::default();
    let text = render(&status, at(1_700_000_060)).unwrap();
    assert_eq!(samples(&text).get("keyutil_ready"), Some(&0.0), "{text}");
    assert!(!text.contains("credential"), "{text}");
}

/// A dashboard or rule with a name that is not exported shows nothing, and the mistake stays
/// unnoticed.
#[test]
fn metrics_in_the_dashboard_the_rules_and_the_readme_exist() {
    let text = render(&status(), at(1_700_000_002)).unwrap();
    for (file, content) in [
        (
            "the dashboard",
            include_str!("../../../../docker/grafana/dashboards/temporal.json"),
        ),
        (
            "the rules",
            include_str!("../../../../docker/prometheus/rules.yml"),
        ),
        (
            "docs/operations.md",
            include_str!("../../../../docs/operations.md"),
        ),
    ] {
        let words =
            content.split(|character: char| !character.is_alphanumeric() && character != '_');
        let names: Vec<_> = words.filter(|word| word.starts_with("keyutil_")).collect();
        assert!(names.len() > 3, "{file}");
        // The metrics of `keyutil pki renew` are checked in its own tests.
        let of_agent = |name: &&str| name.starts_with("keyutil_certificate_");
        for name in names.into_iter().filter(|name| !of_agent(name)) {
            assert!(text.contains(&format!("# TYPE {name} ")), "{file}: {name}");
        }
    }
}
