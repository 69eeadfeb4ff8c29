//! Load for some time, while every credential rotates again and again.

pub mod chart;
mod load;
pub mod record;
