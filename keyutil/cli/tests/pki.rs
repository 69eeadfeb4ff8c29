//! `keyutil pki`, the program, judged by OpenSSL.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use crate::common::intermediate::root_and_intermediate;
use keyutil_cli::pki::{AuthorityKind, Layout, LeafRequest, Party, Purpose, Validity};
use tempfile::TempDir;

#[test]
fn every_file_is_where_it_belongs_and_keys_are_private() {
    let certs = Certs::new(&[]);
    let expected: HashSet<PathBuf> = [
        "worker/tls.crt",
        "worker/tls.key",
        "worker/ca.crt",
        "starter/tls.crt",
        "starter/tls.key",
        "starter/ca.crt",
        "admin/tls.crt",
        "admin/tls.key",
        "admin/ca.crt",
        "ui/tls.crt",
        "ui/tls.key",
        "ui/ca.crt",
        "frontend/tls.crt",
        "frontend/tls.key",
        "frontend/client-ca.crt",
        "internode/tls.crt",
        "internode/tls.key",
        "internode/ca.crt",
        "ca/clients.crt",
        "ca/clients.key",
        "ca/frontend.crt",
        "ca/frontend.key",
        "ca/internode.crt",
        "ca/internode.key",
    ]
    .map(PathBuf::from)
    .into();
    let found = certs.contents();
    assert_eq!(found.keys().cloned().collect::<HashSet<_>>(), expected);

    for path in expected {
        let path = certs.path(path);
        let is_key = path.extension().unwrap() == "key";
        let wanted = if is_key { 0o600 } else { 0o644 };
        assert_eq!(mode(&path), wanted, "{}", path.display());
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        let beginning = if is_key {
            "-----BEGIN PRIVATE KEY-----"
        } else {
            "-----BEGIN CERTIFICATE-----"
        };
        assert!(fs::read_to_string(&path).unwrap().starts_with(beginning));
    }
}

#[test]
fn openssl_accepts_each_leaf_under_its_own_ca_and_for_its_own_purpose_only() {
    let certs = Certs::new(&[]);
    for party in Party::ALL {
        for kind in AuthorityKind::ALL {
            for (flag, wanted) in [
                ("sslclient", party.purpose() != Purpose::Server),
                ("sslserver", party.purpose() != Purpose::Client),
            ] {
                let output = openssl()
                    .args(["verify", "-x509_strict", "-purpose", flag, "-CAfile"])
                    .arg(certs.layout.authority(kind).certificate)
                    .arg(certs.layout.party(party).certificate)
                    .output()
                    .unwrap();
                let accepted = output.status.success();
                let wanted = wanted && kind == party.issued_by();
                assert_eq!(accepted, wanted, "{party:?} {kind:?} {flag}: {output:?}");
            }
        }
    }
}

// In a test with rustls this would prove nothing: it ignores the path length of a trusted root.
#[test]
fn openssl_accepts_an_intermediate_ca_only_where_the_root_allows_it() {
    let folder = tempfile::tempdir().unwrap();
    let [root_file, leaf_file] = ["root.crt", "leaf.crt"].map(|name| folder.path().join(name));
    for (path_length, wanted) in [(1, true), (0, false)] {
        let [root, intermediate] = root_and_intermediate("root", path_length);
        let leaf = intermediate.issue(&LeafRequest {
            common_name: "worker",
            names: &[],
            purpose: Purpose::Client,
            validity: Validity::from_now(Duration::from_secs(3600)).unwrap(),
        });
        fs::write(&root_file, root.certificate_pem()).unwrap();
        fs::write(&leaf_file, leaf.unwrap().certificate_pem).unwrap();

        let output = openssl()
            .args(["verify", "-x509_strict", "-CAfile"])
            .arg(&root_file)
            .arg("-untrusted")
            .args([&leaf_file, &leaf_file])
            .output()
            .unwrap();
        assert_eq!(output.status.success(), wanted, "{path_length}: {output:?}");
    }
}

#[test]
fn each_party_gets_the_ca_of_its_peers() {
    let certs = Certs::new(&[]);
    for (party, authority) in [
        ("worker/ca.crt", "ca/frontend.crt"),
        ("starter/ca.crt", "ca/frontend.crt"),
        ("admin/ca.crt", "ca/frontend.crt"),
        ("ui/ca.crt", "ca/frontend.crt"),
        ("frontend/client-ca.crt", "ca/clients.crt"),
        ("internode/ca.crt", "ca/internode.crt"),
    ] {
        let [left, right] = [party, authority].map(|path| fs::read(certs.path(path)).unwrap());
        assert_eq!(left, right, "{party}");
    }
}

