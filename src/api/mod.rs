//! The agent's sockets: what is asked and answered, and who may ask.
//!
//! * [`host`]: the host's socket. Root may do everything; a configured group may look; nobody else gets an answer.
//! * [`allocation`]: one socket in each allocation's own `alloc/` directory. Whoever can open it acts for that
//!   allocation, and for nothing else.
//! * [`serve`]: HTTP over either, with bounds on everything that a peer can send or delay.
//! * [`follow`]: the host's socket answers for each change of the status.
//! * [`metrics`]: what Prometheus reads, on the host's socket and over TCP.
//! * [`question`]: the guard's questions, a line each way.

pub mod allocation;
pub mod follow;
pub mod host;
pub mod metrics;
pub mod question;
pub mod serve;
pub mod types;
pub mod volumes;
