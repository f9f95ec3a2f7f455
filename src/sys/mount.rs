//! Making a binding in steps that nobody sees until the last one: clone, set flags, place.
//!
//! See open_tree(2), mount_setattr(2), move_mount(2) and umount(2). Every target is a descriptor that was
//! resolved before, so that a path that changes in between leads nowhere else.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::descriptor_path;

/// Why a mount could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Something still uses the mount (`EBUSY`).
    #[error("the mount is in use")]
    Busy,
    /// Nothing is mounted at the name (`EINVAL` of umount2).
    #[error("not a mount point")]
    NotAMountPoint,
    /// The name does not exist (`ENOENT`).
    #[error("the mount point does not exist")]
    Missing,
    /// The name is not one path component.
    #[error("not a single path component: {0:?}")]
    Name(std::ffi::OsString),
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

/// The flags of one mount. A flag that is false leaves the mount as its source has it: a source that its
/// administrator mounted `nosuid` never becomes less restricted by being bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// Writes fail with EROFS.
    pub read_only: bool,
    /// Set-user-ID bits and file capabilities are ignored.
    pub nosuid: bool,
    /// Device files cannot be opened.
    pub nodev: bool,
    /// Nothing on it can be executed.
    pub noexec: bool,
}

/// `struct mount_attr` of mount_setattr(2), version 0.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
const MOUNT_ATTR_NOEXEC: u64 = 0x8;

/// Clones the mount that `dir` lies in, with `dir` as its root and without submounts. The clone is attached
/// nowhere and goes away with the descriptor. Does not ask the file system's server anything.
pub fn clone_detached(dir: BorrowedFd<'_>) -> Result<OwnedFd, MountError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(dir, c"", flags).map_err(|errno| call("open_tree", errno))
}

/// Sets the flags of a mount and makes it private, so that it is not one of its source's peers. Attached below a shared
/// mount it becomes shared again (mount_namespaces(7)): what is mounted there is seen in other namespaces as well.
pub fn set_flags(mount: BorrowedFd<'_>, flags: Flags) -> Result<(), MountError> {
    let bit = |on: bool, bit: u64| if on { bit } else { 0 };
    let attr = MountAttr {
        attr_set: bit(flags.read_only, MOUNT_ATTR_RDONLY)
            | bit(flags.nosuid, MOUNT_ATTR_NOSUID)
            | bit(flags.nodev, MOUNT_ATTR_NODEV)
            | bit(flags.noexec, MOUNT_ATTR_NOEXEC),
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the path is a valid empty C string, `attr` lives for the call and its exact size is given.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(MountError::Call { call: "mount_setattr", source: io::Error::last_os_error() })
    }
}

/// Attaches a detached mount on `directory` (an `O_PATH` descriptor of the very directory: no path is
/// looked up here).
pub fn place(mount: BorrowedFd<'_>, directory: BorrowedFd<'_>) -> Result<(), MountError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", directory, c"", flags).map_err(|errno| call("move_mount", errno))
}

/// Unmounts what is mounted on `name` in `parent`. [`MountError::Busy`] means that a process of this
/// mount namespace uses it; clones in other namespaces do not count.
pub fn unmount(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), MountError> {
    unmount_with(parent, name, UnmountFlags::NOFOLLOW)
}

/// Takes the mount on `name` in `parent` out of the tree at once; what uses it keeps it (`MNT_DETACH`).
pub fn detach(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), MountError> {
    unmount_with(parent, name, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
}

/// Whether the mount on `name` in `parent` is in use, in this mount namespace. One that was asked about before, and has
/// not been used since, is unmounted (`MNT_EXPIRE`, umount(2)).
pub fn expire(parent: BorrowedFd<'_>, name: &OsStr) -> Result<bool, MountError> {
    match unmount_with(parent, name, UnmountFlags::NOFOLLOW | UnmountFlags::EXPIRE) {
        Ok(()) => Ok(false),
        Err(MountError::Busy) => Ok(true),
        Err(MountError::Call { source, .. })
            if source.raw_os_error() == Some(rustix::io::Errno::AGAIN.raw_os_error()) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn unmount_with(parent: BorrowedFd<'_>, name: &OsStr, flags: UnmountFlags) -> Result<(), MountError> {
    // umount2 takes no directory descriptor; the magic link holds the parent fast, and one component after
    // it cannot leave it.
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(MountError::Name(name.to_owned()));
    }
    let mut path = descriptor_path(parent).into_bytes();
    path.push(b'/');
    path.extend_from_slice(bytes);
    rustix::mount::unmount(path, flags).map_err(|errno| match errno {
        rustix::io::Errno::BUSY => MountError::Busy,
        rustix::io::Errno::INVAL => MountError::NotAMountPoint,
        rustix::io::Errno::NOENT => MountError::Missing,
        other => call("umount2", other),
    })
}

fn call(call: &'static str, errno: rustix::io::Errno) -> MountError {
    MountError::Call { call, source: errno.into() }
}
