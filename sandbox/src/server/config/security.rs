//! Who may connect, and who may do what.

use std::path::Path;

use serde::Serialize;

use super::go_duration;
use crate::server::settings::{Authorization, Tls};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TlsConfig<'s> {
    refresh_interval: String,
    internode: TlsGroup<'s>,
    frontend: TlsGroup<'s>,
}

impl<'s> TlsConfig<'s> {
    pub(super) fn new(tls: &'s Tls) -> Self {
        let Tls {
            frontend,
            internode,
            refresh,
        } = tls;
        Self {
            refresh_interval: go_duration(*refresh),
            internode: TlsGroup {
                server: TlsServer {
                    require_client_auth: true,
                    cert_file: &internode.cert,
                    key_file: &internode.key,
                    client_ca_files: vec![&internode.ca],
                },
                client: Some(TlsClient {
                    server_name: &internode.server_name,
                    root_ca_files: vec![&internode.ca],
                }),
            },
            frontend: TlsGroup {
                server: TlsServer {
                    require_client_auth: !frontend.client_ca.is_empty(),
                    cert_file: &frontend.cert,
                    key_file: &frontend.key,
                    client_ca_files: frontend.client_ca.iter().map(AsRef::as_ref).collect(),
                },
                // Nobody inside the server uses the frontend when there is an internal one.
                client: None,
            },
        }
    }
}

#[derive(Serialize)]
struct TlsGroup<'s> {
    server: TlsServer<'s>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<TlsClient<'s>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TlsServer<'s> {
    require_client_auth: bool,
    cert_file: &'s Path,
    key_file: &'s Path,
    client_ca_files: Vec<&'s Path>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TlsClient<'s> {
    server_name: &'s str,
    root_ca_files: Vec<&'s Path>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AuthorizationConfig<'s> {
    jwt_key_provider: KeyProvider<'s>,
    permissions_claim_name: &'static str,
    /// Both names, always: with an authorizer but no claim mapper everybody is an administrator.
    authorizer: &'static str,
    claim_mapper: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    audience: Option<&'s str>,
}

impl<'s> AuthorizationConfig<'s> {
    pub(super) fn new(authorization: &'s Authorization) -> Self {
        Self {
            jwt_key_provider: KeyProvider {
                key_source_uris: [&authorization.jwks_uri],
                refresh_interval: go_duration(authorization.jwks_refresh),
            },
            permissions_claim_name: "permissions",
            authorizer: "default",
            claim_mapper: "default",
            audience: authorization.audience.as_deref(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyProvider<'s> {
    #[serde(rename = "keySourceURIs")]
    key_source_uris: [&'s str; 1],
    refresh_interval: String,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::server::settings::{FrontendTls, InternodeTls};

    fn tls() -> Tls {
        Tls {
            frontend: FrontendTls {
                cert: "f.crt".into(),
                key: "f.key".into(),
                client_ca: vec!["new.crt".into(), "old.crt".into()],
            },
            internode: InternodeTls {
                cert: "i.crt".into(),
                key: "i.key".into(),
                ca: "i-ca.crt".into(),
                server_name: "internode".into(),
            },
            refresh: Duration::from_secs(1),
        }
    }

    #[test]
    fn without_client_authorities_clients_need_no_certificate() {
        let mut tls = tls();
        tls.frontend.client_ca.clear();
        let config = serde_json::to_value(TlsConfig::new(&tls)).unwrap();
        assert_eq!(config["frontend"]["server"]["requireClientAuth"], false);
        assert_eq!(config["internode"]["server"]["requireClientAuth"], true);
    }

    #[test]
    fn tls_is_mutual_on_both_sides() {
        assert_eq!(
            serde_json::to_value(TlsConfig::new(&tls())).unwrap(),
            json!({
                "refreshInterval": "1s",
                "internode": {
                    "server": {
                        "requireClientAuth": true,
                        "certFile": "i.crt",
                        "keyFile": "i.key",
                        "clientCaFiles": ["i-ca.crt"],
                    },
                    "client": { "serverName": "internode", "rootCaFiles": ["i-ca.crt"] },
                },
                "frontend": {
                    "server": {
                        "requireClientAuth": true,
                        "certFile": "f.crt",
                        "keyFile": "f.key",
                        "clientCaFiles": ["new.crt", "old.crt"],
                    },
                },
            })
        );
    }

    #[test]
    fn an_authorizer_never_comes_without_a_claim_mapper() {
        let authorization = Authorization {
            jwks_uri: "http://127.0.0.1:1/jwks.json".into(),
            jwks_refresh: Duration::from_secs(2),
            audience: Some("temporal".into()),
        };
        assert_eq!(
            serde_json::to_value(AuthorizationConfig::new(&authorization)).unwrap(),
            json!({
                "jwtKeyProvider": {
                    "keySourceURIs": ["http://127.0.0.1:1/jwks.json"],
                    "refreshInterval": "2s",
                },
                "permissionsClaimName": "permissions",
                "authorizer": "default",
                "claimMapper": "default",
                "audience": "temporal",
            })
        );
    }
}
