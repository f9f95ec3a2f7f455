//! A binding that somebody unmounted, moved or covered by hand. Found without asking any server; what is put right is
//! only what is ours, and what was mounted over it goes lazily, so that who uses that keeps it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::{Host, Site, make_beneath, mark, prove, shows};
use crate::backend::Attached;
use crate::job::Placement;
use crate::nomad::model::AllocId;
use crate::reconcile::binding::{Binding, BindingKey};
use crate::reconcile::error::BindError;
use crate::reconcile::execute::volume::open_volume;
use crate::sys::identity::{self, Identity};
use crate::sys::mount::{self, MountError};
use crate::sys::{inode, resolve, table};

/// So many mounts over a binding are taken away in one step; somebody who makes more has to be asked why.
const MOST_COVERS: usize = 16;

/// What is not as it was proved to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Displaced {
    /// Its mount is not at its place.
    Missing,
    /// Another mount is seen at its place.
    Hidden,
}

impl Displaced {
    /// What happened, in a word or two.
    pub fn cause(self) -> &'static str {
        match self {
            Self::Missing => "its mount was unmounted or moved",
            Self::Hidden => "something was mounted over it",
        }
    }
}

/// A mount that was proved, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proved {
    /// Its allocation.
    pub alloc: AllocId,
    /// The binding.
    pub key: BindingKey,
    /// Below the allocation's directory, or in the folder of links.
    pub placement: Placement,
    /// The mount.
    pub identity: Identity,
}

/// Which of these proved mounts are no longer what is seen at their places. Three system calls for each.
pub fn find_displaced(host: &Host, proved: impl IntoIterator<Item = Proved>) -> Vec<(Proved, Displaced)> {
    let roots = [&host.alloc_root, &host.links].map(|root| resolve::open_root(root));
    let look = |proved: &Proved| {
        let [allocs, links] = &roots;
        let root = match proved.placement {
            Placement::Mount => allocs,
            Placement::Link => links,
        };
        let path = Path::new(proved.alloc.as_str()).join(&proved.key.task).join(proved.key.destination.as_path());
        let opened = match root {
            Ok(root) => resolve::open_beneath(root.as_fd(), &path),
            Err(error) if error.is_missing() => return Some(Displaced::Missing),
            Err(_) => return None,
        };
        let top = match opened {
            Ok(top) => top,
            Err(error) if error.is_missing() => return Some(Displaced::Missing),
            // What cannot be looked at is not known to have changed.
            Err(_) => return None,
        };
        let found = identity::identify(top.as_fd()).ok()?;
        match (found.is_mount_root, found.mount_id == proved.identity.mount_id) {
            (_, true) => None,
            (true, false) => Some(Displaced::Hidden),
            (false, false) => Some(Displaced::Missing),
        }
    };
    proved.into_iter().filter_map(|proved| look(&proved).map(|how| (proved, how))).collect()
}

/// Whether a mount of the volume's directory lies beneath what is seen at the binding's place.
pub(super) fn is_beneath(
    host: &Host,
    alloc: &AllocId,
    binding: &Binding,
    volume: BorrowedFd<'_>,
) -> Result<bool, BindError> {
    let whole = BindError::host("look for what is covered");
    let base = match binding.placement {
        Placement::Mount => &host.alloc_root,
        Placement::Link => &host.links,
    };
    let look = || -> io::Result<bool> {
        let path = std::fs::canonicalize(base)?
            .join(alloc.as_str())
            .join(&binding.key.task)
            .join(binding.key.destination.as_path());
        let entries = table::read_own()?;
        let at: Vec<_> = entries.iter().filter(|entry| entry.mount_point == path).collect();
        let (holding, directory) = table::locate(volume, &entries)?;
        let is_it = |below: &table::Entry| below.device == holding.device && below.root == directory;
        Ok(at.iter().any(|below| is_it(below) && at.iter().any(|top| top.parent == below.mount_id)))
    };
    look().map_err(whole)
}

/// Takes away, lazily, what is mounted over a binding.
///
/// # Errors
/// [`BindError`] where the binding is not seen afterwards.
pub fn uncover(
    host: &Host,
    alloc: &AllocId,
    binding: &Binding,
    source: &Attached,
    recorded: Option<&Identity>,
) -> Result<(), BindError> {
    let volume = open_volume(binding, source)?;
    let Some(recorded) = recorded else { return Err(BindError::NotProved) };
    let site = Site::of(host, alloc, binding).map_err(BindError::Destination)?;
    let parent = site.open_parent().map_err(BindError::Destination)?;
    for _ in 0..MOST_COVERS {
        let top = site.open_top().map_err(BindError::Destination)?;
        let found = identity::identify(top.as_fd()).map_err(BindError::host("look at the destination"))?;
        drop(top);
        if found.mount_id == recorded.mount_id && found.device == recorded.device {
            return Ok(());
        }
        if !is_beneath(host, alloc, binding, volume.as_fd())? {
            break;
        }
        match mount::detach(parent.as_fd(), site.parent_and_name().1) {
            Ok(()) => {
                tracing::warn!(%alloc, task = binding.key.task, volume = %binding.volume.name, "took away what was mounted over the volume");
            }
            Err(MountError::NotAMountPoint | MountError::Missing) => break,
            Err(error) => return Err(BindError::Mount(error)),
        }
    }
    Err(BindError::NotProved)
}

/// Moves a mount of ours back to its place, if it still shows the volume. The place is marked already: the mark belongs
/// to the mount, and it is set once more.
pub(super) fn put_back(
    host: &Host,
    alloc: &AllocId,
    binding: &Binding,
    from: &Site,
    wanted: &Identity,
) -> Result<Option<Identity>, BindError> {
    let mount = from.open_top().map_err(BindError::Destination)?;
    let identity = identity::identify(mount.as_fd()).map_err(BindError::host("look at the moved mount"))?;
    if !shows(&identity, wanted) {
        return Ok(None);
    }
    let site = Site::of(host, alloc, binding).map_err(BindError::Destination)?;
    mark(host, binding, mount.as_fd())?;
    let beneath = make_beneath(&site)?;
    if let Err(error) = mount::place(mount.as_fd(), beneath.as_fd()) {
        // Where the mount above it is shared, the kernel moves nothing out of it: a new one is made.
        tracing::info!(%alloc, %error, "the moved mount cannot be moved back");
        return Ok(None);
    }
    prove(&site, &identity)?;
    tracing::warn!(%alloc, task = binding.key.task, volume = %binding.volume.name, from = %from.path.display(), "moved the volume's mount back to its place");
    // What lay beneath it there refuses everything until it is told otherwise; Nomad has to be able to remove it.
    if let Ok(left) = from.open_top()
        && !identity::identify(left.as_fd()).is_ok_and(|left| left.is_mount_root)
        && inode::set_immutable(left.as_fd(), false).is_ok()
    {
        drop(left);
        let _ = resolve::remove_empty(from.root.as_fd(), &from.path);
    }
    Ok(Some(identity))
}
