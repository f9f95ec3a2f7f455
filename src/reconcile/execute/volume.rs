//! A volume's directory: found in its source, and made for its first caller where its definition allows.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::open_or_self;
use crate::backend::{Attached, Backend};
use crate::reconcile::binding::Binding;
use crate::reconcile::error::BindError;
use crate::sys::{identity, inode, resolve};
use crate::volume::Resolved;

/// Whether a volume's directory may be made where it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// Where its definition allows: nobody was ever promised what is in it.
    AsDefined,
    /// Never: it was there once, so that it is missing says that the wrong thing answers.
    Never,
}

/// Opens the volume's directory within its source.
pub(super) fn open_volume(binding: &Binding, source: &Attached) -> Result<OwnedFd, BindError> {
    open_or_create(binding, source, || Err(BindError::NoSuchDirectory))
}

/// The same for who is to use it: its storage system is told what it has to know of it first, and its directory is made
/// where that is allowed.
pub(super) fn prepare_volume(
    binding: &Binding,
    source: &Attached,
    backend: &dyn Backend,
    creation: Creation,
) -> Result<OwnedFd, BindError> {
    let prepare = || backend.prepare(&binding.volume).map_err(BindError::Prepare);
    match (prepare(), creation) {
        (Err(error), Creation::AsDefined) => return Err(error),
        // Its task has had it before: it is better off with it as it is than without it.
        (Err(error), Creation::Never) => {
            tracing::warn!(volume = %binding.volume.name, %error, "not all that the volume needs is seen to");
        }
        (Ok(()), _) => {}
    }
    open_or_create(binding, source, || {
        if !binding.volume.create || creation == Creation::Never {
            return Err(BindError::NoSuchDirectory);
        }
        let made =
            create_volume(resolve::open_root(&source.root).map_err(BindError::Source)?.as_fd(), &binding.volume)?;
        prepare()?;
        Ok(made)
    })
}

fn open_or_create(
    binding: &Binding,
    source: &Attached,
    create: impl FnOnce() -> Result<OwnedFd, BindError>,
) -> Result<OwnedFd, BindError> {
    let root = resolve::open_root(&source.root).map_err(BindError::Source)?;
    let now = identity::identify(root.as_fd()).map_err(BindError::host("look at the source"))?;
    if now != source.identity {
        return Err(BindError::SourceChanged);
    }
    let volume = &binding.volume;
    let directory = match open_or_self(root.as_fd(), &volume.path) {
        Ok(directory) => directory,
        Err(error) if error.is_missing() => create()?,
        Err(error) => return Err(BindError::Volume(error)),
    };
    let look = BindError::host("look at the volume");
    if !source.may_cross && identity::identify(directory.as_fd()).map_err(look)?.device != source.identity.device {
        return Err(BindError::OtherFileSystem);
    }
    identity::answers(directory.as_fd()).map_err(BindError::host("use the volume's directory"))?;
    Ok(directory)
}

/// Makes the volume's directory where it is missing, whatever its definition says of its first use. One that is there
/// keeps its owner and its mode. True: it was made.
///
/// # Errors
/// [`BindError`]; nothing but empty directories on the way to it may be left then.
pub fn make_volume(volume: &Resolved, source: &Attached) -> Result<bool, BindError> {
    let root = resolve::open_root(&source.root).map_err(BindError::Source)?;
    if identity::identify(root.as_fd()).map_err(BindError::host("look at the source"))? != source.identity {
        return Err(BindError::SourceChanged);
    }
    let (directory, made) = match open_or_self(root.as_fd(), &volume.path) {
        Ok(directory) => (directory, false),
        Err(error) if error.is_missing() => (create_volume(root.as_fd(), volume)?, true),
        Err(error) => return Err(BindError::Volume(error)),
    };
    identity::answers(directory.as_fd()).map_err(BindError::host("use the volume's directory"))?;
    Ok(made)
}

/// Whether the volume's directory is there.
///
/// # Errors
/// [`BindError`] where that cannot be told.
pub fn has_volume(volume: &Resolved, source: &Attached) -> Result<bool, BindError> {
    let root = resolve::open_root(&source.root).map_err(BindError::Source)?;
    match open_or_self(root.as_fd(), &volume.path) {
        Ok(_) => Ok(true),
        Err(error) if error.is_missing() => Ok(false),
        Err(error) => Err(BindError::Volume(error)),
    }
}

/// Makes the volume's directory under another name, and gives it its own once owner and mode are set: an agent that is
/// killed in between leaves no volume that the next one would take as it is. Two clients that come here at once make
/// the same steps on one directory, and the one that comes second finds it done.
fn create_volume(root: BorrowedFd<'_>, volume: &Resolved) -> Result<OwnedFd, BindError> {
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
