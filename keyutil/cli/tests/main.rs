//! The tests of the tool, and those of the library that need certificates or the tool itself: one
//! binary, because each links the SDK.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common {
    pub mod client;
    pub mod endpoint;
    pub mod frames;
    pub mod handshake;
    pub mod intermediate;
    pub mod maker;
    pub mod openssl;
    pub mod peer;
    pub mod program;
}

mod bad_input;
mod cli;
mod cli_key;
mod cli_token_inspect;
mod cli_token_mint;
#[cfg(unix)]
mod cli_token_renew;
mod client_identities;
mod client_identities_refused;
mod completions;
mod doctor;
mod help;
mod jwks_endpoint;
mod log;
mod other_tools;
#[cfg(unix)]
mod pki;
mod pki_handshake;
#[cfg(unix)]
mod pki_renew;
#[cfg(unix)]
mod pki_rotate;
#[cfg(unix)]
mod pki_rotate_handshake;
mod server_refused;
mod transport;
mod transport_addresses;
mod transport_distrust;
mod transport_proxy;
mod transport_revocation;
mod transport_trial;
