//! The steps of [`connect()`](crate::connect()), each on its own.
//!
//! For tools that look at one step at a time, such as `keyutil doctor`. A connection takes these
//! same steps, so the two cannot drift apart.
//!
//! | step | by |
//! |---|---|
//! | settings checked, files loaded, as far as they are usable | [`Settings::check`](crate::settings::Settings::check) |
//! | name, TCP, TLS | [`Connector::resolve`], [`Connector::tcp`], [`Connector::tls`] |
//! | the first words of the server, or the alert instead of them | [`first_words`] |
//! | calls with and without a token | [`Session`] |
//! | permission, pollers | [`Session::permits`], [`Session::pollers`] |
//! | what a failure means | [`explain_connection`], [`Session::explain`] |

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
        PeerInfo, RotatingChannel, Secured, Security, TlsCredentials, TrustSource, is_refusal,
    },
};

/// How long [`first_words`] waits. gRPC servers in Go speak at once; others wait for the client, and
/// have accepted the certificate all the same.
const FIRST_WORDS: Duration = Duration::from_secs(1);

/// Whether the server says anything after the handshake. With TLS 1.3 it looks at the client
/// certificate after the client has finished its side, and a client that only reads sees the alert
/// every time.
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
            // The first call finds out what is the matter.
            None => Ok(false),
        },
        Ok(Ok(count)) => Ok(count > 0),
        Err(_) => Ok(false),
    }
}
