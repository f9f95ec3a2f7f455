//! Nomad's HTTP API as far as the agent needs it.

pub mod model;
