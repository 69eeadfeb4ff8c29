//! The worker's credential files break in every way that files do, under load, and come back.
//!
//! The server ends each connection after two seconds and tokens live for four, so that handshakes
//! are made and tokens are signed while a file is not there. What was read before is used for both.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use crate::support::{self, InFlight, LIMIT, Observed, text};
use keyutil_cli::{
    files::{self, Mode},
    pki::{
        Authority, AuthorityKind, AuthorityRequest, Layout, LeafRequest, Party, PartyFiles,
        Purpose, Validity,
    },
};
use reqwest::StatusCode;
use sandbox::{Stack, StackOptions, guard::Signal, stack::connection_age};
use secrecy::ExposeSecret;
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn signing_key_certificate_and_ca() {
    let stack = stack().await;
    let files = own_files(&stack);
    let key = stack.guard().folder().join("signing.pem");
    fs::copy(stack.keyring().current_path(), &key).unwrap();
    let mut command = support::worker_command(&stack).await;
    command
        .env("KEYUTIL_SIGNING_KEY_PATH", &key)
        .env("KEYUTIL_TOKEN_LIFETIME", TOKEN_LIFETIME);

    let followed = [
        Followed::new("signing_key", "signing key", key),
        Followed::new(
            "client_certificate",
            "client certificate",
            files.certificate,
        ),
        Followed::new("server_ca", "server CA", files.trust),
    ];
    break_and_mend(&stack, &mut command, &followed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_file_and_client_key() {
    let stack = stack().await;
    let files = own_files(&stack);
    let token = stack.guard().folder().join("token");
    let content = support::token(&stack, Duration::from_secs(300));
    files::replace(&token, content.expose_secret().as_bytes(), Mode::Private).unwrap();
    let mut command = support::worker_command(&stack).await;
    command
        .env_remove("KEYUTIL_SIGNING_KEY_PATH")
        .env_remove("KEYUTIL_AUDIENCE")
        .env("KEYUTIL_TOKEN_FILE", &token);

    let followed = [
        Followed::new("token", "token", token),
        Followed::new("client_certificate", "client certificate", files.key),
    ];
    break_and_mend(&stack, &mut command, &followed).await;
}

/// The worker's whole folder, mounted as Kubernetes does it: every file is a link into `..data`,
/// which is a link to a folder of its own for each version.
#[tokio::test(flavor = "multi_thread")]
async fn a_kubernetes_volume_is_swapped_and_is_gone_for_a_while() {
    let stack = stack().await;
    let files = own_files(&stack);
    let next = stack.keyring().next_path();
    let volume = Volume::new(stack.guard().folder().join("volume"));
    let version = |certificate: &[u8], key: &[u8], ca: &[u8], signing: &[u8]| {
        [
            ("tls.crt", certificate.to_vec()),
            ("tls.key", key.to_vec()),
            ("ca.crt", ca.to_vec()),
            ("signing.pem", signing.to_vec()),
        ]
    };
    let read = |path: &Path| fs::read(path).unwrap();
    let ca = read(&files.trust);
    let (certificate, key) = (read(&files.certificate), read(&files.key));
    let signing = read(&stack.keyring().current_path());
    volume.swap("..1", &version(&certificate, &key, &ca, &signing));
    volume.link(["tls.crt", "tls.key", "ca.crt", "signing.pem"]);

    let mut command = support::worker_command(&stack).await;
    command
        .env("TEMPORAL_TLS_CLIENT_CERT_PATH", volume.file("tls.crt"))
        .env("TEMPORAL_TLS_CLIENT_KEY_PATH", volume.file("tls.key"))
        .env("TEMPORAL_TLS_SERVER_CA_CERT_PATH", volume.file("ca.crt"))
        .env("KEYUTIL_SIGNING_KEY_PATH", volume.file("signing.pem"))
        .env("KEYUTIL_TOKEN_LIFETIME", TOKEN_LIFETIME);
    let worker = Observed::start(&mut command).await;
    worker.becomes_ready().await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;

    // All of it is new: certificate and key, one more CA, the key that was published to be next.
    let leaf = issue(&stack);
    let more = [ca.as_slice(), another_ca().as_bytes()].concat();
    let key = leaf.key_pem.expose_secret().as_bytes();
    let new = version(leaf.certificate_pem.as_bytes(), key, &more, &read(&next));
    volume.swap("..2", &new);
    fs::remove_dir_all(volume.folder.join("..1")).unwrap();
    const NAMES: [&str; 3] = ["signing_key", "client_certificate", "server_ca"];
    let serial = worker
        .until("all that is new is in use", |status| {
            let reloads = |name: &str| status["credentials"][name]["reloads"] == 1;
            NAMES.into_iter().all(reloads)
        })
        .await["credentials"]["client_certificate"]["in_use"]
        .clone();
    worker
        .until("the new certificate is presented", |status| {
            let shown = &status["connection"]["last_handshake"]["client"]["serial"];
            text(&serial).contains(text(shown))
        })
        .await;
    load.more(50).await;
    assert_eq!(worker.program.complaints(), [""; 0]);

    // The version that `..data` names is gone, or not there yet.
    fs::rename(volume.folder.join("..2"), volume.folder.join("aside")).unwrap();
    worker
        .until("all are reported to be gone", |status| {
            let gone = |name: &str| status["credentials"][name]["last_failure"].is_object();
            NAMES.into_iter().all(gone)
        })
        .await;
    assert_eq!(worker.ready().await.0, StatusCode::OK);
    load.more(50).await;
    fs::rename(volume.folder.join("aside"), volume.folder.join("..2")).unwrap();
    let status = worker
        .until("all are back", |status| {
            let back = |name: &str| status["credentials"][name]["last_failure"].is_null();
            NAMES.into_iter().all(back)
        })
        .await;
    for name in NAMES {
        assert_eq!(status["credentials"][name]["reloads"], 1, "{status:#}");
    }
    load.stop().await;
    assert_eq!(worker.program.complaints().len(), NAMES.len());
    end(worker).await;
}

/// One file of the worker's.
struct Followed {
    /// Of the credential in `/status`.
    name: &'static str,
    /// Of the credential in the log.
    kind: &'static str,
    path: PathBuf,
}

impl Followed {
    fn new(name: &'static str, kind: &'static str, path: PathBuf) -> Self {
        Self { name, kind, path }
    }
}

/// Breaks these files at the same time, in one way after the other. Each belongs to a credential
/// of its own.
async fn break_and_mend(stack: &Stack, command: &mut Command, followed: &[Followed]) {
    let worker = Observed::start(command).await;
    worker.becomes_ready().await;
    let load = InFlight::start(&stack.connect_args(Party::Starter)).await;
    let before = worker.status().await["connection"]["handshakes"].clone();

    let mut rounds = 0;
    for fault in Fault::ALL {
        if fault == Fault::Locked && !locks_out() {
            eprintln!("not tried, because this user may read everything: {fault:?}");
            continue;
        }
        rounds += 1;
        let began = SystemTime::now();
        for followed in followed {
            fault.befalls(&followed.path);
        }
        let broken = worker
            .until("what is broken is told", |status| {
                let told = |name: &str| status["credentials"][name]["last_failure"].is_object();
                followed.iter().all(|followed| told(followed.name))
            })
            .await;
        for Followed { name, kind, path } in followed {
            let credential = &broken["credentials"][*name];
            let failure = &credential["last_failure"];
            let reason = text(&failure["reason"]);
            let path = path.display().to_string();
            assert!(reason.contains(&path), "{fault:?}, {path}: {reason}");
            let words = fault.words(name);
            assert!(reason.contains(words), "{fault:?}, {words}: {reason}");
            let since = humantime::parse_rfc3339(text(&failure["since"])).unwrap();
            // Times of the status are cut.
            assert!(
                since + Duration::from_secs(1) > began,
                "{fault:?}: {broken:#}"
            );
            let line = reported(&worker, kind, rounds).await;
            assert!(line.contains(&path), "{fault:?}: {line}");
        }
        assert_eq!(worker.ready().await.0, StatusCode::OK, "{fault:?}");
        load.more(50).await;

        for followed in followed {
            fault.is_over(&followed.path);
        }
        let back = Instant::now();
        worker
            .until("nothing is wrong any more", |status| {
                let good = |name: &str| status["credentials"][name]["last_failure"].is_null();
                followed.iter().all(|followed| good(followed.name))
            })
            .await;
        assert!(back.elapsed() < NOTICED, "{fault:?}: {:?}", back.elapsed());
    }

    load.stop().await;
    let status = worker.status().await;
    let shaken = status["connection"]["handshakes"].as_u64();
    assert!(
        shaken > before.as_u64().map(|before| before + 2),
        "{before} and {shaken:?} handshakes"
    );
    for Followed { name, .. } in followed {
        // What came back is what was there before.
        assert_eq!(status["credentials"][*name]["reloads"], 0, "{status:#}");
    }
    assert_eq!(
        worker.program.complaints().len(),
        rounds * followed.len(),
        "{}",
        worker.program.log()
    );
    assert_eq!(status["calls"]["refusals"]["count"], 0, "{status:#}");
    end(worker).await;
}

/// What the log says of this kind of credential for the time of this number.
async fn reported(worker: &Observed, kind: &str, number: usize) -> String {
    let begun = Instant::now();
    loop {
        let mut lines = worker.program.lines_with("kept the one in use");
        lines.retain(|line| line.contains(&format!("credential=\"{kind}\"")));
        if let Some(line) = lines.get(number - 1) {
            return line.clone();
        }
        let log = || worker.program.log();
        assert!(begun.elapsed() < NOTICED, "not reported: {kind}\n{}", log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Gone,
    /// Without permissions.
    Locked,
    /// A link to itself, which not even root can read.
    Loop,
    Empty,
    Folder,
    /// A link to nothing.
    Dangling,
}

impl Fault {
    const ALL: [Self; 6] = [
        Self::Gone,
        Self::Locked,
        Self::Loop,
        Self::Empty,
        Self::Folder,
        Self::Dangling,
    ];

    fn befalls(self, path: &Path) {
        if self == Self::Locked {
            return fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
        }
        fs::rename(path, aside(path)).unwrap();
        match self {
            Self::Gone | Self::Locked => {}
            Self::Loop => symlink(path, path).unwrap(),
            Self::Empty => fs::write(path, "").unwrap(),
            Self::Folder => fs::create_dir(path).unwrap(),
            Self::Dangling => symlink("nothing", path).unwrap(),
        }
    }

    fn is_over(self, path: &Path) {
        match self {
            Self::Locked => {
                return fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
            }
            Self::Folder => {
                use rustix::fs::{CWD, RenameFlags, renameat_with};
                // In one step: a read between two steps would report a missing file.
                renameat_with(CWD, aside(path), CWD, path, RenameFlags::EXCHANGE).unwrap();
                return fs::remove_dir(aside(path)).unwrap();
            }
            Self::Gone | Self::Loop | Self::Empty | Self::Dangling => {}
        }
        fs::rename(aside(path), path).unwrap();
    }

    /// Of the report.
    fn words(self, name: &str) -> &'static str {
        match self {
            Self::Gone | Self::Dangling => "No such file or directory",
            Self::Locked => "Permission denied",
            Self::Loop => "Too many levels of symbolic links",
            Self::Folder => "not a regular file",
            Self::Empty if name == "token" => "the token is empty",
            Self::Empty => "block",
        }
    }
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("aside")
}

/// Whether a file without permissions cannot be read: root reads it.
fn locks_out() -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::set_permissions(file.path(), Permissions::from_mode(0o000)).unwrap();
    File::open(file.path()).is_err()
}

/// A folder as Kubernetes mounts a secret.
struct Volume {
    folder: PathBuf,
}

impl Volume {
    fn new(folder: PathBuf) -> Self {
        fs::create_dir(&folder).unwrap();
        Self { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The links that a program is given, once for all versions.
    fn link<const N: usize>(&self, names: [&str; N]) {
        for name in names {
            symlink(Path::new("..data").join(name), self.file(name)).unwrap();
        }
    }

    /// Writes a version, and has `..data` name it in one step.
    fn swap(&self, version: &str, files: &[(&str, Vec<u8>)]) {
        let folder = self.folder.join(version);
        fs::create_dir(&folder).unwrap();
        for (name, content) in files {
            fs::write(folder.join(name), content).unwrap();
        }
        let link = self.folder.join("..data_tmp");
        symlink(version, &link).unwrap();
        fs::rename(link, self.folder.join("..data")).unwrap();
    }
}

async fn stack() -> Stack {
    support::stack(StackOptions {
        dynamic_config: connection_age(Duration::from_secs(2)),
        ..StackOptions::default()
    })
    .await
}

fn own_files(stack: &Stack) -> PartyFiles {
    Layout::new(&stack.certs()).party(Party::Worker)
}

fn issue(stack: &Stack) -> keyutil_cli::pki::Leaf {
    let files = Layout::new(&stack.certs()).authority(AuthorityKind::Clients);
    let request = LeafRequest {
        common_name: "worker",
        names: &[],
        purpose: Purpose::Client,
        validity: validity(),
    };
    Authority::read(&files).unwrap().issue(&request).unwrap()
}

/// Of a CA that has signed nothing yet.
fn another_ca() -> String {
    let request = AuthorityRequest {
        name: "another",
        validity: validity(),
    };
    let authority = Authority::generate(&request).unwrap();
    authority.certificate_pem().to_owned()
}

fn validity() -> Validity {
    Validity::from_now(Duration::from_secs(3600)).unwrap()
}

async fn end(mut worker: Observed) {
    worker.program.signal(Signal::TERM);
    let ended = worker.program.ended(LIMIT).await;
    assert!(ended.success(), "{}", worker.program.log());
}

/// Of the worker's tokens, where it mints them.
const TOKEN_LIFETIME: &str = "4s";

/// Files are looked at once a second. The rest is for a busy machine.
const NOTICED: Duration = Duration::from_secs(5);
