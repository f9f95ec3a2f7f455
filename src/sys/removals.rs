//! What is removed from a directory, told as it happens: inotify(7) on a thread of its own that sleeps otherwise.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustix::event::{EventfdFlags, PollFd, PollFlags};

use super::seqpacket::wait_for;

/// The thread's stack, in bytes.
const STACK: usize = 64 << 10;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// This entry was removed or moved away.
    Entry(OsString),
    /// The directory is watched from now on, after a time of which nothing is known: at the beginning, when events
    /// were too many for the kernel's queue, or when the directory itself was replaced.
    Unknown,
}

/// A watch; it ends when this is dropped.
#[derive(Debug)]
pub struct Removals {
    stop: OwnedFd,
}

impl Removals {
    /// Watches `directory`, which need not exist yet, and tells `told` from a thread of its own until that returns
    /// false. Symlinks on the way are followed.
    ///
    /// # Errors
    /// The kernel's, where there is no descriptor or no thread for it. What fails later, when the directory is made
    /// anew, is logged and ends the watch.
    pub fn watch(directory: &Path, told: impl FnMut(Removal) -> bool + Send + 'static) -> io::Result<Self> {
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let stopped = stop.try_clone()?;
        // The first one is made here, so that its failure is the caller's to know.
        let inotify = new_inotify()?;
        let mut thread = Thread { directory: directory.to_owned(), stopped, told };
        std::thread::Builder::new().name("removals".into()).stack_size(STACK).spawn(move || {
            if let Err(error) = thread.run(inotify) {
                tracing::error!(directory = %thread.directory.display(), %error, "removals are no longer watched");
            }
        })?;
        Ok(Self { stop })
    }
}

impl Drop for Removals {
    fn drop(&mut self) {
        // Fails only when the counter is full, and then the thread knows already.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
    }
}

fn new_inotify() -> io::Result<Inotify> {
    Ok(Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?)
}

struct Thread<F> {
    directory: PathBuf,
    stopped: OwnedFd,
    told: F,
}

impl<F: FnMut(Removal) -> bool> Thread<F> {
    fn run(&mut self, first: Inotify) -> io::Result<()> {
        let mut inotify = first;
        loop {
            let go_on = if is_watched(add(&inotify, &self.directory, REMOVED))? {
                (self.told)(Removal::Unknown) && self.tell(&inotify)?
            } else {
                self.wait_for_directory(&inotify)?
            };
            if !go_on {
                return Ok(());
            }
            // A watch stays with its inode wherever that is moved: all of them are given up together.
            inotify = new_inotify()?;
        }
    }

    /// Tells removals until the directory itself is gone (true) or nobody listens any more (false).
    fn tell(&mut self, inotify: &Inotify) -> io::Result<bool> {
        while self.is_ready(inotify)? {
            for event in read(inotify)? {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    if !(self.told)(Removal::Unknown) {
                        return Ok(false);
                    }
                } else if event.mask.intersects(ITSELF) {
                    return Ok(true);
                } else if let Some(name) = event.name
                    && !(self.told)(Removal::Entry(name))
                {
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }

    /// Waits until something has changed on the way to the directory: false if nobody listens any more.
    fn wait_for_directory(&self, inotify: &Inotify) -> io::Result<bool> {
        for parent in self.directory.ancestors().skip(1) {
            if is_watched(add(inotify, parent, MADE))? {
                break;
            }
        }
        // What was made between the look at the directory and the watch of its parent is told to nobody.
        Ok(self.directory.is_dir() || self.is_ready(inotify)?)
    }

    /// Waits for an event. False: the watch is to end.
    fn is_ready(&self, inotify: &Inotify) -> io::Result<bool> {
        let mut polled = [
            PollFd::from_borrowed_fd(inotify.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.stopped.as_fd(), PollFlags::IN),
        ];
        wait_for(&mut polled, None)?;
        Ok(polled[1].revents().is_empty())
    }
}

/// The directory itself is gone from its path.
const ITSELF: AddWatchFlags = AddWatchFlags::IN_DELETE_SELF
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_UNMOUNT)
    .union(AddWatchFlags::IN_IGNORED);
const REMOVED: AddWatchFlags = AddWatchFlags::IN_DELETE
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);
const MADE: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);

fn add(inotify: &Inotify, directory: &Path, what: AddWatchFlags) -> nix::Result<()> {
    inotify.add_watch(directory, what | AddWatchFlags::IN_ONLYDIR).map(drop)
}

fn is_watched(added: nix::Result<()>) -> io::Result<bool> {
    match added {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn read(inotify: &Inotify) -> io::Result<Vec<nix::sys::inotify::InotifyEvent>> {
    match inotify.read_events() {
        Ok(events) => Ok(events),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(Vec::new()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    fn watch(directory: &Path) -> (Removals, Receiver<Removal>) {
        let (sender, told) = channel();
        (Removals::watch(directory, move |removal| sender.send(removal).is_ok()).unwrap(), told)
    }

    fn next(told: &Receiver<Removal>) -> Removal {
        told.recv_timeout(Duration::from_secs(60)).unwrap()
    }

    #[test]
    fn what_is_removed_or_moved_away_is_told_by_its_name() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        let (_watch, told) = watch(root.path());
        assert_eq!(next(&told), Removal::Unknown);
        std::fs::remove_dir(root.path().join("a")).unwrap();
        assert_eq!(next(&told), Removal::Entry("a".into()));
        let elsewhere = tempfile::tempdir_in(root.path().parent().unwrap()).unwrap();
        std::fs::rename(root.path().join("b"), elsewhere.path().join("b")).unwrap();
        assert_eq!(next(&told), Removal::Entry("b".into()));
    }

    #[test]
    fn a_directory_that_is_made_anew_is_watched_again() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("nomad/alloc");
        let (_watch, told) = watch(&place);
        for _ in 0..3 {
            std::fs::create_dir_all(place.join("a")).unwrap();
            assert_eq!(next(&told), Removal::Unknown);
            std::fs::remove_dir(place.join("a")).unwrap();
            assert_eq!(next(&told), Removal::Entry("a".into()));
            std::fs::rename(root.path().join("nomad"), root.path().join("old")).unwrap();
            std::fs::remove_dir(root.path().join("old/alloc")).unwrap();
            std::fs::remove_dir(root.path().join("old")).unwrap();
        }
    }

    #[test]
    fn a_dropped_watch_ends_its_thread() {
        let root = tempfile::tempdir().unwrap();
        let (watch, told) = watch(root.path());
        assert_eq!(next(&told), Removal::Unknown);
        drop(watch);
        assert!(
            told.recv_timeout(Duration::from_secs(60))
                .is_err_and(|end| end == std::sync::mpsc::RecvTimeoutError::Disconnected)
        );
    }
}
