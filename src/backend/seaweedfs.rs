//! `seaweedfs`: one `weed mount` of a filer's whole tree, shared by every volume with the same options.
//!
//! The filer's root is mounted, never a directory of it: `weed mount` creates the directory that it is asked for, so a
//! path with a typing error would come up as an empty volume. A volume's own directory is looked up within the mount,
//! where it is missing if it is missing.

mod filer;
mod full;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::probe::{Question, Verdict};
use super::program::{self, Program, Running};
use super::{AttachError, Attached, Backend, DetachError, Place};
use crate::config::{self, SeaweedfsBackend, WEED_PATHS};
use crate::sys::identity::{self, Identity};
use crate::sys::mount::MountError;
use crate::sys::{cgroup, mount, process, resolve, table};

/// The type under which the kernel lists it.
const FS_TYPE: &str = "fuse.seaweedfs";
/// How long a filer may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the mount is looked for while it comes up.
const LOOK: Duration = Duration::from_millis(5);
/// The longest path of a socket (unix(7)).
const LONGEST_SOCKET: usize = 107;

/// The volumes of one filer.
pub struct Seaweedfs {
    settings: SeaweedfsBackend,
    attach_timeout: Duration,
    definition: config::Backend,
}

impl Seaweedfs {
    /// A backend with these settings, which are those of `definition`.
    pub fn new(settings: SeaweedfsBackend, definition: &config::Backend) -> Self {
        Self { settings, attach_timeout: definition.attach_timeout, definition: definition.clone() }
    }

    /// The arguments of `weed mount`.
    fn arguments(&self, place: &Place) -> Vec<OsString> {
        let settings = &self.settings;
        let mib = |bytes: u64| bytes >> 20;
        let option = |name: &str, value: &OsStr| {
            let mut text = OsString::from(format!("-{name}="));
            text.push(value);
            text
        };
        let mut args = vec![
            OsString::from("mount"),
            option("filer", OsStr::new(&settings.filers.join(","))),
            option("filer.path", OsStr::new("/")),
            mount_point_argument(&place.mount_point),
            OsString::from("-dirAutoCreate=false"),
            option("cacheDir", place.cache.as_os_str()),
            // Go's soft limit keeps its collector ahead of the cgroup's hard one.
            OsString::from(format!("-memoryLimitMB={}", mib(settings.memory_limit / 10 * 8).max(64))),
        ];
        if place.socket.as_os_str().len() <= LONGEST_SOCKET {
            args.push(option("localSocket", place.socket.as_os_str()));
        }
        if let Some(bytes) = settings.cache_capacity {
            args.push(OsString::from(format!("-cacheCapacityMB={}", mib(bytes))));
        }
        if let Some(collection) = &settings.collection {
            args.push(option("collection", OsStr::new(collection)));
        }
        if let Some(replication) = &settings.replication {
            args.push(option("replication", OsStr::new(replication)));
        }
        if settings.read_only {
            args.push(OsString::from("-readOnly"));
        }
        args
    }

    /// One filer of the list accepts a connection. `weed mount` itself would try for minutes before it says so.
    fn find_filer(&self) -> Result<(), AttachError> {
        let mut last = None;
        for filer in &self.settings.filers {
            match filer::connect(filer, CONNECT_TIMEOUT) {
                Ok(_) => return Ok(()),
                Err(source) => last = Some(AttachError::Unreachable { what: "filer", server: filer.clone(), source }),
            }
        }
        last.map_or(Ok(()), Err)
    }

    /// Has the mount asked whether it answers.
    fn ask(&self, place: &Place, mount_id: u64) -> Result<io::Result<()>, AttachError> {
        let question = Question::new(&self.definition, place, &place.mount_point, mount_id);
        match place.prober.ask(&question).map_err(AttachError::host("ask whether it answers"))? {
            Verdict::Answers => Ok(Ok(())),
            Verdict::Refuses { errno, reason } => {
                Ok(Err(errno.map_or_else(|| io::Error::other(reason), io::Error::from_raw_os_error)))
            }
            Verdict::Silent { reason } => Err(AttachError::Silent(reason)),
        }
    }

