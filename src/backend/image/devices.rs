//! The loop devices of an image on this machine, and how a former one is kept from writing.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::error::ImageError;
use super::note::{Machine, Note};
use super::site::{Opened, Site};
use super::{Place, with_parent};
use rustix::io::Errno;

use crate::config::Format;
use crate::sys::block_fs;
use crate::sys::identity::Identity;
use crate::sys::loop_device::{self, LoopDevice, Status};
use crate::sys::mount::{self, Flags, MountError};

/// How long a device is waited for that nobody should have any more.
const LET_GO: Duration = Duration::from_secs(10);
/// How long between two looks at it.
const PAUSE: Duration = Duration::from_millis(5);

/// What the kernel says of a device that is on its way out, or has no node any more.
const GONE: [Errno; 3] = [Errno::NXIO, Errno::NOENT, Errno::NODEV];
/// What it says of a file whose mount program has ended, or whose server was replaced.
const LOST: [Errno; 3] = [Errno::NOTCONN, Errno::CONNABORTED, Errno::STALE];

fn is_one_of(error: &io::Error, errnos: &[Errno]) -> bool {
    errnos.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// A device that is bound to a file of the image's name.
#[derive(Debug)]
pub struct Known {
    /// The device, open.
    pub device: LoopDevice,
    /// What it is bound to.
    pub status: Status,
}

impl Known {
    fn is_of(&self, opened: &Opened) -> bool {
        (self.status.device, self.status.inode) == (opened.device, opened.inode)
    }
}

/// Every device that is bound to a file of that name, this source's (by its tag) or not. `mounted` is the number of the one
/// that is mounted at this source's own place.
///
/// # Errors
/// The kernel's listing cannot be read, or one that may be the image's cannot be asked: it might write.
pub fn find(name: &OsStr, tag: &str, mounted: Option<u32>) -> Result<Vec<Known>, ImageError> {
    let mut found = Vec::new();
    for number in loop_device::find_by_name(name).map_err(ImageError::call("look for loop devices"))? {
        // It may go at any moment.
        let device = match LoopDevice::open(number) {
            Ok(device) => device,
            Err(error) if is_one_of(&error, &GONE) => continue,
            Err(error) => return Err(ImageError::call("open a loop device of the image's name")(error)),
        };
        let status = match device.status() {
            Ok(Some(status)) => status,
            Ok(None) => continue,
            // The kernel asks the file for its number first, which a file whose storage is gone for good does not say.
            Err(error) if is_one_of(&error, &LOST) => unknown(number, &error, tag, mounted),
            Err(error) => return Err(ImageError::call("ask a loop device of the image's name for its file")(error)),
        };
        found.push(Known { device, status });
    }
    Ok(found)
}

/// A device that does not say whose it is: it is this source's where it is mounted at its place.
fn unknown(number: u32, error: &io::Error, tag: &str, mounted: Option<u32>) -> Status {
    Status {
        device: (0, 0),
        inode: 0,
        tag: if mounted == Some(number) { tag.to_owned() } else { format!("unknown: {error}") },
        direct: false,
        is_disarmed: loop_device::is_disarmed((loop_device::MAJOR, number)),
    }
}

/// The device by which this very file is attached by this source; none where it is not.
///
/// # Errors
/// [`ImageError::Taken`]: somebody else has the file on a loop device.
pub fn find_present<'a>(
    known: &'a [Known],
    opened: &Opened,
    tag: &str,
    site: &Site,
) -> Result<Option<&'a LoopDevice>, ImageError> {
    let mut present = known.iter().filter(|known| known.is_of(opened) && !known.status.is_disarmed);
    if let Some(other) = present.clone().find(|known| known.status.tag != tag) {
        let by = format!("{} on this machine has it", other.device.path().display());
        return Err(ImageError::Taken { path: site.path(), by });
    }
    Ok(present.next().map(|known| &known.device))
}

/// Whether a note of this machine speaks of what is over.
///
/// # Errors
/// [`ImageError::Taken`]: another source of this machine has the image, by another mount of the same backend.
pub fn is_over(known: &[Known], note: &Note, machine: &Machine, tag: &str, site: &Site) -> Result<(), ImageError> {
    if note.machine.boot != machine.boot || note.source == tag || are_all_over(known, &note.source) {
        return Ok(());
    }
    let by = format!("{} on this machine has it, by another mount of its backend", note.source);
    Err(ImageError::Taken { path: site.path(), by })
}

