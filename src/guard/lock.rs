//! Which process is the guard, and which its keeper: flock(2) on two files of the run directory.
//!
//! A guard that an agent starts gives way to a running guard, and to a living keeper, which is about to start one
//! itself; a guard that the keeper or systemd starts waits for its predecessor to be gone.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::GuardRunError;

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
