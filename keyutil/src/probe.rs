//! The steps of [`connect()`](crate::connect()) as separate functions, for tools such as `keyutil
//! doctor`.
//!
//! A connection is made with the same functions.
//!
//! | step | by |
//! |---|---|
//! | check the settings and load the files | [`Settings::check`](crate::settings::Settings::check) |
//! | resolve the name, connect, TLS handshake | [`Connector::resolve`], [`Connector::tcp`], [`Connector::tls`] |
//! | wait for the first data from the server, or its alert | [`first_words`] |
//! | make calls with and without a token | [`Session`] |
//! | check permissions and pollers | [`Session::permits`], [`Session::pollers`] |
//! | explain a failure | [`explain_connection`], [`Session::explain`] |

use std::time::Duration;

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tokio_rustls::client::TlsStream;

use crate::transport::alert_in;
pub use crate::{
    connect::{
        Session,
        check::{Pollers, Program},
        explain_connection,
    },
    transport::{
        AuthInterceptor, AuthorizedChannel, BytesCodec, ConnectStage, Connector, ConnectorError,
        PeerInfo, Proxy, RotatingChannel, Secured, Security, TlsCredentials, TrustSource,
        is_refusal,
    },
};

/// How long [`first_words`] waits. gRPC servers in Go send first. Servers that wait for the client
/// have accepted the certificate as well.
const FIRST_WORDS: Duration = Duration::from_secs(1);

/// Returns whether the server sends data after the handshake. With TLS 1.3 the server checks the
/// client certificate after the client has finished its handshake, and a client that only reads
/// always receives the alert.
///
/// # Errors
/// [`ConnectorError::Alert`], with what the server has shown of itself.
pub async fn first_words(
    mut tls: TlsStream<TcpStream>,
    secured: &Secured,
) -> Result<bool, ConnectorError> {
    let mut words = [0; 1];
    match timeout(FIRST_WORDS, tls.read(&mut words)).await {
        Ok(Err(error)) => match alert_in(&error) {
            Some(alert) => Err(ConnectorError::Alert {
                alert,
                peer: Some(secured.peer.clone()),
            }),
            // The first call will report the failure.
            None => Ok(false),
        },
        Ok(Ok(count)) => Ok(count > 0),
        Err(_) => Ok(false),
    }
}
