//! A volume's directory is taken out of the way, whole and unread: renamed within its source, into a folder that only
//! root can enter. Nothing of it is ever removed.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::open_or_self;
use crate::backend::{Attached, image_note};
use crate::sys::resolve::{self, ResolveError};
use crate::sys::{descriptor_path, identity, inode, table};
use crate::volume::Resolved;

/// The folder, beside the volumes of a source. No volume that is dynamic can have this name.
pub const FOLDER: &str = ".saddlebag-deleted";
/// So many of one name in one second are told apart.
const MOST_OF_A_SECOND: usize = 100;

/// Why a volume's directory is where it was.
#[derive(Debug, thiserror::Error)]
pub enum SetAsideError {
    /// Another mount is at the source's root than the one that was attached.
    #[error("the source is no longer the mount that was attached")]
    SourceChanged,
    /// The directory cannot be reached by a plain path.
    #[error("its directory cannot be reached: {0}")]
    Volume(#[source] ResolveError),
    /// The folder for what is deleted.
    #[error("the folder {FOLDER} cannot be used: {0}")]
    Folder(#[source] ResolveError),
    /// Something of it is mounted still.
    #[error("it is mounted at {}", .0.display())]
    Mounted(PathBuf),
    /// The note beside an image says that a machine has it attached.
    #[error("the note {} says that a machine has its image attached", .0.display())]
    Noted(PathBuf),
    /// It lies on another file system than its source.
    #[error("its directory is on another file system than its source, and cannot be moved within it")]
    OtherFileSystem,
    /// The storage system does not move it.
    #[error("its directory cannot be moved: {0}")]
    Move(#[source] io::Error),
    /// The kernel or the storage system refused.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl SetAsideError {
    fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}

/// Where a volume's directory lies now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// On this host, while its source is mounted; none where nothing of that name is there.
    pub at: Option<PathBuf>,
    /// It was not at its place any more.
    pub already: bool,
}

/// Renames what is at the volume's path into [`FOLDER`] `below` the source's root, or, where the storage system does not
/// move things so far (out of a bucket, onto another file system), into one beside it; under the volume's name and the
/// time. Said twice, it finds what it did the first time.
///
/// # Errors
/// [`SetAsideError`]: all is where it was.
pub fn set_aside(volume: &Resolved, below: &Path, source: &Attached, now: SystemTime) -> Result<Kept, SetAsideError> {
    let root = resolve::open_root(&source.root).map_err(SetAsideError::Volume)?;
    if identity::identify(root.as_fd()).map_err(SetAsideError::host("look at the source"))? != source.identity {
        return Err(SetAsideError::SourceChanged);
    }
    let (Some(above), Some(name)) = (volume.path.parent(), volume.path.file_name()) else {
        return Err(SetAsideError::Volume(ResolveError::LeavesRoot(volume.path.clone())));
    };
    let folders = [below.join(FOLDER), above.join(FOLDER)];
    let gone = || {
        let kept = |folder: &PathBuf| Some(folder.join(find_kept(root.as_fd(), folder, &volume.name)?));
        folders.iter().find_map(kept).map(|kept| source.root.join(kept))
    };
    let parent = match open_or_self(root.as_fd(), above) {
        Ok(parent) => parent,
        Err(error) if error.is_missing() => return Ok(Kept { at: gone(), already: true }),
        Err(error) => return Err(SetAsideError::Volume(error)),
    };
    match resolve::open_any_beneath(parent.as_fd(), Path::new(name)) {
        Ok(there) => {
            refuse_mounted(there.as_fd())?;
            refuse_noted(there.as_fd(), parent.as_fd(), name, &source.root.join(above))?;
        }
        Err(error) if error.is_missing() => return Ok(Kept { at: gone(), already: true }),
        Err(error) => return Err(SetAsideError::Volume(error)),
    }
    let kept_name = kept_name(&volume.name, now);
    let [farther, beside] = folders;
    let (folder, made, kept) = match move_into(root.as_fd(), farther.clone(), parent.as_fd(), name, &kept_name) {
        Err(SetAsideError::OtherFileSystem | SetAsideError::Move(_)) if farther != beside => {
            // One that was made in vain is empty; one that is not is needed.
            let _ = resolve::remove_empty(root.as_fd(), &farther);
            move_into(root.as_fd(), beside, parent.as_fd(), name, &kept_name)?
        }
        moved => moved?,
    };
    for changed in [parent.as_fd(), made.as_fd()] {
        if let Err(error) = sync(changed) {
            // After a power cut it may be where it was; it is whole in either place.
            tracing::warn!(volume = volume.name, %error, "the move of a deleted volume may not survive a power cut");
        }
    }
    Ok(Kept { at: Some(source.root.join(&folder).join(kept)), already: false })
}

/// Moves it into a folder, which is made where it is missing: the folder, open, and its name there.
fn move_into(
    root: BorrowedFd<'_>,
    folder: PathBuf,
    parent: BorrowedFd<'_>,
    name: &OsStr,
    kept: &str,
) -> Result<(PathBuf, OwnedFd, String), SetAsideError> {
    let made = resolve::make_beneath(root, &folder, 0o700).map_err(SetAsideError::Folder)?.directory;
    // Whoever may enter a volume's own directory may read it there; nobody but root comes so far.
    inode::set_mode(made.as_fd(), 0o700)
        .map_err(|error| SetAsideError::host("close the folder for deleted volumes")(io::Error::other(error)))?;
    let kept = rename(parent, name, made.as_fd(), kept)?;
    Ok((folder, made, kept))
}

/// An image is attached where a note is beside it, on this machine or another, and is not moved under its loop device.
fn refuse_noted(
    there: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    name: &OsStr,
    above: &Path,
) -> Result<(), SetAsideError> {
    let look = |errno: Errno| SetAsideError::host("look for a note beside it")(errno.into());
    let mode = rustix::fs::fstat(there).map_err(look)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Ok(());
    }
    let note = image_note(name);
    match rustix::fs::statat(parent, &note, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(look(errno)),
        Ok(_) => Err(SetAsideError::Noted(above.join(note))),
    }
}

/// A mount of it is there as long as somebody may use it, whatever the ledger knows.
fn refuse_mounted(there: BorrowedFd<'_>) -> Result<(), SetAsideError> {
    let look = || SetAsideError::host("look for mounts of it");
    let mounts = table::read_own().map_err(look())?;
    let (entry, path) = table::locate(there, &mounts).map_err(look())?;
    let is_of_it = |mount: &&table::Entry| mount.device == entry.device && mount.root.starts_with(&path);
    match mounts.iter().find(is_of_it) {
        Some(mount) => Err(SetAsideError::Mounted(mount.mount_point.clone())),
        None => Ok(()),
    }
}

/// `pgdata.20260102T030405Z`
fn kept_name(volume: &str, now: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(now).to_string().replace(['-', ':'], "");
    format!("{volume}.{time}")
}

fn rename(parent: BorrowedFd<'_>, name: &OsStr, folder: BorrowedFd<'_>, kept: &str) -> Result<String, SetAsideError> {
    for number in 0..MOST_OF_A_SECOND {
        let kept = if number == 0 { kept.to_owned() } else { format!("{kept}-{number}") };
        let renamed = match rustix::fs::renameat_with(parent, name, folder, &kept, RenameFlags::NOREPLACE) {
            // Not every file system knows the flag. Nobody but root can put anything into the folder.
            Err(Errno::INVAL | Errno::NOSYS) => match rustix::fs::statat(folder, &kept, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(Errno::EXIST),
                Err(Errno::NOENT) => rustix::fs::renameat(parent, name, folder, &kept),
                Err(errno) => Err(errno),
            },
            renamed => renamed,
        };
        match renamed {
            Ok(()) => return Ok(kept),
            Err(Errno::EXIST | Errno::NOTEMPTY) => {}
            Err(Errno::XDEV) => return Err(SetAsideError::OtherFileSystem),
            Err(errno) => return Err(SetAsideError::Move(errno.into())),
        }
    }
    Err(SetAsideError::host("find a name for the deleted volume")(io::ErrorKind::AlreadyExists.into()))
}

/// The newest of what was kept of a volume.
fn find_kept(root: BorrowedFd<'_>, folder: &Path, volume: &str) -> Option<OsString> {
    let folder = reopen(resolve::open_beneath(root, folder).ok()?.as_fd()).ok()?;
    let is_its = |name: &str| {
        let time = name.strip_prefix(volume).and_then(|rest| rest.strip_prefix('.'));
        // Another volume's name may begin with this one's: the rest is a time and a number, and nothing else.
        time.is_some_and(|time| time.contains('T') && time.bytes().all(|b| b.is_ascii_digit() || b"TZ-".contains(&b)))
    };
    let names = rustix::fs::Dir::new(folder).ok()?.flatten();
    let names = names.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
    names.filter(|name| is_its(name)).max().map(OsString::from)
}

fn reopen(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(descriptor_path(directory), flags, Mode::empty())?)
}

fn sync(directory: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::fs::fsync(reopen(directory)?) {
        // A storage system without an fsync of directories has other promises.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(()),
        synced => Ok(synced?),
    }
}
