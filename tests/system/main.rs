//! The package and its units in a booted Debian: systemd as process 1, a real Nomad and a real SeaweedFS.
//!
//! * [`machine`] is the container: booted, rebooted, cut off, asked.
//! * [`node`] is a Nomad client in it, its jobs and their volumes.
//!
//! `make tools` makes the root file system; `tests/tools/package` the packages, which `make test` has made before.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests, which clippy.toml does not count as tests

#[path = "../support/mod.rs"]
mod support;

mod boot;
mod life;
mod machine;
mod node;
mod package;
