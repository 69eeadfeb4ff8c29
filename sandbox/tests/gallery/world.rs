//! A server that all is right with, which the cases of a group share.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use keyutil::{ConnectArgs, connect, settings::Settings, token::SigningKey};
use keyutil_cli::{
    keys::keyring::read_signing_key,
    namespace,
    pki::{
        AlternativeName, Authority, AuthorityKind, AuthorityRequest, Layout, Leaf, LeafRequest,
        Party, Purpose, Validity,
    },
};
use sandbox::{
    Stack, StackOptions,
    ports::Ports,
    server::{Server, ServerPorts, ServerSettings},
};
use tokio::process::Command;

use super::case::Attempt;
use crate::support::{self, HOUR};

pub struct World {
    pub stack: Stack,
    /// What `faketime` loads, where it is installed.
    pub faketime: Option<String>,
}

impl World {
    pub async fn new() -> Self {
        Self {
            stack: support::stack(StackOptions::default()).await,
            faketime: support::clock::library().await.ok(),
        }
    }

    pub fn attempt(&self, number: usize) -> Attempt {
        let folder = self.stack.guard().folder().join(format!("case-{number}"));
        Attempt::new(folder)
    }

    /// A program with the right settings, in the folder of the attempt.
    pub fn command(&self, program: &Path, attempt: &Attempt) -> Command {
        let mut command = self.stack.command(program, Party::Starter);
        command
            .env_remove("SSL_CERT_FILE")
            .env_remove("SSL_CERT_DIR")
            .current_dir(&attempt.folder);
        // The doctor does not wait, and prints its settings.
        if program.ends_with("starter") {
            command.env("KEYUTIL_CONNECT_TIMEOUT", "5s");
        }
        attempt.tell(&mut command);
        command
    }

    pub fn signing_key(&self) -> SigningKey {
        read_signing_key(&self.stack.keyring().current_path()).unwrap()
    }

    pub fn authority(&self, kind: AuthorityKind) -> Authority {
        Authority::read(&Layout::new(&self.stack.certs()).authority(kind)).unwrap()
    }

    /// Certificate and key of the starter, as they should be.
    pub fn client_pem(&self) -> (String, String) {
        let files = Layout::new(&self.stack.certs()).party(Party::Starter);
        let read = |path| fs::read_to_string(path).unwrap();
        (read(files.certificate), read(files.key))
    }

    /// For the server, from the CA that the clients trust.
    pub fn server_leaf(&self, names: &[&str], validity: Validity) -> Leaf {
        issue(
            &self.authority(AuthorityKind::Frontend),
            Purpose::Server,
            names,
            validity,
        )
    }

    /// Another server beside the shared one, with other settings; it ends with what is given back.
    pub async fn another_server(
        &self,
        attempt: &Attempt,
        change: impl FnOnce(&mut ServerSettings),
    ) -> (String, (Server, Ports)) {
        let binary = support::server_binary().await;
        let ports = Ports::reserve(ServerPorts::COUNT).unwrap();
        let mut settings = self.stack.settings().clone();
        settings.ports = ServerPorts::starting_at(ports.range().start);
        settings.state_dir = attempt.folder.join("server");
        change(&mut settings);
        let server = Server::start(&binary, &settings, self.stack.guard()).await;
        let server = server.unwrap_or_else(|error| panic!("{}", keyutil::chain(&error)));
        (server.frontend_address().to_string(), (server, ports))
    }

    /// Registers the namespace on another server.
    pub async fn register(&self, change: impl FnOnce(&mut ConnectArgs)) {
        let mut args = self.stack.connect_args(Party::Admin);
        args.token.claims.permissions = Some("default:admin".to_owned());
        change(&mut args);
        let opened = connect::open(Settings::new(&args, "gallery").unwrap()).unwrap();
        namespace::register(&opened, "default", 24 * HOUR)
            .await
            .unwrap();
    }
}

/// A CA that neither side trusts.
pub fn stranger(name: &str) -> Authority {
    let validity = now();
    Authority::generate(&AuthorityRequest { name, validity }).unwrap()
}

/// A CA with the name of another.
pub fn namesake(of: &Authority, folder: &Path) -> Authority {
    let name = format!("/{}", of.summary().subject);
    let mut command = std::process::Command::new("openssl");
    let output = command
        .current_dir(folder)
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes".split(' '))
        .args([
            "-keyout",
            "namesake.key",
            "-out",
            "namesake.crt",
            "-subj",
            &name,
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let read = |file| fs::read_to_string(folder.join(file)).unwrap();
    Authority::load(&read("namesake.crt"), &read("namesake.key").into()).unwrap()
}

pub fn issue(authority: &Authority, purpose: Purpose, names: &[&str], validity: Validity) -> Leaf {
    let names: Vec<AlternativeName> = names.iter().map(|name| name.parse().unwrap()).collect();
    let request = LeafRequest {
        common_name: "test",
        names: &names,
        purpose,
        validity,
    };
    authority.issue(&request).unwrap()
}

pub fn now() -> Validity {
    Validity::from_now(HOUR).unwrap()
}

/// From this many seconds from now until that many from now.
pub fn seconds(from: i64, until: i64) -> Validity {
    let at = |seconds: i64| {
        let offset = std::time::Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 {
            SystemTime::now() - offset
        } else {
            SystemTime::now() + offset
        }
    };
    Validity::between(at(from), at(until)).unwrap()
}

/// A variable of the environment of the stack.
pub fn told(stack: &Stack, name: &str) -> PathBuf {
    let mut all = stack.environment(Party::Starter).into_iter();
    let found: Option<OsString> = all.find_map(|(found, value)| (found == name).then_some(value));
    found.unwrap().into()
}
