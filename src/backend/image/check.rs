//! Before a file system is mounted that says it is not whole, and after one could not be.

use std::ffi::OsStr;
use std::time::Duration;

use super::error::ImageError;
use super::site::Site;
use super::superblock::Superblock;
use super::tools::E2FSCK;
use crate::config::Format;
use crate::sys::loop_device::LoopDevice;

/// How long a check may take: of a large image on a slow backend, a while.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// What e2fsck(8) adds to its exit code where it has mended something, or wants the machine restarted after that.
const MENDED: i32 = 1 | 2;

/// Has e2fsck mend, without anybody's word (`-p`), an ext4 that was marked as damaged. What a crash leaves behind is not
/// marked so: the journal is for that, and is replayed when it is mounted.
///
/// # Errors
/// [`ImageError::Damaged`] with the command that asks a person; or that it cannot be run.
pub fn check(superblock: &Superblock, device: &LoopDevice, site: &Site) -> Result<(), ImageError> {
    if superblock.is_whole {
        return Ok(());
    }
    tracing::warn!(image = %site.path().display(), "its ext4 is marked as damaged: it is checked before it is mounted");
    run(&["-p"], device, site)
}

/// As [`check`], of all of an ext4, whatever it says of itself.
///
/// # Errors
/// As [`check`].
pub fn check_whole(device: &LoopDevice, site: &Site) -> Result<(), ImageError> {
    run(&["-f", "-p"], device, site)
}

fn run(options: &[&str], device: &LoopDevice, site: &Site) -> Result<(), ImageError> {
    let path = device.path();
    let args: Vec<&OsStr> = options.iter().map(OsStr::new).chain([path.as_os_str()]).collect();
    let ended = E2FSCK.run(&args, PATIENCE)?;
    match ended.code {
        Some(code) if code & !MENDED == 0 => Ok(()),
        _ => Err(damaged(Format::Ext4, site, ended.said)),
    }
}

/// A failure to mount: what is said of it where the file system itself is the cause.
pub fn explain_mount(error: ImageError, format: Format, site: &Site) -> ImageError {
    use rustix::io::Errno;
    // EFSCORRUPTED, EFSBADCRC, and what is said of a field that cannot be.
    const CAUSES: [Errno; 3] = [Errno::UCLEAN, Errno::BADMSG, Errno::INVAL];
    match error {
        ImageError::Mount(cause) if cause.errno().is_some_and(|errno| CAUSES.contains(&errno)) => {
            damaged(format, site, cause.to_string())
        }
        other => other,
    }
}

fn damaged(format: Format, site: &Site, said: String) -> ImageError {
    let program = match format {
        Format::Ext4 => "e2fsck -f",
        Format::Xfs => "xfs_repair",
    };
    let command = format!("{program} {}", site.path().display());
    ImageError::Damaged { path: site.path(), said, command }
}
