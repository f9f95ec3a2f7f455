//! The mount namespaces of others: finding those of a task, and working inside one.
//!
//! A container has its own clone of a mount. What becomes of the host's does not reach it, so the mount is put in where
//! it is seen: by a thread of its own that enters the container's namespace and ends there (setns(2)).
//!
//! Whoever runs in the container is hostile. `/proc` there is its own or none, any directory may become a symlink, and
//! mounts come and go. So nothing inside goes by a path of `/proc`: the walk goes mount by mount, each is compared with
//! the table by its id, and within a mount openat2(2) follows no symlink. No step enters a mount that was not meant,
//! so that no other server is ever asked.

mod death;
mod inside;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use nix::sched::CloneFlags;
use rustix::process::{Pid, PidfdFlags};

pub use death::is_dead_within;
pub use inside::{NamespaceError, SwapBy};

use super::process;

/// The inside thread's stack, in bytes.
const STACK: usize = 256 << 10;
/// A container's runtime makes its mounts after its process has started. Of a process of this age nobody expects more.
const SETTLED: Duration = Duration::from_secs(60);
/// How many names below the family's directory a namespace is known by: allocation and task.
const DEPTH: usize = 2;

/// A mount namespace, and a process that is in it.
///
/// It holds the process by a pidfd. A descriptor of the namespace itself would keep it, and every mount in it, alive
/// after its last process.
#[derive(Debug)]
pub struct Namespace {
    pid: i32,
    id: u64,
    process: OwnedFd,
}

impl Namespace {
    /// The namespace `id`, by its process `pid`. None: that process has ended, or is in another namespace by now.
    ///
    /// # Errors
    /// The kernel's, for want of descriptors.
    pub fn of(pid: i32, id: u64) -> io::Result<Option<Self>> {
        let Some(number) = Pid::from_raw(pid) else { return Ok(None) };
        let process = match rustix::process::pidfd_open(number, PidfdFlags::empty()) {
            Ok(process) => process,
            // A thread that leads no process has a number of its own (EINVAL), which is nobody's to hold.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let namespace = Self { pid, id, process };
        // In this order: the descriptor is of that process, and while it lives the number is nobody else's.
        let is_it = process::mount_namespace(pid).is_ok_and(|found| found == id);
        Ok((is_it && !namespace.has_ended()).then_some(namespace))
    }

    /// A process in it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The namespace's inode number; it may be used again once the namespace is gone.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether that process has ended. Others may be in the namespace still.
    pub fn has_ended(&self) -> bool {
        let mut polled = [rustix::event::PollFd::new(&self.process, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec::default();
        !matches!(rustix::event::poll(&mut polled, Some(&now)), Ok(0) | Err(_))
    }

    /// The process's pidfd.
    pub fn process(&self) -> &OwnedFd {
        &self.process
    }

    /// Runs `work` on a thread of its own inside the namespace, at its root, and waits for its end.
    fn enter<T: Send>(
        &self,
        work: impl FnOnce(&inside::Inside) -> Result<T, NamespaceError> + Send,
    ) -> Result<T, NamespaceError> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("inside".into()).stack_size(STACK);
            // The thread ends with the closure: it can never come back out of the namespace as it was.
            let running = thread.spawn_scoped(scope, || {
                let inside = self.enter_here()?;
                work(&inside)
            });
            let running = running.map_err(NamespaceError::Thread)?;
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Puts the calling thread into the namespace for good.
    fn enter_here(&self) -> Result<inside::Inside, NamespaceError> {
        let proc = inside::open_proc()?;
        let call = |call| move |errno: nix::Error| NamespaceError::Call { call, source: errno.into() };
        // setns of a mount namespace demands that root and working directory are the thread's own.
        nix::sched::unshare(CloneFlags::CLONE_FS).map_err(call("unshare"))?;
        match nix::sched::setns(self.process.as_fd(), CloneFlags::CLONE_NEWNS) {
            Ok(()) => {}
            Err(nix::Error::ESRCH) => return Err(NamespaceError::Ended),
            Err(errno) => return Err(call("setns")(errno)),
        }
        inside::Inside::new(proc, self.id)
    }
}

/// What is known of namespaces that have been looked into. A container's mounts are made at its start, and reading the
/// table of a namespace that receives the host's mounts is slow: one that had settled is not read again.
#[derive(Debug, Default)]
pub struct Known(BTreeMap<(u64, i32, u64), BTreeSet<PathBuf>>);

/// Finds the mount namespaces, other than the caller's, that hold a mount of `device` whose root is the directory
/// `below` of `family`, or within it. All three are as mountinfo has them; `family` is the same for all calls with one
/// `known`, and `below` has two names: the allocation and the task.
///
/// # Errors
/// As [`process::read_foreign_tables`].
pub fn find(device: (u32, u32), family: &Path, below: &Path, known: &mut Known) -> io::Result<Vec<Namespace>> {
    let wanted = family.join(below);
    let mut met: BTreeSet<(u64, i32, u64)> = BTreeSet::new();
    let mut known_to_have: BTreeSet<u64> = BTreeSet::new();
    let mut found: BTreeSet<u64> = BTreeSet::new();
    let mut settled: Vec<((u64, i32, u64), BTreeSet<PathBuf>)> = Vec::new();
    let mut processes = process::read_foreign_tables(
        |pid, id| {
            let Ok(started) = process::start_time(pid) else { return false };
            let key = (id, pid, started);
            let has = known.0.get(&key).map(|tasks| tasks.contains(below));
            if has.is_some() {
                met.insert(key);
            }
            // Where it has what is wanted, it is found without being read.
            if has == Some(true) {
                known_to_have.insert(id);
            }
            has.is_some()
        },
        |pid, id, entries| {
            let of_family: Vec<&PathBuf> =
                entries.iter().filter(|entry| entry.device == device).map(|entry| &entry.root).collect();
            if of_family.iter().any(|root| root.starts_with(&wanted)) {
                found.insert(id);
            }
            if let (Ok(started), Ok(age)) = (process::start_time(pid), process::age(pid))
                && age >= SETTLED
            {
                let tasks = of_family.iter().filter_map(|root| first_names(root.strip_prefix(family).ok()?)).collect();
                settled.push(((id, pid, started), tasks));
            }
            // Every root directory is looked at: a process that has changed its root sees less than the others.
            found.contains(&id)
        },
    )?;
    found.extend(known_to_have);
    known.0.retain(|key, _| met.contains(key));
    known.0.extend(settled);
    processes.retain(|(_, id)| found.contains(id));
    open_eldest(processes)
}

fn first_names(path: &Path) -> Option<PathBuf> {
    let names: Vec<Component<'_>> = path.components().take(DEPTH).collect();
    (names.len() == DEPTH).then(|| names.into_iter().collect())
}

/// One process of each namespace, the one that started first: a container's own, which outlives what is run beside it.
fn open_eldest(processes: Vec<(i32, u64)>) -> io::Result<Vec<Namespace>> {
    let mut by_age: Vec<(u64, i32, u64)> =
        processes.into_iter().filter_map(|(pid, id)| Some((process::start_time(pid).ok()?, pid, id))).collect();
    by_age.sort_unstable();
    let mut opened: BTreeMap<u64, Namespace> = BTreeMap::new();
    for (_, pid, id) in by_age {
        if !opened.contains_key(&id)
            && let Some(namespace) = Namespace::of(pid, id)?
        {
            opened.insert(id, namespace);
        }
    }
    Ok(opened.into_values().collect())
}
