//! The real servers that tests run against, and the few verbs in which a test tells its story.
//!
//! * [`Lab`] is what all tests of a process share: one Docker daemon and one SeaweedFS.
//! * [`World`] is a test's own: a Nomad, and the saddlebag agent beside it, in one temporary directory.
//! * [`Gluster`] is a world's own GlusterFS.
//! * [`require!`] skips a test where the machine lacks something, and fails it where nothing may be skipped.
//!
//! `tests/tools/lab` starts and ends the processes; the demo uses it too.

// Each test binary is a crate of its own and uses its part of this.
#![allow(dead_code, unused_imports, unused_macros)]

mod agent;
mod cluster;
mod files;
mod gluster;
mod jobs;
mod lab;
mod relay;
mod skip;
mod wait;
mod world;

pub use cluster::{Cluster, Plan};
pub use files::{checksums, mounts_below};
pub use gluster::Gluster;
pub use jobs::PRESTART;
pub use lab::{Lab, tool};
pub use relay::{Relay, Reserved};
pub use skip::{missing, skip};
pub use wait::{tail, wait_until};
pub use world::{Options, PATIENCE, World};

/// Ends the test as skipped where one of the named things is missing: a program, or `root`.
///
/// The test must return `anyhow::Result<()>`. With `REQUIRE_ALL=1` in the environment a skip is a failure.
macro_rules! require {
    ($($what:literal),+ $(,)?) => {
        if let Some(why) = $crate::support::missing(&[$($what),+]) {
            $crate::support::skip(&why);
            return Ok(());
        }
    };
}
pub(crate) use require;
