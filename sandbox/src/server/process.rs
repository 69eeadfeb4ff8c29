//! One running server, and what its log says about its start and its end.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use std::{
    env,
    io::{self, Read, Seek, SeekFrom},
};

use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::config::Files;
use super::{SERVICES, ServerPorts, ServerSettings};
use crate::guard::{self, Guard, Signal};
use crate::ports;

/// A server that was ready once. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    ports: ServerPorts,
    log: PathBuf,
}

impl Server {
    /// How long a server may take until it is ready.
    pub const START_LIMIT: Duration = Duration::from_secs(60);
    /// How long a server may take to end after it was asked to.
    pub const STOP_LIMIT: Duration = Duration::from_secs(15);

    /// Starts `binary` in the guard's process group and waits until every service of it listens.
    ///
    /// That says nothing about authorization: the first authorized call does. After
    /// [`stop`](Self::stop) or [`kill`](Self::kill) the same settings start it again on the same
    /// ports, and its log goes on in the same file.
    pub async fn start(
        binary: &Path,
        settings: &ServerSettings,
        guard: &Guard,
    ) -> Result<Self, ServerError> {
        // The listener of another program would look like ours being ready.
        if let Some(port) = settings.ports.all().find(|port| !ports::is_free(*port)) {
            return Err(ServerError::PortTaken {
                detail: format!("another program listens on port {port}"),
            });
        }
        let files = Files::write(settings).map_err(ServerError::Files)?;
        let log = files.open_log().map_err(ServerError::Files)?;
        let log_start = log.metadata().map_or(0, |metadata| metadata.len());
        let spawn_failed = |source| ServerError::Spawn {
            binary: binary.to_owned(),
            source,
        };
        let mut command = command(binary, &files.config);
        command
            .stdout(log.try_clone().map_err(spawn_failed)?)
            .stderr(log);
        let child = guard
            .adopt_async(&mut command)
            .spawn()
            .map_err(spawn_failed)?;

        let mut server = Self {
            child,
            ports: settings.ports,
            log: files.log,
        };
        server.wait_until_ready(log_start).await?;
        Ok(server)
    }

    /// Where clients connect.
    pub fn frontend_address(&self) -> SocketAddr {
        address(self.ports.frontend())
    }

    /// Where the server logs to.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The last `count` lines of the log.
    pub fn log_tail(&self, count: usize) -> io::Result<Vec<String>> {
        tail(&self.log, count)
    }

    /// Whether the last of its services has started. Calls are answered before; and a server that
    /// is not done within a minute ends, also when it stood still meanwhile (`temporal/server_impl.go`
    /// has twice `maxJoinDuration`).
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn has_started(&self) -> io::Result<bool> {
        says(&self.log, "worker service started")
    }

    /// The exit status, once the server has ended.
    pub fn exit_status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Asks the server to end, and kills it when it has not within [`Self::STOP_LIMIT`].
    ///
    /// The status is not always a success: a server that is asked while its last service is still
    /// starting ends with `grpc: the server has been stopped` and exit code 1.
    pub async fn stop(mut self) -> Result<ExitStatus, ServerError> {
        self.send(Signal::TERM)?;
        // A stopped process takes note of nothing but this.
        self.send(Signal::CONT)?;
        match timeout(Self::STOP_LIMIT, self.child.wait()).await {
            Ok(status) => status.map_err(ServerError::Wait),
            Err(_) => self.kill().await,
        }
    }

    /// Kills the server: what a crash looks like to clients, and quicker than [`Self::stop`].
    pub async fn kill(mut self) -> Result<ExitStatus, ServerError> {
        self.send(Signal::KILL)?;
        let status = self.child.wait().await;
        status.map_err(ServerError::Wait)
    }

    /// Stops the process where it is; its connections stay open, and no call is answered.
    pub fn pause(&self) -> Result<(), ServerError> {
        self.send(Signal::STOP)
    }

    /// Lets a paused server go on.
    pub fn resume(&self) -> Result<(), ServerError> {
        self.send(Signal::CONT)
    }

