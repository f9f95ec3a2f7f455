//! The programs that make, check and grow file systems: found in fixed directories, run with a deadline.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::error::ImageError;
use crate::backend::program::Running;

/// Where they are looked for, in this order; never by PATH.
const DIRECTORIES: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];
/// How much of what a program says is kept, in bytes.
const MOST_SAID: u64 = 16 << 10;
/// How long a program that was killed may take to end; one that the kernel holds fast is left to it.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// A program, by its name and Debian's package of it.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// The package.
    pub package: &'static str,
}

/// Says what is on a block device (blkid(8)).
pub const BLKID: Tool = Tool { name: "blkid", package: "util-linux" };
/// Makes an ext4 (mke2fs(8)).
pub const MKFS_EXT4: Tool = Tool { name: "mkfs.ext4", package: "e2fsprogs" };
/// Mends an ext4 (e2fsck(8)).
pub const E2FSCK: Tool = Tool { name: "e2fsck", package: "e2fsprogs" };
/// Grows an ext4 (resize2fs(8)).
pub const RESIZE2FS: Tool = Tool { name: "resize2fs", package: "e2fsprogs" };
/// Makes an XFS (mkfs.xfs(8)).
pub const MKFS_XFS: Tool = Tool { name: "mkfs.xfs", package: "xfsprogs" };
/// Grows an XFS (xfs_growfs(8)).
pub const XFS_GROWFS: Tool = Tool { name: "xfs_growfs", package: "xfsprogs" };

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// The end of what it said, on one line, for people.
    pub said: String,
}

impl Tool {
    /// Where it is installed.
    ///
    /// # Errors
    /// [`ImageError::NoProgram`].
    pub fn find(self) -> Result<PathBuf, ImageError> {
        let mut places = DIRECTORIES.iter().map(|directory| Path::new(directory).join(self.name));
        places.find(|path| path.is_file()).ok_or(ImageError::NoProgram { program: self.name, package: self.package })
    }

    /// Runs it to its end, with nothing of the agent's environment and nothing on its standard input.
    ///
    /// # Errors
    /// It is not installed, cannot be started, or has not ended within `patience`.
    pub fn run<S: AsRef<OsStr>>(self, args: &[S], patience: Duration) -> Result<Ended, ImageError> {
        let path = self.find()?;
        let failed = || ImageError::call("start a program");
        let mut output = File::from(memory_file().map_err(failed())?);
        let (out, err) = (output.try_clone().map_err(failed())?, output.try_clone().map_err(failed())?);
        let mut command = Command::new(path);
        command.args(args).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
        let mut child =
            command.current_dir("/").stdin(Stdio::null()).stdout(out).stderr(err).spawn().map_err(failed())?;
        let pid = i32::try_from(child.id()).unwrap_or_default();
        let running = Running::watch(pid).map_err(failed())?;
        let deadline = Instant::now() + patience;
        while !running.has_ended(deadline.saturating_duration_since(Instant::now())) {
            if Instant::now() >= deadline {
                let _ = child.kill();
                if running.has_ended(LAST_WAIT) {
                    let _ = child.wait();
                }
                return Err(ImageError::TooSlow { program: self.name, after: patience });
            }
        }
        let status = child.wait().map_err(failed())?;
        Ok(Ended { code: status.code(), said: read_end(&mut output).map_err(failed())? })
    }

    /// As [`Tool::run`], where any other code than 0 is a failure.
    ///
    /// # Errors
    /// As [`Tool::run`]; and [`ImageError::Program`] with what it said.
    pub fn succeed<S: AsRef<OsStr>>(self, args: &[S], patience: Duration) -> Result<(), ImageError> {
        let ended = self.run(args, patience)?;
        if ended.code == Some(0) { Ok(()) } else { Err(ImageError::Program { program: self.name, said: ended.said }) }
    }
}

fn memory_file() -> io::Result<std::os::fd::OwnedFd> {
    Ok(rustix::fs::memfd_create(c"said", rustix::fs::MemfdFlags::CLOEXEC)?)
}

/// The last of what was said: no control character of it reaches a terminal.
fn read_end(output: &mut File) -> io::Result<String> {
    let length = output.seek(SeekFrom::End(0))?;
    output.seek(SeekFrom::Start(length.saturating_sub(MOST_SAID)))?;
    let mut bytes = Vec::new();
    output.take(MOST_SAID).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<String> = lines.map(|line| line.chars().filter(|c| !c.is_control()).take(400).collect()).collect();
    Ok(lines[lines.len().saturating_sub(5)..].join("; "))
}
