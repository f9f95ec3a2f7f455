//! Whether a task that Nomad no longer knows still lives. Nomad's word ends a task that it knows; of an allocation that
//! it has forgotten (its data directory was wiped, its node has another id) it says nothing, and the processes go on.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::{Host, Site};
use crate::job::Placement;
use crate::nomad::model::AllocId;
use crate::reconcile::binding::Binding;
use crate::sys::{process, table};

/// A process of the binding's task, by any of what Nomad and its drivers leave on it: the task's environment, its
/// cgroup, or a mount namespace that holds a clone of the binding among the allocation's directories.
///
/// # Errors
/// /proc or a namespace that still exists cannot be read: then nobody may conclude that none lives.
pub(super) fn find_process(host: &Host, alloc: &AllocId, binding: &Binding) -> io::Result<Option<i32>> {
    let own = i32::try_from(std::process::id()).ok();
    for pid in process::find_processes()? {
        if Some(pid) != own && is_of_task(pid, alloc, &binding.key.task) {
            return Ok(Some(pid));
        }
    }
    find_clone(host, alloc, binding)
}

/// By what it was started with. A process that is gone has neither.
fn is_of_task(pid: i32, alloc: &AllocId, task: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let has = |name: &str, value: &str| {
        let is_it = |word: &[u8]| word.strip_prefix(name.as_bytes()).is_some_and(|rest| rest == value.as_bytes());
        environment.split(|byte| *byte == 0).any(is_it)
    };
    if has("NOMAD_ALLOC_ID=", alloc.as_str()) {
        return has("NOMAD_TASK_NAME=", task);
    }
    // `nomad.slice/…/<alloc>.<task>.scope` of version 2, `nomad/<alloc>.<task>` of version 1.
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let scope = format!("/{alloc}.{task}");
    cgroups.lines().any(|line| line.strip_suffix(".scope").unwrap_or(line).ends_with(&scope))
}

/// A process in another mount namespace that holds a clone of the binding. Others may hold one too that are not of this
/// task: other allocations have clones of the same volume, so only a namespace with a directory of this one counts; and
/// whoever was given a copy of all of the host's mounts (a service with mounts of its own, unshare(1)) has it where the
/// host has it, which no container does.
fn find_clone(host: &Host, alloc: &AllocId, binding: &Binding) -> io::Result<Option<i32>> {
    if binding.placement == Placement::Link {
        // Its task sees the host's own mounts.
        return Ok(None);
    }
    let Ok(site) = Site::of(host, alloc, binding) else { return Ok(None) };
    let Ok(top) = site.open_top() else { return Ok(None) };
    let Some(mounted) = mounted_from(&top)? else { return Ok(None) };
    for clone in process::find_clones(mounted.device, &mounted.root)? {
        let entries = match table::read_of(clone.pid) {
            Ok(entries) => entries,
            // It ended just now, and others of its namespace may not have: it is looked at again.
            Err(_) => return Ok(Some(clone.pid)),
        };
        let is_elsewhere = |entry: &table::Entry| {
            entry.device == mounted.device && entry.root == mounted.root && entry.mount_point != mounted.mount_point
        };
        let is_of_alloc = |entry: &table::Entry| entry.root.iter().any(|part| part == alloc.as_str());
        if entries.iter().any(is_elsewhere) && entries.iter().any(is_of_alloc) {
            return Ok(Some(clone.pid));
        }
    }
    Ok(None)
}

/// The mount that a descriptor is the top of, as the mount table has it.
fn mounted_from(top: &OwnedFd) -> io::Result<Option<table::Entry>> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", top.as_raw_fd()))?;
    let id: Option<u64> = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    Ok(table::read_own()?.into_iter().find(|entry| Some(entry.mount_id) == id))
}
