//! Mount tables that change, told as they do: one thread with epoll(7) that sleeps otherwise. The kernel wakes whoever
//! polls a mountinfo file when a mount comes, goes or changes in its namespace (proc_pid_mountinfo(5)).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use super::namespace::Namespace;

/// The thread's stack, in bytes; what is told runs on it.
const STACK: usize = 256 << 10;
/// A burst of changes is over when nothing has changed for so long.
const QUIET: Duration = Duration::from_millis(20);
/// What is told twice of one table lies this far apart at least: who hears of it looks at everything that is mounted.
const SHORTEST: Duration = Duration::from_millis(100);
/// While a burst goes on it is told of this often.
const LONGEST: Duration = Duration::from_millis(200);
/// How many events one wait returns.
const EVENTS: usize = 64;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableEvent {
    /// The mount table of the namespace in which the watch was started has changed.
    Own,
    /// The mount table of the namespace with this id has changed.
    Changed(u64),
    /// The process by which that namespace was known has ended; it is not watched any more. Others may be in it.
    Ended(u64),
}

/// A watch; it ends when this is dropped.
#[derive(Debug)]
pub struct TableWatch {
    shared: Arc<Shared>,
    stop: OwnedFd,
}

#[derive(Debug)]
struct Shared {
    epoll: OwnedFd,
    watched: Mutex<Watched>,
}

/// What is watched, by the number that the kernel hands back with an event.
#[derive(Debug, Default)]
struct Watched {
    last: u64,
    has_ended: bool,
    tables: BTreeMap<u64, Table>,
    /// Those of namespaces other than the own, by the namespace.
    numbers: BTreeMap<u64, u64>,
    /// Those that change.
    bursts: BTreeMap<u64, Burst>,
}

#[derive(Debug)]
struct Table {
    /// `None` for the own namespace, which does not end.
    namespace: Option<u64>,
    mountinfo: File,
    process: Option<OwnedFd>,
}

/// A time in which a table changes, told once already.
#[derive(Debug, Clone, Copy)]
struct Burst {
    told: Instant,
    changed: Instant,
    is_untold: bool,
}

impl Burst {
    fn next(&self) -> Instant {
        let quiet = self.changed + QUIET;
        let due = if self.is_untold { quiet.min(self.told + LONGEST) } else { quiet };
        due.max(self.told + SHORTEST)
    }
}

const STOP: u64 = 0;
/// Each table has two numbers: its own, and the next one for its process.
const STEP: u64 = 2;

impl TableWatch {
    /// Watches the caller's own mount table, and tells `told` of changes from a thread of its own until that returns
    /// false. The first change of a burst is told at once; the burst once more when it is over, or every 200 ms, and never
    /// twice within 100 ms.
    ///
    /// # Errors
    /// The kernel's, where there is no descriptor or no thread for it. What fails later is logged and ends the watch.
    pub fn start(told: impl FnMut(TableEvent) -> bool + Send + 'static) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let stopped = stop.try_clone()?;
        epoll::add(&epoll, &stopped, EventData::new_u64(STOP), EventFlags::IN)?;
        let shared = Arc::new(Shared { epoll, watched: Mutex::default() });
        shared.add(None, File::open("/proc/thread-self/mountinfo")?, None)?;
        let mut thread = Thread { shared: Arc::clone(&shared), _stopped: stopped, told };
        std::thread::Builder::new().name("mount-tables".into()).stack_size(STACK).spawn(move || {
            if let Err(error) = thread.run() {
                tracing::error!(%error, "mount tables are no longer watched");
            }
            // An open table keeps its namespace, and nobody would see that it ends.
            let mut watched = thread.shared.lock();
            *watched = Watched { has_ended: true, ..Watched::default() };
        })?;
        Ok(Self { shared, stop })
    }

    /// Watches another namespace's table too, until its process ends or [`TableWatch::forget`]. Watching it twice is
    /// harmless. False: the process has ended already, and nothing will be told.
    ///
    /// While it is watched the namespace and its mounts live on; once the process ends they are let go at once.
    ///
    /// # Errors
    /// The kernel's, for want of descriptors or memory.
    pub fn watch(&self, namespace: &Namespace) -> io::Result<bool> {
        if self.shared.lock().find(namespace.id()).is_some() {
            return Ok(true);
        }
        // One of its own: descriptors that are copies of one another share their place in an epoll.
        let Some(pid) = Pid::from_raw(namespace.pid()) else { return Ok(false) };
        let process = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(Errno::SRCH | Errno::INVAL) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        let mountinfo = match File::open(format!("/proc/{}/mountinfo", namespace.pid())) {
            Ok(mountinfo) => mountinfo,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::EINVAL)) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        // In this order: while the process lives its number is nobody else's.
        let is_it = super::process::mount_namespace(namespace.pid()).is_ok_and(|id| id == namespace.id());
        if !is_it || namespace.has_ended() {
            return Ok(false);
        }
        self.shared.add(Some(namespace.id()), mountinfo, Some(process))?;
        Ok(true)
    }

    /// Watches the namespace with this id no longer. One event of it may be on its way.
    pub fn forget(&self, id: u64) {
        let mut watched = self.shared.lock();
        if let Some(table) = watched.find(id).and_then(|number| watched.remove(number)) {
            self.shared.close(table);
        }
    }
}

