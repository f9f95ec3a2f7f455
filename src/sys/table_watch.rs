//! Changes of mount tables, told as they happen: one thread that sleeps in epoll(7) until the kernel says that the
//! host's table, or one of the watched namespaces', has changed (proc_pid_mountinfo(5): `POLLERR | POLLPRI`).
//!
//! An open mountinfo keeps its namespace and every mount in it, so it is closed as soon as the process by which the
//! namespace is known has ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::event::{EventfdFlags, Timespec};

use super::namespace::Namespace;

/// The thread's stack, in bytes.
const STACK: usize = 64 << 10;
/// Changes that follow each other closer than this are told once at their beginning and once at their end.
const QUIET: Duration = Duration::from_millis(100);
/// What the epoll set calls the watch's end and the own table; a namespace's inode number is neither.
const STOP: u64 = u64::MAX;
const OWN: u64 = u64::MAX - 1;
/// Marks the end of a namespace's process; inode numbers of namespaces have 32 bits.
const PROCESS: u64 = 1 << 62;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableEvent {
    /// The own namespace's mount table has changed.
    Own,
    /// That of the namespace with this inode number has.
    Changed(u64),
    /// The process by which this namespace was watched has ended; it is watched no longer.
    Ended(u64),
}

struct Watched {
    /// Held open: the epoll set lives by them.
    _table: File,
    _process: OwnedFd,
}

struct Shared {
    epoll: OwnedFd,
    watched: Mutex<BTreeMap<u64, Watched>>,
}

impl Shared {
    fn watched(&self) -> MutexGuard<'_, BTreeMap<u64, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A watch; it ends when this is dropped.
pub struct TableWatch {
    shared: Arc<Shared>,
    stop: OwnedFd,
}

impl TableWatch {
    /// Watches the own namespace's mount table, and tells `told` from a thread of its own until that returns false.
    ///
    /// # Errors
    /// The kernel's, where there is no descriptor or no thread for it.
    pub fn start(told: impl FnMut(TableEvent) -> bool + Send + 'static) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        let own = open_table("/proc/self/mountinfo", &epoll, OWN)?;
        let shared = Arc::new(Shared { epoll, watched: Mutex::default() });
        let mut thread = Thread { shared: Arc::clone(&shared), told, _own: own, pending: BTreeMap::new() };
        std::thread::Builder::new().name("mount-tables".into()).stack_size(STACK).spawn(move || {
            if let Err(error) = thread.run() {
                tracing::error!(%error, "mount tables are no longer watched");
            }
        })?;
        Ok(Self { shared, stop })
    }

    /// Watches a namespace's table as well, until its process ends. One that is watched already is no error.
    ///
    /// # Errors
    /// The kernel's; `NotFound` where its process has ended.
    pub fn watch(&self, namespace: &Namespace) -> io::Result<()> {
        let mut watched = self.shared.watched();
        if watched.contains_key(&namespace.id()) {
            return Ok(());
        }
        let process = namespace.process().try_clone()?;
        let table = open_table(&format!("/proc/{}/mountinfo", namespace.pid()), &self.shared.epoll, namespace.id())?;
        // The process was there before its table was opened, so the number was not somebody else's by then.
        if namespace.has_ended() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let data = epoll::EventData::new_u64(namespace.id() | PROCESS);
        epoll::add(&self.shared.epoll, &process, data, epoll::EventFlags::IN)?;
        watched.insert(namespace.id(), Watched { _table: table, _process: process });
        Ok(())
    }

    /// How many namespaces are watched beside the own one.
    pub fn len(&self) -> usize {
        self.shared.watched().len()
    }

    /// Whether none but the own one is watched.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for TableWatch {
    fn drop(&mut self) {
        // Fails only when the counter is full, and then the thread knows already.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
    }
}

fn open_table(path: &str, epoll: &OwnedFd, data: u64) -> io::Result<File> {
    let table = File::open(path)?;
    epoll::add(epoll, table.as_fd(), epoll::EventData::new_u64(data), epoll::EventFlags::PRI | epoll::EventFlags::ERR)?;
    Ok(table)
}

struct Thread<T> {
    shared: Arc<Shared>,
    told: T,
    _own: File,
    /// Tables that were told of a moment ago: until when they are quiet, and whether they have changed since.
    pending: BTreeMap<TableEvent, (Instant, bool)>,
}

impl<T: FnMut(TableEvent) -> bool> Thread<T> {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(64);
        loop {
            let wait = self.pending.values().map(|(until, _)| until.saturating_duration_since(Instant::now())).min();
            let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
            events.clear();
            match epoll::wait(&self.shared.epoll, rustix::buffer::spare_capacity(&mut events), wait.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let event: &epoll::Event = event;
                if !self.hear(event.data.u64()) {
                    return Ok(());
                }
            }
            if !self.tell_what_is_quiet() {
                return Ok(());
            }
        }
    }

    /// False ends the watch.
    fn hear(&mut self, data: u64) -> bool {
        let event = match data {
            STOP => return false,
            OWN => TableEvent::Own,
            ended if ended & PROCESS != 0 => {
                let id = ended & !PROCESS;
                // Closing them takes them out of the set.
                self.shared.watched().remove(&id);
                self.pending.remove(&TableEvent::Changed(id));
                return (self.told)(TableEvent::Ended(id));
            }
            id => TableEvent::Changed(id),
        };
        if let Some((_, again)) = self.pending.get_mut(&event) {
            *again = true;
            return true;
        }
        self.pending.insert(event, (Instant::now() + QUIET, false));
        (self.told)(event)
    }

    fn tell_what_is_quiet(&mut self) -> bool {
        let now = Instant::now();
        let due: Vec<TableEvent> =
            self.pending.iter().filter(|(_, (until, _))| *until <= now).map(|(event, _)| *event).collect();
        for event in due {
            match self.pending.get_mut(&event) {
                Some((until, again)) if *again => {
                    *again = false;
                    *until = now + QUIET;
                    if !(self.told)(event) {
                        return false;
                    }
                }
                _ => drop(self.pending.remove(&event)),
            }
        }
        true
    }
}
