//! A source that a FUSE mount program serves: found as an earlier agent left it, else started, waited for, and taken away.
//!
//! What is particular to a storage system, its program and that program's arguments, is its backend's own.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::probe::{Question, Verdict};
use super::program::{self, Program, Running};
use super::{AttachError, Attached, DetachError, Place};
use crate::config;
use crate::sys::identity::{self, Identity};
use crate::sys::mount::MountError;
use crate::sys::{cgroup, mount, process, resolve, table};

/// How often the mount is looked for while it comes up.
const LOOK: Duration = Duration::from_millis(5);

/// The mount of a FUSE program at a source's place.
pub(super) struct FuseMount<'a> {
    /// The type under which the kernel lists it: `fuse.seaweedfs`.
    pub fs_type: &'static str,
    /// What it is, for people: `a SeaweedFS mount`.
    pub what: &'static str,
    /// How the source is attached.
    pub definition: &'a config::Backend,
    /// Where it lives, with the cache folder that it really has.
    pub place: &'a Place,
    /// The argument by which its program is known among all processes: it names the mount point.
    pub argument: OsString,
}

impl FuseMount<'_> {
    /// What is mounted at the place now: ours and answering, ours and dead (taken away), or nothing.
    ///
    /// # Errors
    /// [`AttachError`]: it is there and does not answer, or is something else.
    pub fn find_mounted(&self) -> Result<Option<Attached>, AttachError> {
        let place = self.place;
        let Some((root, identity)) = look_at(&place.mount_point)? else { return Ok(None) };
        let entries = table::read_own().map_err(AttachError::host("read the mount table"))?;
        // The last entry is the one on top.
        let entry = entries.iter().rev().find(|entry| entry.mount_point == place.mount_point);
        if let Some(entry) = entry.filter(|entry| entry.fs_type != self.fs_type) {
            return Err(AttachError::Foreign {
                at: place.mount_point.clone(),
                fs_type: entry.fs_type.clone(),
                expected: self.what,
            });
        }
        // A server that hangs keeps whoever asks in the kernel: not this thread, which the agent needs and cannot end.
        drop(root);
        match self.ask(identity.mount_id)? {
            Ok(()) => {
                Ok(Some(Attached { root: place.mount_point.clone(), identity, pid: self.find_pid(), found: true }))
            }
            // Its mount program is there and cannot answer: a second one beside it would have two clients write.
            Err(error) if !is_dead(&error) => Err(AttachError::NoAnswer { source: error }),
            Err(error) => {
                tracing::warn!(source = %place.key, %error, "the mount is dead: it is mounted again");
                // Lazily: bindings of the dead mount keep it until they are replaced, and nobody can use it.
                with_parent(&place.mount_point, mount::detach)
                    .map_err(|error| AttachError::host("unmount a dead mount")(io::Error::other(error)))?;
                Ok(None)
            }
        }
    }

    /// Starts its program and waits until it has mounted and answers.
    ///
    /// A program that an agent which died meanwhile has just started for this place is waited for, and not started
    /// a second time. An older one serves tasks that still hold a mount which was taken away here: it is neither
    /// waited for nor ended, and a second one beside it would have its cache and its socket.
    ///
    /// # Errors
    /// [`AttachError`], with the last lines of the program's log. A program that has not mounted is ended.
    pub fn start(&self, path: &Path, args: Vec<OsString>, memory_limit: u64) -> Result<Attached, AttachError> {
        let place = self.place;
        let name = program::name_of(path);
        if let Some((pid, running)) = self.find_pid().and_then(|pid| Some((pid, Running::watch(pid).ok()?))) {
            if process::age(pid).is_ok_and(|age| age < self.definition.attach_timeout) {
                return self.wait(&name, &running);
            }
            if !running.has_ended(LOOK) {
                return Err(AttachError::StillServing(pid));
            }
        }
        let program = Program { path, args, key: &place.key, memory_limit, log: &place.log };
        let running = program::start(&program, || self.find_pid())?;
        self.wait(&name, &running).inspect_err(|_| {
            // One that has mounted is found again by the next try.
            if !matches!(look_at(&place.mount_point), Ok(Some(_))) {
                running.kill();
            }
        })
    }

    /// Its program's process, if it runs.
    fn find_pid(&self) -> Option<i32> {
        program::find_by_argument(self.argument.as_bytes())
    }

    fn wait(&self, name: &str, running: &Running) -> Result<Attached, AttachError> {
        let place = self.place;
        let deadline = Instant::now() + self.definition.attach_timeout;
        loop {
            if let Some((_, identity)) = look_at(&place.mount_point)? {
                // Its program may have been killed as soon as it had mounted: that passes, and hooks wait for it.
                match self.ask(identity.mount_id) {
                    Ok(answer) => answer.map_err(|source| AttachError::NoAnswer { source })?,
                    // Its first answer may take as long as the rest of its start.
                    Err(error) if !error.is_silence() || Instant::now() > deadline => return Err(error),
                    Err(_) => continue,
                }
                return Ok(Attached {
                    root: place.mount_point.clone(),
                    identity,
                    pid: Some(running.pid),
                    found: false,
                });
            }
            if running.has_ended(LOOK) {
                return Err(AttachError::ProgramEnded {
                    program: name.to_owned(),
                    log: program::last_lines(&place.log),
                });
            }
            if Instant::now() > deadline {
                return Err(AttachError::TooSlow {
                    program: name.to_owned(),
                    after: self.definition.attach_timeout,
                    log: program::last_lines(&place.log),
                });
            }
        }
    }

    /// Has the mount asked whether it answers.
    fn ask(&self, mount_id: u64) -> Result<io::Result<()>, AttachError> {
        let question = Question::new(self.definition, self.place, &self.place.mount_point, mount_id);
        match self.place.prober.ask(&question).map_err(AttachError::host("ask whether it answers"))? {
            Verdict::Answers => Ok(Ok(())),
            Verdict::Refuses { errno, reason } => {
                Ok(Err(errno.map_or_else(|| io::Error::other(reason), io::Error::from_raw_os_error)))
            }
            Verdict::Silent { reason } => Err(AttachError::Silent(reason)),
        }
    }
}

