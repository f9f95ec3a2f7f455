//! Working apart from the host: mounts that nobody else sees, and programs that end with their starter whatever happens.
//!
//! See mount_namespaces(7) and pid_namespaces(7). When the first process of a pid namespace ends, the kernel kills all
//! others in it; when the last process of a mount namespace ends, its mounts go.

use std::io;
use std::path::Path;

use nix::sched::CloneFlags;
use rustix::mount::{MountFlags, MountPropagationFlags};

/// Puts the calling thread into a mount namespace of its own, where it is told of the host's unmounts and tells the host
/// of nothing; and its later children into a pid namespace of their own, of which the first one is process 1. For a
/// thread that is to end: it cannot come back, and can start no other thread.
///
/// # Errors
/// The kernel's: `EPERM` without CAP_SYS_ADMIN, or where this machine allows no such namespaces.
pub fn leave_with_processes() -> io::Result<()> {
    leave(CloneFlags::CLONE_NEWPID)
}

/// The same with mounts alone.
///
/// # Errors
/// The kernel's.
pub fn leave_with_mounts() -> io::Result<()> {
    leave(CloneFlags::empty())
}

fn leave(more: CloneFlags) -> io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | more)?;
    let quiet = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", quiet)?)
}

/// Shows the calling process its own pid namespace as `/proc`. Only in a mount namespace of its own.
///
/// # Errors
/// The kernel's.
pub fn mount_proc() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("proc", "/proc", "proc", flags, None)?)
}

/// Covers a directory by an empty file system in memory, of at most so many bytes, that only root can enter. Only in a
/// mount namespace of its own.
///
/// # Errors
/// The kernel's.
pub fn mount_memory(at: &Path, bytes: u64) -> io::Result<()> {
    let options = std::ffi::CString::new(format!("mode=0700,size={bytes}"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(rustix::mount::mount("saddlebag-doctor", at, "tmpfs", flags, options.as_c_str())?)
}
