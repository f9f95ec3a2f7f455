//! The package and its units in a booted Debian: systemd as process 1, a real Nomad and a real SeaweedFS.
//!
//! * [`machine`] is what boots and can be asked: a [`container`], which all tests but one are content with, or a
//!   [`qemu`] virtual machine with Debian's kernel, cgroups of version 2, and a disk of its own.
//! * [`node`] is a Nomad client in it, its jobs and their volumes; [`setup`] is what its files say.
//!
//! `make tools` makes the root file system; `tests/tools/package` the packages, which `make test` has made before.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests, which clippy.toml does not count as tests

#[path = "../support/mod.rs"]
mod support;

mod boot;
mod container;
mod life;
mod machine;
mod node;
mod package;
mod qemu;
mod setup;
mod vm;
