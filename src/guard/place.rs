//! The run directory, in which a guard is known by its files: its socket, its lock, its memory. Whoever empties it
//! under the guard (a cleaner of temporary files, a person) would make it unreachable, and let another one begin beside
//! it. So removals are watched, and what is gone is made anew.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::EventfdFlags;

use super::log::{Priority, line};
use super::wire::GUARD_SOCKET;
use super::{GuardRunError, lock};
use crate::sys::removals::Removals;
use crate::sys::seqpacket;

/// Its files in the run directory.
pub(super) struct Place {
    run_dir: PathBuf,
    listener: OwnedFd,
    socket: (u64, u64),
    lock: File,
    changed: Arc<OwnedFd>,
    // Ends its thread when it is dropped.
    _watch: Option<Removals>,
}

/// What was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restored {
    /// Nothing was gone.
    Nothing,
    /// Something was, and the guard's memory has to be written again.
    Files,
}

impl Place {
    /// Listens, and watches from then on.
    pub(super) fn take(run_dir: &Path, lock: File) -> Result<Self, GuardRunError> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let changed = Arc::new(event.map_err(|errno| GuardRunError::Listen(errno.into()))?);
        let teller = Arc::clone(&changed);
        let tell = move |_| {
            // Fails only when the counter is full, and then the guard is told already.
            let _ = rustix::io::write(&*teller, &1_u64.to_ne_bytes());
            true
        };
        let watch = Removals::watch(run_dir, tell)
            .inspect_err(|error| line(Priority::Warning, format_args!("the run directory is not watched: {error}")))
            .ok();
        let (listener, socket) = listen(run_dir).map_err(GuardRunError::Listen)?;
        Ok(Self { run_dir: run_dir.to_owned(), listener, socket, lock, changed, _watch: watch })
    }

    /// The control socket.
    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Readable when something was removed.
    pub(super) fn changed(&self) -> BorrowedFd<'_> {
        self.changed.as_fd()
    }

    /// Makes anew what is gone.
    pub(super) fn restore(&mut self) -> io::Result<Restored> {
        let _ = rustix::io::read(&*self.changed, &mut [0_u8; 8]);
        std::fs::create_dir_all(&self.run_dir)?;
        let held = self.lock.metadata()?;
        let mut restored = Restored::Nothing;
        let path = self.run_dir.join(lock::GUARD);
        if name_of(&path).ok() != Some((held.dev(), held.ino())) {
            let taken = lock::try_take(&path).map_err(io::Error::other)?;
            // One that began in this very moment has the name now, and this one has the marks: both answer, and the
            // agent talks to that one.
            self.lock = taken.ok_or_else(|| io::Error::other("another guard has taken this one's place"))?;
            restored = Restored::Files;
        }
        if name_of(&self.run_dir.join(GUARD_SOCKET)).ok() != Some(self.socket) {
            (self.listener, self.socket) = listen(&self.run_dir)?;
            restored = Restored::Files;
        }
        Ok(restored)
    }
}

fn listen(run_dir: &Path) -> io::Result<(OwnedFd, (u64, u64))> {
    let path = run_dir.join(GUARD_SOCKET);
    let listener = seqpacket::listen(&path)?;
    Ok((listener, name_of(&path)?))
}

/// Device and inode of a name.
fn name_of(path: &Path) -> io::Result<(u64, u64)> {
    let found = path.symlink_metadata()?;
    Ok((found.dev(), found.ino()))
}
