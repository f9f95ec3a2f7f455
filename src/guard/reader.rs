//! The thread that reads one group's events and answers each of them.
//!
//! The kernel opens an event's object in the reader's read(2), so a reader hangs when its source's server does.
//! That is why there is one for each source, and why each has a descriptor table of its own: a hung one cannot
//! be killed, and must hold nothing but its group when the guard dies.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags};

use super::ask;
use super::counts::Counts;
use super::log::{Priority, line};
use super::opener::{Nomad, Opener};
use super::question::Answer;
use crate::sys::fanotify::{Event, Group, Verdict};
use crate::sys::{descriptors, identity, seqpacket};

/// The most questions that wait for the agent at once, in all groups; over that the answer is a denial at once.
const MOST_QUESTIONS: usize = 32;
/// Enough for a question's JSON; a thread costs what it touches.
pub(super) const STACK: usize = 128 * 1024;
/// Descriptor numbers stay below this, so that a successor knows which ones to deny.
pub(super) const NUMBERS_BELOW: RawFd = 1024;
/// Events of successive guards get different numbers, `RANGE` for each: the kernel matches answers by the number
/// alone, and a thread of a dead guard that hung in a server may yet hand its event to nobody under its own.
const FIRST: RawFd = 64;
const RANGE: RawFd = 112;
const RANGES: u64 = 8;

/// What all readers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) run_dir: PathBuf,
    pub(super) nomad: Nomad,
    pub(super) generation_number: u64,
    pub(super) counts: Counts,
    questions: AtomicUsize,
}

impl Shared {
    pub(super) fn new(run_dir: PathBuf, nomad: Nomad, generation_number: u64) -> Self {
        Self { run_dir, nomad, generation_number, counts: Counts::default(), questions: AtomicUsize::new(0) }
    }
}

/// A running reader.
#[derive(Debug)]
pub(super) struct Reader {
    wake: Arc<OwnedFd>,
    orders: Arc<Orders>,
}

#[derive(Debug, Default)]
struct Orders {
    stop: AtomicBool,
    sweep: AtomicBool,
}

