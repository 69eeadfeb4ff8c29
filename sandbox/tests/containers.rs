//! What `docker/verify` needs a docker daemon for is tried there. This holds the files together.
use std::{fs, path::Path, process::Command};

use sandbox::provision;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

fn setting(name: &str) -> String {
    let settings = read(".env");
    let value = settings
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap().to_owned()
}

#[test]
fn the_containers_have_the_server_and_the_toolchain_of_everything_else() {
    assert_eq!(setting("TEMPORAL_VERSION"), provision::VERSION);
    let toolchain = read("rust-toolchain.toml");
    let version = setting("RUST_VERSION");
    assert!(
        toolchain.contains(&format!("channel = \"{version}.")),
        "{toolchain}"
    );
}

#[test]
fn every_setting_is_there_and_used() {
    let uses = ["docker-compose.yml", "docker/temporal/server.yaml"]
        .map(read)
        .concat();
    let settings = read(".env");
    let defined: Vec<_> = settings
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.split_once('=')?.0))
        .collect();
    for name in &defined {
        assert!(
            uses.contains(&format!("${{{name}}}")),
            "{name} is used nowhere"
        );
    }
    for rest in uses.split("${").skip(1) {
        let name = rest.split('}').next().unwrap();
        assert!(defined.contains(&name), "{name} is set nowhere");
    }
}

#[test]
fn the_scripts_are_shell_and_the_dashboard_is_json() {
    let parts: Vec<_> = fs::read_dir(root().join("docker/verify.d"))
        .unwrap()
        .map(|part| part.unwrap().path())
        .collect();
    assert!(!parts.is_empty());
    let parts = parts.iter().map(|part| ("bash", part.to_str().unwrap()));
    for (shell, script) in parts.chain([
        ("bash", "docker/verify"),
        ("sh", "docker/postgresql/init.sh"),
        ("sh", "docker/schema/schema.sh"),
        ("sh", "docker/ui/start.sh"),
        ("sh", "docker/ui-proxy/start.sh"),
    ]) {
        let read = Command::new(shell)
            .arg("-n")
            .arg(root().join(script))
            .output()
            .unwrap();
        assert!(read.status.success(), "{script}: {read:?}");
    }
    let dashboard = read("docker/grafana/dashboards/temporal.json");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 10);
}
