//! Real jobs on a real Nomad, with the real agent, guard and storage.

#[path = "../support/mod.rs"]
mod support;

mod backends;
mod crash;
mod examples;
mod guard;
mod looks;
mod refusals;
mod secured;
mod sockets;
mod words;
