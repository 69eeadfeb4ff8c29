//! `keyutil token renew` as a process: what is in the file, and what it answers of itself.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::common::endpoint::Running;
use crate::common::program::{Ended, inspect, keyutil, run, with_keys};

/// The shortest that is allowed: it is renewed after ten seconds.
const LIFETIME: &str = "--token-lifetime=15s";

#[test]
fn the_token_is_renewed_before_it_expires_and_with_a_new_key_at_once() {
    let folder = with_keys();
    let agent = Agent::start(
        folder.path(),
        &[LIFETIME, "--namespace=orders", "--subject=w"],
    );
    let first = agent.token();
    let mode = fs::metadata(&agent.output).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let shown = verified(folder.path(), &first);
    for words in [r#""permissions":["orders:write"]"#, r#""sub":"w""#] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(agent.probe("readyz").code == Some(0));

    // Whatever a reader finds at any moment, it has not expired.
    let second = agent.waits_for_another_than(&first);
    verified(folder.path(), &second);

    let rotated = run(keyutil(folder.path()).args(["key", "rotate", "--emergency"]));
    assert_eq!(rotated.code, Some(0), "{rotated:?}");
    let third = agent.waits_for_another_than(&second);
    // The key before is in the key set no more.
    assert!(verified(folder.path(), &third).contains("verified with the key"));
    let log = agent.terminate();
    assert!(!log.contains("eyJ"), "{log}");
    let tokens = fs::read_dir(folder.path().join("run")).unwrap();
    let mut left: Vec<_> = tokens.map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".token.lock", "token"]);
}

#[test]
fn an_output_that_is_no_file_is_refused_with_the_reason() {
    let folder = with_keys();
    let made = std::process::Command::new("mkfifo")
        .arg(folder.path().join("pipe"))
        .status();
    assert!(made.unwrap().success());
    for output in ["pipe", "certs"] {
        let arguments = ["token", "renew", "--output", output];
        let ended = run(keyutil(folder.path()).args(arguments));
        assert_eq!(ended.code, Some(64), "{ended:?}");
        for words in [
            ": not a regular file\n",
            "hint: `--output` must name a file",
        ] {
            assert!(ended.stderr.contains(words), "{words}: {ended:?}");
        }
    }
}

#[test]
fn what_is_wrong_is_answered_until_it_is_over() {
    let folder = with_keys();
    let agent = Agent::start(folder.path(), &[]);
    let token = agent.token();
    fs::remove_file(&agent.output).unwrap();
    fs::create_dir(&agent.output).unwrap();
    let refused = agent.waits_for_probe(Some(69));
    for words in ["503", "no token has been written since", "run/token"] {
        assert!(refused.stderr.contains(words), "{words}: {refused:?}");
    }
    assert_eq!(agent.probe("healthz").code, Some(0));
    let numbers = agent.metrics();
    assert!(numbers.contains("keyutil_ready 0"), "{numbers}");

    fs::remove_dir(&agent.output).unwrap();
    agent.waits_for_probe(Some(0));
    assert_eq!(agent.token(), token);
    let numbers = agent.metrics();
    for words in [
        "keyutil_ready 1",
        "keyutil_token_writes_total 2",
        "keyutil_credential_expiry_timestamp_seconds{credential=\"token\"}",
        "keyutil_credential_info{credential=\"signing_key\"",
    ] {
        assert!(numbers.contains(words), "{words}: {numbers}");
    }
    assert!(!numbers.contains("eyJ"), "{numbers}");
}

#[test]
fn one_file_has_one_agent_and_a_killed_one_is_replaced() {
    let folder = with_keys();
    let first = Agent::start(folder.path(), &[]);
    let refused = renew(folder.path(), &[]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("another process renews"),
        "{refused:?}"
    );
    // SIGKILL: nothing is cleaned up.
    drop(first);
    let second = Agent::start(folder.path(), &[]);
    verified(folder.path(), &second.token());
}

