//! Making an image larger, also while it is used: the file, its loop device, and the file system, in this order. Each step
//! can be done again, so whoever was killed in between is followed by one that goes on.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::create::read_superblock;
use super::error::ImageError;
use super::site::{Opened, Site};
use super::superblock::{Seen, Superblock};
use super::tools::{RESIZE2FS, XFS_GROWFS};
use crate::config::Format;
use crate::sys::loop_device::{self, LoopDevice};

/// How long a file system may take to grow.
const PATIENCE: Duration = Duration::from_secs(300);
/// A file system may leave so much at its end unused, where it does not make a group of its own.
const SLACK: u64 = 4 << 20;
/// The capability's number (linux/capability.h).
const CAP_SYS_RESOURCE: u32 = 24;

/// Cuts off what a disarmed device may have put behind an image. A write that waited for its device while that was pointed
/// beyond the file's end lands there, and makes the file that long where the backend allows it; nothing of the image's file
/// system is there.
///
/// # Errors
/// What the backend says.
pub fn cut_stray(wanted: u64, superblock: &Superblock, opened: &mut Opened, site: &Site) -> Result<(), ImageError> {
    let Some(length) = length_without_stray(opened.length, superblock.size, wanted) else { return Ok(()) };
    opened.file.set_len(length).map_err(ImageError::call("cut off what lies beyond the image"))?;
    tracing::warn!(image = %site.path().display(), from = opened.length, to = length, "a write of a former loop device beyond the image was cut off");
    opened.length = length;
    Ok(())
}

/// What remains of a file that is that long; none where it is whole.
fn length_without_stray(length: u64, file_system: u64, wanted: u64) -> Option<u64> {
    (length >= loop_device::BEYOND).then(|| wanted.max(file_system))
}

/// Gives an image that is not attached yet the length that its definition says.
///
/// # Errors
/// [`ImageError::Shrunk`], or what the backend says.
pub fn lengthen(wanted: u64, opened: &mut Opened, site: &Site) -> Result<(), ImageError> {
    let has = opened.length;
    if has > wanted {
        return Err(ImageError::Shrunk { path: site.path(), has, wanted });
    }
    if has < wanted {
        opened.file.set_len(wanted).map_err(ImageError::call("make the image longer"))?;
        opened.length = wanted;
    }
    Ok(())
}

/// Makes the file system of an image as large as its device before it is mounted, where that cannot be done afterwards: an
/// ext4 grows while it is mounted only for who has CAP_SYS_RESOURCE. It is checked first, as resize2fs(8) demands.
///
/// # Errors
/// [`ImageError`].
pub fn grow_unmounted(
    superblock: &Superblock,
    length: u64,
    device: &LoopDevice,
    site: &Site,
) -> Result<(), ImageError> {
    if superblock.format != Format::Ext4 || superblock.size + SLACK > length || may_grow_mounted() {
        return Ok(());
    }
    super::check::check_whole(device, site)?;
    RESIZE2FS.succeed(&[device.path().as_os_str()], PATIENCE)?;
    tracing::info!(image = %site.path().display(), from = superblock.size, to = length, "the image has grown");
    Ok(())
}

/// Whether this process has CAP_SYS_RESOURCE (capabilities(7)).
fn may_grow_mounted() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    effective.is_some_and(|effective| effective & (1 << CAP_SYS_RESOURCE) != 0)
}

/// Makes the image, its device and its mounted file system as large as its definition says; smaller is never done.
///
/// # Errors
/// [`ImageError`]; what was attached is attached still, and no smaller.
pub fn grow(
    size: u64,
    opened: &Opened,
    device: &LoopDevice,
    mount_point: &Path,
    site: &Site,
) -> Result<(), ImageError> {
    let mut length = opened.file.metadata().map_err(ImageError::call("look at the image"))?.len();
    if length >= loop_device::BEYOND {
        // Neither the device nor the file system may follow it there.
        let why = "a write of a former loop device lies beyond it, and is cut off when it is attached the next time";
        return Err(ImageError::call("make the image longer")(io::Error::other(why)));
    }
    let is_longer = length < size;
    if is_longer {
        length = size;
        opened.file.set_len(length).map_err(ImageError::call("make the image longer"))?;
    }
    device.follow_length().map_err(ImageError::call("make the image's loop device longer"))?;
    let mut blocks = File::open(device.path()).map_err(ImageError::call("open the image's loop device"))?;
    let Seen::Known(found) = read_superblock(&mut blocks)? else { return Ok(()) };
    if !is_longer && found.size + SLACK > length {
        return Ok(());
    }
    match found.format {
        Format::Ext4 => RESIZE2FS.succeed(&[device.path().as_os_str()], PATIENCE)?,
        Format::Xfs => XFS_GROWFS.succeed(&[OsStr::new("-d"), mount_point.as_os_str()], PATIENCE)?,
    }
    tracing::info!(image = %site.path().display(), from = found.size, to = length, "the image has grown");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_where_a_disarmed_device_points_is_cut_off_and_nothing_of_the_file_system() {
        let (mib, beyond) = (1 << 20, loop_device::BEYOND);
        assert_eq!(length_without_stray(64 * mib, 64 * mib, 64 * mib), None);
        // Somebody's larger image is refused, and not cut.
        assert_eq!(length_without_stray(beyond - 1, 64 * mib, 64 * mib), None);
        assert_eq!(length_without_stray(beyond + 4096, 64 * mib, 64 * mib), Some(64 * mib));
        assert_eq!(length_without_stray(beyond, 64 * mib, 128 * mib), Some(128 * mib));
        assert_eq!(length_without_stray(beyond, 128 * mib, 64 * mib), Some(128 * mib));
    }
}
