//! Loop devices: block devices whose blocks are those of a file (loop(4)).
//!
//! Every device that is made here frees itself with its last user (`LO_FLAGS_AUTOCLEAR`): a process that is killed
//! between making one and mounting it leaves none, and one that is mounted goes with the last mount of its file system.
//! The kernel keeps the very file description that it was given, so locks of that description (`F_OFD_SETLK`) live
//! exactly as long as the device is bound to the file, whoever has died since.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The major number of loop devices (Documentation/admin-guide/devices.txt).
pub const MAJOR: u32 = 7;
/// How often another number is asked for, where somebody else was faster.
const ATTEMPTS: usize = 64;
/// What a disarmed device's first byte is of its file, in bytes: beyond any file's end, so that nothing is left of it.
pub const BEYOND: u64 = 1 << 60;
/// The longest tag that the kernel keeps.
const LONGEST_TAG: usize = 63;

const LOOP_SET_STATUS64: libc::Ioctl = 0x4C04;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;
const LOOP_SET_CAPACITY: libc::Ioctl = 0x4C07;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;

const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl Info {
    fn new(tag: &str, flags: u32, offset: u64) -> Self {
        let mut file_name = [0; 64];
        for (to, from) in file_name.iter_mut().take(LONGEST_TAG).zip(tag.bytes()) {
            *to = from;
        }
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name,
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// What a loop device is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Major and minor number of the file's device.
    pub device: (u32, u32),
    /// The file's inode number.
    pub inode: u64,
    /// What whoever bound it wrote on it.
    pub tag: String,
    /// Whether it passes by the page cache of its file.
    pub direct: bool,
    /// Whether nothing can be read from it or written to it any more (see [`LoopDevice::disarm`]).
    pub is_disarmed: bool,
}

/// An open loop device.
#[derive(Debug)]
pub struct LoopDevice {
    number: u32,
    device: OwnedFd,
}

impl LoopDevice {
    /// Binds a free device to an open file. It frees itself when nobody has it open or mounted any more.
    ///
    /// Direct I/O is given up where the file does not support it, as losetup(8) does.
    ///
    /// # Errors
    /// The kernel's: no loop driver, no right, or a file that cannot be one.
    pub fn bind(file: BorrowedFd<'_>, block_size: u32, direct: bool, tag: &str) -> io::Result<Self> {
        let control = rustix::fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let flags = LO_FLAGS_AUTOCLEAR | if direct { LO_FLAGS_DIRECT_IO } else { 0 };
        let config = Config {
            fd: u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?,
            block_size,
            info: Info::new(tag, flags, 0),
            reserved: [0; 8],
        };
        for _ in 0..ATTEMPTS {
            // SAFETY: the request takes no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            let number = u32::try_from(number).map_err(|_| io::Error::last_os_error())?;
            let device = Self::open(number)?;
            // SAFETY: `config` is the structure that the request reads, and lives for the call.
            if unsafe { libc::ioctl(device.device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) } == 0 {
                return Ok(device);
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                // Somebody else was given the same number.
                Some(Errno::BUSY) => {}
                Some(Errno::INVAL) if direct => return Self::bind(file, block_size, false, tag),
                _ => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "others take every loop device that becomes free"))
    }

    /// Opens the device of that number.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(number: u32) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        Ok(Self { number, device: rustix::fs::open(path_of(number), flags, Mode::empty())? })
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        path_of(self.number)
    }

    /// What it is bound to; none where it is free.
    ///
    /// # Errors
    /// The kernel's.
    pub fn status(&self) -> io::Result<Option<Status>> {
        let mut info = Info::new("", 0, 0);
        // SAFETY: `info` is the structure that the request fills, and lives for the call.
        if unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) } != 0 {
            let error = io::Error::last_os_error();
            let is_free = error.raw_os_error() == Some(Errno::NXIO.raw_os_error());
            return if is_free { Ok(None) } else { Err(error) };
        }
        let tag: Vec<u8> = info.file_name.iter().copied().take_while(|byte| *byte != 0).collect();
        Ok(Some(Status {
            device: (libc::major(info.device), libc::minor(info.device)),
            inode: info.inode,
            tag: String::from_utf8_lossy(&tag).into_owned(),
            direct: info.flags & LO_FLAGS_DIRECT_IO != 0,
            is_disarmed: info.offset == BEYOND,
        }))
    }

    /// Takes the file's present length for the device's.
    ///
    /// # Errors
    /// The kernel's.
    pub fn follow_length(&self) -> io::Result<()> {
        // SAFETY: the request takes no argument.
        match unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_SET_CAPACITY, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes sure that nothing is ever written through it again, whatever still has it mounted: what was to be written
    /// is written, or fails, and then no byte of the file is left in it. It remains bound until its last user is gone.
    ///
    /// The caller has shut the file system on it down ([`super::block_fs::shut_down`]): that one would be surprised.
    ///
    /// # Errors
    /// The kernel's. The device is as it was then.
    pub fn disarm(&self, tag: &str) -> io::Result<()> {
        let info = Info::new(tag, LO_FLAGS_AUTOCLEAR, BEYOND);
        for _ in 0..ATTEMPTS {
            // SAFETY: `info` is the structure that the request reads, and lives for the call.
            if unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_SET_STATUS64, &raw const info) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            // Pages came to its cache while the kernel emptied it.
            if error.raw_os_error() != Some(Errno::AGAIN.raw_os_error()) {
                return Err(error);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Err(Errno::AGAIN.into())
    }
}

fn path_of(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

/// The numbers of all bound devices whose file was called `name` when it was bound. Asks no file system.
///
/// # Errors
/// The kernel's own listing cannot be read.
pub fn find_by_name(name: &OsStr) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.strip_prefix("loop")?.parse().ok());
        let Some(number) = number else { continue };
        let Ok(backing) = fs::read(entry.path().join("loop/backing_file")) else { continue };
        if is_called(&backing, name) {
            found.push(number);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether a backing file as the kernel writes it has that name: with a line's end, and marked where it was removed.
fn is_called(backing: &[u8], name: &OsStr) -> bool {
    let path = backing.strip_suffix(b"\n").unwrap_or(backing);
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    path.rsplit(|byte| *byte == b'/').next() == Some(name.as_encoded_bytes())
}

/// The number of the loop device that a device number stands for.
pub fn number_of(device: (u32, u32)) -> Option<u32> {
    (device.0 == MAJOR).then_some(device.1)
}

/// Whether that device is a loop device of which nothing is left (see [`LoopDevice::disarm`]): whatever is mounted from
/// it is dead. Asks no file system.
pub fn is_disarmed(device: (u32, u32)) -> bool {
    let Some(number) = number_of(device) else { return false };
    let size = fs::read_to_string(Path::new("/sys/block").join(format!("loop{number}")).join("size"));
    size.is_ok_and(|size| size.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backing_file_is_known_by_its_last_name_also_once_it_is_removed() {
        let name = OsStr::new("pg.img");
        assert!(is_called(b"/srv/volumes/pg.img\n", name));
        assert!(is_called(b"/pg.img (deleted)\n", name));
        for other in [&b"/srv/pg.img.new\n"[..], b"/srv/old-pg.img\n", b"/srv/pg.img/other\n", b""] {
            assert!(!is_called(other, name));
        }
    }

    #[test]
    fn the_kernels_structures_have_their_sizes() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
    }
}
