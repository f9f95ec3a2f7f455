//! Locks of an open file description (fcntl(2), `F_OFD_SETLK`): they belong to the description and not to a process, so
//! whoever holds the description, the kernel's loop driver included, holds the lock.

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// What became of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// It is held.
    Yes,
    /// Somebody else holds a part of the range.
    Taken,
    /// The file system has no locks.
    Unsupported,
}

/// Takes bytes `start..start + length` of a file, exclusively, without waiting for who has them. `file` is open for
/// writing.
///
/// # Errors
/// The kernel's.
pub fn lock(file: BorrowedFd<'_>, start: i64, length: i64) -> io::Result<Locked> {
    match set(file, libc::F_WRLCK, start, length) {
        Ok(()) => Ok(Locked::Yes),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(Locked::Taken),
        Err(Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(Locked::Unsupported),
        Err(errno) => Err(errno.into()),
    }
}

/// Gives those bytes free.
///
/// # Errors
/// The kernel's.
pub fn unlock(file: BorrowedFd<'_>, start: i64, length: i64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    set(file, libc::F_UNLCK, start, length).map_err(io::Error::from)
}

fn set(file: BorrowedFd<'_>, kind: i32, start: i64, length: i64) -> Result<(), Errno> {
    let whence = i16::try_from(libc::SEEK_SET).unwrap_or_default();
    let kind = i16::try_from(kind).unwrap_or_default();
    let range = libc::flock { l_type: kind, l_whence: whence, l_start: start, l_len: length, l_pid: 0 };
    fcntl(file, FcntlArg::F_OFD_SETLK(&range)).map(drop)
}
