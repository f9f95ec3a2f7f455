//! What is mounted where bindings are, found in the mount table: for an agent whose ledger does not tell.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::{Host, leave};
use crate::job::Placement;
use crate::nomad::model::AllocId;
use crate::sys::{identity, resolve, table};

/// A mount in a task's directory, or in the folder of links, that is none of Nomad's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is on this host.
    pub path: PathBuf,
    /// The allocation that it is in.
    pub alloc: AllocId,
    /// The task.
    pub task: String,
    /// Where, below the task's directory.
    pub below: PathBuf,
    /// Below the allocation's directory, or in the folder of links.
    pub placement: Placement,
    /// The mount's unique id.
    pub mount_id: u64,
    /// Major and minor number of its file system's device.
    pub device: (u32, u32),
    /// Its file system's type.
    pub fs_type: String,
}

/// Finds every mount in a task's directory or in the folder of links that `is_known` does not know by its place. Reads
/// the whole mount table; asks neither guard nor server.
///
/// # Errors
/// The mount table cannot be read.
pub fn find_mounts(host: &Host, is_known: impl Fn(&AllocId, &str, &Path, Placement) -> bool) -> io::Result<Vec<Found>> {
    let places = [(&host.alloc_root, Placement::Mount), (&host.links, Placement::Link)];
    // A root that is not there has nothing mounted below it.
    let roots: Vec<(PathBuf, Placement)> = places
        .into_iter()
        .filter_map(|(root, placement)| Some((std::fs::canonicalize(root).ok()?, placement)))
        .collect();
    let mut found: Vec<Found> = Vec::new();
    for entry in table::read_own()? {
        let below_root = |(root, placement): &(PathBuf, Placement)| {
            let below = entry.mount_point.strip_prefix(root).ok().filter(|below| !below.as_os_str().is_empty())?;
            Some((below.to_owned(), *placement))
        };
        let Some((below, placement)) = roots.iter().find_map(below_root) else { continue };
        let Some((alloc, task, inside)) = split(&below) else { continue };
        let is_nomads = placement == Placement::Mount && !leave::is_unexplained(&Path::new(&task).join(&inside), &task);
        if is_nomads || is_known(&alloc, &task, &inside, placement) {
            continue;
        }
        let looked = resolve::open_root(&entry.mount_point)
            .map_err(io::Error::other)
            .and_then(|top| identity::identify(top.as_fd()));
        // Gone again, or covered by what is mounted on it or above it: then it is in nobody's reach.
        let Ok(top) = looked.inspect_err(|error| {
            tracing::debug!(path = %entry.mount_point.display(), %error, "a mount cannot be looked at");
        }) else {
            continue;
        };
        if !top.is_mount_root || found.iter().any(|found| found.path == entry.mount_point) {
            continue;
        }
        found.push(Found {
            path: entry.mount_point,
            alloc,
            task,
            below: inside,
            placement,
            mount_id: top.mount_id,
            device: top.device,
            fs_type: entry.fs_type,
        });
    }
    Ok(found)
}

/// `<allocation>/<task>/<destination>`.
fn split(below: &Path) -> Option<(AllocId, String, PathBuf)> {
    let mut components = below.iter();
    let alloc = AllocId::parse(components.next()?.to_str()?).ok()?;
    let task = components.next()?.to_str()?.to_owned();
    let inside: PathBuf = components.collect();
    (!inside.as_os_str().is_empty()).then_some((alloc, task, inside))
}

/// Hands a mount that no record explains to the guard: it is in reach of a collection like any other. Its file system
/// is a group of its own, since what can hang together is guarded together.
///
/// # Errors
/// Why the guard does not take it.
pub fn guard_found(host: &Host, found: &Found) -> io::Result<()> {
    if found.placement == Placement::Link {
        return Ok(());
    }
    let top = resolve::open_root(&found.path).map_err(io::Error::other)?;
    if identity::identify(top.as_fd())?.mount_id != found.mount_id {
        return Ok(());
    }
    let (major, minor) = found.device;
    host.guard
        .mark(&format!("device-{major}-{minor}"), top.as_fd(), super::MARK_DEADLINE)
        .map_err(|error| io::Error::other(crate::reconcile::error::whole(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOC: &str = "11111111-2222-3333-4444-555555555555";

    #[test]
    fn a_place_names_its_allocation_task_and_destination() {
        let place = Path::new(ALLOC).join("db/local/data/deep");
        let (alloc, task, inside) = split(&place).expect("a place");
        assert_eq!((alloc.as_str(), task.as_str(), inside.as_path()), (ALLOC, "db", Path::new("local/data/deep")));
        for other in ["db/local", ALLOC, "not-an-allocation/db/local/x"] {
            assert_eq!(split(Path::new(other)), None, "{other}");
        }
        assert_eq!(split(&Path::new(ALLOC).join("db")), None);
    }
}
