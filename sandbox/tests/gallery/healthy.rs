//! Nothing fails.
