//! Whether the file system behind a descriptor is dead: its mount program has ended, and no answer can ever come.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;

use crate::sys::descriptors;

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

fn is_dead(fd: BorrowedFd<'_>) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    rustix::fs::statx(fd, c"", flags, StatxFlags::BASIC_STATS).is_err_and(|errno| DEAD.contains(&errno))
}
