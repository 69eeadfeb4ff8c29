//! `keyutil token inspect` as a person calls it.

use std::{fs, path::Path};

use crate::common::endpoint::Endpoint;
use crate::common::program::{Ended, inspect, mint, piped, run, with_keys};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

#[test]
fn a_token_is_read_from_wherever_it_is() {
    let folder = with_keys();
    let token = minted(folder.path());
    fs::write(folder.path().join("token"), format!("\n{token}\n")).unwrap();
    fs::write(folder.path().join("bom"), format!("\u{feff}{token}\r\n")).unwrap();
    let bearer = format!("Bearer {token}");
    let lower = format!("bearer  {token}\n");
    for (args, input) in [
        (&[&token[..]][..], ""),
        (&[&bearer], ""),
        // Forgotten quotes.
        (&["Bearer", &token], ""),
        (&["--file=token"], ""),
        (&["--file=bom"], ""),
        (&[], &bearer),
        (&["-"], &lower),
    ] {
        let shown = piped(inspect(folder.path()).args(args), input);
        assert_eq!((shown.code, &shown.stderr[..]), (Some(0), ""), "{args:?}");
        assert!(shown.stdout.contains(r#""alg":"ES256""#), "{shown:?}");
        assert!(
            shown.stdout.contains("signature  not verified"),
            "{shown:?}"
        );
        assert_silent(&shown, &token);
    }
}

#[test]
fn a_token_is_verified_or_refused() {
    let folder = with_keys();
    let other = with_keys();
    let endpoint = Endpoint::start(folder.path(), &[]);
    let token = minted(folder.path());
    let foreign = minted(other.path());
    let forged = mutated(&token);
    let file = folder.path().join("certs/signing/jwks.json");
    for jwks in [file.to_str().unwrap(), &endpoint.url] {
        let check = |token: &str, args: &[&str]| {
            let mut command = inspect(folder.path());
            let ended = run(command.args([token, "--jwks", jwks]).args(args));
            assert_silent(&ended, token);
            ended
        };
        let verified = check(&token, &[]);
        assert_eq!((verified.code, &verified.stderr[..]), (Some(0), ""));
        assert!(
            verified.stdout.contains("verified with the key"),
            "{verified:?}"
        );
        for (token, args, words) in [
            (&foreign, &[][..], "is not in the key set"),
            (
                &forged,
                &[],
                "the signature does not match the published key",
            ),
            (&token, &["--audience=temporal"], "expected `temporal`"),
        ] {
            let refused = check(token, args);
            assert_eq!(refused.code, Some(80), "{refused:?}");
            assert!(refused.stdout.contains("signature  REFUSED"), "{refused:?}");
            assert!(
                refused.stderr.contains("the token would be refused"),
                "{refused:?}"
            );
            assert!(refused.stderr.contains(words), "{words}: {refused:?}");
        }
    }
    let wrong = endpoint.url.replace("jwks.json", "other.json");
    for (jwks, code, words) in [
        ("missing.json", 64, "failed to read key set `missing.json`"),
        (&wrong[..], 69, "404"),
    ] {
        let failed = run(inspect(folder.path()).args([&token[..], "--jwks", jwks]));
        assert_eq!(failed.code, Some(code), "{failed:?}");
        assert!(failed.stderr.contains(words), "{words}: {failed:?}");
        assert!(failed.stderr.contains("\nhint: "), "{failed:?}");
    }
}

#[test]
fn permissions_are_read_from_the_claim_that_is_named() {
    let folder = with_keys();
    let claim = "--permissions-claim=roles";
    let token = run(mint(folder.path()).arg(claim)).stdout;
    let warnings = |args: &[&str]| {
        let shown = run(inspect(folder.path())
            .args([token.trim(), "--namespace=default"])
            .args(args));
        assert_eq!(shown.code, Some(0), "{shown:?}");
        shown.stdout.matches("warning ").count()
    };
    assert_eq!(warnings(&[claim]), 0);
    assert_ne!(warnings(&[]), 0);
    for refused in ["--permissions-claim=sub", "--permissions-claim="] {
        let refused = run(inspect(folder.path()).args([token.trim(), refused]));
        assert_eq!(refused.code, Some(64), "{refused:?}");
    }
}

#[test]
fn what_is_no_token_is_not_repeated() {
    let folder = with_keys();
    let token = minted(folder.path());
    let (start, end) = token.rsplit_once('.').unwrap();
    for (text, code) in [
        ("", 64),
        ("  \n", 64),
        ("Bearer ", 64),
        ("tops3cret-tops3cret-tops3cret", 80),
        (start, 80),
        (&format!("{token}.{end}"), 80),
        (&format!("{token} {token}"), 80),
        (&token.replace('.', "!."), 80),
        (&token[5..], 80),
    ] {
        let refused = piped(&mut inspect(folder.path()), text);
        assert_eq!(refused.code, Some(code), "{text}: {refused:?}");
        assert_silent(&refused, text);
    }
    // Where the shell took it apart.
    let refused = run(inspect(folder.path()).args([&token, &token]));
    assert_ne!(refused.code, Some(0));
    assert_silent(&refused, &token);
}

#[test]
fn control_characters_in_a_token_do_not_reach_the_terminal() {
    let folder = with_keys();
    let clear = "\u{1b}[2J";
    for (header, claims) in [
        (json!({"alg": "ES256", "kid": clear}), json!({"sub": clear})),
        (json!({"alg": clear, "kid": "k"}), json!({"aud": clear})),
        (
            json!({"alg": "ES256", "kid": "k"}),
            json!({"permissions": [clear, format!("{clear}:write")]}),
        ),
    ] {
        let part = |part: Value| BASE64_URL_SAFE_NO_PAD.encode(part.to_string());
        let token = format!("{}.{}.AAAA", part(header), part(claims));
        let jwks = ["--jwks=certs/signing/jwks.json", "--namespace=default"];
        let shown = run(inspect(folder.path()).arg(&token).args(jwks));
        assert_eq!(shown.code, Some(80), "{shown:?}");
        let all = [shown.stdout, shown.stderr].concat();
        let found = all.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(found, None, "{all:?}");
    }
}

fn minted(folder: &Path) -> String {
    run(&mut mint(folder)).stdout.trim().to_owned()
}

/// With another signature.
fn mutated(token: &str) -> String {
    let (start, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { "B" } else { "A" };
    format!("{start}.{first}{}", &signature[1..])
}

/// No part of the text that could be a secret is printed.
fn assert_silent(ended: &Ended, text: &str) {
    let parts = text.split(['.', ' ', '!']).filter(|part| part.len() > 16);
    for part in parts {
        assert!(!ended.stdout.contains(part), "{part}: {ended:?}");
        assert!(!ended.stderr.contains(part), "{part}: {ended:?}");
    }
}
