//! A JWKS endpoint that fails in the ways in which endpoints fail.

use std::{future::pending, net::SocketAddr, path::PathBuf, sync::Arc};

use sandbox::ports::Ports;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What the endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Answers with the key set.
    Good,
    /// No listener.
    Down,
    /// Accepts, and never answers.
    Hangs,
    /// Status 500 and a page.
    Page,
    /// A body that ends before its end.
    Truncated,
    /// Status 500 and a JSON object without keys.
    JsonError,
    /// A set without keys.
    Empty,
}

/// Ends with its owner.
pub struct Endpoint {
    address: SocketAddr,
    manner: watch::Sender<Manner>,
    task: JoinHandle<()>,
    _ports: Ports,
}

impl Endpoint {
    /// Serves this file on a free port.
    pub async fn start(document: PathBuf, manner: Manner) -> Self {
        // No other program may take it while the endpoint is down.
        let ports = Ports::reserve(1).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], ports.range().start));
        let (manner, watched) = watch::channel(manner);
        let task = tokio::spawn(serve(address, document.into(), watched));
        Self {
            address,
            manner,
            task,
            _ports: ports,
        }
    }

    /// Of the key set.
    pub fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }

    /// From now on, and for those who wait for an answer.
    pub fn become_like(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    address: SocketAddr,
    document: Arc<std::path::Path>,
    mut manner: watch::Receiver<Manner>,
) {
    let mut listener = None;
    loop {
        let now = *manner.borrow_and_update();
        if now == Manner::Down {
            listener = None;
        } else if listener.is_none() {
            listener = Some(TcpListener::bind(address).await.unwrap());
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await.unwrap().0,
                None => pending().await,
            }
        };
        tokio::select! {
            changed = manner.changed() => changed.unwrap(),
            stream = accepted => {
                let (document, manner) = (document.clone(), manner.clone());
                // The client may end the connection.
                tokio::spawn(async move { answer(stream, &document, now, manner).await });
            }
        }
    }
}

async fn answer(
    mut stream: TcpStream,
    document: &std::path::Path,
    manner: Manner,
    mut changes: watch::Receiver<Manner>,
) -> std::io::Result<()> {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await?;
    let set = std::fs::read_to_string(document)?;
    let half = &set[..set.len() / 2];
    let (status, body, length) = match manner {
        Manner::Good => ("200 OK", set.as_str(), set.len()),
        Manner::Page => {
            let page = "<html><body>Internal Server Error</body></html>";
            ("500 Internal Server Error", page, page.len())
        }
        Manner::JsonError => ("500 Internal Server Error", r#"{"error":"down"}"#, 16),
        Manner::Empty => ("200 OK", r#"{"keys":[]}"#, 11),
        Manner::Truncated => ("200 OK", half, set.len()),
        Manner::Hangs | Manner::Down => {
            // As a proxy does in the end, or a restarted endpoint: closes what it had accepted.
            let _ = changes.changed().await;
            return Ok(());
        }
    };
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
