//! Load for some time, while every credential rotates again and again.

pub mod chart;
pub mod load;
pub mod record;
