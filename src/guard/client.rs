//! The agent's side of the guard. Blocking, for worker threads: every call has a deadline.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::wire::{GUARD_SOCKET, Hello, NomadExe, Reply, Request};
use crate::sys::cgroup;
use crate::sys::detached::Detached;
use crate::sys::seqpacket;

/// How long calls wait that only touch the guard itself.
const SHORT: Duration = Duration::from_secs(5);
/// How many idle connections are kept.
const IDLE: usize = 8;
/// How long a new guard has until it answers.
const START_WITHIN: Duration = Duration::from_secs(10);
/// How long until another is started, when nobody answers still.
const START_AGAIN: Duration = Duration::from_millis(250);

/// Why the guard did not do something.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Nobody listens at the guard's socket.
    #[error("no guard answers at {socket}")]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The guard, or the mount's file system, did not answer in time.
    #[error("the guard did not answer within {0:?}")]
    Deadline(Duration),
    /// The guard says why it does not do it.
    #[error("the guard refuses: {0}")]
    Refused(String),
    /// The connection broke in the middle; nothing is known of the request's fate, and it may be said again.
    #[error("the guard's connection broke")]
    Broken(#[source] io::Error),
    /// The answer is not the guard's language.
    #[error("the guard's answer is not understood")]
    Garbled(#[source] serde_json::Error),
    /// The answer is to another question.
    #[error("the guard's answer does not fit the question")]
    Unexpected,
    /// The guard could not be started.
    #[error("cannot start the guard {exe}")]
    Start {
        /// Its executable.
        exe: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl GuardError {
    /// Whether the same call may succeed later without anything being repaired.
    pub fn is_worth_another_try(&self) -> bool {
        matches!(self, Self::NotRunning { .. } | Self::Deadline(_) | Self::Broken(_))
    }
}

/// A client of the guard. Clones share its connections; calls from several threads run side by side, so that
/// one whose mount hangs delays no other.
#[derive(Debug, Clone)]
pub struct GuardClient {
    socket: PathBuf,
    idle: Arc<Mutex<Vec<OwnedFd>>>,
}

impl GuardClient {
    /// A client of the guard that listens, or will, at `socket`. Connects only when it is used.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, idle: Arc::default() }
    }

    /// A client of the guard of this run directory.
    pub fn of_run_dir(run_dir: &Path) -> Self {
        Self::new(run_dir.join(GUARD_SOCKET))
    }

    /// Has the guard mark a mount, detached or attached, and returns once it has. Saying it twice is harmless.
    pub fn mark(&self, group: &str, mount: BorrowedFd<'_>, deadline: Duration) -> Result<(), GuardError> {
        self.done(&Request::Mark { group: group.to_owned() }, &[mount], deadline)
    }

    /// Asks the guard who it is.
    pub fn hello(&self, deadline: Duration) -> Result<Hello, GuardError> {
        match self.call(&Request::Hello {}, &[], deadline)? {
            Reply::Hello(hello) => Ok(hello),
            Reply::Refused(why) => Err(GuardError::Refused(why)),
            Reply::Done {} => Err(GuardError::Unexpected),
        }
    }

    /// Tells the guard executables of Nomad's agent. It remembers them, also over its own restarts.
    pub fn tell_nomad(&self, executables: &[NomadExe]) -> Result<(), GuardError> {
        self.done(&Request::Nomad(executables.to_vec()), &[], SHORT)
    }

    /// Has the guard give up a group. Only when no mount of it is attached any more: opens are then allowed.
    pub fn release(&self, group: &str) -> Result<(), GuardError> {
        self.done(&Request::Release { group: group.to_owned() }, &[], SHORT)
    }

    /// Ends the guard and all protection.
    pub fn stop(&self) -> Result<(), GuardError> {
        self.done(&Request::Stop {}, &[], SHORT)
    }

    fn done(&self, request: &Request, fds: &[BorrowedFd<'_>], deadline: Duration) -> Result<(), GuardError> {
        match self.call(request, fds, deadline)? {
            Reply::Done {} => Ok(()),
            Reply::Refused(why) => Err(GuardError::Refused(why)),
            Reply::Hello(_) => Err(GuardError::Unexpected),
        }
    }

    fn call(&self, request: &Request, fds: &[BorrowedFd<'_>], deadline: Duration) -> Result<Reply, GuardError> {
        let until = Instant::now() + deadline;
        let text = serde_json::to_vec(request).map_err(GuardError::Garbled)?;
        // An idle connection may be one to a guard that has died since: every request can be said twice, so
        // whatever goes wrong on it is tried again on a new one.
        while let Some(connection) = self.take_idle() {
            if let Ok(reply) = exchange(connection.as_fd(), &text, fds, until) {
                self.keep_idle(connection);
                return parse(&reply);
            }
            if Instant::now() >= until {
                return Err(GuardError::Deadline(deadline));
            }
        }
        let connection = seqpacket::connect(&self.socket)
            .map_err(|source| GuardError::NotRunning { socket: self.socket.clone(), source })?;
        let reply = exchange(connection.as_fd(), &text, fds, until).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => GuardError::Deadline(deadline),
            _ => GuardError::Broken(error),
        })?;
        self.keep_idle(connection);
        parse(&reply)
    }

    fn take_idle(&self) -> Option<OwnedFd> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn keep_idle(&self, connection: OwnedFd) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push(connection);
        }
    }
}

fn exchange(connection: BorrowedFd<'_>, text: &[u8], fds: &[BorrowedFd<'_>], until: Instant) -> io::Result<Vec<u8>> {
    seqpacket::send(connection, text, fds, until)?;
    let message = seqpacket::receive(connection, Some(until))?;
    message.map(|message| message.bytes).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn parse(reply: &[u8]) -> Result<Reply, GuardError> {
    serde_json::from_slice(reply).map_err(GuardError::Garbled)
}

/// Makes sure that a guard serves `run_dir`: returns the running one's hello, or starts one (`exe guard
/// --run-dir <run_dir> <extra args>`) that outlives the caller and waits until it answers. For hosts on which
/// systemd does not run the guard. Said by several at once, one guard runs in the end.
pub fn ensure_running(run_dir: &Path, exe: &Path, extra_args: &[OsString]) -> Result<Hello, GuardError> {
    let client = GuardClient::of_run_dir(run_dir);
    let until = Instant::now() + START_WITHIN;
    let mut start_due = Instant::now();
    loop {
        let error = match client.hello(SHORT.min(until.saturating_duration_since(Instant::now()))) {
            Ok(hello) => return Ok(hello),
            Err(error) if error.is_worth_another_try() => error,
            Err(error) => return Err(error),
        };
        // Again after a while: one that was started gives way to a guard or keeper that was just about to die.
        if matches!(error, GuardError::NotRunning { .. }) && Instant::now() >= start_due {
            start(run_dir, exe, extra_args).map_err(|source| GuardError::Start { exe: exe.to_owned(), source })?;
            start_due = Instant::now() + START_AGAIN;
        }
        if Instant::now() >= until {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn start(run_dir: &Path, exe: &Path, extra_args: &[OsString]) -> io::Result<()> {
    let mut args = vec![OsString::from("guard"), OsString::from("--run-dir"), run_dir.as_os_str().to_owned()];
    args.extend_from_slice(extra_args);
    // A cgroup of its own where there can be one, so that whatever ends the agent's cgroup spares the guard.
    let own_cgroup = cgroup::create("guard", None).ok();
    let log = run_dir.join("guard.log");
    Detached { program: exe, args: &args, env: &[], log: &log, cgroup: own_cgroup.as_ref() }.spawn()?;
    Ok(())
}
