//! What saddlebag says to a real SeaweedFS, and what that makes of it, without a Nomad beside them.

#[path = "../support/mod.rs"]
mod support;

mod secured;
mod sizes;
mod told;
mod words;
