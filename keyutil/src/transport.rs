//! How a call leaves the process.
//!
//! SDK → `sdk_service` → `auth_interceptor` → `channel` → `stream` → server.
//!
//! | what | file |
//! |---|---|
//! | the SDK's callback ↔ our channel, raw bytes in and out | `sdk_service.rs` |
//! | what has become of the calls, counted | `call_outcomes.rs` |
//! | the token goes into every call: the tonic `Interceptor` | `auth_interceptor.rs` |
//! | a tonic channel that is replaced when identity or trust changes | `channel.rs` |
//! | name, TCP and TLS, with the credentials of this moment | `connector.rs` |
//! | the connection, and the TLS alert that ended it | `stream.rs` |

mod auth_interceptor;
mod call_outcomes;
mod channel;
mod connector;
mod error;
mod peer;
mod sdk_service;
mod stream;

use tonic::service::interceptor::InterceptedService;

pub use auth_interceptor::AuthInterceptor;
pub use call_outcomes::{CallOutcomes, is_refusal};
pub use channel::RotatingChannel;
pub use connector::{Connector, Security, TlsCredentials, TrustSource};
pub use error::{ConnectStage, ConnectorError, LocalCause, alert_in};
pub use peer::{PeerInfo, Secured};
pub use sdk_service::{BytesCodec, sdk_service};

/// What every call goes through, ours and the SDK's.
pub type AuthorizedChannel = InterceptedService<RotatingChannel, AuthInterceptor>;
