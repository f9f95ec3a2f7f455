//! Real jobs on a real Nomad, with the real agent, guard and storage.

// A test's helper may panic like the test itself.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod backends;
mod conformance;
mod crash;
mod doctor;
mod examples;
mod faults;
mod gluster;
mod guard;
mod hot;
mod images;
mod load;
mod looks;
mod mending;
mod metrics;
mod promises;
mod refusals;
mod seaweedfs;
mod secured;
mod soak;
mod sockets;
mod volumes;
mod words;
