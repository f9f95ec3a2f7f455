//! The guard: keeps Nomad's garbage collection out of volumes, whether or not an agent is running.
//!
//! Nomad removes an allocation's directory recursively and walks into every mount that is not its own. So each
//! binding is marked by fanotify(7) before it is visible, and a process of its own answers every open below it:
//! directories are denied to Nomad's agent, everything else is allowed. See [`question`] for what the agent can
//! do before the denial.

pub mod client;
pub mod question;
pub mod wire;

pub use client::{GuardClient, GuardError, ensure_running};
pub use wire::{Hello, NomadExe};
