//! The host: its kernel, what it allows, its limits and its disks.
//!
//! What can be tried is tried and not deduced from a version: a kernel may have been built without a feature, and a
//! container may not be allowed to use it.

pub(super) mod disks;
mod images;
mod kernel;
mod limits;

use std::path::Path;

use super::say::Teller;
use crate::backend;
use crate::check::Check;
use crate::config::{BackendKind, Config};
use crate::sys::{cgroup, clock};

/// Looks at all of it.
pub(super) fn look(config: &Config, tell: &mut Teller) {
    kernel::look(tell);
    tell.begin("cgroup memory");
    tell.found(memory_limits(config));
    limits::look(config, tell);
    disks::look(config, tell);
    tell.begin("images");
    images::look(config).into_iter().for_each(|check| tell.found(check));
    tell.begin("clock");
    tell.found(look_at_clock());
}

/// Whether a mount program's memory can be limited: a cgroup of doctor's own is made with a limit, and removed.
fn memory_limits(config: &Config) -> Check {
    const NAME: &str = "cgroup memory";
    if !config.backends.values().any(|backend| backend::of(backend).has_server()) {
        return Check::skipped(NAME, "no backend has a mount program");
    }
    let group = format!("doctor-{}", std::process::id());
    let made = cgroup::create(&group, Some(128 << 20));
    let version = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "version 2" } else { "version 1" };
    let removed = cgroup::remove(&group);
    match (made, removed) {
        (Ok(_), Ok(_)) => Check::ok(NAME, format!("limits hold ({version})")),
        (Err(error), _) | (_, Err(error)) => Check::warning(
            NAME,
            format!("memory_limit of mount programs is not enforced: {}", whole(&error)),
            "add cgroup_enable=memory swapaccount=1 to the kernel's command line (GRUB_CMDLINE_LINUX, update-grub, reboot)",
        ),
    }
}

fn look_at_clock() -> Check {
    const NAME: &str = "clock";
    const MEND: &str = "timedatectl set-ntp true";
    match clock::is_kept() {
        Ok(true) => Check::ok(NAME, "kept in step"),
        Ok(false) => {
            Check::warning(NAME, "nothing keeps it in step (certificates, leases and tokens expire by it)", MEND)
        }
        Err(error) => Check::skipped(NAME, format!("the kernel does not say: {error}")),
    }
}

/// An error and its causes in one line.
pub(super) fn whole(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

/// Whether a backend's mount goes through FUSE.
pub(super) fn has_fuse(config: &Config) -> bool {
    config.backends.values().any(|backend| matches!(backend.kind, BackendKind::Seaweedfs(_) | BackendKind::Gluster(_)))
}
