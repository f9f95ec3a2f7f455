//! The steps that change mounts. Each can be done twice; each may be the last that a killed agent did.
//!
//! Everything here runs in a worker: [`observe`], [`bind`] and [`replace`] in the source's own, since they ask its file
//! system; [`unbind`] in the host's, since it never does.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::binding::{Binding, BindingKey};
use super::error::{BindError, UnbindError};
use crate::backend::Attached;
use crate::guard::GuardClient;
use crate::job::Placement;
use crate::nomad::model::AllocId;
use crate::reconcile::plan::Observed;
use crate::sys::identity::{self, Identity};
use crate::sys::mount::{self, MountError};
use crate::sys::{inode, resolve, table};

/// How long the guard may take to mark a mount.
const MARK_DEADLINE: Duration = Duration::from_secs(5);
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

/// Whether a volume's directory may be made where it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// Where its definition allows: nobody was ever promised what is in it.
    AsDefined,
    /// Never: it was there once, so that it is missing says that the wrong thing answers.
    Never,
}

/// Opens the volume's directory within its source.
fn open_volume(binding: &Binding, source: &Attached, creation: Creation) -> Result<OwnedFd, BindError> {
    let root = resolve::open_root(&source.root).map_err(BindError::Source)?;
    let now = identity::identify(root.as_fd()).map_err(BindError::host("look at the source"))?;
    if now != source.identity {
        return Err(BindError::SourceChanged);
    }
    let volume = &binding.volume;
    let directory = match open_or_self(root.as_fd(), &volume.path) {
        Ok(directory) => directory,
        Err(error) if error.is_missing() && volume.create && creation == Creation::AsDefined => {
            create_volume(root.as_fd(), binding)?
        }
        Err(error) if error.is_missing() => return Err(BindError::NoSuchDirectory),
        Err(error) => return Err(BindError::Volume(error)),
    };
    identity::answers(directory.as_fd()).map_err(BindError::host("use the volume's directory"))?;
    Ok(directory)
}

/// Makes the volume's directory under another name, and gives it its own once owner and mode are set: an agent that is
/// killed in between leaves no volume that the next one would take as it is. Two clients that come here at once make
/// the same steps on one directory, and the one that comes second finds it done.
fn create_volume(root: BorrowedFd<'_>, binding: &Binding) -> Result<OwnedFd, BindError> {
    let volume = &binding.volume;
    let (Some(above), Some(name)) = (volume.path.parent(), volume.path.file_name()) else {
        return Err(BindError::NoSuchDirectory);
    };
    let failed =
        |error: inode::InodeError| BindError::host("set the owner and mode of the new volume")(io::Error::other(error));
    let parent = resolve::make_beneath(root, above, 0o755).map_err(BindError::Volume)?.directory;
    let mut draft = OsString::from(".");
    // A name has at most 255 bytes.
    draft.push(OsStr::from_bytes(&name.as_bytes()[..name.len().min(240)]));
    draft.push(".new");
    let made = resolve::make_beneath(parent.as_fd(), Path::new(&draft), 0o755).map_err(BindError::Volume)?.directory;
    if !inode::is_empty_directory(made.as_fd()).map_err(failed)? {
        return Err(BindError::host("create the volume: its draft is not empty")(io::ErrorKind::AlreadyExists.into()));
    }
    if let Some((uid, gid)) = volume.owner {
        inode::set_owner(made.as_fd(), uid, gid).map_err(failed)?;
    }
    if let Some(mode) = volume.mode {
        inode::set_mode(made.as_fd(), mode).map_err(failed)?;
    }
    drop(made);
    let named = match rustix::fs::renameat_with(&parent, &draft, &parent, name, RenameFlags::NOREPLACE) {
        // Not every file system knows the flag; without it an empty directory at most is replaced.
        Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::renameat(&parent, &draft, &parent, name),
        named => named,
    };
    match named {
        Ok(()) => {
            tracing::info!(volume = %volume.name, path = %volume.path.display(), "created the volume's directory");
        }
        // Another client was first.
        Err(Errno::EXIST | Errno::NOTEMPTY) => {
            let _ = resolve::remove_empty(parent.as_fd(), Path::new(&draft));
        }
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(BindError::host("name the new volume")(errno.into())),
    }
    open_or_self(root, &volume.path).map_err(BindError::Volume)
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
    let directory = open_volume(binding, source, Creation::Never)?;
    let wanted = identity::identify(directory.as_fd()).map_err(BindError::host("look at the volume"))?;
    if shows(&found, &wanted) {
        mark(host, binding, top.as_fd())?;
        link(host, alloc, binding)?;
        return Ok((Observed::Proper, Some(found)));
    }
    let ours = recorded.is_some_and(|recorded| recorded.mount_id == found.mount_id && recorded.device == found.device);
    Ok((if ours { Observed::Stale } else { Observed::Foreign }, None))
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
    creation: Creation,
) -> Result<Identity, BindError> {
    let volume = open_volume(binding, source, creation)?;
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

/// The same where a mount of ours is dead: it is taken away first, lazily, since nothing can be read through it.
///
/// # Errors
/// As [`bind`].
pub fn replace(host: &Host, alloc: &AllocId, binding: &Binding, source: &Attached) -> Result<Identity, BindError> {
    // The volume is looked for before the dead mount is taken away.
    drop(open_volume(binding, source, Creation::Never)?);
    let site = Site::of(host, alloc, binding).map_err(BindError::Destination)?;
    let parent = site.open_parent().map_err(BindError::Destination)?;
    match mount::detach(parent.as_fd(), site.parent_and_name().1) {
        Ok(()) | Err(MountError::NotAMountPoint | MountError::Missing) => {}
        Err(error) => return Err(BindError::Mount(error)),
    }
    bind(host, alloc, binding, source, Creation::Never)
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

/// How hard a mount is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Only when the kernel says that nobody on this host has it open.
    WhenUnused,
    /// Out of the tree at once; who holds it open keeps it. For a mount that Nomad is about to walk into.
    AtOnce,
}

/// Takes a binding away: unmounts it, makes the directory beneath removable, and removes what is empty. Never asks the
/// source's file system anything, so a hung server keeps nobody waiting.
///
/// # Errors
/// [`UnbindError::Busy`] where somebody on this host has it open; it then stays as it is.
pub fn unbind(
    host: &Host,
    alloc: &AllocId,
    binding: &Binding,
    identity: Option<&Identity>,
    force: Force,
) -> Result<(), UnbindError> {
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
    for moved in find_moved(host, alloc, binding, identity)? {
        tracing::warn!(%alloc, task = binding.key.task, path = %moved.path.display(), "the task has moved its mount; it is taken away where it is");
        take_away(&moved, force)?;
        // Nothing but the mount's own directory: what lies above is where the task has put it.
        let _ = resolve::remove_empty(moved.root.as_fd(), &moved.path);
    }
    remove_empty_directories(&site, alloc, binding);
    Ok(())
}

/// What was at a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// At least one mount, which is gone now.
    Mount,
    /// None.
    Nothing,
}