#[test]
fn each_key_belongs_to_its_certificate() {
    let certs = Certs::new(&[]);
    let parties = Party::ALL.map(|party| certs.layout.party(party));
    let parties = parties.map(|files| (files.certificate, files.key));
    let authorities = AuthorityKind::ALL.map(|kind| certs.layout.authority(kind));
    let authorities = authorities.map(|files| (files.certificate, files.key));

    let mut keys = HashSet::new();
    for (certificate, key) in parties.into_iter().chain(authorities) {
        let of_certificate = run(openssl()
            .args(["x509", "-noout", "-pubkey", "-in"])
            .arg(&certificate));
        let of_key = run(openssl().args(["pkey", "-pubout", "-in"]).arg(&key));
        assert_eq!(of_certificate, of_key, "{}", certificate.display());
        assert!(keys.insert(of_key), "{}: a key twice", key.display());
    }
}

#[test]
fn names_are_added_to_the_ones_that_are_always_there() {
    let certs = Certs::new(&[
        "--frontend-san=temporal",
        "--frontend-san=*.Example.com",
        "--frontend-san=10.1.2.3",
        "--frontend-san=LOCALHOST",
        "--internode-san=internode.example.com",
    ]);
    for (party, names) in [
        (Party::Worker, "DNS:worker.temporal.local"),
        (Party::Starter, "DNS:starter.temporal.local"),
        (Party::Admin, "DNS:admin.temporal.local"),
        (Party::Ui, "DNS:ui.temporal.local"),
        (
            Party::Frontend,
            "DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1, \
             DNS:frontend.temporal.local, DNS:temporal, DNS:*.example.com, IP Address:10.1.2.3",
        ),
        (
            Party::Internode,
            "DNS:internode.temporal.local, DNS:internode.example.com",
        ),
    ] {
        let certificate = certs.layout.party(party).certificate;
        let text = run(openssl()
            .args(["x509", "-noout", "-text", "-in"])
            .arg(certificate));
        let found = text.lines().map(str::trim).find(|line| line == &names);
        assert!(found.is_some(), "{party:?}: {text}");
    }
}

#[test]
fn lifetimes_are_those_that_were_asked_for() {
    let certs = Certs::new(&["--ca-lifetime=3h", "--leaf-lifetime=1h"]);
    for (path, hours) in [("worker/tls.crt", 1), ("ca/clients.crt", 3)] {
        for (seconds, valid) in [(hours * 3600 - 60, true), (hours * 3600 + 60, false)] {
            let output = openssl()
                .args(["x509", "-noout", "-checkend", &seconds.to_string(), "-in"])
                .arg(certs.path(path))
                .output()
                .unwrap();
            assert_eq!(output.status.success(), valid, "{path} in {seconds} s");
        }
    }
}

#[test]
fn nothing_is_overwritten_without_force_and_everything_with_it() {
    let certs = Certs::new(&[]);
    let before = certs.contents();

    let refused = certs.init(&[]);
    assert_eq!(refused.status.code(), Some(1));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(
        message.contains("refused to overwrite 24 of the 24 files"),
        "{message}"
    );
    for path in before.keys() {
        assert!(message.contains(&path.display().to_string()), "{message}");
    }
    assert!(
        message.contains("hint: `--force` replaces all"),
        "{message}"
    );
    assert!(refused.stdout.is_empty());
    assert_eq!(certs.contents(), before);

    assert!(certs.init(&["--force"]).status.success());
    let after = certs.contents();
    assert_eq!(after.len(), before.len());
    for (path, content) in after {
        assert_ne!(content, before[&path], "{}", path.display());
    }
}

#[test]
fn what_is_there_can_be_left_as_it_is() {
    let certs = Certs::new(&["--if-missing"]);
    let before = certs.contents();
    let kept = certs.init(&["--if-missing"]);
    assert_eq!(kept.status.code(), Some(0), "{kept:?}");
    let said = String::from_utf8(kept.stdout).unwrap();
    assert!(said.contains("left unchanged"), "{said}");
    assert_eq!(certs.contents(), before);

    // Half of a set is not taken for one.
    fs::remove_file(certs.path("ca/internode.key")).unwrap();
    let before = certs.contents();
    let refused = certs.init(&["--if-missing"]);
    assert_eq!(refused.status.code(), Some(1));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.contains("23 of the 24 files"), "{message}");
    assert!(message.contains("interrupted run"), "{message}");
    assert_eq!(certs.contents(), before);

    let both = certs.init(&["--if-missing", "--force"]);
    assert_eq!(both.status.code(), Some(64));
    assert_eq!(certs.contents(), before);
}

