//! The JWKS endpoint of a stack.

use std::{io, net::SocketAddr};

use keyutil::credentials::FileWatcher;
use keyutil_cli::keys::{keyring::Keyring, serve};
use tokio::{net::TcpListener, task::JoinHandle};

use super::StackError;

/// Serves the key set from within this process, with the code of `keyutil jwks serve`.
#[derive(Debug)]
pub(super) struct JwksEndpoint {
    pub(super) url: String,
    task: JoinHandle<io::Result<()>>,
    _watch: FileWatcher,
}

impl JwksEndpoint {
    pub(super) async fn start(keyring: &Keyring) -> Result<Self, StackError> {
        let document = serve::follow(keyring.jwks_path())?;
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .map_err(StackError::Listen)?;
        let address = listener.local_addr().map_err(StackError::Listen)?;
        let watch = FileWatcher::start(vec![Box::new(document.clone())]);
        let task = tokio::spawn(serve::serve(listener, document, std::future::pending()));
        Ok(Self {
            url: format!("http://{address}{}", serve::WELL_KNOWN_PATH),
            task,
            _watch: watch,
        })
    }
}

impl Drop for JwksEndpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}
