//! A thread with a descriptor table of its own, and descriptors that come from outside the program.
//!
//! A thread that hangs in a file system's server cannot be killed, and for as long as it hangs it keeps open
//! what its table holds. A thread that may hang must therefore share no table with the rest: otherwise the
//! process's sockets and locks would live on after its death, and nobody could tell that it is dead.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Gives the calling thread a descriptor table of its own that holds only 0, 1, 2 and `keep`. Returns the thread's
/// own descriptors for `keep`, in the same order and under the same numbers.
///
/// From then on this thread, and those that it starts, must not touch any descriptor from before by its number:
/// give it nothing else that owns one. The originals of `keep` must stay open until this returns.
pub fn leave_table(keep: &[BorrowedFd<'_>]) -> io::Result<Vec<OwnedFd>> {
    let mut numbers: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: takes no pointers; the calling thread gets a copy of its descriptor table.
    if unsafe { libc::unshare(libc::CLONE_FILES) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the table is this thread's alone now, so these numbers are owned by nobody else in it.
    let owned = numbers.iter().map(|number| unsafe { OwnedFd::from_raw_fd(*number) }).collect();
    numbers.sort_unstable();
    let mut first = 3;
    for number in numbers {
        close_between(first, number - 1)?;
        first = number + 1;
    }
    close_between(first, RawFd::MAX)?;
    Ok(owned)
}

fn close_between(first: RawFd, last: RawFd) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: takes no pointers; what it closes is in this thread's own copy of the table, which nothing uses.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Occupies every free number below `number` in the calling thread's table, so that the kernel hands out that
/// or higher ones. They stay occupied for as long as the table lives.
pub fn occupy_below(number: RawFd) -> io::Result<()> {
    let null = File::open("/dev/null")?;
    if null.as_raw_fd() >= number {
        return Ok(());
    }
    loop {
        // SAFETY: takes no pointers; makes a new descriptor that is owned below.
        let next = unsafe { libc::fcntl(null.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) };
        if next < 0 {
            return Err(io::Error::last_os_error());
        }
        if next >= number {
            // SAFETY: just made, and owned by nobody else.
            drop(unsafe { OwnedFd::from_raw_fd(next) });
            std::mem::forget(null);
            return Ok(());
        }
    }
}

/// Takes descriptor 0, by which the guard's keeper and the guard hand each other their connection. Must be called
/// at most once, first of all, and only where the starter has passed one.
pub fn take_input() -> io::Result<OwnedFd> {
    // A copy is owned instead, close-on-exec, and 0 becomes /dev/null: nothing else may find 0 closed or reuse it.
    // SAFETY: takes no pointers; the result is a new descriptor.
    let copy = unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and owned by nobody else.
    let copy = unsafe { OwnedFd::from_raw_fd(copy) };
    let null = File::open("/dev/null")?;
    // SAFETY: takes no pointers; replaces descriptor 0, which only the standard library's input refers to.
    if unsafe { libc::dup2(null.as_raw_fd(), 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(copy)
}

/// Takes the descriptors that systemd passes (sd_listen_fds(3)) with their names. Must be called at most once.
pub fn take_from_systemd() -> io::Result<Vec<(String, OwnedFd)>> {
    let mut taken = Vec::new();
    for (number, name) in sd_notify::listen_fds_with_names()? {
        // SAFETY: the service manager passed this number to this very process, and nobody else has taken it.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        taken.push((name, fd));
    }
    Ok(taken)
}
