//! The guard's own process: takes mounts from the agent, keeps its groups safe beyond its own death, and waits.
//!
//! The main thread waits for connections, signals and the keeper. Each connection has a thread, each group has a
//! reader. What may hang in a file system's server runs on threads with a descriptor table of their own, so that
//! the process's sockets and lock go with it when it is killed, and its successor knows.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit};

use super::groups::{self, Groups};
use super::link::{LINK_VARIABLE, Link, LinkMessage};
use super::log::{Priority, line};
use super::opener::Nomad;
use super::place::{Place, Restored};
use super::reader::{NUMBERS_BELOW, STACK, Shared};
use super::state::State;
use super::wire::{Hello, Reply, Request};
use super::{GuardRunError, keeper, lock, systemd};
use crate::sys::fanotify::Group;
use crate::sys::{descriptors, peer, process, seqpacket};

const MOST_CONNECTIONS: usize = 64;
/// How long a peer may take to accept a reply, and the keeper to hand over what it has.
const PEER_WITHIN: Duration = Duration::from_secs(5);
/// How long after a failure a keeper is started again.
const KEEPER_PAUSE: Duration = Duration::from_millis(200);
/// The first pause before what could not be made anew in the run directory is tried again; doubled each time.
const RESTORE_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_RESTORE_PAUSE: Duration = Duration::from_secs(30);

/// Runs the guard until it is told to stop. Returns at once where another guard runs or is about to.
pub(super) fn run(run_dir: &Path) -> Result<(), GuardRunError> {
    std::fs::create_dir_all(run_dir).map_err(|source| GuardRunError::RunDir { path: run_dir.to_owned(), source })?;
    let Some(started) = start(run_dir)? else {
        line(Priority::Info, format_args!("another guard serves {}", run_dir.display()));
        return Ok(());
    };
    started.serve()
}

/// A guard that has its lock and its groups.
struct Started {
    guard: Arc<Guard>,
    place: Place,
    signals: SignalFd,
}

struct Guard {
    run_dir: PathBuf,
    exe: PathBuf,
    under_systemd: bool,
    took_over: bool,
    shared: Arc<Shared>,
    connections: AtomicUsize,
    inner: Mutex<Inner>,
}

struct Inner {
    groups: Groups,
    state: State,
    link: Option<Link>,
    /// It has been told to end: a keeper that ends now is missed by nobody, and a new one would start a guard.
    is_ending: bool,
}

fn start(run_dir: &Path) -> Result<Option<Started>, GuardRunError> {
    prepare_process();
    let under_systemd = std::env::var_os("NOTIFY_SOCKET").is_some();
    let link = match std::env::var_os(LINK_VARIABLE) {
        Some(_) => Some(Link::new(descriptors::take_input().map_err(GuardRunError::Link)?)),
        None => None,
    };
    let guard_lock = run_dir.join(lock::GUARD);
    let lock = if link.is_some() || under_systemd {
        lock::wait(&guard_lock)?
    } else {
        // A guard whose lock file somebody has just removed serves all the same, and makes another in a moment.
        if lock::find_elder(run_dir).is_some() {
            return Ok(None);
        }
        // A keeper that lives has a guard, or is about to start one that takes over the dead one's groups.
        if lock::try_take(&run_dir.join(lock::KEEPER))?.is_none() {
            return Ok(None);
        }
        let Some(lock) = lock::try_take(&guard_lock)? else { return Ok(None) };
        lock
    };
    // Before any thread is started, which would not have them blocked.
    let signals = take_signals().map_err(GuardRunError::Signals)?;
    let previous = State::read(run_dir);
    let taken = match &link {
        Some(link) => Some(take_from_keeper(link)),
        None if under_systemd => Some(systemd::take_groups()).filter(|taken| !taken.is_empty()),
        None => None,
    };
    let keys = taken.as_ref().map(|taken| taken.iter().map(|(key, _)| key.clone()).collect());
    let mut state = State::begin(previous.as_ref(), keys).map_err(GuardRunError::State)?;
    let shared = Arc::new(Shared::new(run_dir.to_owned(), Nomad::load(run_dir), state.number));
    let mut groups = Groups::default();
    for (key, descriptor) in taken.into_iter().flatten() {
        groups.adopt(&key, descriptor, &shared).map_err(|source| GuardRunError::Adopt { group: key, source })?;
    }
    state.groups = groups.keys();
    state.write(run_dir).map_err(GuardRunError::State)?;
    let guard = Arc::new(Guard {
        run_dir: run_dir.to_owned(),
        exe: super::own_executable()?,
        under_systemd,
        took_over: !state.groups.is_empty(),
        shared,
        connections: AtomicUsize::new(0),
        inner: Mutex::new(Inner { groups, state, link, is_ending: false }),
    });
    if guard.took_over {
        guard.sweep_after_death_of(previous);
    }
    Ok(Some(Started { guard, place: Place::take(run_dir, lock)?, signals }))
}

