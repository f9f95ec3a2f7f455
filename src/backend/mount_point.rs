//! The place where a source is mounted: looked at without asking its file system anything, and asked by a probe alone.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::probe::{Question, Verdict};
use super::{AttachError, Place};
use crate::config;
use crate::sys::identity::{self, Identity};
use crate::sys::mount::MountError;
use crate::sys::resolve;

/// Has a mount of the source asked whether it answers, never waiting in the kernel for it.
///
/// # Errors
/// [`AttachError::Silent`] where it does not say anything; what it says otherwise is the answer.
pub(super) fn ask(
    definition: &config::Backend,
    place: &Place,
    root: &Path,
    mount_id: u64,
) -> Result<io::Result<()>, AttachError> {
    let question = Question::new(definition, place, root, mount_id);
    match place.prober.ask(&question).map_err(AttachError::host("ask whether it answers"))? {
        Verdict::Answers => Ok(Ok(())),
        Verdict::Refuses { errno, reason } => {
            Ok(Err(errno.map_or_else(|| io::Error::other(reason), io::Error::from_raw_os_error)))
        }
        Verdict::Cut { reason } => Err(AttachError::Cut(reason)),
        Verdict::Silent { reason } => Err(AttachError::Silent(reason)),
    }
}

/// Opens the place without asking the file system anything, and says what is mounted there.
///
/// # Errors
/// It cannot be opened.
pub(super) fn look_at(mount_point: &Path) -> Result<Option<(OwnedFd, Identity)>, AttachError> {
    let look = format!("look at {}", mount_point.display());
    let root =
        resolve::open_root(mount_point).map_err(|error| AttachError::host(look.clone())(io::Error::other(error)))?;
    let identity = identity::identify(root.as_fd()).map_err(AttachError::host(look))?;
    Ok(identity.is_mount_root.then_some((root, identity)))
}

/// Does something to what is mounted at a place, by its parent and name.
///
/// # Errors
/// [`MountError`].
pub(super) fn with_parent(
    path: &Path,
    run: impl FnOnce(BorrowedFd<'_>, &OsStr) -> Result<(), MountError>,
) -> Result<(), MountError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(MountError::Missing) };
    match resolve::open_root(parent) {
        Ok(parent) => run(parent.as_fd(), name),
        Err(_) => Err(MountError::Missing),
    }
}

/// Makes a folder that only root can enter, where there is none.
///
/// # Errors
/// The disk's.
pub(super) fn make_private(folder: &Path) -> Result<(), AttachError> {
    // What is there is not made: the standard library would ask the mount whether it is a directory, and a mount that
    // hangs does not say.
    if resolve::open_root(folder).is_ok() {
        return Ok(());
    }
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(folder) {
        // A dead mount is there and is no directory to stat(2): what it is, whoever opens it finds out.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(AttachError::host(format!("create {}", folder.display()))(error))
        }
        _ => Ok(()),
    }
}
