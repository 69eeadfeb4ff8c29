//! The library behind the command-line tool `keyutil`.
//!
//! | what | module |
//! |---|---|
//! | a check of every step of a call | [`doctor`] |
//! | a token file that is kept current for other processes | [`agent`] |
//! | signing keys, the key set and its endpoint | [`keys`] |
//! | development certificates; production certificates come from elsewhere | [`pki`] |
//! | registering a namespace | [`namespace`] |
//! | credential files, replaced as a whole, in order, under a lock | [`files`] |

pub mod agent;
pub mod doctor;
pub mod files;
pub mod keys;
pub mod namespace;
pub mod pki;
mod wall_clock;
