//! The files in a server's state folder.
//!
//! The server reads YAML, and JSON is YAML. The shape is that of `common/config/config.go` at tag
//! v1.31.2; what is left out has a default that suits one process on one machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use keyutil_cli::files::{self, Mode};
use serde_json::{Map, Value, json};

use super::{Authorization, Persistence, SERVICES, ServerPorts, ServerSettings, Tls};

/// What a server process is started with.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) config: PathBuf,
    pub(super) log: PathBuf,
}

impl Files {
    /// Makes the folder and writes the configuration.
    pub(super) fn write(settings: &ServerSettings) -> anyhow::Result<Self> {
        let folder = &settings.state_dir;
        // Must exist once it is configured. An entry is a list of values with constraints.
        let dynamic_config = folder.join("dynamicconfig.yaml");
        let entries = dynamic_entries(settings).into_iter();
        let entries = entries.map(|(key, value)| (key, json!([{ "value": value }])));
        replace(&dynamic_config, &Value::Object(entries.collect()))?;
        let config = folder.join("server.yaml");
        replace(&config, &server_config(settings, &dynamic_config)?)?;
        Ok(Self {
            config,
            log: folder.join("temporal-server.log"),
        })
    }

    /// Opens the log for the server to append to.
    pub(super) fn open_log(&self) -> anyhow::Result<File> {
        let mut options = File::options();
        let log = options
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.log);
        log.with_context(|| write_failed(&self.log))
    }
}

fn replace(path: &Path, content: &Value) -> anyhow::Result<()> {
    files::replace(path, format!("{content:#}").as_bytes(), Mode::Private)
        .map_err(|error| error.source)
        .with_context(|| write_failed(path))
}

fn write_failed(path: &Path) -> String {
    let path = path.display();
    format!("failed to write `{path}`; is there room, and is the folder ours?")
}

/// The dynamic configuration: that of the settings, which takes precedence, and what TLS needs.
fn dynamic_entries(settings: &ServerSettings) -> BTreeMap<String, Value> {
    let mut entries = settings.dynamic_config.clone();
    if settings.tls.is_some() {
        // Without it the membership ports use plaintext and no authentication, and a forged member
        // can stop the cluster (`common/membership/ringpop/factory.go`).
        let key = "system.enableRingpopTLS".to_owned();
        entries.entry(key).or_insert(json!(true));
    }
    entries
}

fn server_config(settings: &ServerSettings, dynamic_config: &Path) -> anyhow::Result<Value> {
    let ports = settings.ports;
    let mut global = json!({
        "membership": { "maxJoinDuration": "30s", "broadcastAddress": "127.0.0.1" },
    });
    if let Some(tls) = &settings.tls {
        global["tls"] = tls_config(tls)?;
    }
    if let Some(authorization) = &settings.authorization {
        global["authorization"] = authorization_config(authorization);
    }
    let services = SERVICES.iter().zip(ports.all()).map(|(name, port)| {
        let rpc = json!({
            "grpcPort": port,
            "membershipPort": port + ServerPorts::SERVICES,
            "bindOnIP": "127.0.0.1",
        });
        (name.to_string(), json!({ "rpc": rpc }))
    });
    Ok(json!({
        "log": { "stdout": true, "level": if settings.debug_log { "debug" } else { "info" } },
        "persistence": {
            "defaultStore": "default",
            "visibilityStore": "default",
            "numHistoryShards": 4,
            "datastores": { "default": { "sql": sql_config(&settings.persistence)? } },
        },
        "global": global,
        "services": services.collect::<Map<_, _>>(),
        "clusterMetadata": {
            "enableGlobalNamespace": false,
            "failoverVersionIncrement": 10,
            "masterClusterName": "active",
            "currentClusterName": "active",
            "clusterInformation": {
                "active": {
                    "enabled": true,
                    "initialFailoverVersion": 1,
                    "rpcAddress": format!("127.0.0.1:{}", ports.frontend()),
                },
            },
        },
        "dcRedirectionPolicy": { "policy": "noop" },
        "dynamicConfigClient": {
            "filepath": text(dynamic_config)?,
            // The server accepts no less.
            "pollInterval": "5s",
        },
    }))
}

/// Name and attributes become `file:<name>?<attributes>`.
fn sql_config(persistence: &Persistence) -> anyhow::Result<Value> {
    let (name, attributes) = match persistence {
        // All services of the process share one connection, and so its private cache.
        Persistence::Memory => (
            "temporal".to_owned(),
            json!({ "mode": "memory", "cache": "private" }),
        ),
        Persistence::File(path) => (
            text(path)?
                .replace('%', "%25")
                .replace('?', "%3f")
                .replace('#', "%23"),
            json!({
                "mode": "rwc",
                "cache": "private",
                "setup": "true",
                "journal_mode": "wal",
                "synchronous": "2",
                "busy_timeout": "10000",
            }),
        ),
    };
    Ok(json!({
        "pluginName": "sqlite",
        "databaseName": name,
        // Not used, but not allowed to be empty.
        "connectAddr": "localhost",
        "connectProtocol": "tcp",
        "connectAttributes": attributes,
        "maxConns": 1,
        "maxIdleConns": 1,
    }))
}

