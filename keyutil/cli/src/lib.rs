//! What the command-line tool `keyutil` is made of.
//!
//! | what | module |
//! |---|---|
//! | every step of the way of a call, looked at on its own | [`doctor`] |
//! | a token file that is kept current for other processes | [`agent`] |
//! | signing keys, the key set and its endpoint | [`keys`] |
//! | certificates for development; in production they come from elsewhere | [`pki`] |
//! | registering a namespace | [`namespace`] |
//! | files replaced as a whole, in order, under a lock | [`files`] |

pub mod agent;
pub mod doctor;
pub mod files;
pub mod keys;
pub mod namespace;
pub mod pki;
mod wall_clock;