/// Waits until a device that this process has closed is bound to its file no more. A copy of a descriptor, of the device or
/// of a mount of it, is in whatever another thread is just starting, up to its exec; until that has closed it, too, the
/// file system is written to, and a second device of the same file would be a second writer.
///
/// # Errors
/// Somebody holds it for longer than is waited.
pub fn wait_until_let_go(number: u32, file: &File) -> Result<(), ImageError> {
    let failed = || ImageError::call("wait for the end of the image's first loop device");
    let stat = rustix::fs::fstat(file).map_err(|errno| failed()(errno.into()))?;
    let own = ((rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev)), stat.st_ino);
    let deadline = Instant::now() + LET_GO;
    loop {
        match LoopDevice::open(number).and_then(|device| device.status()) {
            Ok(Some(status)) if (status.device, status.inode) == own => {}
            Ok(_) => return Ok(()),
            // On its way out, or without a node any more.
            Err(error) if is_one_of(&error, &GONE) => return Ok(()),
            Err(error) => return Err(failed()(error)),
        }
        if Instant::now() > deadline {
            return Err(failed()(io::ErrorKind::TimedOut.into()));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether no device of that tag can write any more.
pub fn are_all_over(known: &[Known], tag: &str) -> bool {
    known.iter().all(|known| known.status.tag != tag || known.status.is_disarmed)
}

/// The numbers of a source's devices that are bound and can write nothing: each still holds its lock.
pub fn disarmed_numbers(known: &[Known], tag: &str) -> Vec<u32> {
    let again = known.iter().filter(|known| known.status.tag == tag);
    again
        .filter(|known| matches!(known.device.status(), Ok(Some(now)) if now.is_disarmed))
        .map(|known| known.device.number())
        .collect()
}

/// Takes away what a source had attached before: its mount leaves its place, and nothing is written any more by whoever
/// still has one. What is mounted there and is not this source's is left alone.
///
/// # Errors
/// [`ImageError`]: it can still write, so nothing else may be attached.
pub fn take_away(known: &[Known], tag: &str, place: &Place, mounted: Option<&Identity>) -> Result<(), ImageError> {
    for known in known.iter().filter(|known| known.status.tag == tag && !known.status.is_disarmed) {
        disarm(known, tag)?;
    }
    let Some(mounted) = mounted else { return Ok(()) };
    let is_ours = known
        .iter()
        .any(|known| known.status.tag == tag && loop_device::number_of(mounted.device) == Some(known.device.number()));
    if !is_ours {
        return Err(ImageError::Taken {
            path: place.mount_point.clone(),
            by: "another image is mounted there".to_owned(),
        });
    }
    match with_parent(&place.mount_point, mount::detach) {
        Ok(()) | Err(MountError::NotAMountPoint | MountError::Missing) => Ok(()),
        Err(error) => Err(ImageError::call("unmount the former image")(io::Error::other(error))),
    }
}

/// Shuts a file system down and empties its device: from here on nothing reaches the file through it, neither what its
/// tasks have in memory nor what the kernel was about to write.
fn disarm(known: &Known, tag: &str) -> Result<(), ImageError> {
    let number = known.device.number();
    // The kernel has a folder for each file system that is mounted anywhere, also where only a container still has it.
    let mounted = Format::NAMES.iter().find(|(name, _)| Path::new(&format!("/sys/fs/{name}/loop{number}")).exists());
    if let Some((name, _)) = mounted {
        let flags = Flags { nosuid: true, nodev: true, noexec: true, ..Flags::default() };
        // Another mount of it: whoever uses it need not be found. One that has become read-only is had so only.
        let path = known.device.path();
        let root = block_fs::mount_detached(name, &path, &[], flags)
            .or_else(|_| block_fs::mount_detached(name, &path, &[("ro", None)], flags))
            .map_err(ImageError::Mount)?;
        match block_fs::shut_down(root.as_fd()) {
            Ok(()) => {}
            // An XFS that is shut down already opens nothing.
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {}
            Err(error) => return Err(ImageError::call("shut the former file system down")(error)),
        }
    }
    tracing::warn!(device = %known.device.path().display(), "a former loop device of the image can write nothing any more");
    known.device.disarm(tag).map_err(ImageError::call("keep the former loop device from writing"))
}
