//! Whether a task that Nomad no longer knows still lives. Nomad's word ends a task that it knows; of an allocation that
//! it has forgotten (its data directory was wiped, its node has another id) it says nothing, and the processes go on.

use std::fs;
use std::io;
use std::path::Path;

use super::{Host, Site};
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

/// A process in another mount namespace that holds a clone of the binding. Other allocations may have clones of the
/// same volume: only a namespace that holds a directory of this one counts.
fn find_clone(host: &Host, alloc: &AllocId, binding: &Binding) -> io::Result<Option<i32>> {
    let Ok(site) = Site::of(host, alloc, binding) else { return Ok(None) };
    let Ok(top) = site.open_top() else { return Ok(None) };
    let Some((device, root)) = mounted_from(&top)? else { return Ok(None) };
    for clone in process::find_clones(device, &root)? {
        let entries = match table::read_of(clone.pid) {
            Ok(entries) => entries,
            // It ended just now, and others of its namespace may not have: it is looked at again.
            Err(_) => return Ok(Some(clone.pid)),
        };
        let names = |path: &Path| path.iter().any(|part| part == alloc.as_str());
        if entries.iter().any(|entry| names(&entry.root) || names(&entry.mount_point)) {
            return Ok(Some(clone.pid));
        }
    }
    Ok(None)
}

/// The device and root of the mount that a descriptor is the top of.
fn mounted_from(top: &std::os::fd::OwnedFd) -> io::Result<Option<((u32, u32), std::path::PathBuf)>> {
    use std::os::fd::AsRawFd;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", top.as_raw_fd()))?;
    let id: Option<u64> = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    let entries = table::read_own()?;
    Ok(entries.into_iter().find(|entry| Some(entry.mount_id) == id).map(|entry| (entry.device, entry.root)))
}