    /// What is mounted at the place now: ours and answering, ours and dead (taken away), or nothing.
    fn find_mounted(&self, place: &Place) -> Result<Option<Attached>, AttachError> {
        let Some((root, identity)) = look_at(&place.mount_point)? else { return Ok(None) };
        let entries = table::read_own().map_err(AttachError::host("read the mount table"))?;
        // The last entry is the one on top.
        let entry = entries.iter().rev().find(|entry| entry.mount_point == place.mount_point);
        if let Some(entry) = entry.filter(|entry| entry.fs_type != FS_TYPE) {
            return Err(AttachError::Foreign {
                at: place.mount_point.clone(),
                fs_type: entry.fs_type.clone(),
                expected: "a SeaweedFS mount",
            });
        }
        // A server that hangs keeps whoever asks in the kernel: not this thread, which the agent needs and cannot end.
        drop(root);
        match self.ask(place, identity.mount_id)? {
            Ok(()) => Ok(Some(Attached {
                root: place.mount_point.clone(),
                identity,
                pid: find_pid(&place.mount_point),
                found: true,
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

    fn wait(&self, place: &Place, name: &str, running: &Running) -> Result<Attached, AttachError> {
        let deadline = Instant::now() + self.attach_timeout;
        loop {
            if let Some((_, identity)) = look_at(&place.mount_point)? {
                // Its program may have been killed as soon as it had mounted: that passes, and hooks wait for it.
                match self.ask(place, identity.mount_id) {
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
                    after: self.attach_timeout,
                    log: program::last_lines(&place.log),
                });
            }
        }
    }
}

impl Backend for Seaweedfs {
    fn kind(&self) -> &'static str {
        "seaweedfs"
    }

    fn volumes_below(&self) -> PathBuf {
        PathBuf::from(self.settings.path.trim_start_matches('/'))
    }

    fn has_server(&self) -> bool {
        true
    }

    fn cache(&self, place: &Place) -> PathBuf {
        match &self.settings.cache_dir {
            Some(folder) => folder.join(&place.key.0),
            None => place.cache.clone(),
        }
    }

    fn find_ailment(&self, question: &Question) -> Option<String> {
        full::find(question)
    }

    fn probe(&self, patience: Duration) -> Result<(), AttachError> {
        filer::ask_any(&self.settings.filers, patience)
    }

    fn options(&self) -> String {
        let settings = &self.settings;
        format!(
            "{:?} {:?} {:?} {} {:?} {:?} {:?} {}",
            settings.filers,
            settings.collection,
            settings.replication,
            settings.memory_limit,
            settings.cache_dir,
            settings.cache_capacity,
            settings.program,
            settings.read_only
        )
    }

    fn attach(&self, place: &Place) -> Result<Attached, AttachError> {
        make_private(&place.mount_point)?;
        if let Some(attached) = self.find_mounted(place)? {
            return Ok(attached);
        }
        let weed = program::find_executable(self.settings.program.as_deref(), "weed", &WEED_PATHS)?;
        let name = program::name_of(&weed);
        self.find_filer()?;
        let cache = self.cache(place);
        make_private(&cache)?;
        let place = Place { cache, ..place.clone() };
        // A program that an agent which died meanwhile has just started for this place is waited for, and not started
        // a second time. An older one serves tasks that still hold a mount which was taken away here: it is neither
        // waited for nor ended, and a second one beside it would have its cache and its socket.
        if let Some((pid, running)) =
            find_pid(&place.mount_point).and_then(|pid| Some((pid, Running::watch(pid).ok()?)))
        {
            if process::age(pid).is_ok_and(|age| age < self.attach_timeout) {
                return self.wait(&place, &name, &running);
            }
            if !running.has_ended(LOOK) {
                return Err(AttachError::StillServing(pid));
            }
        }
        let running = program::start(
            &Program {
                path: &weed,
                args: self.arguments(&place),
                key: &place.key,
                memory_limit: self.settings.memory_limit,
                log: &place.log,
            },
            || find_pid(&place.mount_point),
        )?;
        self.wait(&place, &name, &running).inspect_err(|_| {
            // One that has mounted is found again by the next try.
            if !matches!(look_at(&place.mount_point), Ok(Some(_))) {
                running.kill();
            }
        })
    }

    fn detach(&self, place: &Place) -> Result<(), DetachError> {
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
}

/// What the kernel answers for a FUSE mount whose server is gone (fuse(4)): nothing else says that it is.
fn is_dead(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::NOTCONN, Errno::CONNABORTED].iter().any(|dead| error.raw_os_error() == Some(dead.raw_os_error()))
}

fn mount_point_argument(mount_point: &Path) -> OsString {
    let mut text = OsString::from("-dir=");
    text.push(mount_point);
    text
}

fn find_pid(mount_point: &Path) -> Option<i32> {
    program::find_by_argument(mount_point_argument(mount_point).as_bytes())
}

/// Opens the place without asking the file system anything, and says what is mounted there.
fn look_at(mount_point: &Path) -> Result<Option<(std::os::fd::OwnedFd, Identity)>, AttachError> {
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

fn make_private(folder: &Path) -> Result<(), AttachError> {
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