/// Takes the mount of a FUSE program away when nothing uses it any more; its program ends by itself then.
///
/// # Errors
/// [`DetachError::Busy`] where something does; it then stays as it is.
pub(super) fn detach(place: &Place) -> Result<(), DetachError> {
    // Plain, not lazy: the kernel refuses while a file of the mount is open on this host. Bindings in containers
    // that outlived their record keep the file system itself, and with it the mount program.
    match with_parent(&place.mount_point, mount::unmount) {
        Ok(()) | Err(MountError::NotAMountPoint | MountError::Missing) => {}
        Err(MountError::Busy) => return Err(DetachError::Busy),
        Err(error) => {
            return Err(DetachError::Host { what: "unmount the source".into(), source: io::Error::other(error) });
        }
    }
    // The program ends by itself when the last mount of its file system is gone; what is left of it now or then is
    // an empty directory and an empty cgroup, and neither matters.
    let _ = fs::remove_dir(&place.mount_point);
    let _ = cgroup::remove(&place.key.0);
    Ok(())
}

/// What the kernel answers for a FUSE mount whose server is gone (fuse(4)): nothing else says that it is.
fn is_dead(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::NOTCONN, Errno::CONNABORTED].iter().any(|dead| error.raw_os_error() == Some(dead.raw_os_error()))
}

/// Opens the place without asking the file system anything, and says what is mounted there.
fn look_at(mount_point: &Path) -> Result<Option<(OwnedFd, Identity)>, AttachError> {
    let look = format!("look at {}", mount_point.display());
    let root =
        resolve::open_root(mount_point).map_err(|error| AttachError::host(look.clone())(io::Error::other(error)))?;
    let identity = identity::identify(root.as_fd()).map_err(AttachError::host(look))?;
    Ok(identity.is_mount_root.then_some((root, identity)))
}

fn with_parent(
    path: &Path,
    run: impl FnOnce(BorrowedFd<'_>, &OsStr) -> Result<(), MountError>,
) -> Result<(), MountError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(MountError::Missing) };
    match resolve::open_root(parent) {
        Ok(parent) => run(parent.as_fd(), name),
        Err(_) => Err(MountError::Missing),
    }
}

/// Makes a folder that only root can enter, where there is none.
///
/// # Errors
/// The disk's.
pub(super) fn make_private(folder: &Path) -> Result<(), AttachError> {
    // What is there is not made: the standard library would ask the mount whether it is a directory, and a mount that
    // hangs does not say.
    if resolve::open_root(folder).is_ok() {
        return Ok(());
    }
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(folder) {
        // A dead mount is there and is no directory to stat(2): what it is, whoever opens it finds out.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(AttachError::host(format!("create {}", folder.display()))(error))
        }
        _ => Ok(()),
    }
}
