//! A tonic channel that is replaced when identity or trust changes.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use http::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::{
    body::Body,
    transport::{Channel, Endpoint, Error},
};
use tower::{Service, ServiceExt, service_fn};
use tracing::debug;

use super::dial::{Dial, Security, TrustSource};
use crate::credentials::{Identity, Trust};

/// The SDK's own intervals (`ClientKeepAliveOptions`), which the server's
/// `frontend.keepAliveMinTime` allows.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// Carries each call over the connection that matches the credentials of that moment.
///
/// When one of them changes, the next call goes to a new connection. The old one stays for the
/// calls that are on it, long polls among them, and closes after the last: nothing is cut off.
/// Clones share the connection.
#[derive(Clone)]
pub struct RotatingChannel {
    shared: Arc<Shared>,
}

struct Shared {
    dial: Arc<Dial>,
    endpoint: Endpoint,
    live: ArcSwapOption<Live>,
    replacing: Mutex<()>,
}

/// A channel, and what it was made for.
struct Live {
    channel: Channel,
    identity: Option<Arc<Identity>>,
    trust: Option<Arc<Trust>>,
}

impl RotatingChannel {
    /// Nothing is dialled before the first call.
    ///
    /// # Errors
    /// When host and port make no URI.
    pub fn new(dial: Dial) -> Result<Self, http::Error> {
        let target = dial.target();
        // tonic refuses an https URI when TLS is not its own. The connector below does not look at
        // the URI; the server sees the origin.
        let (scheme, authority) = match dial.security() {
            Security::Plaintext { .. } => ("http", target.clone()),
            Security::Tls { server_name, .. } => ("https", authority(server_name, &target)),
        };
        let origin = Uri::builder()
            .scheme(scheme)
            .authority(authority)
            .path_and_query("/")
            .build()?;
        let placeholder = Uri::builder()
            .scheme("http")
            .authority(target)
            .path_and_query("/")
            .build()?;
        let endpoint = Endpoint::from(placeholder)
            .origin(origin)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        Ok(Self {
            shared: Arc::new(Shared {
                dial: Arc::new(dial),
                endpoint,
                live: ArcSwapOption::empty(),
                replacing: Mutex::new(()),
            }),
        })
    }

    /// Where it connects to, and what happened there last.
    pub fn dial(&self) -> &Dial {
        &self.shared.dial
    }

    fn channel(&self) -> Channel {
        if let Some(live) = &*self.shared.live.load()
            && live.matches(self.dial().security())
        {
            return live.channel.clone();
        }
        self.replace()
    }

    #[cold]
    fn replace(&self) -> Channel {
        let _replacing = self
            .shared
            .replacing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(live) = &*self.shared.live.load()
            && live.matches(self.dial().security())
        {
            return live.channel.clone();
        }
        let (identity, trust) = in_use(self.dial().security());
        let dial = self.shared.dial.clone();
        let connector = service_fn(move |_: Uri| {
            let dial = dial.clone();
            async move { dial.connect().await.map(TokioIo::new) }
        });
        let channel = self.shared.endpoint.connect_with_connector_lazy(connector);
        let before = self.shared.live.swap(Some(Arc::new(Live {
            channel: channel.clone(),
            identity,
            trust,
        })));
        if before.is_some() {
            debug!(
                target = self.dial().target(),
                "new connection for the calls to come, because a credential changed"
            );
        }
        channel
    }
}

/// The name that the certificate is for, unless that is the host which is dialled anyway.
fn authority(server_name: &ServerName<'_>, target: &str) -> String {
    let name = server_name.to_str();
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
    if host == name || host.trim_matches(['[', ']']) == name {
        return target.to_owned();
    }
    match server_name {
        ServerName::IpAddress(_) if name.contains(':') => format!("[{name}]"),
        _ => name.into_owned(),
    }
}

fn in_use(security: &Security) -> (Option<Arc<Identity>>, Option<Arc<Trust>>) {
    match security {
        Security::Plaintext { .. } => (None, None),
        Security::Tls {
            identity, trust, ..
        } => (
            identity.as_ref().map(|identity| identity.current()),
            Some(trust.current()),
        ),
    }
}

impl Live {
    fn matches(&self, security: &Security) -> bool {
        let Security::Tls {
            identity, trust, ..
        } = security
        else {
            return true;
        };
        let same_identity = match (identity, &self.identity) {
            (Some(now), Some(then)) => Arc::ptr_eq(&now.peek(), then),
            (None, None) => true,
            _ => false,
        };
        let same_trust = match (trust, &self.trust) {
            (TrustSource::File(now), Some(then)) => Arc::ptr_eq(&now.peek(), then),
            _ => true,
        };
        same_identity && same_trust
    }
}

impl Service<Request<Body>> for RotatingChannel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Which channel it will be is known at the call, so each call waits for its own.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.channel().oneshot(request))
    }
}

impl fmt::Debug for RotatingChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RotatingChannel")
            .field("dial", &self.shared.dial)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_the_name_that_was_asked_for() {
        for (name, target, expected) in [
            ("localhost", "localhost:7233", "localhost:7233"),
            ("temporal.example", "10.0.0.1:7233", "temporal.example"),
            ("::1", "[::1]:7233", "[::1]:7233"),
            ("::2", "[::1]:7233", "[::2]"),
        ] {
            let name = ServerName::try_from(name).unwrap();
            assert_eq!(authority(&name, target), expected);
        }
    }
}
