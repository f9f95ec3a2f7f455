//! Whose a namespace is.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

nix::ioctl_none_bad!(get_user_namespace, nix::request_code_none!(0xb7, 0x1));

/// The user namespace that owns another namespace (`NS_GET_USERNS`, ioctl_nsfs(2)).
///
/// # Errors
/// The kernel's: `EPERM` where it is outside the caller's own.
pub(super) fn user_namespace_of(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the request takes no argument; the descriptor is open while it is borrowed.
    let owner = unsafe { get_user_namespace(namespace.as_raw_fd()) }.map_err(io::Error::from)?;
    // SAFETY: the kernel has just made this descriptor for this call, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(owner) })
}
