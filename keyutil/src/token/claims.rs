//! The claims of a minted token, and the time at which to renew it.
//!
//! The server checks `exp`, `iat` and `nbf` in whole seconds and without leeway (golang-jwt 4.5,
//! `map_claims.go`). `iat` and `nbf` are therefore back-dated by [`BACKDATED`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{Permission, permission::PermissionsClaim};

/// How far `iat` and `nbf` are before the time of minting. The clock of this machine may be ahead
/// of the server's by that much.
pub const BACKDATED: Duration = Duration::from_secs(60);

/// The shortest token lifetime that leaves time to renew: `exp` is truncated to whole seconds.
pub const SHORTEST_LIFETIME: Duration = Duration::from_secs(2);

/// The longest accepted token lifetime. A token cannot be revoked.
pub const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The claims of RFC 7519 that the server checks, and the permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The `kid` of the header, if it is not that of the signing key. It is not a claim.
    pub kid: Option<String>,
    /// The subject. The server rejects a token without it.
    pub sub: String,
    /// The time of issue, in seconds since 1970.
    pub iat: u64,
    /// The start of validity, in seconds since 1970.
    pub nbf: u64,
    /// The end of validity, in seconds since 1970.
    pub exp: u64,
    /// The audience, which the server checks if it is configured with one.
    pub aud: Option<String>,
    /// The permissions: an array of `<namespace>:<role>`.
    pub permissions: Vec<Permission>,
    /// The name of the claim that holds `permissions`.
    pub permissions_claim: PermissionsClaim,
}

impl Serialize for Claims {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut claims = serializer.serialize_map(None)?;
        claims.serialize_entry("sub", &self.sub)?;
        claims.serialize_entry("iat", &self.iat)?;
        claims.serialize_entry("nbf", &self.nbf)?;
        claims.serialize_entry("exp", &self.exp)?;
        if let Some(audience) = &self.aud {
            claims.serialize_entry("aud", audience)?;
        }
        claims.serialize_entry(self.permissions_claim.as_str(), &self.permissions)?;
        claims.end()
    }
}

/// The claims that stay the same when a token is minted again.
#[derive(Clone, Debug)]
pub struct ClaimsTemplate {
    /// The `kid` of the header, if it is not that of the signing key.
    pub kid: Option<String>,
    /// `sub`.
    pub subject: String,
    /// `aud`, if the server expects one.
    pub audience: Option<String>,
    /// The permissions.
    pub permissions: Vec<Permission>,
    /// The name of the claim that holds `permissions`.
    pub permissions_claim: PermissionsClaim,
    /// The time from minting to `exp`.
    pub lifetime: Duration,
}

impl ClaimsTemplate {
    /// The claims of a token minted at `now`.
    pub fn at(&self, now: SystemTime) -> Claims {
        let issued = seconds(now - BACKDATED);
        Claims {
            kid: self.kid.clone(),
            sub: self.subject.clone(),
            iat: issued,
            nbf: issued,
            exp: seconds(now + self.lifetime),
            aud: self.audience.clone(),
            permissions: self.permissions.clone(),
            permissions_claim: self.permissions_claim.clone(),
        }
    }
}

/// The time at which to renew something that is valid until `expires_at`: after two thirds of the
/// remaining time. A failed attempt leaves a third for retries.
///
/// Something expired is due now.
pub fn renew_at(now: SystemTime, expires_at: SystemTime) -> SystemTime {
    let left = expires_at.duration_since(now).unwrap_or_default();
    now + left * 2 / 3
}

/// Whole seconds since 1970; 0 for earlier times.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn claims_are_whole_seconds_and_dated_back() {
        let template = ClaimsTemplate {
            kid: None,
            subject: "worker".into(),
            audience: None,
            permissions: vec![Permission::write("default")],
            permissions_claim: "roles".parse().unwrap(),
            lifetime: Duration::from_secs(300),
        };
        let claims = template.at(at(1_000_000) + Duration::from_millis(999));
        assert_eq!(
            serde_json::to_value(claims).unwrap(),
            serde_json::json!({
                "sub": "worker",
                "iat": 999_940, "nbf": 999_940, "exp": 1_000_300,
                "roles": ["default:write"],
            })
        );
    }

    #[test]
    fn renewal_is_due_at_two_thirds() {
        for (now, expires, due) in [
            (1000, 1300, 1200),
            (1000, 1003, 1002),
            (1000, 1000, 1000),
            (1000, 900, 1000),
        ] {
            assert_eq!(renew_at(at(now), at(expires)), at(due), "{now} {expires}");
        }
    }

    proptest! {
        #[test]
        fn renewal_is_never_before_now_nor_after_expiry(
            now in 0u64..4_000_000_000,
            expires in 0u64..4_000_000_000,
        ) {
            let due = renew_at(at(now), at(expires));
            prop_assert!(due >= at(now));
            prop_assert!(due <= at(expires).max(at(now)));
        }
    }
}