impl Reader {
    /// Starts the reader of a group. A group that another guard had is swept first.
    pub(super) fn start(key: &str, group: &Arc<Group>, shared: &Arc<Shared>, adopted: bool) -> io::Result<Self> {
        let wake = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let orders = Arc::new(Orders { stop: AtomicBool::new(false), sweep: AtomicBool::new(adopted) });
        let (key, group, shared) = (key.to_owned(), Arc::clone(group), Arc::clone(shared));
        let (thread_wake, thread_orders) = (Arc::clone(&wake), Arc::clone(&orders));
        let (started, has_started) = mpsc::channel();
        std::thread::Builder::new().name("reader".into()).stack_size(STACK).spawn(move || {
            let left = leave(&group, &thread_wake, &shared);
            // The caller still holds both, so nothing is closed here: their numbers are the old table's.
            drop((group, thread_wake));
            match left {
                Ok((group, wake)) => {
                    let _ = started.send(Ok(()));
                    Loop {
                        key,
                        group: Arc::new(group),
                        wake,
                        shared,
                        orders: thread_orders,
                        in_flight: Arc::default(),
                    }
                    .run();
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })?;
        has_started.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self { wake, orders })
    }

    /// Ends the reader, when it does not hang.
    pub(super) fn stop(&self) {
        self.orders.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Has the reader deny what a dead guard has read and not answered.
    pub(super) fn sweep(&self) {
        self.orders.sweep.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then it wakes anyway.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }
}

fn leave(group: &Group, wake: &OwnedFd, shared: &Shared) -> io::Result<(Group, OwnedFd)> {
    let mut own = descriptors::leave_table(&[group.as_fd(), wake.as_fd()])?.into_iter();
    let (Some(group), Some(wake)) = (own.next(), own.next()) else { return Err(io::ErrorKind::NotFound.into()) };
    let range = RawFd::try_from(shared.generation_number % RANGES).unwrap_or(0);
    descriptors::occupy_below(FIRST + RANGE * range)?;
    Ok((Group::from_descriptor(group), wake))
}

struct Loop {
    key: String,
    group: Arc<Group>,
    wake: OwnedFd,
    shared: Arc<Shared>,
    orders: Arc<Orders>,
    in_flight: Arc<Mutex<BTreeSet<RawFd>>>,
}

impl Loop {
    fn run(self) {
        loop {
            if self.orders.stop.load(Ordering::Acquire) {
                return;
            }
            if self.orders.sweep.swap(false, Ordering::AcqRel) {
                self.sweep();
            }
            let mut polled = [
                PollFd::from_borrowed_fd(self.group.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
            ];
            if let Err(error) = seqpacket::wait_for(&mut polled, None) {
                self.complain("cannot wait for events", &error);
                continue;
            }
            if polled[1].revents().contains(PollFlags::IN) {
                let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
            }
            if polled[0].revents().is_empty() {
                continue;
            }
            match self.group.read() {
                Ok(Some(event)) => self.handle(Pending::new(&self.group, &self.in_flight, &self.shared, event)),
                Ok(None) => {}
                // The kernel has denied what it could not open for us: a dead server, mostly.
                Err(error) => self.complain("cannot read an event", &error),
            }
        }
    }

    fn complain(&self, what: &str, error: &io::Error) {
        line(Priority::Warning, format_args!("{}: {what}: {error}", self.key));
        // An error that stays must not take a whole core.
        std::thread::sleep(Duration::from_millis(10));
    }

    fn handle(&self, pending: Pending) {
        let opener = self.shared.nomad.identify(pending.event.pid);
        if opener == Opener::Other {
            return pending.answer(Verdict::Allow);
        }
        // Who cannot be identified may be Nomad, and what cannot be identified may be a directory.
        let identity = identity::identify(pending.event.object.as_fd());
        if identity.as_ref().is_ok_and(|identity| !identity.is_directory) {
            return pending.answer(Verdict::Allow);
        }
        let Ok(identity) = identity else { return pending.answer(Verdict::Deny) };
        let slot = self.shared.questions.fetch_update(Ordering::AcqRel, Ordering::Acquire, |questions| {
            (questions < MOST_QUESTIONS).then_some(questions + 1)
        });
        if slot.is_err() {
            self.shared.counts.unasked();
            return pending.answer(Verdict::Deny);
        }
        // A thread of its own: many bindings of one source are collected at once, and no other opener may wait
        // behind a question.
        let (shared, key) = (Arc::clone(&self.shared), self.key.clone());
        let asked = std::thread::Builder::new().name("question".into()).stack_size(STACK).spawn(move || {
            let question = ask::question(pending.event.object.as_fd(), pending.event.pid, identity);
            // The opener waits meanwhile, so that an agent which finds the binding unused can take it away first
            // and the removal ends clean. Whatever the answer is, the open is denied: what anyone knows of an
            // allocation lags behind what Nomad does.
            let answer = ask::ask(&shared.run_dir, &question);
            pending.answer(Verdict::Deny);
            shared.questions.fetch_sub(1, Ordering::AcqRel);
            shared.counts.answer(answer);
            let answer = match answer {
                Some(Answer::Detached) => "detached",
                Some(Answer::InUse) => "in_use",
                Some(Answer::Unknown) => "unknown",
                None => "none",
            };
            let (path, pid) = (&question.path, question.pid);
            line(
                Priority::Info,
                format_args!("denied source={key} opener={opener} pid={pid} path={path:?} answer={answer}"),
            );
        });
        if let Err(error) = asked {
            // The closure went away unused, and `Pending` has denied.
            self.shared.questions.fetch_sub(1, Ordering::AcqRel);
            self.complain("cannot start a thread", &error);
        }
    }

    /// Denies every event that was read under a number which is not in use here.
    fn sweep(&self) {
        let in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for number in (3..NUMBERS_BELOW).filter(|number| !in_flight.contains(number)) {
            match self.group.deny_number(number) {
                Ok(false) => {}
                Ok(true) => line(
                    Priority::Info,
                    format_args!("{}: denied what another guard had read and not answered", self.key),
                ),
                Err(error) => return self.complain("cannot deny what another guard had read", &error),
            }
        }
    }
}

/// An event that is answered once, and denied when it is dropped without an answer.
struct Pending {
    group: Arc<Group>,
    in_flight: Arc<Mutex<BTreeSet<RawFd>>>,
    shared: Arc<Shared>,
    event: Event,
    verdict: Verdict,
}

impl Pending {
    fn new(group: &Arc<Group>, in_flight: &Arc<Mutex<BTreeSet<RawFd>>>, shared: &Arc<Shared>, event: Event) -> Self {
        in_flight.lock().unwrap_or_else(PoisonError::into_inner).insert(event.object.as_raw_fd());
        let (group, in_flight, shared) = (Arc::clone(group), Arc::clone(in_flight), Arc::clone(shared));
        Self { group, in_flight, shared, event, verdict: Verdict::Deny }
    }

    fn answer(mut self, verdict: Verdict) {
        self.verdict = verdict;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Fails only when the opener was killed meanwhile and the event is gone. The object is closed after the
        // answer: closing a file asks its server.
        let _ = self.group.answer(&self.event, self.verdict);
        self.shared.counts.verdict(self.verdict);
        let number = self.event.object.as_raw_fd();
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }
}
