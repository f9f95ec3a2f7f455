//! Real jobs on a real Nomad.

#[path = "../support/mod.rs"]
mod support;

mod first;