fn prepare_process() {
    // A thread that panics would leave openers waiting; the whole process's death makes a successor answer them.
    std::panic::set_hook(Box::new(|panic| {
        line(Priority::Error, format_args!("{panic}"));
        std::process::abort();
    }));
    // Successors deny the numbers below this one.
    let most = u64::from(NUMBERS_BELOW.cast_unsigned());
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let current = Some(maximum.map_or(most, |maximum| maximum.min(most)));
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, Rlimit { current, maximum }) {
        line(Priority::Warning, format_args!("cannot limit descriptor numbers: {error}"));
    }
    // A guard that the kernel kills for memory is replaced, but it is the last that should go. Without the
    // privilege it is as good as any process.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
}

fn take_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        mask.add(signal);
    }
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

fn take_from_keeper(link: &Link) -> Vec<(String, OwnedFd)> {
    let until = Some(Instant::now() + PEER_WITHIN);
    let mut taken = Vec::new();
    let mut expected = None;
    while expected.is_none_or(|expected| taken.len() < expected) {
        match link.receive(until) {
            Ok(Some((LinkMessage::TakeOver(count), _))) => expected = Some(count),
            Ok(Some((LinkMessage::Group(key), Some(descriptor)))) => taken.push((key, descriptor)),
            other => {
                // What is missing ends the lineage, and the agent marks everything anew.
                line(Priority::Error, format_args!("the keeper did not hand over everything: {other:?}"));
                break;
            }
        }
    }
    taken
}

impl Started {
    fn serve(mut self) -> Result<(), GuardRunError> {
        let guard = Arc::clone(&self.guard);
        systemd::ready();
        let (generation, count) = {
            let inner = guard.lock();
            (inner.state.generation(), inner.state.groups.len())
        };
        line(Priority::Info, format_args!("guard {generation} is ready, {count} groups taken over"));
        let watchdog = systemd::watchdog_interval();
        let mut keeper_due = Instant::now();
        let (mut restore_at, mut restore_pause) = (None::<Instant>, RESTORE_PAUSE);
        loop {
            let needs_keeper = !guard.under_systemd && guard.lock().link.is_none();
            if needs_keeper && Instant::now() >= keeper_due {
                keeper_due = Instant::now() + KEEPER_PAUSE;
                guard.start_keeper();
                continue;
            }
            let timeout = if needs_keeper { Some(KEEPER_PAUSE) } else { watchdog };
            let until_restored = restore_at.map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = timeout.into_iter().chain(until_restored).min();
            // The link's other end says nothing after the handover: an event there is its end.
            let link = guard.lock().link.as_ref().map(|link| link.as_fd().try_clone_to_owned());
            let link = link.transpose().map_err(GuardRunError::Wait)?;
            let mut polled = vec![
                PollFd::from_borrowed_fd(self.place.listener(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.place.changed(), PollFlags::IN),
            ];
            polled.extend(link.as_ref().map(|link| PollFd::from_borrowed_fd(link.as_fd(), PollFlags::IN)));
            seqpacket::wait_for(&mut polled, timeout).map_err(GuardRunError::Wait)?;
            let happened: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
            systemd::alive();
            if happened[0] {
                guard.accept(self.place.listener());
            }
            if happened[1] && self.signals.read_signal().is_ok_and(|signal| signal.is_some()) && guard.may_end() {
                return Ok(());
            }
            if happened[2] || restore_at.is_some_and(|at| at <= Instant::now()) {
                match self.place.restore() {
                    Ok(restored) => {
                        restore_at = None;
                        restore_pause = RESTORE_PAUSE;
                        if restored == Restored::Files {
                            guard.write_anew();
                        }
                    }
                    // One that has just begun may have the lock, and ends as soon as it has found this one.
                    Err(error) => {
                        line(
                            Priority::Error,
                            format_args!("the run directory was emptied, and is not made anew yet: {error}"),
                        );
                        restore_at = Some(Instant::now() + restore_pause);
                        restore_pause = (restore_pause * 2).min(LONGEST_RESTORE_PAUSE);
                    }
                }
            }
            if happened.get(3) == Some(&true) {
                line(Priority::Warning, format_args!("the keeper has died; starting another"));
                guard.lock().link = None;
            }
        }
    }
}

impl Guard {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On SIGTERM: protection never ends because a process is told to, only because the agent says `stop`. Under
    /// systemd the descriptor store has the groups, so the process may go; otherwise it goes when it guards nothing.
    fn may_end(&self) -> bool {
        let inner = self.lock();
        if self.under_systemd {
            return true;
        }
        if !inner.state.groups.is_empty() {
            line(Priority::Warning, format_args!("told to end while mounts are guarded: staying"));
            return false;
        }
        inner.end_keeper();
        true
    }

