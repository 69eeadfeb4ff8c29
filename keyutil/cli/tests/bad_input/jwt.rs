//! Tokens, key sets and permissions.

use std::time::{Duration, SystemTime};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use keyutil::{
    credentials::Token,
    token::{Permission, UnverifiedToken, permission},
};
use keyutil_cli::keys::{Jwks, verify::verify};
use proptest::prelude::*;
use serde_json::Value;

use super::{
    check::{Secrets, cases, soon, told},
    mutation::inputs,
    samples::{KEY_SETS, PRIVATE_MEMBER, TOKEN_SECRETS, TOKENS},
};

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn tokens(input in inputs(&TOKENS), ahead in 0..4_000_000_000_u64) {
        let now = SystemTime::now();
        let text = String::from_utf8_lossy(&input.text);
        TOKEN_SECRETS.check(&told(&soon(&input, || Token::parse_file(&input.text, now))));
        TOKEN_SECRETS.check(&told(&soon(&input, || Token::parse(&text, now))));
        TOKEN_SECRETS.check(&told(&soon(&input, || Token::parse_api_key(&text, now))));
        let parsed = soon(&input, || UnverifiedToken::parse(&text));
        if let Err(error) = &parsed {
            TOKEN_SECRETS.check(&format!("{error} {error:?}"));
        }
        if let Ok(token) = parsed {
            let later = now + Duration::from_secs(ahead);
            TOKEN_SECRETS.check(&soon(&input, || {
                let lints = [token.lint(None), token.lint(Some("default"))].concat();
                let times = [token.expires_at(), token.valid_from()];
                let times = times.map(|time| time.map(|time| humantime::format_rfc3339(time).to_string()));
                format!("{lints:?} {times:?} {} {:?}", token.lifetime(later), token.audiences())
            }));
        }
    }

    /// Any number is a date.
    #[test]
    fn dates(numbers in prop::collection::hash_map("exp|nbf|iat", prop_oneof![any::<f64>(), any::<i64>().prop_map(|number| number as f64)], 1..4)) {
        let now = SystemTime::now();
        let claims = serde_json::to_vec(&numbers).unwrap();
        let token = format!("e30.{}.AAAA", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let token = UnverifiedToken::parse(&token).unwrap();
        for time in [token.expires_at(), token.valid_from()].into_iter().flatten() {
            humantime::format_rfc3339(time).to_string();
        }
        let _ = token.lifetime(now).to_string();
        token.lint(None);
    }

    #[test]
    fn tokens_and_key_sets(token in inputs(&TOKENS), keys in inputs(&KEY_SETS), audience in any::<Option<String>>()) {
        let secret = Secrets::new([PRIVATE_MEMBER]);
        prop_assume!(!is_named_by(&secret, &keys.text));
        let token = String::from_utf8_lossy(&token.text);
        let good = std::str::from_utf8(&TOKENS[0].text).unwrap();
        for (token, keys) in [(&*token, &keys.text), (good, &keys.text), (&token, &KEY_SETS[0].text)] {
            for audience in [None, audience.as_deref(), Some("temporal")] {
                let verified = told(&soon(&keys, || verify(token, keys, audience)));
                TOKEN_SECRETS.check(&verified);
                secret.check(&verified);
            }
        }
    }

    #[test]
    fn key_sets(input in inputs(&KEY_SETS)) {
        let secret = Secrets::new([PRIVATE_MEMBER]);
        prop_assume!(!is_named_by(&secret, &input.text));
        let parsed = soon(&input, || Jwks::parse(&input.text));
        match parsed {
            Err(error) => secret.check(&told(&Err::<(), _>(error))),
            Ok(jwks) => prop_assert!(!jwks.kids().is_empty()),
        }
    }

    #[test]
    fn permissions(texts in prop::collection::vec(any::<String>(), 0..4), spoilt in "[a-z:]{0,9}:(read|Write|ADMIN|x)?") {
        soon(&(&texts, &spoilt), || {
            let all = texts.iter().chain([&spoilt]);
            let parsed: Vec<_> = all.map(|text| text.parse::<Permission>()).collect();
            let known: Vec<_> = parsed.iter().flatten().cloned().collect();
            format!("{:?} {:?} {parsed:?}", permission::lint(&known, None), permission::lint(&known, Some(&spoilt)))
        });
    }
}

/// The name of a key is told, so what stands there is no secret.
fn is_named_by(secret: &Secrets, document: &[u8]) -> bool {
    let document = serde_json::from_slice::<Value>(document).unwrap_or_default();
    let keys = document["keys"].as_array();
    keys.is_some_and(|keys| {
        let mut names = keys.iter().filter_map(|key| key["kid"].as_str());
        names.any(|kid| secret.are_in(kid.as_bytes()))
    })
}