fn tls_config(tls: &Tls) -> anyhow::Result<Value> {
    let (frontend, internode) = (&tls.frontend, &tls.internode);
    let client_cas = frontend.client_ca.iter().map(|path| text(path));
    Ok(json!({
        "refreshInterval": go_duration(tls.refresh),
        "internode": {
            "server": {
                "requireClientAuth": true,
                "certFile": text(&internode.cert)?,
                "keyFile": text(&internode.key)?,
                "clientCaFiles": [text(&internode.ca)?],
            },
            "client": {
                "serverName": internode.server_name,
                "rootCaFiles": [text(&internode.ca)?],
            },
        },
        // No client section: inside the server the internal frontend is used.
        "frontend": {
            "server": {
                "requireClientAuth": !frontend.client_ca.is_empty(),
                "certFile": text(&frontend.cert)?,
                "keyFile": text(&frontend.key)?,
                "clientCaFiles": client_cas.collect::<anyhow::Result<Vec<_>>>()?,
            },
        },
    }))
}

fn authorization_config(authorization: &Authorization) -> Value {
    let mut config = json!({
        "jwtKeyProvider": {
            "keySourceURIs": [authorization.jwks_uri],
            "refreshInterval": go_duration(authorization.jwks_refresh),
        },
        "permissionsClaimName": "permissions",
        // Both names, always: with an authorizer but no claim mapper every caller is an
        // administrator.
        "authorizer": "default",
        "claimMapper": "default",
    });
    if let Some(audience) = &authorization.audience {
        config["audience"] = json!(audience);
    }
    config
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| {
        let path = path.display();
        format!("failed to encode `{path}`; use paths that are valid UTF-8")
    })
}

/// A duration the way Go's `time.ParseDuration` reads it.
fn go_duration(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::server::{FrontendTls, InternodeTls};

    fn config(settings: &ServerSettings) -> Value {
        server_config(settings, Path::new("/state/d.yaml")).unwrap()
    }

    fn plain() -> ServerSettings {
        ServerSettings::plain(ServerPorts::starting_at(100), "/state".into())
    }

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
    fn durations_are_written_for_go() {
        for (duration, expected) in [
            (Duration::ZERO, "0s"),
            (Duration::from_secs(90), "90s"),
            (Duration::from_millis(1500), "1.5s"),
        ] {
            assert_eq!(go_duration(duration), expected);
        }
    }

    #[test]
    fn a_plain_server_has_neither_tls_nor_authorization() {
        let config = config(&plain());
        assert_eq!(
            config["global"],
            json!({ "membership": { "maxJoinDuration": "30s", "broadcastAddress": "127.0.0.1" } })
        );
        assert_eq!(
            config["services"]["internal-frontend"],
            json!({ "rpc": { "grpcPort": 101, "membershipPort": 106, "bindOnIP": "127.0.0.1" } })
        );
        // The server refuses a public client beside an internal frontend.
        assert_eq!(config.get("publicClient"), None);
    }

    #[test]
    fn every_port_is_used_once() {
        let config = config(&plain());
        let services = config["services"].as_object().unwrap().values();
        let mut ports: Vec<_> = services
            .flat_map(|service| ["grpcPort", "membershipPort"].map(|kind| &service["rpc"][kind]))
            .map(|port| port.as_u64().unwrap())
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, (100..110).collect::<Vec<_>>());
        assert_eq!(ports.len(), usize::from(ServerPorts::COUNT));
    }

    #[test]
    fn a_database_path_cannot_end_the_name_early() {
        let settings = ServerSettings {
            persistence: Persistence::File(PathBuf::from("/a?b#c%d/temporal.db")),
            ..plain()
        };
        let config = config(&settings);
        let sql = &config["persistence"]["datastores"]["default"]["sql"];
        assert_eq!(sql["databaseName"], "/a%3fb%23c%25d/temporal.db");
        assert_eq!(sql["connectAttributes"]["setup"], "true");
    }

    #[test]
    fn a_path_that_cannot_be_written_is_refused() {
        let mut tls = tls();
        tls.frontend.client_ca[1] = OsStr::from_bytes(b"\xff.crt").into();
        let settings = ServerSettings {
            tls: Some(tls),
            ..plain()
        };
        let error = server_config(&settings, Path::new("d.yaml")).unwrap_err();
        assert!(error.to_string().contains("UTF-8"), "{error}");
    }

    #[test]
    fn without_client_authorities_clients_need_no_certificate() {
        let mut tls = tls();
        tls.frontend.client_ca.clear();
        let config = tls_config(&tls).unwrap();
        assert_eq!(config["frontend"]["server"]["requireClientAuth"], false);
        assert_eq!(config["internode"]["server"]["requireClientAuth"], true);
    }

    #[test]
    fn tls_is_mutual_on_both_sides() {
        assert_eq!(
            tls_config(&tls()).unwrap(),
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
            authorization_config(&authorization),
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

    #[test]
    fn with_tls_the_members_use_it_too() {
        assert_eq!(dynamic_entries(&plain()), BTreeMap::new());
        let settings = ServerSettings {
            tls: Some(tls()),
            ..plain()
        };
        let expected = [("system.enableRingpopTLS".to_owned(), json!(true))];
        assert_eq!(dynamic_entries(&settings), expected.into());
    }

    #[test]
    fn the_files_are_ours_alone_and_can_be_written_again() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("made/on the way");
        let mut settings = ServerSettings::plain(ServerPorts::starting_at(100), folder.clone());
        Files::write(&settings).unwrap();
        settings
            .dynamic_config
            .insert("frontend.keepAliveMaxConnectionAge".into(), json!("10s"));
        let files = Files::write(&settings).unwrap();

        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let dynamic_config = folder.join("dynamicconfig.yaml");
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&files.config), 0o600);
        assert_eq!(mode(&dynamic_config), 0o600);
        let entries: Value = serde_json::from_slice(&fs::read(dynamic_config).unwrap()).unwrap();
        assert_eq!(
            entries,
            json!({ "frontend.keepAliveMaxConnectionAge": [{ "value": "10s" }] })
        );
    }
}
