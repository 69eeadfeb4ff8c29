//! The end-to-end tests: one binary, because each links the SDK and cargo runs binaries one after the other.
//!
//! Most of these tests wait for a server or a clock, so `.cargo/config.toml` runs eight at a time.
//! A test starts its own server on its own ports, with its own keys and folder.
//! `cargo test -p sandbox --test it smoke` runs those of one file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cleanup;
mod connection_age;
mod containers;
mod examples;
mod faults_clock;
mod faults_files;
mod faults_jwks;
mod faults_network;
mod faults_reported;
mod faults_rotation;
mod faults_server;
mod faults_token_source;
mod gallery;
mod guard;
mod health;
mod hello;
mod help;
mod history;
mod log;
mod membership;
mod other_servers;
mod pki_renew;
mod provision;
mod refusals;
mod refusals_that_pass;
mod rotation_authorities;
mod rotation_client_certificate;
mod rotation_internode;
mod rotation_signing_key;
mod sdk_only;
mod server;
mod shutdown;
mod smoke;
mod startup;
mod support;
mod token_agent;
mod tokens;
mod traces;
mod up;
