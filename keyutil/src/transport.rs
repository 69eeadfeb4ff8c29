//! The path of a call from the SDK to the server.
//!
//! SDK → `sdk_service` → `auth_interceptor` → `channel` → `stream` → server.
//!
//! | what | file |
//! |---|---|
//! | the SDK's callback over the channel, as raw bytes | `sdk_service.rs` |
//! | outcomes of the calls, counted and logged | `call_outcomes.rs` |
//! | the tonic `Interceptor` that adds the token | `auth_interceptor.rs` |
//! | the tonic channel that rotates with the TLS credentials | `channel.rs` |
//! | name resolution, TCP and TLS | `connector.rs` |
//! | several addresses of a name | `addresses.rs` |
//! | HTTP proxies | `proxy.rs` |
//! | the stream, the connection log and the TLS alert | `stream.rs` |

mod addresses;
mod auth_interceptor;
mod call_outcomes;
mod channel;
mod connector;
mod error;
mod peer;
mod proxy;
mod sdk_service;
mod stream;

use tonic::service::interceptor::InterceptedService;

pub use auth_interceptor::AuthInterceptor;
pub use call_outcomes::{CallOutcomes, Cause, is_refusal};
pub use channel::{Rejection, RotatingChannel};
pub use connector::{Connector, Security, TlsCredentials, TrustSource};
pub use error::{ConnectStage, ConnectorError, LocalCause, alert_in};
pub use peer::{PeerInfo, Secured};
pub use proxy::Proxy;
pub use sdk_service::{BytesCodec, sdk_service};

/// The channel of all calls, with a token for each.
pub type AuthorizedChannel = InterceptedService<RotatingChannel, AuthInterceptor>;
