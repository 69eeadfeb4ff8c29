//! Bad input of every kind, mutated from good samples and made up: none ends a program, keeps it
//! for long, gets a secret into a message, or makes a command half do what it then refuses.
//!
//! | input | file |
//! |---|---|
//! | how samples are spoilt | `bad_input/mutation.rs` |
//! | the samples, and what is secret in them | `bad_input/samples.rs` |
//! | what must hold in every case | `bad_input/check.rs` |
//! | PEM: certificates, CA bundles, client, CA and signing keys | `bad_input/pem.rs` |
//! | tokens, key sets, permissions | `bad_input/jwt.rs` |
//! | flags, and the files that they name | `bad_input/arguments.rs` |
//! | durations and dates | `bad_input/durations.rs` |
//! | the folder of the signing keys | `bad_input/ring.rs` |
//! | the folder of the certificates | `bad_input/pki.rs` |
//! | the program itself | `bad_input/program.rs` |
//!
//! A failure prints the shortest input that was found, as a Rust literal. Keys are made anew in each
//! run, so that literal is what reproduces it. `PROPTEST_CASES=10000` looks for longer, and
//! `PROPTEST_VERBOSE=2` names each case before it is tried, for the one that ends the process.

mod arguments;
mod check;
mod durations;
mod jwt;
mod mutation;
mod pem;
mod pki;
mod program;
mod ring;
mod samples;
