//! What Nomad could not remove of an allocation's directory because a mount was in its way: directories, and each of
//! them is removed only if it is empty.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{Dir, FileType, Mode, OFlags};

use super::Host;
use crate::nomad::model::AllocId;
use crate::reconcile::binding::BindingKey;
use crate::sys::resolve;

/// For so long nothing has changed in a directory that is swept without anybody's record of it: Nomad, which makes the
/// directory of an allocation before the shared one in it, is long done.
const AT_REST: Duration = Duration::from_secs(5);
/// So deep, and so many entries, are looked at in one allocation: what a collection leaves is few and shallow.
const DEEPEST: usize = 64;
const MOST_ENTRIES: usize = 10_000;

/// Whether Nomad has begun to remove this allocation's directory, or has done so: the shared directory is gone.
pub fn is_collected(host: &Host, alloc: &AllocId) -> bool {
    let shared = Path::new(alloc.as_str()).join("alloc");
    resolve::open_root(&host.alloc_root)
        .and_then(|root| resolve::open_beneath(root.as_fd(), &shared))
        .is_err_and(|error| error.is_missing())
}

/// Removes what a collection left of an allocation because a mount was in its way: directories, from the inside out,
/// each only if it is empty. Nothing else is ever removed, and nothing at all while Nomad still has the allocation.
pub fn sweep(host: &Host, alloc: &AllocId, key: &BindingKey) {
    if !is_collected(host, alloc) {
        return;
    }
    let Ok(allocs) = resolve::open_root(&host.alloc_root) else { return };
    let leaf = Path::new(alloc.as_str()).join(&key.task).join(key.destination.as_path());
    for path in leaf.ancestors().filter(|path| !path.as_os_str().is_empty()) {
        match resolve::remove_empty(allocs.as_fd(), path) {
            Ok(true) => tracing::info!(path = %path.display(), "removed an empty directory that a collection had left"),
            Ok(false) => {}
            Err(_) => break,
        }
    }
}

/// The same for every allocation that is not `known`: an agent that was killed in the middle has forgotten where, and
/// Nomad may have been at the same directory at the same time, and have failed, while its mount was being taken away.
/// Returns whether it is worth doing again in a while: somebody has just been at one of them.
#[must_use]
pub fn sweep_forgotten(host: &Host, known: &BTreeSet<AllocId>) -> bool {
    let Ok(allocs) = resolve::open_root(&host.alloc_root) else { return false };
    let mut is_unfinished = false;
    for name in read_directories(&allocs).unwrap_or_default() {
        let Some(alloc) = name.to_str().and_then(|name| AllocId::parse(name).ok()) else { continue };
        if known.contains(&alloc) || !is_collected(host, &alloc) {
            continue;
        }
        if !is_at_rest(&allocs, &name) {
            is_unfinished = true;
            continue;
        }
        let mut left = MOST_ENTRIES;
        if remove_if_hollow(allocs.as_fd(), &name, DEEPEST, &mut left) {
            tracing::info!(%alloc, "removed the empty directories that a collection had left");
        }
    }
    is_unfinished
}

fn is_at_rest(allocs: &OwnedFd, name: &OsStr) -> bool {
    let Ok(stat) = rustix::fs::statat(allocs, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) else { return false };
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(stat.st_mtime.try_into().unwrap_or_default());
    SystemTime::now().duration_since(changed).is_ok_and(|age| age > AT_REST)
}

/// Removes the directories in a directory, and then itself, as far as they are empty. Whether it is gone. No mount is
/// crossed, and no link followed.
fn remove_if_hollow(parent: BorrowedFd<'_>, name: &OsStr, depth: usize, left: &mut usize) -> bool {
    let Ok(directory) = resolve::open_beneath_on_one_mount(parent, Path::new(name)) else { return false };
    let Some(depth) = depth.checked_sub(1) else { return false };
    for inner in read_directories(&directory).unwrap_or_default() {
        let Some(fewer) = left.checked_sub(1) else { return false };
        *left = fewer;
        remove_if_hollow(directory.as_fd(), &inner, depth, left);
    }
    resolve::remove_empty(parent, Path::new(name)).is_ok()
}

/// The names of the directories in a directory.
fn read_directories(directory: &OwnedFd) -> rustix::io::Result<Vec<OsString>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(open)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if entry.file_type() == FileType::Directory && name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
