//! Which mount and which inode a descriptor is.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags};
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
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, mask)?;
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

/// The reusable id of the mount that a descriptor lies in, as mountinfo has it. Returns at once, as [`identify`] does.
///
/// Errors: as [`identify`].
pub fn reusable_mount_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let stat = rustix::fs::statx(
        fd,
        c"",
        AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC,
        StatxFlags::TYPE | StatxFlags::MNT_ID,
    )?;
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
