//! Provisioning against a release server of the test's own, and a Go of its own.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::{env, fs, io};

use flate2::{Compression, write::GzEncoder};
use sandbox::provision::{
    Options, Progress, ProvisionError, ReleaseError, Silent, VERSION, temporal_server,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// Answers as the real one does.
const SERVER: &str = "#!/bin/sh\necho temporal version 1.31.2\n";

#[tokio::test]
async fn a_named_binary_is_used() {
    let world = World::new(&[]).await;
    let binary = world.script("mine", SERVER);
    let options = world.options_with_binary(&binary);
    assert_eq!(temporal_server(&options, &Silent).await.unwrap(), binary);
    assert_eq!(world.asked(), 0);
}

#[tokio::test]
async fn a_named_binary_that_is_wrong_is_refused_and_not_passed_over() {
    let archive = archive("temporal-server", SERVER);
    let world = World::new(&[("checksums.txt", &listing(&archive)), (&name(), &archive)]).await;
    let other = world.script("other", "#!/bin/sh\necho temporal version 1.30.0\n");
    let text = world.script("text", SERVER);
    fs::set_permissions(&text, fs::Permissions::from_mode(0o600)).unwrap();
    for (binary, reason) in [
        (other.as_path(), "temporal version 1.30.0"),
        (text.as_path(), "denied"),
        (Path::new("/nowhere/server"), "No such file"),
    ] {
        let error = temporal_server(&world.options_with_binary(binary), &Silent)
            .await
            .unwrap_err();
        assert!(matches!(error, ProvisionError::Named(_)));
        let said = chain(error);
        assert!(said.contains("TEMPORAL_SERVER_BIN"), "{said}");
        assert!(said.contains(reason), "{said}");
    }
    assert_eq!(world.asked(), 0);
}

#[tokio::test]
async fn a_released_archive_is_verified_unpacked_and_cached() {
    let archive = archive("./temporal-server", SERVER);
    let world = World::new(&[("checksums.txt", &listing(&archive)), (&name(), &archive)]).await;
    let binary = temporal_server(&world.options(), &Silent).await.unwrap();
    assert!(binary.starts_with(world.cache()));
    assert_eq!(fs::read_to_string(&binary).unwrap(), SERVER);
    assert_eq!(world.asked(), 2);
    world.assert_clean();

    let again = temporal_server(&world.options(), &Silent).await.unwrap();
    assert_eq!(again, binary);
    assert_eq!(world.asked(), 2);
}

#[tokio::test]
async fn a_damaged_cache_is_replaced() {
    let archive = archive("temporal-server", SERVER);
    let world = World::new(&[("checksums.txt", &listing(&archive)), (&name(), &archive)]).await;
    let binary = temporal_server(&world.options(), &Silent).await.unwrap();
    fs::write(&binary, "").unwrap();
    temporal_server(&world.options(), &Silent).await.unwrap();
    assert_eq!(fs::read_to_string(&binary).unwrap(), SERVER);
}

#[tokio::test]
async fn a_corrupted_archive_is_an_error_even_where_go_would_do() {
    let archive = archive("temporal-server", SERVER);
    let mut other = archive.clone();
    *other.last_mut().unwrap() ^= 1;
    let world = World::new(&[("checksums.txt", &listing(&archive)), (&name(), &other)]).await;
    let options = world.options_with_go();
    let error = temporal_server(&options, &Silent).await.unwrap_err();
    assert!(matches!(
        error,
        ProvisionError::Release(ReleaseError::Mismatch { .. })
    ));
    let said = chain(error);
    assert!(said.contains(&digest(&archive)), "{said}");
    assert!(said.contains(&digest(&other)), "{said}");
    world.assert_clean();
}

#[tokio::test]
async fn a_truncated_archive_is_an_error_even_where_go_would_do() {
    let archive = archive("temporal-server", SERVER);
    let mut world = World::new(&[("checksums.txt", &listing(&archive)), (&name(), &archive)]).await;
    let half = archive.len() / 2;
    world.truncate(&name(), half);
    let options = world.options_with_go();
    let error = temporal_server(&options, &Silent).await.unwrap_err();
    assert!(matches!(
        error,
        ProvisionError::Release(ReleaseError::Incomplete { .. })
    ));
    let said = chain(error);
    assert!(said.contains(&digest(&archive)), "{said}");
    assert!(said.contains(&digest(&archive[..half])), "{said}");
    assert_eq!(
        world.asked(),
        1 + 3,
        "a cut connection is worth two retries"
    );
    world.assert_clean();
}

#[tokio::test]
async fn an_archive_that_is_not_listed_is_an_error() {
    let archive = archive("temporal-server", SERVER);
    let world = World::new(&[("checksums.txt", b"beef  other\n"), (&name(), &archive)]).await;
    let options = world.options_with_go();
    let error = temporal_server(&options, &Silent).await.unwrap_err();
    assert!(matches!(
        error,
        ProvisionError::Release(ReleaseError::NotListed { .. })
    ));
    assert_eq!(world.asked(), 1);
}

#[tokio::test]
async fn an_archive_without_the_server_is_an_error() {
    let archive = archive("docs/temporal-server", SERVER);
    let world = World::new(&[("checksums.txt", &listing(&archive)), (&name(), &archive)]).await;
    let error = temporal_server(&world.options(), &Silent)
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        ProvisionError::Release(ReleaseError::Unpack { .. })
    ));
}

