//! Permissions, `<namespace>:<role>`, as the server's default claim mapper reads them.
//!
//! The rules are those of `common/authorization/default_jwt_claim_mapper.go` and `roles.go` in
//! temporal-server 1.31.2. The server silently ignores what it does not understand. Here it is an
//! error, or a warning of [`lint`].

use std::{borrow::Cow, fmt, str::FromStr};

/// The scope whose roles apply to the cluster and to every namespace.
pub const CLUSTER_SCOPE: &str = "temporal-system";

/// The name of the claim that holds the permissions: the server's
/// `global.authorization.permissionsClaimName`. The default is `permissions`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PermissionsClaim(Cow<'static, str>);

impl PermissionsClaim {
    /// The name as it is in the token.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for PermissionsClaim {
    fn default() -> Self {
        Self(Cow::Borrowed("permissions"))
    }
}

impl FromStr for PermissionsClaim {
    type Err = ReservedClaim;

    /// Accepts any name except those of RFC 7519 section 4.1.
    fn from_str(name: &str) -> Result<Self, ReservedClaim> {
        const REGISTERED: [&str; 7] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];
        match REGISTERED
            .into_iter()
            .find(|registered| *registered == name)
        {
            Some(registered) => Err(ReservedClaim(registered)),
            None => Ok(Self(Cow::Owned(name.to_owned()))),
        }
    }
}

impl fmt::Display for PermissionsClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A registered claim, which cannot hold permissions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the claim `{0}` is reserved by RFC 7519 and cannot hold permissions")]
pub struct ReservedClaim(&'static str);

/// One entry of the permissions claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Permission {
    /// The namespace, which the server compares exactly, or [`CLUSTER_SCOPE`].
    pub namespace: String,
    /// The role in the namespace.
    pub role: Role,
}

impl Permission {
    /// The least permission that a worker or a starter needs on `namespace`.
    pub fn write(namespace: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            role: Role::Write,
        }
    }

    /// Whether this permission grants the role `needed` on `namespace`.
    pub fn grants(&self, namespace: &str, needed: Role) -> bool {
        (self.namespace == namespace || self.namespace == CLUSTER_SCOPE)
            && self.role.weight() >= needed.weight()
    }
}

impl FromStr for Permission {
    type Err = PermissionError;

    fn from_str(text: &str) -> Result<Self, PermissionError> {
        let refused = |reason| PermissionError {
            text: text.to_owned(),
            reason,
        };
        let (namespace, role) = text.split_once(':').ok_or(refused(Reason::NoColon))?;
        if namespace.is_empty() {
            return Err(refused(Reason::NoNamespace));
        }
        if namespace
            .chars()
            .any(|c| c.is_whitespace() || c.is_control())
        {
            return Err(refused(Reason::Whitespace));
        }
        let role = role.parse().map_err(|()| refused(Reason::UnknownRole))?;
        Ok(Self {
            namespace: namespace.to_owned(),
            role,
        })
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace, self.role)
    }
}

impl serde::Serialize for Permission {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A role of `roles.go`. The server compares their numbers, so a higher role includes the lower
/// ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Lower than the role of any API: grants nothing on its own.
    Worker,
    /// Describe, list, query and read histories.
    Read,
    /// Start, signal, poll and complete: all calls of workers and starters.
    Write,
    /// Register, update and delete the namespace.
    Admin,
}

