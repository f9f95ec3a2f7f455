//! What must hold on a real kernel: run as root. Every test works in a mount namespace of its own.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test's helper fails as its test does.

mod agent;
mod collection;
mod containers;
mod death;
mod hang;
mod images;
mod inside;
mod logs;
mod metrics;
mod mounts;
mod paths;
mod place;
mod programs;
mod purge;
mod scene;
mod sweep;
mod tables;
mod together;
mod watch;
