//! Finding the namespaces of tasks among all processes. One pass over /proc serves everybody who had asked before it
//! began: a restarted agent looks for the containers of all its bindings at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Namespace;
use crate::sys::process;

/// A container's runtime makes its mounts after its process has started. Of a process of this age nobody expects more.
const SETTLED: Duration = Duration::from_secs(60);
/// A pass is of no use for longer than this, even to those who asked before it: a look may have waited for a server.
const FRESH: Duration = Duration::from_secs(30);
/// How many names below the family's directory a namespace is known by: allocation and task.
const DEPTH: usize = 2;

/// A namespace's inode number, a process in it, and when that has started.
type Seen = (u64, i32, u64);

/// The search for namespaces, and what it remembers between two calls.
#[derive(Debug, Default)]
pub struct Search(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    /// The tasks of namespaces that have been looked into. A container's mounts are made at its start, and reading the
    /// table of a namespace that receives the host's mounts is slow: one that had settled is not read again.
    settled: BTreeMap<Seen, BTreeSet<PathBuf>>,
    last: Option<Arc<Pass>>,
    passes: u64,
}

/// Where the directories of tasks are, as mountinfo has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// The device of the file system.
    pub device: (u32, u32),
    /// The directory in it that has the allocations' directories, and in each of them those of its tasks.
    pub directory: PathBuf,
}

/// What one pass over all processes has found.
#[derive(Debug)]
struct Pass {
    begun: Instant,
    family: Family,
    /// The processes of each namespace that has a mount of a task of the family, by their start, the eldest first.
    processes: BTreeMap<u64, Vec<(u64, i32)>>,
    /// The namespaces of each task: allocation and name.
    tasks: BTreeMap<PathBuf, Vec<u64>>,
}

impl Search {
    /// Finds the mount namespaces, other than the caller's, that hold a mount of the family's device whose root is the
    /// directory `task` of it, or within. `task` has two names: the allocation and the task.
    ///
    /// What was there at `since` is found, and of what came later perhaps nothing: a pass that began after it serves,
    /// whoever had asked for it. Calls wait for each other; a pass asks no file system's server.
    ///
    /// # Errors
    /// As [`process::read_foreign_tables`].
    pub fn find(&self, family: &Family, task: &Path, since: Instant) -> io::Result<Vec<Namespace>> {
        let called = Instant::now();
        let pass = self.pass_since(family, since)?;
        let (found, is_whole) = pass.open(task)?;
        if is_whole || pass.begun >= called {
            return Ok(found);
        }
        // All processes that the pass had seen in a namespace have ended since: others may have come after it.
        Ok(self.pass_since(family, called)?.open(task)?.0)
    }

    /// How many passes there have been.
    pub fn passes(&self) -> u64 {
        self.lock().passes
    }

    /// Lets go of what only those can use who have asked already.
    pub fn forget_last(&self) {
        self.lock().last = None;
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass_since(&self, family: &Family, since: Instant) -> io::Result<Arc<Pass>> {
        let mut memory = self.lock();
        if let Some(last) = &memory.last
            && last.begun >= since
            && last.begun.elapsed() < FRESH
            && last.family == *family
        {
            return Ok(Arc::clone(last));
        }
        if memory.last.as_ref().is_some_and(|last| last.family != *family) {
            memory.settled.clear();
        }
        memory.passes += 1;
        let pass = Arc::new(Pass::take(family, &mut memory.settled)?);
        memory.last = Some(Arc::clone(&pass));
        Ok(pass)
    }
}

impl Pass {
    fn take(family: &Family, known: &mut BTreeMap<Seen, BTreeSet<PathBuf>>) -> io::Result<Self> {
        let begun = Instant::now();
        let mut met: BTreeSet<Seen> = BTreeSet::new();
        let mut settled: Vec<(Seen, BTreeSet<PathBuf>)> = Vec::new();
        let mut tasks: BTreeMap<PathBuf, BTreeSet<u64>> = BTreeMap::new();
        let mut note = |id: u64, found: &BTreeSet<PathBuf>| {
            for task in found {
                match tasks.get_mut(task) {
                    Some(namespaces) => drop(namespaces.insert(id)),
                    None => drop(tasks.insert(task.clone(), BTreeSet::from([id]))),
                }
            }
        };
        let mut read: Vec<(u64, BTreeSet<PathBuf>)> = Vec::new();
        let processes = process::read_foreign_tables(
            |pid, id| {
                let Ok(started) = process::start_time(pid) else { return false };
                let key = (id, pid, started);
                let Some(found) = known.get(&key) else { return false };
                note(id, found);
                met.insert(key);
                true
            },
            |pid, id, entries| {
                let roots = entries.iter().filter(|entry| entry.device == family.device).map(|entry| &entry.root);
                let found: BTreeSet<PathBuf> =
                    roots.filter_map(|root| first_names(root.strip_prefix(&family.directory).ok()?)).collect();
                if let (Ok(started), Ok(age)) = (process::start_time(pid), process::age(pid))
                    && age >= SETTLED
                {
                    settled.push(((id, pid, started), found.clone()));
                }
                read.push((id, found));
                // Every root directory is looked at: a process that has changed its root sees less than the others.
                false
            },
        )?;
        for (id, found) in &read {
            note(*id, found);
        }
        known.retain(|key, _| met.contains(key));
        known.extend(settled);
        let wanted: BTreeSet<u64> = tasks.values().flatten().copied().collect();
        let mut by_namespace: BTreeMap<u64, Vec<(u64, i32)>> = BTreeMap::new();
        for (pid, id) in processes {
            if wanted.contains(&id)
                && let Ok(started) = process::start_time(pid)
            {
                by_namespace.entry(id).or_default().push((started, pid));
            }
        }
        by_namespace.values_mut().for_each(|processes| processes.sort_unstable());
        let tasks = tasks.into_iter().map(|(task, namespaces)| (task, namespaces.into_iter().collect())).collect();
        Ok(Self { begun, family: family.clone(), processes: by_namespace, tasks })
    }

    /// One process of each namespace of a task, the one that started first: a container's own, which outlives what is
    /// run beside it. False where all that were seen in a namespace have ended.
    fn open(&self, task: &Path) -> io::Result<(Vec<Namespace>, bool)> {
        let mut found = Vec::new();
        let mut is_whole = true;
        for id in self.tasks.get(task).into_iter().flatten() {
            let mut opened = None;
            for (started, pid) in self.processes.get(id).into_iter().flatten() {
                // The number may be another process's by now, and the namespace's too. While it is held it stays whose
                // it is.
                opened = Namespace::of(*pid, *id)?
                    .filter(|_| process::start_time(*pid).is_ok_and(|found| found == *started));
                if opened.is_some() {
                    break;
                }
            }
            is_whole &= opened.is_some();
            found.extend(opened);
        }
        Ok((found, is_whole))
    }
}

fn first_names(path: &Path) -> Option<PathBuf> {
    let names: Vec<Component<'_>> = path.components().take(DEPTH).collect();
    (names.len() == DEPTH).then(|| names.into_iter().collect())
}
