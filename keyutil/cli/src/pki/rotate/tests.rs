//! Rotations with a clock of the test's own, ended after any of their operations.

mod anything;
mod broken;
mod prefixes;
mod times;
mod world;
