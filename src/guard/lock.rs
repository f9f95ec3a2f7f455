//! Which process is the guard, and which its keeper: flock(2) on two files of the run directory.
//!
//! A guard that an agent starts gives way to a running guard, and to a living keeper, which is about to start one
//! itself; a guard that the keeper or systemd starts waits for its predecessor to be gone.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::GuardRunError;
use crate::sys::process;

pub(super) const GUARD: &str = "guard.lock";
pub(super) const KEEPER: &str = "keeper.lock";

/// How long a successor waits for its predecessor to be gone.
const WAIT: Duration = Duration::from_secs(10);

/// Takes the lock, or None when another process has it.
pub(super) fn try_take(path: &Path) -> Result<Option<File>, GuardRunError> {
    let failed = |source: io::Error| GuardRunError::Lock { path: path.to_owned(), source };
    let file = File::options().create(true).append(true).open(path).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// A guard of that run directory which is older than this process: by its arguments, since the file that it has locked
/// may have lost its name.
pub(super) fn find_elder(run_dir: &Path) -> Option<i32> {
    let own = i32::try_from(std::process::id()).ok()?;
    let started = process::start_time(own).ok()?;
    let namespace = process::own_mount_namespace().ok()?;
    process::find_processes().unwrap_or_default().into_iter().filter(|pid| *pid != own).find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let has = |word: &[u8]| words.iter().skip(1).any(|found| *found == word);
        let is_guard = has(b"guard") && has(run_dir.as_os_str().as_bytes()) && !has(b"--keeper") && !has(b"--stop");
        is_guard
            && process::start_time(*pid).is_ok_and(|theirs| (theirs, *pid) < (started, own))
            && process::exe_identity(*pid).is_ok()
            && std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|of| of.uid() == 0)
            && process::mount_namespace(*pid).is_ok_and(|theirs| theirs == namespace)
    })
}

/// Takes the lock as soon as the process that has it is gone.
pub(super) fn wait(path: &Path) -> Result<File, GuardRunError> {
    let until = Instant::now() + WAIT;
    loop {
        if let Some(file) = try_take(path)? {
            return Ok(file);
        }
        if Instant::now() >= until {
            return Err(GuardRunError::Held(path.to_owned()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
