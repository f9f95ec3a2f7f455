//! The steps that change mounts. Each can be done twice; each may be the last that a killed agent did.
//!
//! Everything here runs in a worker: [`observe`], [`bind`] and [`replace`] in the source's own, since they ask its file
//! system; [`unbind`] in the host's, since it never does.

mod displaced;
mod find;
pub mod inside;
mod leave;
mod living;
mod set_aside;
mod sweep;
mod take_out;
mod volume;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::binding::Binding;
use super::error::BindError;
use crate::backend::{Attached, Backend};
use crate::guard::GuardClient;
use crate::job::Placement;
use crate::nomad::model::AllocId;
use crate::reconcile::plan::Observed;
use crate::sys::identity::{self, Identity};
use crate::sys::mount::{self, MountError};
use crate::sys::{inode, namespace, resolve, table};

pub use displaced::{Displaced, Proved, find_displaced, uncover};
pub use find::{Found, find_mounts, guard_found};
pub use inside::{Cache, InsideError, Place, mend_inside};
pub use leave::{Force, Leaving, unbind};
pub use set_aside::{Kept, SetAsideError, set_aside};
pub use sweep::{is_collected, sweep, sweep_forgotten};
pub use take_out::{TakeOutError, take_out};
pub use volume::{Creation, has_volume, make_volume};
use volume::{open_volume, prepare_volume};

/// How long the guard may take to mark a mount.
const MARK_DEADLINE: Duration = Duration::from_secs(5);
/// How long a mount may take to say that it is dead. One whose program has ended says so at once.
const DEATH_PATIENCE: Duration = Duration::from_secs(1);
/// Nothing, not even root, writes into the directory beneath a mount: it is immutable, and of this mode.
const BENEATH_MODE: u32 = 0;

/// What the steps need to know of this host.
#[derive(Clone)]
pub struct Host {
    /// Nomad's allocation root.
    pub alloc_root: PathBuf,
    /// Where the bindings of tasks that see the host's own mounts live.
    pub links: PathBuf,
    /// The guard.
    pub guard: GuardClient,
}

/// Where a binding's mount is: beneath a root, at a parent and a name.
struct Site {
    root: OwnedFd,
    path: PathBuf,
}

impl Site {
    fn of(host: &Host, alloc: &AllocId, binding: &Binding) -> Result<Self, resolve::ResolveError> {
        let within = Path::new(&binding.key.task).join(binding.key.destination.as_path());
        Ok(match binding.placement {
            Placement::Mount => Self {
                root: resolve::open_beneath(resolve::open_root(&host.alloc_root)?.as_fd(), Path::new(alloc.as_str()))?,
                path: within,
            },
            Placement::Link => {
                Self { root: resolve::open_root(&host.links)?, path: Path::new(alloc.as_str()).join(within) }
            }
        })
    }

    fn parent_and_name(&self) -> (&Path, &OsStr) {
        (self.path.parent().unwrap_or(Path::new("")), self.path.file_name().unwrap_or_default())
    }

    /// The directory that holds the mount point.
    fn open_parent(&self) -> Result<OwnedFd, resolve::ResolveError> {
        open_or_self(self.root.as_fd(), self.parent_and_name().0)
    }

    /// What a task would see there.
    fn open_top(&self) -> Result<OwnedFd, resolve::ResolveError> {
        resolve::open_beneath(self.root.as_fd(), &self.path)
    }
}

