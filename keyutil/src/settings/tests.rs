//! Flags that make sense, and flags that do not.

mod addresses;
mod mistakes;
mod tls;

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use super::*;
use crate::samples;

/// Certificates and a signing key of its own.
struct World {
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let worker = samples::client();
        let server = samples::valid_for(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
        for (file, content) in [
            ("tls.crt", worker.leaf_pem),
            ("tls.key", worker.key_pem),
            ("ca.crt", worker.ca_pem),
            ("server.crt", server.leaf_pem),
            ("server.key", server.key_pem),
        ] {
            fs::write(world.file(file), content).unwrap();
        }
        samples::write_key(&world.signing_key());
        world
    }

    /// With a CA, so that nothing depends on those of this machine.
    fn tls(&self) -> ConnectArgs {
        ConnectArgs {
            tls_ca_path: Some(self.file("ca.crt")),
            names: Names::Flags,
            ..ConnectArgs::default()
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn signing_key(&self) -> PathBuf {
        self.file("signing.pem")
    }
}

fn is_tls(settings: &Settings) -> bool {
    matches!(settings.connector.security(), Security::Tls { .. })
}

#[test]
fn a_flag_is_accepted_before_and_after_a_subcommand() {
    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        connect: ConnectArgs,
        #[command(subcommand)]
        command: Order,
    }
    #[derive(clap::Subcommand)]
    enum Order {
        Start,
    }
    let address = "temporal.example:7233";
    let permissions = "orders:read";
    for arguments in [
        ["--address", address, "--permissions", permissions, "start"],
        ["--address", address, "start", "--permissions", permissions],
        ["start", "--address", address, "--permissions", permissions],
    ] {
        let arguments = ["test"].into_iter().chain(arguments);
        let Program { connect, command } = clap::Parser::parse_from(arguments);
        let Order::Start = command;
        assert_eq!(connect.address, address);
        let parsed = connect.token.claims.permissions;
        assert_eq!(parsed.as_deref(), Some(permissions));
    }
    let command = <Program as clap::CommandFactory>::command();
    let local = command.get_arguments().find(|one| !one.is_global_set());
    assert_eq!(local, None);
}