impl Drop for TableWatch {
    fn drop(&mut self) {
        // Fails only when the counter is full, and then the thread knows already.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, namespace: Option<u64>, mountinfo: File, process: Option<OwnedFd>) -> io::Result<()> {
        let mut watched = self.lock();
        if watched.has_ended {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the watch has ended"));
        }
        watched.last += STEP;
        let number = watched.last;
        epoll::add(&self.epoll, &mountinfo, EventData::new_u64(number), EventFlags::PRI | EventFlags::ERR)?;
        if let Some(process) = &process {
            // What fails here takes the other out again by closing it.
            epoll::add(&self.epoll, process, EventData::new_u64(number + 1), EventFlags::IN)?;
        }
        watched.tables.insert(number, Table { namespace, mountinfo, process });
        watched.numbers.extend(namespace.map(|namespace| (namespace, number)));
        Ok(())
    }

    /// Closes a table's descriptors. They are taken out of the epoll first: a program that is just being started has
    /// copies of them for a moment, and would keep them in.
    fn close(&self, table: Table) {
        // Neither can fail for a descriptor that is in it.
        let _ = epoll::delete(&self.epoll, &table.mountinfo);
        if let Some(process) = table.process {
            let _ = epoll::delete(&self.epoll, &process);
        }
    }
}

impl Watched {
    fn find(&self, namespace: u64) -> Option<u64> {
        self.numbers.get(&namespace).copied()
    }

    fn remove(&mut self, number: u64) -> Option<Table> {
        let table = self.tables.remove(&number)?;
        self.bursts.remove(&number);
        if let Some(namespace) = table.namespace {
            self.numbers.remove(&namespace);
        }
        Some(table)
    }

    /// A change of this table, and what is told of it at once.
    fn note_change(&mut self, number: u64, now: Instant) -> Option<TableEvent> {
        let table = self.tables.get(&number)?;
        match self.bursts.get_mut(&number) {
            Some(burst) => {
                burst.changed = now;
                burst.is_untold = true;
                None
            }
            None => {
                self.bursts.insert(number, Burst { told: now, changed: now, is_untold: false });
                Some(table.event())
            }
        }
    }

    /// What is told of bursts that are over, or have lasted too long to wait for their end.
    fn end_bursts(&mut self, now: Instant) -> Vec<TableEvent> {
        let mut tell = Vec::new();
        self.bursts.retain(|number, burst| {
            if now >= burst.next() && burst.is_untold {
                tell.extend(self.tables.get(number).map(Table::event));
                burst.told = now;
                burst.is_untold = false;
            }
            now < burst.next()
        });
        tell
    }
}

impl Table {
    fn event(&self) -> TableEvent {
        self.namespace.map_or(TableEvent::Own, TableEvent::Changed)
    }
}

struct Thread<F> {
    shared: Arc<Shared>,
    _stopped: OwnedFd,
    told: F,
}

impl<F: FnMut(TableEvent) -> bool> Thread<F> {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let timeout = self.timeout();
            events.clear();
            match epoll::wait(&self.shared.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let mut tell = Vec::new();
            let now = Instant::now();
            let mut watched = self.shared.lock();
            for event in &events {
                let data = event.data;
                match data.u64() {
                    STOP => return Ok(()),
                    number if number % STEP == 0 => tell.extend(watched.note_change(number, now)),
                    number => {
                        let Some(table) = watched.remove(number - 1) else { continue };
                        tell.extend(table.namespace.map(TableEvent::Ended));
                        self.shared.close(table);
                    }
                }
            }
            tell.extend(watched.end_bursts(now));
            drop(watched);
            for event in tell {
                if !(self.told)(event) {
                    return Ok(());
                }
            }
        }
    }

    /// How long nothing need be done but what events demand: for ever, while nothing changes.
    fn timeout(&self) -> Option<Timespec> {
        let watched = self.shared.lock();
        let next = watched.bursts.values().map(Burst::next).min()?;
        let wait = next.saturating_duration_since(Instant::now());
        Timespec::try_from(wait).ok()
    }
}