impl Role {
    /// The number in `roles.go`.
    fn weight(self) -> u8 {
        match self {
            Self::Worker => 1,
            Self::Read => 2,
            Self::Write => 4,
            Self::Admin => 8,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        // The server folds the case of the role, but not of the namespace.
        [Self::Worker, Self::Read, Self::Write, Self::Admin]
            .into_iter()
            .find(|role| role.name().eq_ignore_ascii_case(text))
            .ok_or(())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A permission that the server would ignore.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a permission: {reason}", text.escape_debug())]
pub struct PermissionError {
    text: String,
    reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Reason {
    #[error("write it as `<namespace>:<role>`")]
    NoColon,
    #[error("the namespace is missing before the colon")]
    NoNamespace,
    #[error("a namespace cannot contain white space or control characters")]
    Whitespace,
    #[error(
        "the role is not one of `read`, `write`, `worker` and `admin`, and the server would ignore it"
    )]
    UnknownRole,
}

/// Warnings about permissions that are valid but probably unintended, one sentence each.
/// `namespace` is the namespace in which the token will be used, if it is known.
pub fn lint(permissions: &[Permission], namespace: Option<&str>) -> Vec<String> {
    let mut warnings = Vec::new();
    if permissions.is_empty() {
        warnings.push("the token has no permissions: the server will refuse every call".to_owned());
    }
    for permission in permissions {
        if permission.namespace == "system" {
            warnings.push(format!(
                "`{permission}` grants nothing on the cluster since server 1.21: the cluster \
                 scope is `{CLUSTER_SCOPE}:{}`, and `system` is an ordinary namespace",
                permission.role
            ));
        }
        if permission.role == Role::Worker
            && !permissions
                .iter()
                .any(|other| other.grants(&permission.namespace, Role::Write))
        {
            warnings.push(format!(
                "`{permission}` alone grants nothing, not even polling: a worker needs `{}:write`",
                permission.namespace
            ));
        }
    }
    if let Some(namespace) = namespace
        && !permissions.is_empty()
        && !permissions
            .iter()
            .any(|permission| permission.grants(namespace, Role::Worker))
    {
        let near = permissions
            .iter()
            .find(|permission| permission.namespace.eq_ignore_ascii_case(namespace));
        warnings.push(match near {
            Some(near) => format!(
                "`{near}` grants nothing on namespace `{namespace}`: the server is case-sensitive"
            ),
            None => format!("the token grants no permission on namespace `{namespace}`"),
        });
    }
    warnings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn permissions_that_the_server_ignores_are_refused() {
        for (text, reason) in [
            ("", "write it as"),
            ("default", "write it as"),
            (":write", "missing"),
            ("default:", "not one of"),
            ("default:writer", "not one of"),
            ("default:write:x", "not one of"),
            ("default: write", "not one of"),
            (" default:write", "white space"),
        ] {
            let error = text.parse::<Permission>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn roles_fold_case_and_namespaces_do_not() {
        let permission: Permission = "Payments:WRITE".parse().unwrap();
        assert_eq!(permission.to_string(), "Payments:write");
        assert!(permission.grants("Payments", Role::Read));
        assert!(!permission.grants("payments", Role::Read));
        assert!(!permission.grants("Payments", Role::Admin));
    }

    #[test]
    fn the_cluster_scope_holds_everywhere() {
        let permission: Permission = "temporal-system:read".parse().unwrap();
        assert!(permission.grants("anything", Role::Read));
        assert!(!permission.grants("anything", Role::Write));
    }

    #[test]
    fn lint_warns_of_probable_mistakes() {
        for (permissions, namespace, expected) in [
            (vec![], None, Some("no permissions")),
            (vec!["default:write"], Some("default"), None),
            (vec!["default:worker"], None, Some("alone grants nothing")),
            (vec!["default:worker", "default:write"], None, None),
            (vec!["default:worker", "temporal-system:admin"], None, None),
            (vec!["system:admin"], None, Some("since server 1.21")),
            (
                vec!["Default:write"],
                Some("default"),
                Some("case-sensitive"),
            ),
            (
                vec!["other:write"],
                Some("default"),
                Some("grants no permission on namespace `default`"),
            ),
            (vec!["temporal-system:read"], Some("default"), None),
        ] {
            let parsed: Vec<Permission> = permissions
                .iter()
                .map(|text| text.parse().unwrap())
                .collect();
            let warnings = lint(&parsed, namespace);
            match expected {
                Some(words) => assert!(
                    warnings.iter().any(|warning| warning.contains(words)),
                    "{permissions:?}: {warnings:?}"
                ),
                None => assert!(warnings.is_empty(), "{permissions:?}: {warnings:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_round_trips(text in "\\PC*") {
            if let Ok(permission) = text.parse::<Permission>() {
                let again: Permission = permission.to_string().parse().unwrap();
                prop_assert_eq!(again, permission);
            }
        }
    }
}
