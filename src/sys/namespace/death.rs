//! Whether the file system behind a descriptor is dead: its mount program has ended, and no answer can ever come.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;

use crate::sys::{descriptors, identity, loop_device};

/// XFS_SUPER_MAGIC of linux/magic.h.
const XFS_MAGIC: rustix::fs::FsWord = 0x5846_5342;
/// The thread's stack, in bytes.
const STACK: usize = 64 << 10;

/// What says that no answer can ever come: the mount program has ended, or the server does not know the directory any more
/// (also where it cannot even read the handle: EBADHANDLE of include/linux/errno.h, which has no name outside).
const DEAD: [Errno; 4] = [Errno::NOTCONN, Errno::CONNABORTED, Errno::STALE, Errno::from_raw_os_error(521)];

/// Asks the file system of an `O_PATH` descriptor whether it is dead. `None`: it has not answered within `patience`. The
/// thread that asked then waits for as long as the server does; `ended` is called when it has its answer, in every case.
///
/// # Errors
/// No thread, or none with a descriptor table of its own: one that hangs must keep nothing else open.
pub fn is_dead_within(
    fd: BorrowedFd<'_>,
    patience: Duration,
    ended: impl FnOnce() + Send + 'static,
) -> io::Result<Option<bool>> {
    let (left, has_left) = sync_channel::<()>(1);
    let (tell, told) = sync_channel(1);
    let number = fd.as_raw_fd();
    let thread = std::thread::Builder::new().name("is-dead".into()).stack_size(STACK).spawn(move || {
        // SAFETY: the caller's borrow lasts until this thread says that it has a table of its own.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        let own = descriptors::leave_table(&[borrowed]);
        // The other end waits for it, and cannot be gone.
        let _ = left.send(());
        let answer = own.map(|own| own.first().is_some_and(|own| is_dead(own.as_fd())));
        ended();
        let _ = tell.send(answer);
    })?;
    // An error would say that the thread has panicked: then no answer comes either.
    let _ = has_left.recv();
    match told.recv_timeout(patience) {
        Ok(answer) => {
            // It has nothing left to wait for.
            let _ = thread.join();
            answer.map(Some)
        }
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(None),
    }
}

/// What the kernel answers for a FUSE mount whose program is gone (fuse(4)); a program that lives may say it too.
pub fn is_deaths(errno: i32) -> bool {
    [Errno::NOTCONN, Errno::CONNABORTED].iter().any(|of| of.raw_os_error() == errno)
}

fn is_dead(fd: BorrowedFd<'_>) -> bool {
    // A file system on a loop device of which nothing is left answers from memory, and is dead all the same.
    if identity::identify(fd).is_ok_and(|found| loop_device::is_disarmed(found.device)) {
        return true;
    }
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    match rustix::fs::statx(fd, c"", flags, StatxFlags::BASIC_STATS) {
        // An XFS says so of a file's attributes once it was shut down, and never before (xfs_vn_getattr).
        Err(Errno::IO) => rustix::fs::fstatfs(fd).is_ok_and(|found| found.f_type == XFS_MAGIC),
        Err(errno) if is_deaths(errno.raw_os_error()) => is_unattended(fd),
        // A program that has lost one directory says so of that directory, and lives.
        Err(errno) if DEAD.contains(&errno) => !matches!(ask_program(fd), Ok(_) | Err(Errno::NODATA)),
        _ => false,
    }
}

/// Whether nobody is behind a descriptor of a file system that has answered that it is not connected. A `glusterfs` whose
/// bricks are all away says so itself, to everything that it needs a brick for. To a question that it needs none for it
/// says something else, and for a program that is gone the kernel answers the same to every question. One that once said that it
/// knows no attributes (`weed mount -disableXAttr`) is not asked for them again, alive or not (fuse_getxattr in fs/fuse/xattr.c);
/// a `glusterfs` knows some.
///
/// **May hang** as the file system does.
pub fn is_unattended(fd: BorrowedFd<'_>) -> bool {
    ask_program(fd).is_err_and(|errno| is_deaths(errno.raw_os_error()) || errno == Errno::OPNOTSUPP)
}

/// Asks for an attribute that `glusterfs` answers for by itself, unless it is told to keep such ones (fuse_getxattr in its
/// fuse-bridge.c); `EOPNOTSUPP` where there is no program and no such attribute (NFS).
fn ask_program(fd: BorrowedFd<'_>) -> rustix::io::Result<usize> {
    // The thread's own: it may have a table of its own.
    let path = format!("/proc/thread-self/fd/{}", fd.as_raw_fd());
    rustix::fs::getxattr(path, c"security.capability", &mut [0_u8; 0][..])
}
