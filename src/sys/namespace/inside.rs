//! The steps inside a foreign namespace. Each has a thread of its own, and proves what it is about to touch by mount id.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags};

use super::Namespace;
use crate::sys::mount::{self, MountError};
use crate::sys::resolve::{self, ResolveError};
use crate::sys::tree::Tree;
use crate::sys::{identity, table};

/// Why a step in another namespace was not taken.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The process by which it was known has ended, or has left the namespace.
    #[error("the process in the mount namespace has ended")]
    Ended,
    /// Something else is on the way to the path than the mount table had said, or at the path itself.
    #[error("the mounts at or above {0} are others than a moment ago")]
    Changed(PathBuf),
    /// The path is the namespace's own root, which is nobody's to take away.
    #[error("{0} is the namespace's root")]
    Root(PathBuf),
    /// A directory cannot be reached.
    #[error("the mount point cannot be reached")]
    Reach(#[source] ResolveError),
    /// The kernel refused to change the mount. [`MountError::Busy`] where it is to be unused and is not.
    #[error("the mount cannot be changed")]
    Mount(#[source] MountError),
    /// No thread.
    #[error("a thread cannot be started")]
    Thread(#[source] io::Error),
    /// Any other refusal of the kernel.
    #[error("{call} failed")]
    Call {
        /// The system call.
        call: &'static str,
        /// The kernel's errno.
        #[source]
        source: io::Error,
    },
}

/// How a mount is swapped for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapBy {
    /// The new one comes beneath the old one, which is then detached: what lies under both is never visible, and nothing
    /// stays. Linux 6.5; where the kernel refuses it, as [`SwapBy::Over`].
    Beneath,
    /// The new one comes on top, and the old one stays beneath.
    Over,
}

impl Namespace {
    /// Reads the namespace's mount table as seen from its root, whatever root directory its processes have.
    ///
    /// # Errors
    /// [`NamespaceError::Ended`], or the kernel's.
    pub fn read_table(&self) -> Result<Vec<table::Entry>, NamespaceError> {
        self.enter(Inside::read_table)
    }

    /// Opens what is visible at `path` as `O_PATH`, if it is the mount that `tree` has there.
    ///
    /// # Errors
    /// [`NamespaceError::Changed`] where it is another.
    pub fn open(&self, tree: &Tree, path: &Path) -> Result<OwnedFd, NamespaceError> {
        self.enter(|inside| inside.open(tree, path))
    }

    /// Attaches a detached mount on the plain directory `path`.
    ///
    /// # Errors
    /// [`NamespaceError::Changed`] where something is mounted there by now.
    pub fn attach(&self, tree: &Tree, path: &Path, detached: BorrowedFd<'_>) -> Result<(), NamespaceError> {
        self.enter(|inside| {
            let directory = inside.open(tree, path)?;
            mount::place(detached, directory.as_fd()).map_err(NamespaceError::Mount)?;
            inside.prove(path, detached)
        })
    }

    /// Puts a detached mount in the place of the one that is on top at `path`, without a moment in which what lies
    /// beneath is visible. Says how it was done.
    ///
    /// # Errors
    /// [`NamespaceError::Changed`] where `tree` has another mount on top, or something is on top of the new one.
    pub fn swap(
        &self,
        tree: &Tree,
        path: &Path,
        detached: BorrowedFd<'_>,
        by: SwapBy,
    ) -> Result<SwapBy, NamespaceError> {
        self.enter(|inside| {
            let old = inside.open(tree, path)?;
            let (parent, name) = inside.open_parent(tree, path)?;
            if by == SwapBy::Beneath && move_beneath(detached, old.as_fd()) {
                inside.take(parent, name, UnmountFlags::DETACH)?;
                inside.prove(path, detached)?;
                return Ok(SwapBy::Beneath);
            }
            mount::place(detached, old.as_fd()).map_err(NamespaceError::Mount)?;
            inside.prove(path, detached)?;
            Ok(SwapBy::Over)
        })
    }

    /// Takes the mount that is on top at `path` out of the tree at once, and all that is mounted on it; who has it open
    /// keeps it.
    ///
    /// # Errors
    /// [`NamespaceError::Changed`] where `tree` has another one on top.
    pub fn detach(&self, tree: &Tree, path: &Path) -> Result<(), NamespaceError> {
        self.take_top(tree, path, UnmountFlags::DETACH)
    }

    /// Unmounts what is on top at `path`.
    ///
    /// # Errors
    /// [`NamespaceError::Mount`] with [`MountError::Busy`] where a process in the namespace uses it.
    pub fn unmount(&self, tree: &Tree, path: &Path) -> Result<(), NamespaceError> {
        self.take_top(tree, path, UnmountFlags::empty())
    }

    /// Whether a process uses the mount that is on top at `path`, or something is mounted on it. Changes nothing, but
    /// for a mount that was asked about before and has not been used since: that one is unmounted, and false is said.
    ///
    /// # Errors
    /// [`NamespaceError::Changed`] where `tree` has another one on top.
    pub fn is_busy(&self, tree: &Tree, path: &Path) -> Result<bool, NamespaceError> {
        match self.take_top(tree, path, UnmountFlags::EXPIRE) {
            Err(NamespaceError::Mount(MountError::Busy)) => Ok(true),
            // Marked as expired: the kernel's word for "would go if it were asked again" (umount(2)).
            Err(NamespaceError::Mount(MountError::Call { source, .. }))
                if source.raw_os_error() == Some(Errno::AGAIN.raw_os_error()) =>
            {
                Ok(false)
            }
            Ok(()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn take_top(&self, tree: &Tree, path: &Path, flags: UnmountFlags) -> Result<(), NamespaceError> {
        self.enter(|inside| {
            // The descriptor would keep the mount busy.
            drop(inside.open(tree, path)?);
            let (parent, name) = inside.open_parent(tree, path)?;
            inside.take(parent, name, flags)
        })
    }
}

/// The host's `/proc`, by which a thread knows itself wherever it is.
pub(super) fn open_proc() -> Result<OwnedFd, NamespaceError> {
    open_directory(Path::new("/proc"))
}

fn open_directory(path: &Path) -> Result<OwnedFd, NamespaceError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| call("open", errno))
}

fn call(call: &'static str, errno: Errno) -> NamespaceError {
    NamespaceError::Call { call, source: errno.into() }
}

fn look(source: io::Error) -> NamespaceError {
    NamespaceError::Call { call: "statx", source }
}

/// False: this kernel does not, or not here (a locked mount, or one that spreads to others).
fn move_beneath(detached: BorrowedFd<'_>, top: BorrowedFd<'_>) -> bool {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
        | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH
        | MoveMountFlags::MOVE_MOUNT_BENEATH;
    rustix::mount::move_mount(detached, c"", top, c"", flags).is_ok()
}

/// The calling thread, inside.
pub(super) struct Inside {
    proc: OwnedFd,
    root: OwnedFd,
}

impl Inside {
    /// Of the calling thread, which has entered the namespace `id`.
    pub(super) fn new(proc: OwnedFd, id: u64) -> Result<Self, NamespaceError> {
        let link = rustix::fs::readlinkat(&proc, "thread-self/ns/mnt", Vec::new())
            .map_err(|errno| call("readlinkat", errno))?;
        // A process may leave its namespace for another.
        if link.to_bytes() != format!("mnt:[{id}]").as_bytes() {
            return Err(NamespaceError::Ended);
        }
        // setns has set root and working directory to the namespace's root.
        let root = open_directory(Path::new("/"))?;
        Ok(Self { proc, root })
    }

    fn read_table(&self) -> Result<Vec<table::Entry>, NamespaceError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.proc, "thread-self/mountinfo", flags, Mode::empty())
            .map_err(|errno| call("openat", errno))?;
        let mut text = Vec::new();
        io::Read::read_to_end(&mut std::fs::File::from(file), &mut text)
            .and_then(|_| table::parse(&text))
            .map_err(|source| NamespaceError::Call { call: "read", source })
    }

    /// Opens what is at `path`, mount by mount: within a mount nothing may be crossed, and each mount that the walk
    /// enters must be the one that `tree` has there. So no other file system is ever looked up in.
    fn open(&self, tree: &Tree, path: &Path) -> Result<OwnedFd, NamespaceError> {
        let changed = || NamespaceError::Changed(path.to_owned());
        let way = tree.way(path);
        let mut here = self.root.try_clone().map_err(look)?;
        let mut at = Path::new("/");
        let mut mounts = way.iter().peekable();
        while let Some(entry) = mounts.next() {
            // Of several at one place only the one on top can be entered.
            if mounts.peek().is_some_and(|next| next.mount_point == entry.mount_point) {
                continue;
            }
            let below = entry.mount_point.strip_prefix(at).map_err(|_| changed())?;
            if let (Some(parent), Some(name)) = (below.parent(), below.file_name()) {
                let parent = resolve::open_beneath_on_one_mount(here.as_fd(), parent).map_err(NamespaceError::Reach)?;
                here = resolve::open_any_beneath(parent.as_fd(), Path::new(name)).map_err(NamespaceError::Reach)?;
            }
            if identity::reusable_mount_id(here.as_fd()).map_err(look)? != entry.mount_id {
                return Err(changed());
            }
            at = &entry.mount_point;
        }
        let rest = path.strip_prefix(at).map_err(|_| changed())?;
        if rest.as_os_str().is_empty() {
            return Ok(here);
        }
        match resolve::open_beneath_on_one_mount(here.as_fd(), rest) {
            Err(ResolveError::CrossesMount(_)) => Err(changed()),
            other => other.map_err(NamespaceError::Reach),
        }
    }

    /// Opens the directory that holds the mount point `path`.
    fn open_parent<'a>(&self, tree: &Tree, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), NamespaceError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(NamespaceError::Root(path.to_owned()));
        };
        Ok((self.open(tree, parent)?, name))
    }

    /// Takes away what is on top at `name`. By the working directory, which is this thread's own: umount2 knows no
    /// descriptors, and the mount's root itself would ask its server.
    fn take(&self, parent: OwnedFd, name: &OsStr, flags: UnmountFlags) -> Result<(), NamespaceError> {
        rustix::process::fchdir(&parent).map_err(|errno| call("fchdir", errno))?;
        drop(parent);
        let taken = rustix::mount::unmount(name, flags | UnmountFlags::NOFOLLOW);
        // Not to keep the directory's mount in use for longer than this.
        let _ = rustix::process::fchdir(&self.root);
        taken.map_err(|errno| {
            NamespaceError::Mount(match errno {
                Errno::BUSY => MountError::Busy,
                Errno::INVAL => MountError::NotAMountPoint,
                Errno::NOENT => MountError::Missing,
                other => MountError::Call { call: "umount2", source: other.into() },
            })
        })
    }

    /// What is visible at `path` now is this mount.
    fn prove(&self, path: &Path, mount: BorrowedFd<'_>) -> Result<(), NamespaceError> {
        let tree = Tree::new(self.read_table()?);
        let id = identity::reusable_mount_id(mount).map_err(look)?;
        let on_top = tree.way(path).last().is_some_and(|top| top.mount_id == id && top.mount_point == path);
        if on_top { Ok(()) } else { Err(NamespaceError::Changed(path.to_owned())) }
    }
}