    async fn wait_until_ready(&mut self, log_start: u64) -> Result<(), ServerError> {
        let start = Instant::now();
        loop {
            let ready = all_listen(self.ports).await;
            // Asked after the ports, which another program may have once the server has ended.
            let status = self.child.try_wait().map_err(ServerError::Wait)?;
            if let Some(status) = status {
                return Err(self.ended_early(status, log_start));
            }
            if ready {
                return Ok(());
            }
            if start.elapsed() > Self::START_LIMIT {
                return Err(ServerError::NotReady {
                    log: self.log.clone(),
                    detail: explain(&self.log, log_start),
                });
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn ended_early(&self, status: ExitStatus, log_start: u64) -> ServerError {
        let detail = explain(&self.log, log_start);
        if detail.contains("address already in use") {
            return ServerError::PortTaken { detail };
        }
        ServerError::EndedEarly {
            status,
            log: self.log.clone(),
            detail,
        }
    }

    /// A server that has already ended, and was waited for, gets no signal.
    fn send(&self, signal: Signal) -> Result<(), ServerError> {
        self.child
            .id()
            .map_or(Ok(()), |id| guard::send_signal(id, signal))
            .map_err(ServerError::Signal)
    }
}

/// Why there is no server, or why it cannot be controlled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the variants are")]
pub enum ServerError {
    #[error("failed to prepare the server's state folder")]
    Files(#[source] anyhow::Error),
    #[error("failed to start `{}`; is it a temporal-server for this machine?", binary.display())]
    Spawn { binary: PathBuf, source: io::Error },
    /// Another program listens on one of the ports: try again with others.
    #[error("a port of the server is taken; try again with other ports\n{detail}")]
    PortTaken { detail: String },
    #[error("temporal-server ended before it was ready ({status}); its log `{}` says\n{detail}", log.display())]
    EndedEarly {
        status: ExitStatus,
        log: PathBuf,
        /// The lines of the log that count.
        detail: String,
    },
    #[error("temporal-server was not ready within {:?}; its log `{}` says\n{detail}", Server::START_LIMIT, log.display())]
    NotReady {
        log: PathBuf,
        /// The lines of the log that count.
        detail: String,
    },
    #[error("failed to signal temporal-server")]
    Signal(#[source] io::Error),
    #[error("failed to wait for temporal-server")]
    Wait(#[source] io::Error),
}

/// The environment is a short list: `TEMPORAL_*` would change the configuration, and a proxy is
/// not for what is on this machine.
fn command(binary: &Path, config: &Path) -> Command {
    let mut command = Command::new(binary);
    command.arg("--config-file").arg(config).arg("start");
    for service in SERVICES {
        command.args(["--service", service]);
    }
    command.env_clear();
    for name in ["HOME", "PATH", "TMPDIR", "TZ"] {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    // Without cgo Go does not find out who a user is whose name is not in the environment.
    let user = env::var_os("USER");
    command.env("USER", user.as_deref().unwrap_or(OsStr::new("temporal")));
    command
}

async fn all_listen(ports: ServerPorts) -> bool {
    for port in ports.all() {
        let connected = timeout(Duration::from_secs(1), TcpStream::connect(address(port))).await;
        if !matches!(connected, Ok(Ok(_))) {
            return false;
        }
    }
    true
}

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The last `count` lines.
fn tail(path: &Path, count: usize) -> io::Result<Vec<String>> {
    let text = end_of(path, 0)?;
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    Ok(lines[lines.len().saturating_sub(count)..].to_vec())
}

/// Whether the log contains `message`.
fn says(path: &Path, message: &str) -> io::Result<bool> {
    Ok(end_of(path, 0)?.contains(message))
}

/// The lines after byte `from` that tell why the server ended: its errors if there are any, else
/// the last lines, each without the fields that only a machine needs.
fn explain(path: &Path, from: u64) -> String {
    let text = match end_of(path, from) {
        Ok(text) => text,
        Err(error) => return format!("  (its log `{}` cannot be read: {error})", path.display()),
    };
    let entries: Vec<_> = text.lines().map(entry).collect();
    let has_errors = entries.iter().any(|(is_error, _)| *is_error);
    let entries = entries.into_iter();
    let told: Vec<_> = entries
        .filter(|(is_error, _)| *is_error == has_errors)
        .filter_map(|(_, text)| (!text.is_empty()).then(|| format!("  {text}")))
        .collect();
    told[told.len().saturating_sub(MOST_LINES)..].join("\n")
}

/// Whether a line is an error, and its text.
fn entry(line: &str) -> (bool, String) {
    let (is_error, text) = match serde_json::from_str(line) {
        Ok(Value::Object(fields)) => {
            let field = |name| fields.get(name).and_then(Value::as_str);
            let level = field("level").unwrap_or("?");
            let said: Vec<_> = ["msg", "error"].into_iter().filter_map(field).collect();
            (
                !matches!(level, "debug" | "info" | "warn"),
                format!("{level}: {}", said.join(": ")),
            )
        }
        // What comes before the logger, and panics.
        _ => (!line.trim().is_empty(), line.trim_end().to_owned()),
    };
    (is_error, text.chars().take(MOST_CHARACTERS).collect())
}

/// At most the last [`MOST_BYTES`], and nothing before `from`.
fn end_of(path: &Path, from: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(MOST_BYTES))))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

const MOST_BYTES: u64 = 1 << 20;
const MOST_CHARACTERS: usize = 400;
const MOST_LINES: usize = 10;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LOG: &str = r#"{"level":"info","msg":"Build info."}
{"level":"fatal","msg":"Failed to start gRPC listener","error":"bind: address already in use"}
{"level":"info","msg":"Quota changed"}
"#;

    fn explained(text: &str, from: u64) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        explain(file.path(), from)
    }

    #[test]
    fn errors_come_without_the_rest() {
        assert_eq!(
            explained(LOG, 0),
            "  fatal: Failed to start gRPC listener: bind: address already in use"
        );
    }

    #[test]
    fn text_before_the_logger_counts_as_an_error() {
        let text = format!("{LOG}Unable to load configuration: no such file.\n");
        assert!(explained(&text, 0).ends_with("\n  Unable to load configuration: no such file."));
    }

    #[test]
    fn without_errors_the_last_lines_are_told() {
        let from = LOG.find(r#"{"level":"info","msg":"Quota"#).unwrap();
        let from = u64::try_from(from).unwrap();
        assert_eq!(explained(LOG, from), "  info: Quota changed");
    }

    #[test]
    fn the_tail_is_unchanged_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), LOG).unwrap();
        assert_eq!(
            tail(file.path(), 1).unwrap(),
            [r#"{"level":"info","msg":"Quota changed"}"#]
        );
        assert_eq!(tail(file.path(), 9).unwrap().len(), 3);
    }
}
