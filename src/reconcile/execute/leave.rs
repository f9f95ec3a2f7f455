//! Taking a binding away, and what a collection had to leave because of it. Nothing here asks a source's file system
//! anything, so a hung server keeps nobody waiting.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::{Host, Site, link_target, living};
use crate::job::Placement;
use crate::nomad::model::AllocId;
use crate::reconcile::binding::Binding;
use crate::reconcile::error::UnbindError;
use crate::sys::identity::{self, Identity};
use crate::sys::mount::{self, MountError};
use crate::sys::{inode, resolve, table};

/// How hard a mount is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Only when the kernel says that nobody on this host has it open.
    WhenUnused,
    /// The same, and only when no process of its task lives: Nomad has forgotten the allocation and says nothing of it.
    WhenItsTaskIsGone,
    /// Out of the tree at once; who holds it open keeps it. For a mount that Nomad is about to walk into.
    AtOnce,
}

/// A binding that is to be taken away.
pub struct Leaving {
    /// Its allocation.
    pub alloc: AllocId,
    /// Which.
    pub binding: Binding,
    /// Its mount, by this agent's proof or by the ledger.
    pub identity: Option<Identity>,
    /// Where other bindings of the allocation are mounted, below its directory: what is there is explained.
    pub others: Vec<PathBuf>,
}

/// Takes a binding away: unmounts it, makes the directory beneath removable, and removes what is empty. Never asks the
/// source's file system anything, so a hung server keeps nobody waiting.
///
/// # Errors
/// [`UnbindError::Busy`] where somebody on this host has it open; it then stays as it is.
pub fn unbind(host: &Host, leaving: &Leaving, force: Force) -> Result<(), UnbindError> {
    let Leaving { alloc, binding, .. } = leaving;
    if force == Force::WhenItsTaskIsGone
        && let Some(pid) = living::find_process(host, alloc, binding).map_err(UnbindError::Processes)?
    {
        return Err(UnbindError::TaskLives(pid));
    }
    if binding.placement == Placement::Link {
        unlink(host, alloc, binding)?;
    }
    let site = match Site::of(host, alloc, binding) {
        Ok(site) => site,
        Err(error) if error.is_missing() => return Ok(()),
        Err(error) => return Err(UnbindError::Destination(error)),
    };
    if take_away(&site, force)? == Found::Mount || binding.placement == Placement::Link {
        remove_empty_directories(&site, alloc, binding);
        return Ok(());
    }
    // The task owns the directories above its mount and may have renamed them, or put something in their place: that the
    // mount is not where it was made does not say that it is gone.
    for moved in find_left(host, leaving)? {
        tracing::warn!(%alloc, task = binding.key.task, volume = binding.volume.name, path = %moved.path.display(), "the task has moved its mount; it is taken away where it is");
        take_away(&moved, force)?;
        // Nothing but the mount's own directory: what lies above is where the task has put it.
        let _ = resolve::remove_empty(moved.root.as_fd(), &moved.path);
    }
    remove_empty_directories(&site, alloc, binding);
    Ok(())
}

/// What is left of a binding elsewhere in its allocation's directory.
fn find_left(host: &Host, leaving: &Leaving) -> Result<Vec<Site>, UnbindError> {
    let Leaving { alloc, binding, identity, others } = leaving;
    if identity.is_some() {
        return find_moved(host, alloc, identity.as_ref()).map_err(UnbindError::Table);
    }
    // An agent died before it could note which mount it made: one in this task's directory that nobody explains may be
    // it, and is left to a person rather than forgotten.
    let below = find_below(host, alloc).map_err(UnbindError::Table)?;
    let may_be_it = |path: &PathBuf| is_unexplained(path, &binding.key.task) && !others.contains(path);
    match below.into_iter().find(|(site, _)| may_be_it(&site.path)) {
        Some((site, _)) => Err(UnbindError::Unexplained(site.path)),
        None => Ok(Vec::new()),
    }
}

/// Whether a process of this host has a binding's mount open. Changes nothing.
pub(super) fn is_used(host: &Host, alloc: &AllocId, binding: &Binding) -> Result<bool, UnbindError> {
    let site = match Site::of(host, alloc, binding) {
        Ok(site) => site,
        Err(error) if error.is_missing() => return Ok(false),
        Err(error) => return Err(UnbindError::Destination(error)),
    };
    let parent = match site.open_parent() {
        Ok(parent) => parent,
        Err(error) if is_nothing(&error) => return Ok(false),
        Err(error) => return Err(UnbindError::Destination(error)),
    };
    // Whoever lets go of a mount takes the mark of an earlier question off it.
    drop(site.open_top());
    match mount::expire(parent.as_fd(), site.parent_and_name().1) {
        Ok(is_used) => Ok(is_used),
        Err(MountError::NotAMountPoint | MountError::Missing) => Ok(false),
        Err(error) => Err(UnbindError::Mount(error)),
    }
}

/// What was at a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// At least one mount, which is gone now.
    Mount,
    /// None.
    Nothing,
}

/// Whether the way to a place ends before it: no mount of ours is there.
fn is_nothing(error: &resolve::ResolveError) -> bool {
    use resolve::ResolveError::{Missing, NotADirectory, Symlink};
    matches!(error, Missing(_) | Symlink(_) | NotADirectory(_))
}

