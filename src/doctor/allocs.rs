//! The allocation root, where volumes are bound to, and who sees what is mounted there.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{IFlags, Mode, OFlags};

use super::host::disks;
use super::say::Teller;
use crate::check::Check;
use crate::config::Config;
use crate::nomad::client::AgentSettings;
use crate::sys::{inode, process, resolve, table};

/// Looks at all of it.
pub(super) fn look(config: &Config, alloc_dir: Option<&Path>, settings: &AgentSettings, tell: &mut Teller) {
    tell.begin("alloc_dir");
    let Some(alloc_dir) = alloc_dir else {
        let detail = "Nomad does not say where it keeps allocations (a development agent does not)";
        let mend = "nomad { alloc_dir = \"/opt/nomad/data/alloc\" }   # what Nomad's log calls alloc_dir";
        return tell.found(Check::misconfigured("alloc_dir", detail, mend));
    };
    if let Err(error) = resolve::open_root(alloc_dir) {
        let mend = "nomad { alloc_dir = \"…\" }   # as this host sees it; Nomad and saddlebag have to see the same";
        return tell.found(Check::misconfigured("alloc_dir", error.to_string(), mend));
    }
    tell.found(disks::look_at("alloc_dir", alloc_dir));
    tell.found(threshold(alloc_dir, settings));
    tell.begin("immutable flag");
    tell.found(immutable(alloc_dir));
    tell.begin("propagation");
    let (check, is_shared) = propagation(alloc_dir);
    tell.found(check);
    tell.begin("namespaces");
    tell.found(namespaces(config.nomad.port(), is_shared));
}

/// Over its threshold Nomad collects ended allocations at once.
fn threshold(alloc_dir: &Path, settings: &AgentSettings) -> Check {
    const NAME: &str = "collection";
    let (Some(threshold), Ok(room)) = (settings.gc_disk_usage_threshold, rustix::fs::statvfs(alloc_dir)) else {
        return Check::skipped(NAME, "Nomad does not say its gc_disk_usage_threshold");
    };
    // In hundredths of a percent, by whole numbers.
    let used = room.f_blocks.saturating_sub(room.f_bfree).saturating_mul(100).checked_div(room.f_blocks).unwrap_or(0);
    let detail = format!("the disk is used to {used} %, Nomad collects at once from {threshold} %");
    #[allow(clippy::cast_precision_loss)]
    if used as f64 >= threshold {
        let mend = format!(
            "df -h {}   # make room; or client {{ gc_disk_usage_threshold = 95 }} of Nomad",
            alloc_dir.display()
        );
        return Check::warning(NAME, detail, mend);
    }
    Check::ok(NAME, detail)
}

/// The directory beneath a mount has to become immutable: tried on a file that has no name.
fn immutable(alloc_dir: &Path) -> Check {
    const NAME: &str = "immutable flag";
    match try_immutable(alloc_dir) {
        Ok(()) => Check::ok(NAME, "the directory beneath a mount can be closed"),
        Err(error) => {
            let fs_type = own_entry(alloc_dir).map_or_else(|_| "?".to_owned(), |entry| entry.fs_type);
            let detail = format!("{} ({fs_type}) has no immutable flag: {error}", alloc_dir.display());
            let mend = "client { alloc_dir = \"/var/lib/nomad-alloc\" }   # of Nomad: on ext4, xfs or btrfs";
            Check::misconfigured(NAME, detail, mend)
        }
    }
}

fn try_immutable(folder: &Path) -> io::Result<()> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => {
            let file = File::from(file);
            let before = rustix::fs::ioctl_getflags(&file)?;
            rustix::fs::ioctl_setflags(&file, before | IFlags::IMMUTABLE)?;
            Ok(rustix::fs::ioctl_setflags(&file, before)?)
        }
        // It has no files without names: whether it knows flags at all is what can be found out without leaving one.
        Err(_) => {
            let root = resolve::open_root(folder).map_err(io::Error::other)?;
            inode::is_immutable(root.as_fd()).map(drop).map_err(io::Error::other)
        }
    }
}

fn own_entry(folder: &Path) -> io::Result<table::Entry> {
    let root = resolve::open_root(folder).map_err(io::Error::other)?;
    table::locate(root.as_fd(), &table::read_own()?).map(|(entry, _)| entry)
}

fn propagation(alloc_dir: &Path) -> (Check, bool) {
    const NAME: &str = "propagation";
    match own_entry(alloc_dir) {
        Ok(entry) => {
            let is_shared = entry.peer_group.is_some();
            let how = if is_shared { "shared" } else { "private" };
            (Check::ok(NAME, format!("{how}, {} mounted at {}", entry.fs_type, entry.mount_point.display())), is_shared)
        }
        Err(error) => {
            let mend = format!("findmnt -T {}", alloc_dir.display());
            (Check::warning(NAME, format!("its mount is not found: {error}"), mend), false)
        }
    }
}

/// What is mounted here is seen by Nomad, and by a Docker daemon, only in the same mount namespace, or where it spreads.
fn namespaces(port: Option<u16>, is_shared: bool) -> Check {
    const NAME: &str = "namespaces";
    let Ok(own) = process::own_mount_namespace() else { return Check::skipped(NAME, "the kernel does not say") };
    let is_elsewhere = |pid: &i32| process::mount_namespace(*pid).is_ok_and(|found| found != own);
    let Some(nomad) = port.and_then(process::find_listener) else {
        return Check::skipped(NAME, "no process of this host listens at Nomad's port");
    };
    if is_elsewhere(&nomad) {
        let detail =
            format!("Nomad (pid {nomad}) has a mount namespace of its own, and does not see what is mounted here");
        let mend = "systemctl show nomad -p PrivateMounts,PrivateTmp,ProtectSystem,ProtectHome   # remove these; or run both on the host";
        return Check::misconfigured(NAME, detail, mend);
    }
    let docker = process::find_processes_by_exe_name("dockerd");
    if let Some(pid) = docker.iter().find(|pid| is_elsewhere(pid) && !is_shared) {
        let detail =
            format!("dockerd (pid {pid}) has a mount namespace of its own, and the allocation root's mount is private");
        return Check::misconfigured(NAME, detail, "mount --make-rshared /; systemctl restart docker");
    }
    Check::ok(NAME, format!("Nomad (pid {nomad}) sees the same mounts"))
}
