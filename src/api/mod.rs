//! The agent's sockets: what is asked and answered, and who may ask.

pub mod types;