    fn start_keeper(&self) {
        let mut inner = self.lock();
        if inner.is_ending {
            return;
        }
        let link = keeper::start(&self.run_dir, &self.exe).and_then(|link| {
            for (key, group) in inner.groups.iter() {
                link.send(&LinkMessage::Group(key.clone()), Some(group.as_fd()))?;
            }
            Ok(link)
        });
        match link {
            Ok(link) => inner.link = Some(link),
            Err(error) => line(Priority::Error, format_args!("cannot start a keeper: {error}")),
        }
    }

    /// Threads of the dead guard that were reading may have got an event after the first sweep, and one that hangs
    /// in a server may do so much later: once the last of them is gone, every group is swept again.
    fn sweep_after_death_of(self: &Arc<Self>, previous: Option<State>) {
        let Some(previous) = previous else { return };
        if process::start_time(previous.pid).ok() != Some(previous.start_time) {
            return self.lock().groups.sweep();
        }
        let guard = Arc::clone(self);
        let watch = move || {
            let pidfd = Pid::from_raw(previous.pid).map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
            if let Some(Ok(pidfd)) = pidfd {
                // Readable when the whole process is gone, not only its first thread.
                let _ = seqpacket::wait_for(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], None);
            }
            guard.lock().groups.sweep();
        };
        if let Err(error) = std::thread::Builder::new().name("predecessor".into()).stack_size(STACK).spawn(watch) {
            line(Priority::Error, format_args!("cannot wait for the guard before: {error}"));
        }
    }

    /// After the run directory was emptied: what a successor has to know, and a keeper whose lock has a name again.
    fn write_anew(&self) {
        line(Priority::Warning, format_args!("the run directory was emptied: what is this guard's is made anew"));
        let mut inner = self.lock();
        let written = inner.state.write(&self.run_dir).and_then(|()| self.shared.nomad.write());
        if let Err(error) = written {
            line(Priority::Error, format_args!("cannot write what a successor has to know: {error}"));
        }
        if inner.link.is_some() && !self.run_dir.join(lock::KEEPER).exists() {
            // The groups are this process's own too, so nothing is lost between the two.
            inner.end_keeper();
            inner.link = None;
        }
    }