/// Unmounts what is mounted at a site, and makes the directory beneath removable.
fn take_away(site: &Site, force: Force) -> Result<Found, UnbindError> {
    let is_nothing = |error: &resolve::ResolveError| {
        use resolve::ResolveError::{Missing, NotADirectory, Symlink};
        matches!(error, Missing(_) | Symlink(_) | NotADirectory(_))
    };
    let parent = match site.open_parent() {
        Ok(parent) => parent,
        Err(error) if is_nothing(&error) => return Ok(Found::Nothing),
        Err(error) => return Err(UnbindError::Destination(error)),
    };
    let name = site.parent_and_name().1;
    let mut found = Found::Nothing;
    loop {
        let result = match force {
            Force::WhenUnused => mount::unmount(parent.as_fd(), name),
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

/// Where a binding's mount is now, below its allocation's directory, if it is not where it was made. Reads the whole
/// mount table: a case that a task has to bring about.
fn find_moved(
    host: &Host,
    alloc: &AllocId,
    binding: &Binding,
    identity: Option<&Identity>,
) -> Result<Vec<Site>, UnbindError> {
    let look = |source| UnbindError::Table(source);
    let base = std::fs::canonicalize(&host.alloc_root).map_err(look)?.join(alloc.as_str());
    let mut moved = Vec::new();
    for entry in table::read_own().map_err(look)? {
        let Ok(path) = entry.mount_point.strip_prefix(&base) else { continue };
        let root = resolve::open_root(&host.alloc_root)
            .and_then(|root| resolve::open_beneath(root.as_fd(), Path::new(alloc.as_str())))
            .map_err(UnbindError::Destination)?;
        let site = Site { root, path: path.to_owned() };
        let Ok(found) = site.open_top().map_err(io::Error::other).and_then(|top| identity::identify(top.as_fd()))
        else {
            continue;
        };
        match identity {
            Some(identity) if identity.mount_id == found.mount_id && identity.device == found.device => {
                moved.push(site)
            }
            Some(_) => {}
            // An agent died before it could note which mount it made: one in this task's directory that nobody explains
            // may be it, and is left to a person rather than forgotten.
            None if is_unexplained(&site.path, &binding.key.task) => return Err(UnbindError::Unexplained(site.path)),
            None => {}
        }
    }
    Ok(moved)
}

/// Whether a mount in a task's directory is not one of Nomad's own.
fn is_unexplained(path: &Path, task: &str) -> bool {
    let Ok(below) = path.strip_prefix(task) else { return false };
    // Nomad mounts these on the task's directory itself, and a destination is never in them.
    let nomads = ["alloc", "dev", "private", "proc", "secrets", "sys", "tmp"];
    below.components().next().is_some_and(|first| !nomads.iter().any(|own| first.as_os_str() == *own))
}

/// Hands a mount that is there to the guard, asking its source nothing: another guard knows no mark of its
/// predecessor's, and the mount is in reach of a collection whatever its server does.
///
/// # Errors
/// [`BindError`] where the guard does not take it; a binding that is not mounted is no error.
pub fn mark_anew(host: &Host, alloc: &AllocId, binding: &Binding) -> Result<(), BindError> {
    let top = match Site::of(host, alloc, binding).and_then(|site| site.open_top()) {
        Ok(top) => top,
        Err(error) if error.is_missing() => return Ok(()),
        Err(error) => return Err(BindError::Destination(error)),
    };
    let found = identity::identify(top.as_fd()).map_err(BindError::host("look at the destination"))?;
    if found.is_mount_root { mark(host, binding, top.as_fd()) } else { Ok(()) }
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
                tracing::debug!(%alloc, path = %path.display(), %error, "an empty directory stays");
                break;
            }
        }
    }
}

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
