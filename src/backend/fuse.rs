//! A source that a FUSE mount program serves: found as an earlier agent left it, else started, waited for, and taken away.
//!
//! What is particular to a storage system, its program and that program's arguments, is its backend's own.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

pub(super) use super::mount_point::make_private;
use super::mount_point::{ask, look_at, with_parent};
use super::program::{self, Program, Running};
use super::{AttachError, Attached, DetachError, Place};
use crate::config;
use crate::sys::mount::MountError;
use crate::sys::{cgroup, mount, process, table};

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
    /// What of the end of its program's log tells why it failed.
    pub read_log: fn(&Path) -> Vec<String>,
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
        match ask(self.definition, self.place, &self.place.mount_point, identity.mount_id)? {
            Ok(()) => Ok(Some(Attached {
                root: place.mount_point.clone(),
                identity,
                pid: self.find_pid(),
                found: true,
                may_cross: true,
            })),
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
        let program = Program { path, args, key: &place.key, memory_limit, log: &place.log, is_trial: place.is_trial };
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
                match ask(self.definition, self.place, &self.place.mount_point, identity.mount_id) {
                    Ok(Ok(())) => {}
                    // Some mount first, ask their servers for what after that, and take the mount away again.
                    Ok(Err(source)) => match (running.has_ended(LOOK), Instant::now() > deadline) {
                        (true, _) => return Err(self.ended(name)),
                        (false, true) => return Err(AttachError::NoAnswer { source }),
                        (false, false) => continue,
                    },
                    // Its first answer may take as long as the rest of its start.
                    Err(error) if !error.is_silence() || Instant::now() > deadline => return Err(error),
                    Err(_) => continue,
                }
                return Ok(Attached {
                    root: place.mount_point.clone(),
                    identity,
                    pid: Some(running.pid),
                    found: false,
                    may_cross: true,
                });
            }
            if running.has_ended(LOOK) {
                return Err(self.ended(name));
            }
            if Instant::now() > deadline {
                return Err(AttachError::TooSlow {
                    program: name.to_owned(),
                    after: self.definition.attach_timeout,
                    log: (self.read_log)(&place.log),
                });
            }
        }
    }

    fn ended(&self, name: &str) -> AttachError {
        AttachError::ProgramEnded { program: name.to_owned(), log: (self.read_log)(&self.place.log) }
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