    fn accept(self: &Arc<Self>, listener: BorrowedFd<'_>) {
        let connection = match seqpacket::accept(listener) {
            Ok(Some(connection)) => connection,
            Ok(None) => return,
            Err(error) => {
                line(Priority::Warning, format_args!("cannot accept: {error}"));
                // The one that waits stays in the queue: not a whole core for it.
                return std::thread::sleep(Duration::from_millis(10));
            }
        };
        if !peer::read_peer(connection.as_fd()).is_ok_and(|peer| peer.is_root()) {
            return;
        }
        if self.connections.fetch_add(1, Ordering::AcqRel) >= MOST_CONNECTIONS {
            self.connections.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let guard = Arc::clone(self);
        let serve = move || {
            if let Err(error) = guard.converse(&connection) {
                line(Priority::Warning, format_args!("a connection broke: {error}"));
            }
            guard.connections.fetch_sub(1, Ordering::AcqRel);
        };
        if let Err(error) = std::thread::Builder::new().name("control".into()).stack_size(STACK).spawn(serve) {
            self.connections.fetch_sub(1, Ordering::AcqRel);
            line(Priority::Warning, format_args!("cannot start a thread: {error}"));
        }
    }

    fn converse(&self, connection: &OwnedFd) -> io::Result<()> {
        while let Some(message) = seqpacket::receive(connection.as_fd(), None)? {
            let mut stop = false;
            let reply = match serde_json::from_slice(&message.bytes) {
                Ok(request) => {
                    stop = matches!(request, Request::Stop {});
                    self.carry_out(request, message.descriptors)
                }
                Err(error) => Reply::Refused(format!("not understood: {error}")),
            };
            let until = Instant::now() + PEER_WITHIN;
            let sent = seqpacket::send(connection.as_fd(), &serde_json::to_vec(&reply)?, &[], until);
            if stop {
                line(Priority::Info, format_args!("stopped as told"));
                std::process::exit(0);
            }
            sent?;
        }
        Ok(())
    }

    fn carry_out(&self, request: Request, mut descriptors: Vec<OwnedFd>) -> Reply {
        let answer = match request {
            Request::Hello {} => {
                let inner = self.lock();
                return Reply::Hello(Hello {
                    pid: std::process::id(),
                    generation: inner.state.generation(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    groups: inner.state.groups.iter().cloned().collect(),
                    took_over: self.took_over,
                    decisions: Some(self.shared.counts.read()),
                });
            }
            Request::Mark { group } => match (descriptors.pop(), descriptors.is_empty()) {
                (Some(mount), true) => self.mark(&group, mount),
                _ => return Reply::Refused("a mark needs exactly one descriptor".into()),
            },
            Request::Release { group } => self.release(&group),
            Request::Nomad(executables) => self.shared.nomad.add(executables),
            Request::Stop {} => {
                self.lock().end(self.under_systemd);
                Ok(())
            }
        };
        answer.map_or_else(|error| Reply::Refused(error.to_string()), |()| Reply::Done {})
    }

    fn mark(&self, key: &str, mount: OwnedFd) -> io::Result<()> {
        let group = {
            let mut inner = self.lock();
            let (group, is_new) = inner.groups.get_or_create(key, &self.shared)?;
            if is_new && let Err(error) = inner.keep_new_groups(&self.run_dir, self.under_systemd) {
                // A group that would not outlive this process is none: the next mark tries again.
                drop(inner.groups.release(key));
                inner.state.groups = inner.groups.keys();
                return Err(error);
            }
            group
        };
        // Without the lock: this may hang.
        groups::mark(group, mount)
    }

    fn release(&self, key: &str) -> io::Result<()> {
        let mut inner = self.lock();
        let Some((name, group)) = inner.groups.release(key) else { return Ok(()) };
        if self.under_systemd {
            systemd::forget(&inner.state.generation(), &name);
        }
        if let Some(link) = &inner.link {
            link.send(&LinkMessage::Forget(name), None)?;
        }
        drop::<Arc<Group>>(group);
        inner.state.groups = inner.groups.keys();
        inner.state.write(&self.run_dir)
    }
}

impl Inner {
    /// Puts the descriptors of groups that are new where they outlive this process, before anything depends on it.
    fn keep_new_groups(&mut self, run_dir: &Path, under_systemd: bool) -> io::Result<()> {
        let kept: BTreeSet<String> = std::mem::replace(&mut self.state.groups, self.groups.keys());
        let generation = self.state.generation();
        for (key, group) in self.groups.iter().filter(|(key, _)| !kept.contains(*key)) {
            if under_systemd {
                systemd::store(&generation, key, group.as_fd())?;
            }
            let Some(link) = &self.link else { continue };
            // A keeper that has died is replaced, and its successor gets every group.
            if let Err(error) = link.send(&LinkMessage::Group(key.clone()), Some(group.as_fd())) {
                line(Priority::Warning, format_args!("the keeper does not take a group: {error}"));
            }
        }
        self.state.write(run_dir)
    }

    fn end_keeper(&self) {
        if let Some(link) = &self.link {
            let _ = link.send(&LinkMessage::End {}, None);
        }
    }

    fn end(&mut self, under_systemd: bool) {
        self.is_ending = true;
        self.end_keeper();
        if under_systemd {
            for key in &self.state.groups {
                systemd::forget(&self.state.generation(), key);
            }
        }
    }
}
