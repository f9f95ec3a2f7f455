//! What the kernel can do, tried in a mount namespace of this process's own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::mount::MoveMountFlags;
use rustix::process::{Pid, PidfdFlags};

use super::super::say::Teller;
use super::whole;
use crate::check::Check;
use crate::sys::mount::{self, Flags};
use crate::sys::{apart, fanotify, identity, resolve};

/// What mends a kernel that is too old.
const NEWER: &str = "apt install linux-image-amd64 && reboot   # Linux 5.12 or newer";
/// The capabilities that the agent's unit keeps (capabilities(7)), by their numbers.
const CAPABILITIES: [(u32, &str); 9] = [
    (0, "CHOWN"),
    (1, "DAC_OVERRIDE"),
    (2, "DAC_READ_SEARCH"),
    (3, "FOWNER"),
    (4, "FSETID"),
    (9, "LINUX_IMMUTABLE"),
    (18, "SYS_CHROOT"),
    (19, "SYS_PTRACE"),
    (21, "SYS_ADMIN"),
];

/// Looks at all of it.
pub(super) fn look(tell: &mut Teller) {
    tell.begin("kernel");
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    tell.found(Check::ok("kernel", format!("Linux {release}")));
    tell.begin("capabilities");
    tell.found(capabilities());

    tell.begin("pidfd");
    tell.found(tried("pidfd", "processes can be held fast", NEWER, pidfd()));
    tell.begin("openat2");
    tell.found(tried("openat2", "paths are resolved beneath a root", NEWER, openat2()));
    // A namespace of its own is the calling thread's for good.
    let mounts = std::thread::spawn(try_mounts).join();
    for check in mounts.unwrap_or_default() {
        tell.found(check);
    }
}

fn capabilities() -> Check {
    const NAME: &str = "capabilities";
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
        return Check::skipped(NAME, "/proc/self/status does not say");
    };
    let missing = missing_capabilities(effective);
    if missing.is_empty() {
        return Check::ok(NAME, format!("all {} that it needs", CAPABILITIES.len()));
    }
    let detail = format!("root here has not: {}", missing.join(", "));
    Check::unavailable(NAME, detail, "run the agent on the host itself, or in a container with --privileged")
}

fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    CAPABILITIES.iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| *name).collect()
}

fn tried(name: &str, what: &str, mend: &str, result: io::Result<()>) -> Check {
    match result {
        Ok(()) => Check::ok(name, what),
        Err(error) => Check::unavailable(name, format!("the kernel refuses: {error}"), mend),
    }
}

fn pidfd() -> io::Result<()> {
    let own = i32::try_from(std::process::id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(own, PidfdFlags::empty()).map(drop)?)
}

fn openat2() -> io::Result<()> {
    let root = resolve::open_root(Path::new("/")).map_err(io::Error::other)?;
    let found = resolve::open_beneath(root.as_fd(), Path::new("proc")).map_err(io::Error::other)?;
    identity::identify(found.as_fd()).map(drop)
}

/// Clones a mount, flags it, marks it as the guard does, and puts it where it is seen: here by nobody else.
fn try_mounts() -> Vec<Check> {
    const NAME: &str = "mount API";
    let refused = |step: &str, error: &dyn std::error::Error, mend: &str| {
        Check::unavailable(NAME, format!("{step}: {}", whole(error)), mend)
    };
    if let Err(error) = apart::leave_with_mounts() {
        return vec![refused("no mount namespace", &error, "sysctl user.max_mnt_namespaces   # over 0")];
    }
    let clone = || -> Result<OwnedFd, io::Error> {
        // Of a plain file system: the kernel marks none of its own such as /proc for permission events.
        let root = resolve::open_root(Path::new("/")).map_err(io::Error::other)?;
        let clone = mount::clone_detached(root.as_fd()).map_err(io::Error::other)?;
        mount::set_flags(clone.as_fd(), Flags { read_only: true, nosuid: true, nodev: true, noexec: true })
            .map_err(io::Error::other)?;
        Ok(clone)
    };
    let first = match clone() {
        Ok(first) => first,
        Err(error) => return vec![refused("a detached mount cannot be made", &error, NEWER)],
    };
    let mut checks = vec![mark(&first)];
    let placed = resolve::open_root(Path::new("/proc"))
        .map_err(io::Error::other)
        .and_then(|at| mount::place(first.as_fd(), at.as_fd()).map_err(io::Error::other));
    checks.insert(
        0,
        match placed {
            Ok(()) => Check::ok(NAME, "open_tree, mount_setattr and move_mount work"),
            Err(error) => refused("a mount cannot be placed", &error, NEWER),
        },
    );
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
        | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH
        | MoveMountFlags::MOVE_MOUNT_BENEATH;
    let beneath = clone().and_then(|second| {
        let top = resolve::open_root(Path::new("/proc")).map_err(io::Error::other)?;
        Ok(rustix::mount::move_mount(&second, c"", &top, c"", flags)?)
    });
    checks.push(match beneath {
        Ok(()) => Check::ok("mount beneath", "a lost mount is replaced with no moment between"),
        Err(error) => Check::warning(
            "mount beneath",
            format!("a lost mount is covered by the new one instead of being replaced: {error}"),
            "apt install linux-image-amd64 && reboot   # Linux 6.5 or newer",
        ),
    });
    checks
}

/// As the guard marks a mount.
fn mark(mount: &OwnedFd) -> Check {
    const NAME: &str = "fanotify";
    let marked = fanotify::Group::create().and_then(|group| group.mark_mount(mount.as_fd()));
    match marked {
        Ok(()) => Check::ok(NAME, "the guard can mark mounts"),
        Err(error) => {
            let mend = if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) {
                "sysctl -w fs.fanotify.max_user_groups=256"
            } else {
                "boot a kernel with CONFIG_FANOTIFY_ACCESS_PERMISSIONS=y: apt install linux-image-amd64 && reboot"
            };
            Check::unavailable(NAME, format!("volumes cannot be guarded against Nomad: {error}"), mend)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_root_lacks_is_named() {
        assert!(missing_capabilities(u64::MAX).is_empty());
        assert_eq!(missing_capabilities(!(1 << 21) & !(1 << 9)), ["LINUX_IMMUTABLE", "SYS_ADMIN"]);
    }
}
