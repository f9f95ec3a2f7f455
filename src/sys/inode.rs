//! A directory's own attributes: immutable, mode, owner.
//!
//! Only for local directories, such as what lies beneath a binding: the immutable flag needs a real open of
//! the directory, and a real open asks the file system (a hung server would hold the caller, and beneath a guarded
//! mount it would ask the guard).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Gid, IFlags, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::descriptor_path;

/// Why an attribute could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum InodeError {
    /// The file system knows no such attribute.
    #[error("the file system does not support inode flags")]
    Unsupported,
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

/// Sets or clears the immutable flag (chattr(1) `+i`) of a local directory. `dir` may be `O_PATH`, also of a
/// directory that a mount covers. Saying it twice is harmless.
pub fn set_immutable(dir: BorrowedFd<'_>, immutable: bool) -> Result<(), InodeError> {
    let opened = reopen(dir)?;
    let flags = rustix::fs::ioctl_getflags(&opened).map_err(flags_error)?;
    let mut wanted = flags;
    wanted.set(IFlags::IMMUTABLE, immutable);
    if wanted == flags {
        return Ok(());
    }
    rustix::fs::ioctl_setflags(&opened, wanted).map_err(flags_error)
}

/// Whether a local directory has the immutable flag.
pub fn is_immutable(dir: BorrowedFd<'_>) -> Result<bool, InodeError> {
    let opened = reopen(dir)?;
    Ok(rustix::fs::ioctl_getflags(&opened).map_err(flags_error)?.contains(IFlags::IMMUTABLE))
}

/// Sets the permission bits, as chmod(2), whatever the umask. `fd` may be `O_PATH`.
pub fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> Result<(), InodeError> {
    // fchmod refuses O_PATH descriptors; the magic link leads to the very inode.
    rustix::fs::chmod(descriptor_path(fd), Mode::from_raw_mode(mode)).map_err(|errno| call("chmod", errno))
}

/// Sets owner and group by number, as fchownat(2). `fd` may be `O_PATH`.
pub fn set_owner(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), InodeError> {
    // The all-ones id means "leave as it is" to the kernel and is nobody's.
    if uid == u32::MAX || gid == u32::MAX {
        return Err(call("fchownat", Errno::INVAL));
    }
    rustix::fs::chownat(fd, c"", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)
        .map_err(|errno| call("fchownat", errno))
}

/// Whether a local directory has no entries.
pub fn is_empty_directory(dir: BorrowedFd<'_>) -> Result<bool, InodeError> {
    let opened = reopen(dir)?;
    for entry in Dir::new(opened).map_err(|errno| call("getdents64", errno))? {
        let entry = entry.map_err(|errno| call("getdents64", errno))?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn reopen(dir: BorrowedFd<'_>) -> Result<OwnedFd, InodeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::NOATIME | OFlags::CLOEXEC;
    rustix::fs::open(descriptor_path(dir), flags, Mode::empty()).map_err(|errno| call("open", errno))
}

fn flags_error(errno: Errno) -> InodeError {
    match errno {
        Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS => InodeError::Unsupported,
        other => call("ioctl", other),
    }
}

fn call(call: &'static str, errno: Errno) -> InodeError {
    InodeError::Call { call, source: errno.into() }
}