#[test]
fn mistakes_change_nothing() {
    let folder = with_keys();
    let key = folder.path().join("certs/signing/active/current.pem");
    let before = fs::read(&key).unwrap();
    std::os::unix::fs::symlink("run/token", folder.path().join("link")).unwrap();
    let token = run(&mut crate::common::program::mint(folder.path())).stdout;
    for (args, words) in [
        (
            &["--output=certs/signing/active/current.pem"][..],
            "does not hold a token",
        ),
        (
            &["--output=certs/signing/jwks.json"],
            "does not hold a token",
        ),
        (&["--output", token.trim()], "not a file path"),
        (
            &["--output=run/token", "--token-lifetime=14s"],
            "15s or more",
        ),
        (
            &["--output=run/token", "--permissions=orders"],
            "not a permission",
        ),
        (
            &["--output=run/token", "--signing-key=nowhere.pem"],
            "keyutil key generate",
        ),
        (&["--output=run/token", "--namespace="], "--namespace"),
        (&["--output=run/token", "--namespace=a:b,c"], "--namespace"),
        (&["--output=certs"], "`certs`"),
        (&["--output=link"], "symbolic link"),
    ] {
        let refused = run(keyutil(folder.path()).args(["token", "renew"]).args(args));
        assert_ne!(refused.code, Some(0), "{args:?}");
        assert!(refused.stderr.contains(words), "{words}: {refused:?}");
        assert!(!refused.stderr.contains("eyJ"), "{refused:?}");
    }
    assert_eq!(fs::read(&key).unwrap(), before);
    assert!(!folder.path().join("run").exists());
}

#[test]
fn a_probe_says_what_it_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let probe = |url: &str| run(keyutil(folder.path()).args(["probe", "--timeout=2s", url]));
    let refused = probe("http://127.0.0.1:1/readyz");
    assert_eq!(refused.code, Some(69));
    assert!(refused.stderr.contains("Connection refused"), "{refused:?}");
    for url in ["127.0.0.1:1", "file:///etc/passwd", ""] {
        assert_eq!(probe(url).code, Some(64), "{url}");
    }
    // A client that ends the connection early.
    let hasty = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/readyz", hasty.local_addr().unwrap());
    let answering = thread::spawn(move || {
        let (mut stream, _) = hasty.accept().unwrap();
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).unwrap() > 0);
        let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 99\r\n\r\nnot yet";
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let broken = probe(&url);
    answering.join().unwrap();
    assert_eq!(broken.code, Some(69));
    assert!(broken.stderr.contains("503"), "{broken:?}");
    // A peer that accepts the connection and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/readyz", silent.local_addr().unwrap());
    let late = probe(&url);
    assert_eq!(late.code, Some(69));
    assert!(late.stderr.contains("timed out"), "{late:?}");
}

/// The agent as a process.
struct Agent<'f> {
    folder: &'f Path,
    output: PathBuf,
    running: Running,
    health: String,
}

impl<'f> Agent<'f> {
    fn start(folder: &'f Path, args: &[&str]) -> Self {
        let mut command = keyutil(folder);
        command.args(["token", "renew", "--output=run/token"]);
        command.arg("--health-listen=127.0.0.1:0").args(args);
        let running = Running::start(&mut command);
        let line = running.logged("health endpoint listening");
        let (_, address) = line.split_once("address=").unwrap();
        Self {
            folder,
            output: folder.join("run/token"),
            running,
            health: format!("http://{}", address.trim()),
        }
    }

    fn token(&self) -> String {
        fs::read_to_string(&self.output).unwrap().trim().to_owned()
    }

    fn waits_for_another_than(&self, token: &str) -> String {
        within_patience(|| Some(self.token()).filter(|found| found != token))
    }

    fn waits_for_probe(&self, code: Option<i32>) -> Ended {
        within_patience(|| Some(self.probe("readyz")).filter(|ended| ended.code == code))
    }

    fn probe(&self, path: &str) -> Ended {
        let url = format!("{}/{path}", self.health);
        run(keyutil(self.folder).args(["probe", &url]))
    }

    fn metrics(&self) -> String {
        let url = format!("{}/metrics", self.health);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { reqwest::get(url).await.unwrap().text().await.unwrap() })
    }

    fn terminate(self) -> String {
        let (status, log) = self.running.terminate();
        assert!(status.success(), "{status}: {log}");
        log
    }
}

fn renew(folder: &Path, args: &[&str]) -> Ended {
    let mut command = keyutil(folder);
    command.args(["token", "renew", "--output=run/token"]);
    run(command.args(args))
}

/// What `keyutil token inspect` says of a token that the server would accept.
fn verified(folder: &Path, token: &str) -> String {
    let ended = run(inspect(folder).args(["--jwks=certs/signing/jwks.json", token]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("valid for another"), "{ended:?}");
    ended.stdout
}

fn within_patience<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it did not come to that in time");
        thread::sleep(Duration::from_millis(50));
    }
}