#[tokio::test]
async fn a_released_binary_of_another_version_is_not_cached() {
    let archive = archive(
        "temporal-server",
        "#!/bin/sh\necho temporal version 1.0.0\n",
    );
    let world = World::new(&[("checksums.txt", &listing(&archive)), (&name(), &archive)]).await;
    let error = temporal_server(&world.options(), &Silent)
        .await
        .unwrap_err();
    assert!(matches!(error, ProvisionError::Made(_)));
    world.assert_clean();
    assert_eq!(world.cached(), None);
}

#[tokio::test]
async fn without_a_release_go_builds_it() {
    let world = World::new(&[]).await;
    let steps = Steps::default();
    let binary = temporal_server(&world.options_with_go(), &steps)
        .await
        .unwrap();
    assert_eq!(world.cached(), Some(binary));
    assert_eq!(world.asked(), 1, "404 is not worth a retry");
    let steps = steps.0.into_inner().unwrap().join("\n");
    assert!(steps.contains("404"), "{steps}");
    assert!(steps.contains("6 minutes"), "{steps}");
    assert!(
        steps.contains("go.temporal.io/server/cmd/server"),
        "{steps}"
    );
    world.assert_clean();
}

#[tokio::test]
async fn without_a_release_and_go_both_reasons_are_told() {
    let world = World::new(&[]).await;
    let old = world.script("old-go", "#!/bin/sh\necho go1.26.3\n");
    let broken = world.script(
        "broken-go",
        "#!/bin/sh\n[ $1 = env ] && echo go1.26.4 && exit\necho 'no space left' >&2; exit 1\n",
    );
    for (go, reason) in [
        (old.as_path(), "`go1.26.3`"),
        (broken.as_path(), "no space left"),
        (Path::new("/nowhere/go"), "failed to run `/nowhere/go`"),
    ] {
        let options = Options {
            go: go.to_owned(),
            ..world.options()
        };
        let said = chain(temporal_server(&options, &Silent).await.unwrap_err());
        assert!(said.contains("404"), "{said}");
        assert!(said.contains(reason), "{said}");
        assert!(said.contains("TEMPORAL_SERVER_BIN"), "{said}");
        world.assert_clean();
    }
}

#[tokio::test]
async fn an_unreachable_host_makes_room_for_go() {
    let world = World::new(&[]).await;
    let options = Options {
        release_base_url: "http://127.0.0.1:1/releases".into(),
        ..world.options_with_go()
    };
    temporal_server(&options, &Silent).await.unwrap();
}

#[tokio::test]
async fn two_at_once_download_once() {
    let archive = archive("temporal-server", SERVER);
    let world = World::new(&[("checksums.txt", &listing(&archive)), (&name(), &archive)]).await;
    let options = world.options();
    let steps = Steps::default();
    let (one, two) = tokio::join!(
        temporal_server(&options, &steps),
        temporal_server(&options, &steps)
    );
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(world.asked(), 2, "one list and one archive");
    let steps = steps.0.into_inner().unwrap().join("\n");
    assert!(steps.contains("waiting for another process"), "{steps}");
}

struct World {
    folder: TempDir,
    base_url: String,
    files: Arc<Mutex<BTreeMap<String, File>>>,
    asked: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct File {
    content: Vec<u8>,
    sent: usize,
}

impl World {
    /// Serves the files as the release; everything else is 404.
    async fn new(files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(name, content)| {
            let file = File {
                content: content.to_vec(),
                sent: content.len(),
            };
            (format!("/v{VERSION}/{name}"), file)
        });
        let files = Arc::new(Mutex::new(files.collect()));
        let asked = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/", listener.local_addr().unwrap());
        // Ends with the runtime of the test.
        tokio::spawn(serve(listener, Arc::clone(&files), Arc::clone(&asked)));
        Self {
            folder: tempfile::tempdir().unwrap(),
            base_url,
            files,
            asked,
        }
    }

