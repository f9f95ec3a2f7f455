//! Which mount and which inode a descriptor is.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Unique mount ids are never used again (Linux 6.8); statx(2) calls the bit STATX_MNT_ID_UNIQUE.
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// What a descriptor is, as the kernel knows it without asking a file system's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The mount's unique id; before Linux 6.8 the reusable id of mountinfo.
    pub mount_id: u64,
    /// Major and minor number of the superblock's device.
    pub device: (u32, u32),
    /// The inode's number.
    pub inode: u64,
    /// Whether it is the root of a mount.
    pub is_mount_root: bool,
    /// Whether it is a directory.
    pub is_directory: bool,
}

/// Identifies an open descriptor (`O_PATH` will do). Returns at once even when the server hangs, since
/// AT_STATX_DONT_SYNC takes what the kernel has.
///
/// Errors: `Unsupported` where the kernel reports no mount ids (before Linux 5.8), else what statx says.
pub fn identify(fd: BorrowedFd<'_>) -> io::Result<Identity> {
    // A kernel that knows both bits reports the unique id; an older one ignores the bit it does not know.
    let mask = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MNT_ID | MNT_ID_UNIQUE;
    let stat = match rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, mask) {
        Ok(stat) => stat,
        // An XFS that was shut down says nothing of its files, not even from memory.
        Err(errno @ Errno::IO) => return identify_by_table(fd)?.ok_or_else(|| errno.into()),
        Err(errno) => return Err(errno.into()),
    };
    if stat.stx_mask & (MNT_ID_UNIQUE | StatxFlags::MNT_ID).bits() == 0 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel reports no mount ids (Linux 5.8 does)"));
    }
    Ok(Identity {
        mount_id: stat.stx_mnt_id,
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        is_mount_root: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        is_directory: is_directory(&stat),
    })
}

/// The same by what the kernel knows of mounts alone; none where it does not say enough (Linux 6.8 to 6.11).
fn identify_by_table(fd: BorrowedFd<'_>) -> io::Result<Option<Identity>> {
    let Some((reusable, inode)) = read_descriptor(fd)? else { return Ok(None) };
    let entries = super::table::read_own()?;
    let Some(entry) = entries.iter().find(|entry| entry.mount_id == reusable) else { return Ok(None) };
    let Some(mount_id) = mount_id_by_handle(fd, HANDLE_UNIQUE)?.or((!has_unique_ids()?).then_some(reusable)) else {
        return Ok(None);
    };
    let path = std::fs::read_link(super::descriptor_path(fd))?;
    let is_mount_root = path == entry.mount_point;
    Ok(Some(Identity { mount_id, device: entry.device, inode, is_mount_root, is_directory: is_mount_root }))
}

/// Mount and inode by proc_pid_fdinfo(5).
fn read_descriptor(fd: BorrowedFd<'_>) -> io::Result<Option<(u64, u64)>> {
    let text = std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", fd.as_raw_fd()))?;
    let number = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    Ok(number("mnt_id:").zip(number("ino:")))
}

/// `AT_HANDLE_MNT_ID_UNIQUE`, of Linux 6.12 and newer: the unique id instead of the reusable one.
const HANDLE_UNIQUE: i32 = 1;

/// By name_to_handle_at(2), which asks a file system no more than for the inode's number.
fn mount_id_by_handle(fd: BorrowedFd<'_>, flags: i32) -> io::Result<Option<u64>> {
    const LONGEST: u32 = 128;
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        handle: [u8; LONGEST as usize],
    }
    let mut handle = Handle { bytes: LONGEST, kind: 0, handle: [0; LONGEST as usize] };
    let mut id = 0_u64;
    // SAFETY: the path is an empty C string; the handle is of the size that it says, the id of the larger of the two that
    // the call fills, and both live for it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut id,
            libc::AT_EMPTY_PATH | flags,
        )
    };
    if done == 0 {
        // The reusable id is a 32-bit number, at the address of the other.
        let bytes = id.to_ne_bytes();
        let short = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        return Ok(Some(if flags & HANDLE_UNIQUE == 0 { u64::from(short) } else { id }));
    }
    match Errno::from_io_error(&io::Error::last_os_error()) {
        Some(Errno::INVAL | Errno::OPNOTSUPP) => Ok(None),
        other => Err(other.unwrap_or(Errno::IO).into()),
    }
}

fn has_unique_ids() -> io::Result<bool> {
    let mask = StatxFlags::MNT_ID | MNT_ID_UNIQUE;
    let stat = rustix::fs::statx(rustix::fs::CWD, "/", AtFlags::empty(), mask)?;
    Ok(stat.stx_mask & MNT_ID_UNIQUE.bits() != 0)
}

/// The reusable id of the mount that a descriptor lies in, as mountinfo has it. Returns at once, as [`identify`] does.
///
/// Errors: as [`identify`].
pub fn reusable_mount_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mask = StatxFlags::TYPE | StatxFlags::MNT_ID;
    let stat = match rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, mask) {
        Ok(stat) => stat,
        // As in [`identify`]. Not by /proc: who asks may be in a container.
        Err(errno @ Errno::IO) => return mount_id_by_handle(fd, 0)?.ok_or_else(|| errno.into()),
        Err(errno) => return Err(errno.into()),
    };
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel reports no mount ids (Linux 5.8 does)"));
    }
    Ok(stat.stx_mnt_id)
}

fn is_directory(stat: &Statx) -> bool {
    FileType::from_raw_mode(u32::from(stat.stx_mode)) == FileType::Directory
}

/// Asks the file system itself (and its server) whether it answers: attributes by AT_STATX_FORCE_SYNC and
/// fstatfs(2).
///
/// **May hang** for as long as the server does, uninterruptibly: call it only on a thread that can be given up.
pub fn answers(fd: BorrowedFd<'_>) -> io::Result<()> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS)?;
    rustix::fs::fstatfs(fd)?;
    Ok(())
}
