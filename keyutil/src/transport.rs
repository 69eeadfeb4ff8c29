//! How a call leaves the process.
//!
//! SDK → `bridge` → `bearer` → `channel` → `stream` → server.
//!
//! | what | file |
//! |---|---|
//! | the SDK's callback ↔ our channel, raw bytes in and out | `bridge.rs` |
//! | what has become of the calls, counted | `calls.rs` |
//! | the token goes into every call: the tonic `Interceptor` | `bearer.rs` |
//! | a tonic channel that is replaced when identity or trust changes | `channel.rs` |
//! | new credentials are tried before calls go over them | `trial.rs` |
//! | name, TCP and TLS, with the credentials of this moment | `dial.rs` |
//! | the connection, and the TLS alert that ended it | `stream.rs` |

pub mod bearer;
pub mod bridge;
pub mod calls;
pub mod channel;
pub mod dial;
mod error;
mod handshake;
mod journal;
mod local_cause;
mod peer;
mod security;
mod stream;
mod trial;

use tonic::service::interceptor::InterceptedService;

pub use bearer::Bearer;
pub use calls::Calls;
pub use calls::is_refusal;
pub use channel::RotatingChannel;
pub use dial::Dial;
pub use error::{DialError, Phase, alert_in};
pub use handshake::Secured;
pub use journal::{Journal, Standing};
pub use local_cause::LocalCause;
pub use peer::Peer;
pub use security::{Credentials, Security, TrustSource};
pub use trial::Rejection;

/// What every call goes through, ours and the SDK's.
pub type AuthorizedChannel = InterceptedService<RotatingChannel, Bearer>;
