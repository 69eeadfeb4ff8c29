//! Each cause alone, and the explanation when no cause can be seen.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::*;

fn explain(header: Value, claims: Value) -> String {
    let token = UnverifiedToken::of_parts(header, claims);
    let refusal = Refusal {
        token: Sent::Token(&token),
        namespace: "default",
        needed: Role::Read,
        key_set: KeySetCheck::Unknown,
        key_is_new: false,
        audience: Some("temporal"),
        verdict: TokenVerdict::Unknown,
    };
    refusal
        .explain(UNIX_EPOCH + Duration::from_secs(1000))
        .to_string()
}

#[test]
fn each_cause_is_seen() {
    let header = json!({"alg": "ES256", "kid": "k"});
    let good = json!({
        "sub": "s", "exp": 2000, "aud": "temporal", "permissions": ["default:write"]
    });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    for (header, claims, words) in [
        (header.clone(), good.clone(), "the token looks correct"),
        (header.clone(), good.clone(), "does not know the key `k`"),
        (
            header.clone(),
            with("exp", json!(900)),
            "expired 1m 40s ago",
        ),
        (header.clone(), with("nbf", json!(1100)), "not valid yet"),
        (
            header.clone(),
            with("nbf", json!(900)),
            "the clock of this machine (1970-01-01T00:16:40.000Z) or of the server is wrong: the token is valid \
             from 1970-01-01T00:15:00.000Z to 1970-01-01T00:33:20.000Z",
        ),
        (
            header.clone(),
            with("aud", json!("x")),
            "the server expects `temporal`",
        ),
        (
            header.clone(),
            with("permissions", json!(["other:write"])),
            "requires `default:read`",
        ),
        (
            header.clone(),
            with("permissions", json!(["default:worker"])),
            "alone grants nothing",
        ),
        (
            header.clone(),
            with("permissions", json!("default:write")),
            "no permissions",
        ),
        (
            header.clone(),
            with("exp", json!("2000")),
            "`exp` is not a number",
        ),
        (
            header.clone(),
            with("iat", json!(1e30)),
            "`iat` is not a number",
        ),
        (header, with("sub", Value::Null), "no `sub`"),
        (json!({"alg": "none"}), good.clone(), "neither with ES256"),
    ] {
        let found = explain(header, claims);
        assert!(found.contains(words), "{words}: {found}");
    }
}

#[test]
fn the_verdict_separates_token_causes_from_permission_causes() {
    let header = json!({"alg": "ES256", "kid": "k"});
    let good = json!({"sub": "s", "exp": 2000, "permissions": ["default:write"]});
    let small = json!({"sub": "s", "exp": 2000, "permissions": ["other:write"]});
    for (claims, verdict, class, words) in [
        (
            &good,
            TokenVerdict::Accepted,
            Class::Permission,
            "although the token grants",
        ),
        (
            &good,
            TokenVerdict::Rejected,
            Class::Token,
            "the token looks correct",
        ),
        (
            &small,
            TokenVerdict::Accepted,
            Class::Permission,
            "requires `default:read`",
        ),
        (
            &small,
            TokenVerdict::Rejected,
            Class::Token,
            "the token looks correct",
        ),
        (
            &small,
            TokenVerdict::Unknown,
            Class::Permission,
            "requires `default:read`",
        ),
    ] {
        let token = UnverifiedToken::of_parts(header.clone(), claims.clone());
        let refusal = Refusal {
            token: Sent::Token(&token),
            namespace: "default",
            needed: Role::Read,
            key_set: KeySetCheck::Unknown,
            key_is_new: false,
            audience: None,
            verdict,
        };
        let explanation = refusal.explain(UNIX_EPOCH + Duration::from_secs(1000));
        assert_eq!(explanation.class(), class, "{explanation}");
        let told = explanation.to_string();
        assert!(told.contains(words), "{words}: {told}");
        assert!(explanation.hint().is_some());
    }
}
