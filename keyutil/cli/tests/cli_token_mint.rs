//! `keyutil token mint` as a person calls it.

use std::process::Command;

use crate::common::program::{inspect, mint, piped, run, with_keys};

#[test]
fn a_token_is_printed_alone_and_for_the_shell() {
    let folder = with_keys();
    let minted = run(mint(folder.path()).args(["--namespace=orders"]));
    assert_eq!((minted.code, &minted.stderr[..]), (Some(0), ""));
    let token = minted.stdout.strip_suffix('\n').unwrap();
    assert_eq!(token.split('.').count(), 3, "{token}");
    assert!(!token.contains(char::is_whitespace), "{token}");

    let line = run(mint(folder.path()).arg("--export")).stdout;
    let shell = Command::new("sh")
        .arg("-c")
        .arg(format!("{line} printenv TEMPORAL_API_KEY"))
        .output()
        .unwrap();
    let exported = String::from_utf8(shell.stdout).unwrap();
    assert_eq!(line, format!("export TEMPORAL_API_KEY={exported}"));
    let inspected = run(inspect(folder.path()).arg(exported.trim()));
    assert_eq!(inspected.code, Some(0), "{inspected:?}");
}

#[test]
fn the_claims_are_those_that_were_asked_for() {
    let folder = with_keys();
    let token = run(mint(folder.path()).args([
        "--permissions= orders:write , temporal-system:read",
        "--audience=temporal",
        "--subject=ci",
        "--token-lifetime=1h",
    ]));
    let shown = run(inspect(folder.path()).arg(token.stdout.trim())).stdout;
    for words in [
        r#""aud":"temporal""#,
        r#""sub":"ci""#,
        r#""permissions":["orders:write","temporal-system:read"]"#,
        "lifetime   valid for another 59m",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}

#[test]
fn all_mistakes_of_a_mint_are_named_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let refused = run(mint(folder.path()).args([
        "--permissions=orders,orders:owner,:write",
        "--token-lifetime=2days",
    ]));
    assert_eq!((refused.code, &refused.stdout[..]), (Some(64), ""));
    for words in [
        "the settings have 4 errors",
        "`--token-lifetime` must be between 2s and 24h: `2days`",
        "`orders` is not a permission",
        "`orders:owner` is not a permission",
        "`:write` is not a permission",
    ] {
        assert!(refused.stderr.contains(words), "{words}: {refused:?}");
    }
}

#[test]
fn a_missing_key_is_named_with_the_command_that_makes_it() {
    let folder = tempfile::tempdir().unwrap();
    let failed = run(&mut mint(folder.path()));
    assert_eq!((failed.code, &failed.stdout[..]), (Some(64), ""));
    assert!(
        failed.stderr.contains("`certs/signing/active/current.pem`"),
        "{failed:?}"
    );
    assert!(failed.stderr.contains("hint: "), "{failed:?}");
    assert!(
        failed.stderr.contains("`keyutil key generate`"),
        "{failed:?}"
    );
}

#[test]
fn a_file_without_an_end_is_not_read_to_it() {
    let folder = with_keys();
    for command in [
        mint(folder.path()).arg("--signing-key=/dev/zero"),
        inspect(folder.path()).arg("--file=/dev/zero"),
    ] {
        let refused = run(command);
        assert_eq!(refused.code, Some(64), "{refused:?}");
        assert!(refused.stderr.contains("larger than"), "{refused:?}");
    }
}

#[test]
fn a_token_names_the_key_by_the_kid_that_is_asked_for() {
    let folder = with_keys();
    let jwks = folder.path().join("certs/signing/jwks.json");
    let set = std::fs::read_to_string(&jwks).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&set).unwrap();
    let kid = parsed["keys"][0]["kid"].as_str().unwrap();
    let padded = format!("{kid}=");
    std::fs::write(&jwks, set.replace(kid, &padded)).unwrap();
    let inspected = |token: &str| {
        let mut inspect = inspect(folder.path());
        inspect.args(["--jwks", "certs/signing/jwks.json"]);
        piped(&mut inspect, token)
    };

    let ended = inspected(&run(&mut mint(folder.path())).stdout);
    assert_eq!(ended.code, Some(80), "{ended:?}");
    let told = format!("is published there as `{padded}`");
    assert!(ended.stderr.contains(&told), "{ended:?}");

    let ended = inspected(&run(mint(folder.path()).args(["--kid", &padded])).stdout);
    assert_eq!(ended.code, Some(0), "{ended:?}");
}
