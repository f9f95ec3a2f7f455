//! Local file systems on a block device: mounted where nobody sees them yet, and shut down.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::mount::Flags;

/// `_IOR('X', 125, __u32)`: EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are one request.
const SHUT_DOWN: libc::Ioctl = 0x8004_587d;
/// Neither data nor the journal are written: EXT4_GOING_FLAGS_NOLOGFLUSH, XFS_FSOP_GOING_FLAGS_NOLOGFLUSH.
const NO_LOG_FLUSH: u32 = 2;
/// The most that the kernel says of a mount at once.
const LONGEST_MESSAGE: usize = 4096;

/// Why a block device was not mounted, with what its file system says of it, where it says something.
#[derive(Debug, thiserror::Error)]
#[error("{source}{said}")]
pub struct MountFailed {
    source: io::Error,
    said: String,
}

impl MountFailed {
    /// The kernel's error number.
    pub fn errno(&self) -> Option<Errno> {
        self.source.raw_os_error().map(Errno::from_raw_os_error)
    }
}

/// Mounts a block device, attached nowhere: it goes away with the descriptor, unless it is placed
/// ([`super::mount::place`]). A device that is mounted already gives another mount of the same file system. The
/// file system's options are keys with their values, or flags without.
///
/// # Errors
/// The kernel's.
pub fn mount_detached(
    fs_type: &str,
    device: &Path,
    options: &[(&str, Option<&str>)],
    flags: Flags,
) -> Result<OwnedFd, MountFailed> {
    let failed = |errno: Errno| MountFailed { source: errno.into(), said: String::new() };
    let context = rustix::mount::fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    let configure = || -> Result<(), Errno> {
        rustix::mount::fsconfig_set_string(context.as_fd(), "source", device)?;
        for (key, value) in options {
            match value {
                Some(value) => rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value)?,
                None => rustix::mount::fsconfig_set_flag(context.as_fd(), *key)?,
            }
        }
        rustix::mount::fsconfig_create(context.as_fd())
    };
    configure().map_err(|errno| MountFailed { source: errno.into(), said: read_messages(context.as_fd()) })?;
    let mut attributes = MountAttrFlags::empty();
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, flags.read_only);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID, flags.nosuid);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, flags.nodev);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, flags.noexec);
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed)
}

/// The kernel's own words, which it gives message by message to whoever reads the context's descriptor.
fn read_messages(context: BorrowedFd<'_>) -> String {
    let mut said = Vec::new();
    let mut buffer = [0_u8; LONGEST_MESSAGE];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]);
        said.push(text.trim().trim_start_matches("e ").chars().filter(|c| !c.is_control()).collect::<String>());
    }
    if said.is_empty() { String::new() } else { format!(" ({})", said.join("; ")) }
}

/// Shuts a mounted file system down: nothing is written any more, not even what it had in memory, and whoever uses it is
/// told so (EIO). It stays mounted. Once more is no error.
///
/// # Errors
/// The kernel's; `ENOTTY` of a file system that cannot.
pub fn shut_down(mount: BorrowedFd<'_>) -> io::Result<()> {
    let root = rustix::fs::openat(mount, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let how = NO_LOG_FLUSH;
    // SAFETY: the request reads a 32-bit number, which lives for the call.
    match unsafe { libc::ioctl(root.as_raw_fd(), SHUT_DOWN, &raw const how) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Writes all that a mounted file system has in memory (syncfs(2)).
///
/// # Errors
/// The kernel's.
pub fn sync(mount: BorrowedFd<'_>) -> io::Result<()> {
    let root = rustix::fs::openat(mount, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::fs::syncfs(root)?)
}

/// Removes the one empty directory of that name at a mount's root; one that is not there, or not empty, stays so.
pub fn remove_empty_at_root(mount: BorrowedFd<'_>, name: &OsStr) {
    let _ = rustix::fs::unlinkat(mount, name, rustix::fs::AtFlags::REMOVEDIR);
}
