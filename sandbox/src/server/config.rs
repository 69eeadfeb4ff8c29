//! The server's configuration file.
//!
//! The server reads YAML, and JSON is YAML. The shape is that of `common/config/config.go` at tag
//! v1.31.2; what is left out has a default that suits one process on one machine.

mod security;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::settings::{Persistence, ServerPorts, ServerSettings};
use security::{AuthorizationConfig, TlsConfig};

/// The services, in the order of their ports.
///
/// With an authorizer the server's own worker needs the internal frontend, for it has no token
/// (temporalio/temporal#4864).
pub(super) const SERVICES: [&str; 5] = [
    "frontend",
    "internal-frontend",
    "history",
    "matching",
    "worker",
];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServerConfig<'s> {
    log: Log,
    persistence: PersistenceConfig,
    global: Global<'s>,
    services: BTreeMap<&'static str, Service>,
    cluster_metadata: ClusterMetadata,
    dc_redirection_policy: RedirectionPolicy,
    dynamic_config_client: DynamicConfigClient<'s>,
}

impl<'s> ServerConfig<'s> {
    pub(super) fn new(settings: &'s ServerSettings, dynamic_config: &'s Path) -> Self {
        let services = (0..).zip(SERVICES);
        Self {
            log: Log {
                stdout: true,
                level: if settings.debug_log { "debug" } else { "info" },
            },
            persistence: PersistenceConfig::new(&settings.persistence),
            global: Global::new(settings),
            services: services
                .map(|(index, name)| (name, Service::new(settings.ports, index)))
                .collect(),
            cluster_metadata: ClusterMetadata::new(settings.ports),
            dc_redirection_policy: RedirectionPolicy { policy: "noop" },
            dynamic_config_client: DynamicConfigClient {
                filepath: dynamic_config,
                // The server accepts no less.
                poll_interval: go_duration(Duration::from_secs(5)),
            },
        }
    }
}

#[derive(Serialize)]
struct Log {
    stdout: bool,
    level: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PersistenceConfig {
    default_store: &'static str,
    visibility_store: &'static str,
    num_history_shards: u32,
    datastores: BTreeMap<&'static str, Datastore>,
}

impl PersistenceConfig {
    fn new(persistence: &Persistence) -> Self {
        const STORE: &str = "default";
        Self {
            default_store: STORE,
            visibility_store: STORE,
            num_history_shards: 4,
            datastores: BTreeMap::from([(
                STORE,
                Datastore {
                    sql: Sql::new(persistence),
                },
            )]),
        }
    }
}

#[derive(Serialize)]
struct Datastore {
    sql: Sql,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sql {
    plugin_name: &'static str,
    database_name: String,
    connect_addr: &'static str,
    connect_protocol: &'static str,
    connect_attributes: BTreeMap<&'static str, &'static str>,
    max_conns: u32,
    max_idle_conns: u32,
}

impl Sql {
    /// Name and attributes become `file:<name>?<attributes>`.
    fn new(persistence: &Persistence) -> Self {
        let (database_name, connect_attributes) = match persistence {
            // All services of the process share one connection, and so its private cache.
            Persistence::Memory => (
                "temporal".to_owned(),
                BTreeMap::from([("mode", "memory"), ("cache", "private")]),
            ),
            Persistence::File(path) => (
                path.to_string_lossy()
                    .replace('%', "%25")
                    .replace('?', "%3f")
                    .replace('#', "%23"),
                BTreeMap::from([
                    ("mode", "rwc"),
                    ("cache", "private"),
                    ("setup", "true"),
                    ("journal_mode", "wal"),
                    ("synchronous", "2"),
                    ("busy_timeout", "10000"),
                ]),
            ),
        };
        Self {
            plugin_name: "sqlite",
            database_name,
            // Not used, but not allowed to be empty.
            connect_addr: "localhost",
            connect_protocol: "tcp",
            connect_attributes,
            max_conns: 1,
            max_idle_conns: 1,
        }
    }
}

#[derive(Serialize)]
struct Global<'s> {
    membership: Membership,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsConfig<'s>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization: Option<AuthorizationConfig<'s>>,
}

impl<'s> Global<'s> {
    fn new(settings: &'s ServerSettings) -> Self {
        Self {
            membership: Membership {
                max_join_duration: go_duration(Duration::from_secs(30)),
                broadcast_address: Ipv4Addr::LOCALHOST,
            },
            tls: settings.tls.as_ref().map(TlsConfig::new),
            authorization: settings
                .authorization
                .as_ref()
                .map(AuthorizationConfig::new),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Membership {
    max_join_duration: String,
    broadcast_address: Ipv4Addr,
}

#[derive(Serialize)]
struct Service {
    rpc: Rpc,
}

impl Service {
    fn new(ports: ServerPorts, index: u16) -> Self {
        Self {
            rpc: Rpc {
                grpc_port: ports.grpc(index),
                membership_port: ports.membership(index),
                bind_on_ip: Ipv4Addr::LOCALHOST,
            },
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rpc {
    grpc_port: u16,
    membership_port: u16,
    #[serde(rename = "bindOnIP")]
    bind_on_ip: Ipv4Addr,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClusterMetadata {
    enable_global_namespace: bool,
    failover_version_increment: u32,
    master_cluster_name: &'static str,
    current_cluster_name: &'static str,
    cluster_information: BTreeMap<&'static str, Cluster>,
}

impl ClusterMetadata {
    fn new(ports: ServerPorts) -> Self {
        const CLUSTER: &str = "active";
        Self {
            enable_global_namespace: false,
            failover_version_increment: 10,
            master_cluster_name: CLUSTER,
            current_cluster_name: CLUSTER,
            cluster_information: BTreeMap::from([(
                CLUSTER,
                Cluster {
                    enabled: true,
                    initial_failover_version: 1,
                    rpc_address: format!("{}:{}", Ipv4Addr::LOCALHOST, ports.frontend()),
                },
            )]),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cluster {
    enabled: bool,
    initial_failover_version: u32,
    rpc_address: String,
}

#[derive(Serialize)]
struct RedirectionPolicy {
    policy: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DynamicConfigClient<'s> {
    filepath: &'s Path,
    poll_interval: String,
}

/// A duration the way Go's `time.ParseDuration` reads it.
fn go_duration(duration: Duration) -> String {
    match duration.subsec_nanos() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ns", duration.as_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use super::*;

    fn config(settings: &ServerSettings) -> Value {
        serde_json::to_value(ServerConfig::new(settings, Path::new("/state/d.yaml"))).unwrap()
    }

    fn plain() -> ServerSettings {
        ServerSettings::plain(ServerPorts::starting_at(100), "/state".into())
    }

    #[test]
    fn durations_are_written_for_go() {
        for (duration, expected) in [
            (Duration::ZERO, "0s"),
            (Duration::from_secs(90), "90s"),
            (Duration::from_millis(1500), "1500000000ns"),
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
}
