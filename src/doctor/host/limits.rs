//! Limits of the kernel and of processes, and FUSE.

use std::fs::{File, OpenOptions};
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::super::say::Teller;
use super::has_fuse;
use crate::check::Check;
use crate::config::Config;

/// Descriptors that an agent with a thousand hooks at once needs.
const DESCRIPTORS: u64 = 16_384;
/// The guard has a group for each source, up to this, and the kernel's own default is more.
const GROUPS: u64 = 100;
/// inotify instances and watches that the agent and its guard need, generously.
const INSTANCES: u64 = 16;

/// Looks at all of it.
pub(super) fn look(config: &Config, tell: &mut Teller) {
    tell.begin("/dev/fuse");
    tell.found(fuse(config, Path::new("/dev/fuse")));
    tell.begin("descriptors");
    tell.found(descriptors(getrlimit(Resource::Nofile).maximum));
    tell.begin("mounts");
    tell.found(mounts());
    tell.begin("watches");
    tell.found(watches(read("fs/fanotify/max_user_groups"), read("fs/inotify/max_user_instances")));
}

fn fuse(config: &Config, device: &Path) -> Check {
    let name = "/dev/fuse";
    if !has_fuse(config) {
        return Check::skipped(name, "no backend is mounted by FUSE");
    }
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Check::ok(name, "can be opened"),
        Err(error) => Check::unavailable(name, format!("cannot be opened: {error}"), "modprobe fuse"),
    }
}

/// `maximum`: none is no limit.
fn descriptors(maximum: Option<u64>) -> Check {
    let name = "descriptors";
    match maximum {
        Some(most) if most < DESCRIPTORS => Check::warning(
            name,
            format!("a process may have {most} open; the agent has one for each allocation and hook"),
            format!("ulimit -Hn {DESCRIPTORS}   # where the agent is started; its unit has LimitNOFILE=65536"),
        ),
        Some(most) => Check::ok(name, format!("a process may have {most} open")),
        None => Check::ok(name, "no limit"),
    }
}

fn mounts() -> Check {
    let name = "mounts";
    let used = std::fs::read("/proc/self/mountinfo").unwrap_or_default().iter().filter(|byte| **byte == b'\n').count();
    let Some(most) = read("fs/mount-max") else { return Check::skipped(name, "the kernel does not say fs.mount-max") };
    let used = u64::try_from(used).unwrap_or(u64::MAX);
    if used.saturating_mul(2) > most {
        let mend = format!("sysctl -w fs.mount-max={}", most.max(used).saturating_mul(4));
        return Check::warning(name, format!("{used} of at most {most} in a namespace are in use"), mend);
    }
    Check::ok(name, format!("{used} of at most {most}"))
}

fn watches(groups: Option<u64>, instances: Option<u64>) -> Check {
    let name = "watches";
    if let Some(groups) = groups.filter(|groups| *groups < GROUPS) {
        let detail = format!("the guard may have {groups} fanotify groups; sources beyond that share one");
        return Check::warning(name, detail, "sysctl -w fs.fanotify.max_user_groups=128");
    }
    if let Some(instances) = instances.filter(|instances| *instances < INSTANCES) {
        let detail = format!("root may have {instances} inotify instances, and others need some, too");
        return Check::warning(name, detail, "sysctl -w fs.inotify.max_user_instances=128");
    }
    let said = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
    Check::ok(name, format!("{} fanotify groups, {} inotify instances", said(groups), said(instances)))
}

fn read(name: &str) -> Option<u64> {
    let text = std::io::read_to_string(File::open(Path::new("/proc/sys").join(name)).ok()?).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Outcome;

    #[test]
    fn limits_that_are_too_low_are_named_with_the_command_that_raises_them() {
        assert_eq!(descriptors(None).outcome, Outcome::Ok);
        assert_eq!(descriptors(Some(65_536)).outcome, Outcome::Ok);
        assert_eq!(descriptors(Some(1_024)).outcome, Outcome::Warning);
        assert_eq!(watches(Some(128), Some(128)).outcome, Outcome::Ok);
        let low = watches(Some(8), Some(128));
        assert_eq!(low.mend.as_deref(), Some("sysctl -w fs.fanotify.max_user_groups=128"));
        assert_eq!(watches(None, Some(2)).outcome, Outcome::Warning);
    }
}