#[test]
fn one_file_that_is_there_is_enough_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::at(folder, "certs");
    let link = certs.path("starter/tls.crt");
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("nowhere", &link).unwrap();

    let refused = certs.init(&[]);
    assert_eq!(refused.status.code(), Some(1));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.contains("1 of the 24 files"), "{message}");
    assert!(message.contains("interrupted run"), "{message}");
    let below: Vec<_> = fs::read_dir(certs.path("")).unwrap().collect();
    assert_eq!(below.len(), 1, "{below:?}");
}

#[test]
fn wrong_input_is_a_usage_error_and_all_of_it_is_named() {
    let certs = Certs::at(tempfile::tempdir().unwrap(), "certs");
    let refused = certs.init(&[
        "--frontend-san=https://temporal",
        "--internode-san=a..b",
        "--ca-lifetime=36h",
        "--leaf-lifetime=90d",
    ]);

    assert_eq!(refused.status.code(), Some(64));
    let expected = "keyutil: invalid arguments:
  leaf lifetime `90d`: longer than the CA lifetime `1day 12h`
  frontend name `https://temporal` is neither a DNS name nor an IP address: only letters, digits, `-`, `_` and `.` are allowed
  internode name `a..b` is neither a DNS name nor an IP address: a label is empty
";
    snapbox::assert_data_eq!(String::from_utf8(refused.stderr).unwrap(), expected);
    assert!(!certs.path("").exists());
}

#[test]
fn a_folder_that_cannot_be_written_to_is_named() {
    let certs = Certs::at(tempfile::tempdir().unwrap(), "occupied/certs");
    fs::write(certs.folder.path().join("occupied"), "a file").unwrap();

    let failed = certs.init(&[]);
    assert_eq!(failed.status.code(), Some(64));
    let message = String::from_utf8(failed.stderr).unwrap();
    assert!(message.contains("occupied/certs/worker/"), "{message}");
    assert!(message.contains("Not a directory"), "{message}");
}

#[test]
fn stdout_tells_what_was_written_and_how_long_it_lasts() {
    let certs = Certs::at(tempfile::tempdir().unwrap(), "certs");
    let output = certs.init(&[]);
    let table = String::from_utf8(output.stdout).unwrap();

    assert_eq!(table.lines().count(), 25, "{table}");
    assert!(output.stderr.is_empty());
    snapbox::assert_data_eq!(
        table,
        "\
[..]  EXPIRES               WHAT
[..]/certs/worker/ca.crt[..]  [..]T[..]Z  frontend CA, which worker trusts
[..]/certs/worker/tls.key[..]  - [..]  private key of worker
[..]/certs/worker/tls.crt[..]  [..]T[..]Z  certificate of worker
...
[..]/certs/ca/internode.key[..]  - [..]  private key of the internode CA
"
    );
}

/// What one run leaves behind, in a folder of its own.
struct Certs {
    folder: TempDir,
    dir: PathBuf,
    layout: Layout,
}

impl Certs {
    fn new(args: &[&str]) -> Self {
        let certs = Self::at(tempfile::tempdir().unwrap(), "certs");
        let output = certs.init(args);
        assert!(output.status.success(), "{output:?}");
        certs
    }

    fn at(folder: TempDir, name: &str) -> Self {
        let dir = folder.path().join(name);
        let layout = Layout::new(&dir);
        Self {
            folder,
            dir,
            layout,
        }
    }

    fn init(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_keyutil"))
            .args(["pki", "init", "--dir"])
            .arg(&self.dir)
            .args(args)
            .output()
            .unwrap()
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut contents = BTreeMap::new();
        for party in fs::read_dir(&self.dir).unwrap() {
            for file in fs::read_dir(party.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                // Of the next run, too; no program reads it.
                if path.ends_with("ca/.lock") {
                    continue;
                }
                let name = path.strip_prefix(&self.dir).unwrap().to_owned();
                contents.insert(name, fs::read(&path).unwrap());
            }
        }
        contents
    }
}

fn openssl() -> Command {
    Command::new("openssl")
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