    fn truncate(&mut self, name: &str, sent: usize) {
        let mut files = self.files.lock().unwrap();
        files.get_mut(&format!("/v{VERSION}/{name}")).unwrap().sent = sent;
    }

    /// On a machine that has no Go.
    fn options(&self) -> Options {
        Options {
            binary: None,
            cache_dir: Some(self.cache()),
            release_base_url: self.base_url.clone(),
            go: "/nowhere/go".into(),
        }
    }

    fn options_with_binary(&self, binary: &Path) -> Options {
        Options {
            binary: Some(binary.to_owned()),
            ..self.options()
        }
    }

    fn options_with_go(&self) -> Options {
        let go = self.script(
            "go",
            "#!/bin/sh
            if [ \"$1 $2\" = 'env GOVERSION' ]; then echo go1.26.4; exit; fi
            if [ \"$1 $2 $3 $CGO_ENABLED\" != 'install -v go.temporal.io/server/cmd/server@v1.31.2 0' ]; then exit 1; fi
            echo go.temporal.io/server/cmd/server >&2
            printf '#!/bin/sh\\necho temporal version 1.31.2\\n' >\"$GOBIN/server\"
            chmod +x \"$GOBIN/server\"\n",
        );
        Options {
            go,
            ..self.options()
        }
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        // A child that another test is just starting may still have the file open for writing.
        while Command::new(&path).output().is_err_and(is_busy) {}
        path
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn cached(&self) -> Option<PathBuf> {
        let mut entries = self.cache().read_dir().unwrap();
        let binary = entries
            .next()
            .unwrap()
            .unwrap()
            .path()
            .join("temporal-server");
        binary.exists().then_some(binary)
    }

    /// How many requests there were.
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Nothing but the entry is left in the cache.
    fn assert_clean(&self) {
        assert_eq!(self.cache().read_dir().unwrap().count(), 1);
    }
}

async fn serve(
    listener: TcpListener,
    files: Arc<Mutex<BTreeMap<String, File>>>,
    asked: Arc<AtomicUsize>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        asked.fetch_add(1, Ordering::SeqCst);
        let mut lines = BufReader::new(stream).lines();
        let request = lines.next_line().await.unwrap().unwrap_or_default();
        while lines
            .next_line()
            .await
            .unwrap()
            .is_some_and(|line| !line.is_empty())
        {}
        let path = request.split(' ').nth(1).unwrap_or_default();
        let file = files.lock().unwrap().get(path).cloned();
        let (status, file) = match file {
            Some(file) => ("200 OK", file),
            None => (
                "404 Not Found",
                File {
                    content: Vec::new(),
                    sent: 0,
                },
            ),
        };
        let length = file.content.len();
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        let mut stream = lines.into_inner().into_inner();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&file.content[..file.sent]).await.unwrap();
        stream.shutdown().await.unwrap();
    }
}

fn is_busy(error: io::Error) -> bool {
    error.kind() == io::ErrorKind::ExecutableFileBusy
}

#[derive(Default)]
struct Steps(Mutex<Vec<String>>);

impl Progress for Steps {
    fn step(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_owned());
    }

    fn bytes(&self, _: u64, _: Option<u64>) {}

    fn output(&self, line: &str) {
        self.step(line);
    }
}

fn name() -> String {
    let os = if env::consts::OS == "macos" {
        "darwin"
    } else {
        "linux"
    };
    let arch = if env::consts::ARCH == "aarch64" {
        "arm64"
    } else {
        "amd64"
    };
    format!("temporal_{VERSION}_{os}_{arch}.tar.gz")
}

fn archive(member: &str, content: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (path, content) in [("LICENSE", "MIT"), (member, content)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len().try_into().unwrap());
        header.set_mode(0o755);
        archive
            .append_data(&mut header, path, content.as_bytes())
            .unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

fn listing(archive: &[u8]) -> Vec<u8> {
    format!(
        "{}  other.tar.gz\n{}  {}\n",
        "0".repeat(64),
        digest(archive),
        name()
    )
    .into_bytes()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn chain(error: ProvisionError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}