fn open_or_self(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, resolve::ResolveError> {
    resolve::open_beneath(root, if path.as_os_str().is_empty() { Path::new(".") } else { path })
}

/// Whether a mount shows this very directory.
fn shows(mount: &Identity, directory: &Identity) -> bool {
    mount.is_mount_root && mount.device == directory.device && mount.inode == directory.inode
}

/// Looks at a binding's place and compares what is there with the volume. A mount that is right is handed to the guard
/// once more, since this guard may be another than the one that marked it.
///
/// # Errors
/// [`BindError`] where it cannot be told.
pub fn observe(
    host: &Host,
    alloc: &AllocId,
    binding: &Binding,
    source: &Attached,
    recorded: Option<&Identity>,
) -> Result<(Observed, Option<Identity>), BindError> {
    let top = match Site::of(host, alloc, binding).and_then(|site| site.open_top()) {
        Ok(top) => top,
        Err(error) if error.is_missing() => return Ok((Observed::Missing, None)),
        Err(error) => return Err(BindError::Destination(error)),
    };
    let found = identity::identify(top.as_fd()).map_err(BindError::host("look at the destination"))?;
    if !found.is_mount_root {
        return Ok((Observed::Missing, None));
    }
    // Where its own directory is missing, what is mounted stays as it is: more likely the wrong thing answers.
    let directory = open_volume(binding, source)?;
    let wanted = identity::identify(directory.as_fd()).map_err(BindError::host("look at the volume"))?;
    if shows(&found, &wanted) {
        mark(host, binding, top.as_fd())?;
        link(host, alloc, binding)?;
        return Ok((Observed::Proper, Some(found)));
    }
    let ours = recorded.is_some_and(|recorded| recorded.mount_id == found.mount_id && recorded.device == found.device);
    if ours {
        // Only the mount itself says that it is dead. One that lives is its task's, whatever the volume's name means now.
        return match namespace::is_dead_within(top.as_fd(), DEATH_PATIENCE, || ()) {
            Ok(Some(true)) => Ok((Observed::Stale, None)),
            Ok(Some(false)) => Err(BindError::VolumeReplaced),
            Ok(None) => Err(BindError::Undecided),
            Err(error) => Err(BindError::host("ask the mount whether it is dead")(error)),
        };
    }
    if recorded.is_none() && is_dead_remnant(top.as_fd(), source)? {
        return Ok((Observed::Stale, None));
    }
    let is_covered = displaced::is_beneath(host, alloc, binding, directory.as_fd())?;
    Ok((if is_covered { Observed::Covered } else { Observed::Foreign }, None))
}

/// Whether a mount that nobody knows is a dead one of the source's kind: an agent may have made it and have died before its
/// page said so, and the mount program with it. Nothing can be read through it, by anybody.
fn is_dead_remnant(mount: BorrowedFd<'_>, source: &Attached) -> Result<bool, BindError> {
    let look = BindError::host("look at the mount at the destination");
    let is_of_kind = || -> io::Result<bool> {
        let entries = table::read_own()?;
        let of = |id: u64| entries.iter().find(|entry| entry.mount_id == id).map(|entry| entry.fs_type.as_str());
        let there = of(identity::reusable_mount_id(mount)?);
        let root = resolve::open_root(&source.root).map_err(io::Error::other)?;
        Ok(there.is_some() && there == of(identity::reusable_mount_id(root.as_fd())?))
    };
    Ok(is_of_kind().map_err(look)? && matches!(namespace::is_dead_within(mount, DEATH_PATIENCE, || ()), Ok(Some(true))))
}

fn mark(host: &Host, binding: &Binding, mount: BorrowedFd<'_>) -> Result<(), BindError> {
    match binding.placement {
        Placement::Mount => host.guard.mark(&binding.source.0, mount, MARK_DEADLINE).map_err(BindError::Guard),
        // Outside the allocation directory no collection walks, and its tasks' opens need not wait for an answer.
        Placement::Link => Ok(()),
    }
}

/// Makes a binding: the directory beneath refuses writes, the mount is marked by the guard before anyone can see it,
/// and it is proved once it is in place.
///
/// # Errors
/// [`BindError`]; nothing is mounted then.
pub fn bind(
    host: &Host,
    alloc: &AllocId,
    binding: &Binding,
    source: &Attached,
    backend: &dyn Backend,
    creation: Creation,
) -> Result<Identity, BindError> {
    let volume = prepare_volume(binding, source, backend, creation)?;
    let wanted = identity::identify(volume.as_fd()).map_err(BindError::host("look at the volume"))?;
    let site = match Site::of(host, alloc, binding) {
        Err(error) if error.is_missing() && binding.placement == Placement::Mount => {
            return Err(BindError::AllocationGone);
        }
        other => other.map_err(BindError::Destination)?,
    };
    if binding.placement == Placement::Link {
        // The task's own directory is looked at first: where it is gone or hostile, nothing is mounted.
        check_link(host, alloc, binding)?;
    }
    let mount = mount::clone_detached(volume.as_fd()).map_err(BindError::Mount)?;
    drop(volume);
    let flags = mount::Flags {
        read_only: binding.read_only,
        nosuid: binding.volume.nosuid,
        nodev: binding.volume.nodev,
        noexec: binding.volume.noexec,
    };
    mount::set_flags(mount.as_fd(), flags).map_err(BindError::Mount)?;
    let identity = identity::identify(mount.as_fd()).map_err(BindError::host("look at the new mount"))?;
    if identity.device != wanted.device || identity.inode != wanted.inode {
        return Err(BindError::NotProved);
    }
    mark(host, binding, mount.as_fd())?;
    let beneath = make_beneath(&site)?;
    mount::place(mount.as_fd(), beneath.as_fd()).map_err(BindError::Mount)?;
    drop(beneath);
    link(host, alloc, binding)?;
    prove(&site, &identity)?;
    Ok(identity)
}

/// The same where a mount that was made is no longer at its place: if it was moved and is still in the allocation's
/// directory, it is put back, and stays the same mount.
///
/// # Errors
/// As [`bind`].
pub fn restore(
    host: &Host,
    alloc: &AllocId,
    binding: &Binding,
    source: &Attached,
    backend: &dyn Backend,
    former: &Identity,
) -> Result<Identity, BindError> {
    let moved = match binding.placement {
        Placement::Mount => leave::find_moved(host, alloc, Some(former)),
        Placement::Link => Ok(Vec::new()),
    };
    let moved = moved.map_err(BindError::host("look for a moved mount"))?;
    let volume = open_volume(binding, source)?;
    let wanted = identity::identify(volume.as_fd()).map_err(BindError::host("look at the volume"))?;
    for from in moved {
        if let Some(identity) = displaced::put_back(host, alloc, binding, &from, &wanted)? {
            return Ok(identity);
        }
    }
    bind(host, alloc, binding, source, backend, Creation::Never)
}

/// The same where a mount of ours is dead: it is taken away first, lazily, since nothing can be read through it.
///
/// # Errors
/// As [`bind`].
pub fn replace(
    host: &Host,
    alloc: &AllocId,
    binding: &Binding,
    source: &Attached,
    backend: &dyn Backend,
) -> Result<Identity, BindError> {
    // The volume is looked for before the dead mount is taken away.
    drop(open_volume(binding, source)?);
    let site = Site::of(host, alloc, binding).map_err(BindError::Destination)?;
    let parent = site.open_parent().map_err(BindError::Destination)?;
    match mount::detach(parent.as_fd(), site.parent_and_name().1) {
        Ok(()) | Err(MountError::NotAMountPoint | MountError::Missing) => {}
        Err(error) => return Err(BindError::Mount(error)),
    }
    bind(host, alloc, binding, source, backend, Creation::Never)
}

/// Makes the directory beneath a mount, and makes it refuse writes.
fn make_beneath(site: &Site) -> Result<OwnedFd, BindError> {
    let made = resolve::make_beneath(site.root.as_fd(), &site.path, 0o755).map_err(BindError::Destination)?;
    let directory = made.directory;
    let immutable = match inode::is_immutable(directory.as_fd()) {
        Ok(immutable) => immutable,
        Err(inode::InodeError::Unsupported) => false,
        Err(error) => return Err(BindError::Beneath(error)),
    };
    if immutable {
        return Ok(directory);
    }
    if !inode::is_empty_directory(directory.as_fd()).map_err(BindError::Beneath)? {
        return Err(BindError::DestinationNotEmpty);
    }
    inode::set_mode(directory.as_fd(), BENEATH_MODE).map_err(BindError::Beneath)?;
    inode::set_immutable(directory.as_fd(), true).map_err(|error| match error {
        inode::InodeError::Unsupported => BindError::NotFailClosed,
        error => BindError::Beneath(error),
    })?;
    Ok(directory)
}

/// What a task will see there is the mount that was made.
fn prove(site: &Site, identity: &Identity) -> Result<(), BindError> {
    let top = site.open_top().map_err(BindError::Destination)?;
    let seen = identity::identify(top.as_fd()).map_err(BindError::host("look at the destination"))?;
    if !seen.is_mount_root || seen.mount_id != identity.mount_id {
        return Err(BindError::NotProved);
    }
    Ok(())
}

fn link_target(host: &Host, alloc: &AllocId, binding: &Binding) -> PathBuf {
    host.links.join(alloc.as_str()).join(&binding.key.task).join(binding.key.destination.as_path())
}

fn check_link(host: &Host, alloc: &AllocId, binding: &Binding) -> Result<Option<(OwnedFd, OsString)>, BindError> {
    let allocs = resolve::open_root(&host.alloc_root).map_err(BindError::Destination)?;
    let alloc_dir = match resolve::open_beneath(allocs.as_fd(), Path::new(alloc.as_str())) {
        Ok(directory) => directory,
        Err(error) if error.is_missing() => return Err(BindError::AllocationGone),
        Err(error) => return Err(BindError::Destination(error)),
    };
    let within = Path::new(&binding.key.task).join(binding.key.destination.as_path());
    let (Some(parent), Some(name)) = (within.parent(), within.file_name()) else { return Ok(None) };
    let made = resolve::make_beneath(alloc_dir.as_fd(), parent, 0o755).map_err(BindError::Destination)?;
    Ok(Some((made.directory, name.to_owned())))
}

/// Puts the symbolic link of a task that sees the host's own mounts.
fn link(host: &Host, alloc: &AllocId, binding: &Binding) -> Result<(), BindError> {
    if binding.placement != Placement::Link {
        return Ok(());
    }
    let Some((parent, name)) = check_link(host, alloc, binding)? else { return Ok(()) };
    let target = link_target(host, alloc, binding);
    match rustix::fs::symlinkat(&target, &parent, &name) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::EXIST) => match rustix::fs::readlinkat(&parent, &name, Vec::new()) {
            Ok(found) if found.to_bytes() == target.as_os_str().as_encoded_bytes() => Ok(()),
            Ok(_) => {
                let at = Path::new(&binding.key.task).join(binding.key.destination.as_path());
                Err(BindError::Destination(resolve::ResolveError::Symlink(at)))
            }
            Err(_) => Err(BindError::DestinationTaken),
        },
        Err(errno) => Err(BindError::host("make the link in the task's directory")(errno.into())),
    }
}

/// Hands a mount that is there to the guard, asking its source nothing: another guard knows no mark of its
/// predecessor's, and the mount is in reach of a collection whatever its server does.
///
/// # Errors
/// [`BindError`] where the guard does not take it; a binding that is not mounted is no error.
pub fn mark_anew(
    host: &Host,
    alloc: &AllocId,
    binding: &Binding,
    identity: Option<&Identity>,
) -> Result<(), BindError> {
    let top = match Site::of(host, alloc, binding).and_then(|site| site.open_top()) {
        Ok(top) => Some(top),
        Err(error) if error.is_missing() => None,
        Err(error) => return Err(BindError::Destination(error)),
    };
    if let Some(top) = top {
        let found = identity::identify(top.as_fd()).map_err(BindError::host("look at the destination"))?;
        if found.is_mount_root {
            return mark(host, binding, top.as_fd());
        }
    }
    // Its task may have moved it, and Nomad would find it where it is now.
    for moved in leave::find_moved(host, alloc, identity).map_err(BindError::host("look for a moved mount"))? {
        let top = moved.open_top().map_err(BindError::Destination)?;
        mark(host, binding, top.as_fd())?;
    }
    Ok(())
}