/// Unmounts what is mounted at a site, and makes the directory beneath removable.
fn take_away(site: &Site, force: Force) -> Result<Found, UnbindError> {
    let parent = match site.open_parent() {
        Ok(parent) => parent,
        Err(error) if is_nothing(&error) => return Ok(Found::Nothing),
        Err(error) => return Err(UnbindError::Destination(error)),
    };
    let name = site.parent_and_name().1;
    let mut found = Found::Nothing;
    loop {
        let result = match force {
            Force::WhenUnused | Force::WhenItsTaskIsGone => mount::unmount(parent.as_fd(), name),
            Force::AtOnce => mount::detach(parent.as_fd(), name),
        };
        match result {
            Ok(()) => found = Found::Mount,
            Err(MountError::NotAMountPoint) => break,
            Err(MountError::Missing) => return Ok(found),
            Err(MountError::Busy) => return Err(UnbindError::Busy),
            Err(error) => return Err(UnbindError::Mount(error)),
        }
    }
    // One mount only from here on: whatever comes to be mounted meanwhile is refused, never opened.
    match resolve::open_beneath_on_one_mount(parent.as_fd(), Path::new(name)) {
        Ok(beneath) => match inode::set_immutable(beneath.as_fd(), false) {
            Ok(()) | Err(inode::InodeError::Unsupported) => Ok(found),
            Err(error) => Err(UnbindError::Beneath(error)),
        },
        Err(error) if is_nothing(&error) => Ok(found),
        Err(error) => Err(UnbindError::Destination(error)),
    }
}

/// Every mount below an allocation's directory, and which it is. Reads the whole mount table: for cases that somebody has
/// to bring about.
fn find_below(host: &Host, alloc: &AllocId) -> io::Result<Vec<(Site, Identity)>> {
    let base = std::fs::canonicalize(&host.alloc_root)?.join(alloc.as_str());
    let mut found = Vec::new();
    for entry in table::read_own()? {
        let Ok(path) = entry.mount_point.strip_prefix(&base) else { continue };
        let root = resolve::open_root(&host.alloc_root)
            .and_then(|root| resolve::open_beneath(root.as_fd(), Path::new(alloc.as_str())))
            .map_err(io::Error::other)?;
        let site = Site { root, path: path.to_owned() };
        // One that is covered, or that the task has just moved on, is not seen at its path.
        if let Ok(top) = site.open_top()
            && let Ok(identity) = identity::identify(top.as_fd())
        {
            found.push((site, identity));
        }
    }
    Ok(found)
}

/// Where a binding's mount is now, below its allocation's directory, if it is not where it was made.
pub(super) fn find_moved(host: &Host, alloc: &AllocId, identity: Option<&Identity>) -> io::Result<Vec<Site>> {
    let Some(identity) = identity else { return Ok(Vec::new()) };
    let is_it = |found: &Identity| found.mount_id == identity.mount_id && found.device == identity.device;
    Ok(find_below(host, alloc)?.into_iter().filter(|(_, found)| is_it(found)).map(|(site, _)| site).collect())
}

/// Whether a mount in a task's directory is not one of Nomad's own.
pub(super) fn is_unexplained(path: &Path, task: &str) -> bool {
    let Ok(below) = path.strip_prefix(task) else { return false };
    // Nomad mounts these on the task's directory itself, and a destination is never in them.
    let nomads = ["alloc", "dev", "private", "proc", "secrets", "sys", "tmp"];
    below.components().next().is_some_and(|first| !nomads.iter().any(|own| first.as_os_str() == *own))
}

fn unlink(host: &Host, alloc: &AllocId, binding: &Binding) -> Result<(), UnbindError> {
    let within = Path::new(alloc.as_str()).join(&binding.key.task).join(binding.key.destination.as_path());
    let (Some(parent), Some(name)) = (within.parent(), within.file_name()) else { return Ok(()) };
    let allocs = resolve::open_root(&host.alloc_root).map_err(UnbindError::Destination)?;
    let parent = match resolve::open_beneath(allocs.as_fd(), parent) {
        Ok(parent) => parent,
        Err(error) if error.is_missing() => return Ok(()),
        // The task has put something else in the way of its own link: nothing of ours is left there.
        Err(resolve::ResolveError::Symlink(_) | resolve::ResolveError::NotADirectory(_)) => return Ok(()),
        Err(error) => return Err(UnbindError::Destination(error)),
    };
    let target = link_target(host, alloc, binding);
    let found = rustix::fs::readlinkat(&parent, name, Vec::new()).ok();
    if found.is_some_and(|found| found.to_bytes() == target.as_os_str().as_encoded_bytes()) {
        // Gone meanwhile is as good.
        let _ = rustix::fs::unlinkat(&parent, name, rustix::fs::AtFlags::empty());
    }
    Ok(())
}

/// Removes the directories that were made for a mount, from the inside out, as long as they are empty. A directory that
/// is not ends it: it is the job's or Nomad's.
fn remove_empty_directories(site: &Site, alloc: &AllocId, binding: &Binding) {
    // In an allocation `<task>/local` and above are Nomad's to remove; a folder of links is all ours.
    let keep = match binding.placement {
        Placement::Mount => Path::new(&binding.key.task).join("local"),
        Placement::Link => PathBuf::new(),
    };
    let task = Path::new(&binding.key.task);
    for path in site.path.ancestors() {
        if path == keep || path == task && binding.placement == Placement::Mount || path.as_os_str().is_empty() {
            break;
        }
        match resolve::remove_empty(site.root.as_fd(), path) {
            Ok(_) => {}
            Err(resolve::ResolveError::NotEmpty(_)) => break,
            Err(error) => {
                tracing::debug!(%alloc, path = %path.display(), reason = %error, "an empty directory stays");
                break;
            }
        }
    }
}
