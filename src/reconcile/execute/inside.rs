//! A binding inside the containers of its task. Each has its own clones of the binding's mount, and what becomes of the
//! host's reaches none of them: a dead one stays dead, and one that somebody unmounts stays away, until it is mended here.
//!
//! Precondition of [`mend_inside`]: the host's mount is right, and answers. Of other sources nothing is ever asked.

mod cache;
mod questions;
mod release;
mod sight;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Host, Site};
use crate::job::Placement;
use crate::nomad::model::AllocId;
use crate::reconcile::binding::Binding;
use crate::sys::identity;
use crate::sys::mount::{self, Flags, MountError};
use crate::sys::namespace::{self, Family, Namespace, NamespaceError};
use crate::sys::own_table::Snapshot;
use crate::sys::resolve::{self, ResolveError};
use crate::sys::table::{self, Entry};
use crate::sys::tree::Tree;

pub use crate::sys::namespace::SwapBy;
pub use cache::{Asked, Cache};
pub use release::release_inside;
use sight::{Fault, Sight, Wanted};

/// How long a mount may take to say that it is dead. One whose program has ended says so at once.
const DEATH_PATIENCE: Duration = Duration::from_secs(1);
/// How often a namespace is searched again because the process by which it was known had ended.
const SEARCHES: usize = 3;
/// The most clones in one namespace that are looked at: each is compared with all others.
const MOST_CLONES: usize = 1024;
/// The most steps in one namespace at once: whoever undoes each of them is not followed for ever.
const MOST_STEPS: usize = 64;

/// A clone of a binding's mount in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The mount namespace's inode number.
    pub namespace: u64,
    /// The reusable id of the mount that was the namespace's root: another one says that the container was still being
    /// set up, and that its paths were others.
    pub root_mount: u64,
    /// Where it is, seen from the namespace's root.
    pub mount_point: PathBuf,
    /// The directory of the volume that it shows; empty for the volume itself.
    pub below: PathBuf,
    /// The clone's own flags.
    pub flags: Flags,
    /// Its reusable mount id.
    pub mount_id: u64,
}

/// What was wrong at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The clone was of a file system whose mount program had ended.
    Dead,
    /// Nothing was mounted there.
    Missing,
    /// Somebody had mounted something else over it.
    Covered,
    /// Somebody had moved it elsewhere.
    Moved,
}

/// A place that was mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mended {
    /// As it is now.
    pub place: Place,
    /// What it was mended of.
    pub cause: Cause,
}

/// A place, or a whole namespace, that could not be mended; nothing else was kept from it.
#[derive(Debug)]
pub struct Failure {
    /// The mount namespace's inode number.
    pub namespace: u64,
    /// A process in it.
    pub pid: i32,
    /// The place, or `None` for all of them.
    pub mount_point: Option<PathBuf>,
    /// Why.
    pub error: InsideError,
}

/// What [`mend_inside`] saw and did.
#[derive(Debug, Default)]
pub struct Found {
    /// All clones that are right, and visible, in all containers of the task.
    pub places: Vec<Place>,
    /// Those of them that were not before.
    pub mended: Vec<Mended>,
    /// The containers' mount namespaces.
    pub namespaces: Vec<Namespace>,
    /// What could not be mended.
    pub failures: Vec<Failure>,
}

impl Found {
    /// A process in that mount namespace.
    pub fn pid_in(&self, namespace: u64) -> Option<i32> {
        self.namespaces.iter().find(|found| found.id() == namespace).map(Namespace::pid)
    }
}

/// Why clones were not mended or taken away.
#[derive(Debug, thiserror::Error)]
pub enum InsideError {
    /// The binding on the host cannot be reached.
    #[error("the binding on the host cannot be reached")]
    Host(#[source] ResolveError),
    /// Nothing is mounted on the host that could be cloned.
    #[error("the binding is not mounted on the host")]
    NotBound,
    /// The mount tables or processes cannot be read: nobody knows what containers hold.
    #[error("the containers' mounts cannot be looked for")]
    Search(#[source] io::Error),
    /// A clone cannot be made of the host's mount.
    #[error("the binding's mount cannot be cloned")]
    Clone(#[source] MountError),
    /// The directory that a clone shows is not in the volume any more.
    #[error("the directory {} of the volume cannot be opened", .0.display())]
    Below(PathBuf, #[source] ResolveError),
    /// Something that is not saddlebag's is mounted at the place.
    #[error("a mount of somebody else's is at the place")]
    Foreign,
    /// The place lies in another source's mount, whose server is not to be waited for.
    #[error("the place lies within a mount of another source")]
    WithinOther,
    /// The mount there may be dead, and does not say so.
    #[error("the mount there neither answers nor is dead")]
    Unanswered,
    /// The container has more mounts of it than anybody needs.
    #[error("the container has {0} mounts of it, and no more than {MOST_CLONES} are looked at")]
    TooMany(usize),
    /// The container could make writable what it may only read.
    #[error(
        "the container has a user namespace of its own, in which a read-only mount that is put in could be made writable"
    )]
    Unlocked,
    /// Somebody undoes what is mended.
    #[error("somebody in the container keeps changing its mounts")]
    Restless,
    /// A process has the clone open.
    #[error("{} in the container still has it open", holder(.0.as_ref()))]
    Busy(Option<Holder>),
    /// A step in the namespace.
    #[error("the container's mounts cannot be changed")]
    Namespace(#[source] NamespaceError),
}

/// A process that uses a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id on the host.
    pub pid: i32,
    /// The name of its program.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.command, self.pid)
    }
}

fn holder(holder: Option<&Holder>) -> String {
    holder.map_or_else(|| "a process".into(), Holder::to_string)
}

/// A binding as it is on the host: what every clone is compared with and made from.
struct Original {
    /// The host's mount, `O_PATH`.
    top: OwnedFd,
    /// Its line of the host's table.
    present: Entry,
    /// The allocation root within its file system, and from there the task's directory and the destination's.
    family: Family,
    task: PathBuf,
    destination: PathBuf,
    /// The host's table: what is mounted below one of its peer groups comes to the host as well.
    own_table: Arc<Snapshot>,
}

impl Original {
    fn of(host: &Host, alloc: &AllocId, binding: &Binding, asked: &Asked) -> Result<Self, InsideError> {
        let site = Site::of(host, alloc, binding).map_err(InsideError::Host)?;
        let top = site.open_top().map_err(|error| match error {
            error if error.is_missing() => InsideError::NotBound,
            error => InsideError::Host(error),
        })?;
        // In this order: while the mount is held its number is no other's.
        let own_table = asked.cache.own_table.read(asked.since).map_err(InsideError::Search)?;
        let entries = &own_table.entries;
        let id = identity::reusable_mount_id(top.as_fd()).map_err(InsideError::Search)?;
        let is_mount = identity::identify(top.as_fd()).map_err(InsideError::Search)?.is_mount_root;
        let present =
            entries.iter().find(|entry| entry.mount_id == id && is_mount).ok_or(InsideError::NotBound)?.clone();
        let root = resolve::open_root(&host.alloc_root).map_err(InsideError::Host)?;
        let (holding, directory) = table::locate(root.as_fd(), entries).map_err(InsideError::Search)?;
        let task = Path::new(alloc.as_str()).join(&binding.key.task);
        Ok(Self {
            top,
            present,
            destination: directory.join(&task).join(binding.key.destination.as_path()),
            family: Family { device: holding.device, directory },
            task,
            own_table,
        })
    }

    /// A new detached mount of the volume, or of what is `below` in it.
    fn clone(&self, below: &Path, flags: Flags) -> Result<OwnedFd, InsideError> {
        let within;
        let directory = if below.as_os_str().is_empty() {
            self.top.as_fd()
        } else {
            within = resolve::open_any_beneath(self.top.as_fd(), below)
                .map_err(|error| InsideError::Below(below.to_owned(), error))?;
            within.as_fd()
        };
        let clone = mount::clone_detached(directory).map_err(InsideError::Clone)?;
        mount::set_flags(clone.as_fd(), flags).map_err(InsideError::Clone)?;
        Ok(clone)
    }

    fn find_namespaces(&self, cache: &Cache, since: Instant) -> Result<Vec<Namespace>, InsideError> {
        cache.search.find(&self.family, &self.task, since).map_err(InsideError::Search)
    }
}

/// Makes true in every container of a task: where the binding's directory is visible, its present mount is on top; every
/// other clone of it, in whole or of a directory in it, is one of the present mount; and what was `seen` in an earlier
/// call is there still. Runs in a worker of the binding's source. A container that comes after the look was `asked` for
/// may not be found: whoever hears of it asks anew.
///
/// The caller has proved that the host's mount is the right one and answers. `other_devices` are those of all other
/// sources, which are not asked anything.
///
/// # Errors
/// [`InsideError`] where nothing could be looked at. What goes wrong in one container is in [`Found::failures`].
pub fn mend_inside(
    host: &Host,
    alloc: &AllocId,
    binding: &Binding,
    seen: &[Place],
    other_devices: &[(u32, u32)],
    asked: &Asked,
) -> Result<Found, InsideError> {
    mend_inside_by(SwapBy::Beneath, host, alloc, binding, seen, other_devices, asked)
}

/// As [`mend_inside`], with dead mounts swapped as on a kernel that knows no more than `by`.
///
/// # Errors
/// As [`mend_inside`].
pub fn mend_inside_by(
    by: SwapBy,
    host: &Host,
    alloc: &AllocId,
    binding: &Binding,
    seen: &[Place],
    other_devices: &[(u32, u32)],
    asked: &Asked,
) -> Result<Found, InsideError> {
    // A task that sees the host's own mounts has no clone of any.
    if binding.placement == Placement::Link {
        return Ok(Found::default());
    }
    let original = Original::of(host, alloc, binding, asked)?;
    let cache = &*asked.cache;
    let mut since = asked.since;
    let mut found = Found::default();
    let mut done: BTreeSet<u64> = BTreeSet::new();
    for _ in 0..SEARCHES {
        let mut is_complete = true;
        for namespace in original.find_namespaces(cache, since)? {
            if done.contains(&namespace.id()) {
                continue;
            }
            let mut mending =
                Mending { by, original: &original, other_devices, cache, namespace, failures: Vec::new() };
            match mending.run(seen) {
                // Others may be in the namespace still: it is looked for again.
                Err(InsideError::Namespace(NamespaceError::Ended)) => {
                    is_complete = false;
                    continue;
                }
                Err(error) => mending.fail(None, error),
                Ok((places, mended)) => {
                    found.places.extend(places);
                    found.mended.extend(mended);
                }
            }
            done.insert(mending.namespace.id());
            found.failures.append(&mut mending.failures);
            found.namespaces.push(mending.namespace);
        }
        if is_complete {
            break;
        }
        since = Instant::now();
    }
    Ok(found)
}

/// The work in one namespace.
struct Mending<'a> {
    by: SwapBy,
    original: &'a Original,
    other_devices: &'a [(u32, u32)],
    cache: &'a Cache,
    namespace: Namespace,
    failures: Vec<Failure>,
}

impl Mending<'_> {
    fn fail(&mut self, mount_point: Option<&Path>, error: InsideError) {
        let (namespace, pid) = (self.namespace.id(), self.namespace.pid());
        self.failures.push(Failure { namespace, pid, mount_point: mount_point.map(Path::to_owned), error });
    }

    fn look(&self, answers: &Answers) -> Result<Sight<'_>, InsideError> {
        let tree = Tree::new(self.namespace.read_table().map_err(InsideError::Namespace)?);
        Ok(Sight::new(tree, self.original, self.other_devices, answers.dead.clone()))
    }

    fn run(&mut self, seen: &[Place]) -> Result<(Vec<Place>, Vec<Mended>), InsideError> {
        let mut answers = Answers::default();
        let mut all_wanted: Option<Vec<Wanted>> = None;
        let mut causes: Vec<(PathBuf, Cause)> = Vec::new();
        let mut failed: BTreeSet<PathBuf> = BTreeSet::new();
        for step in 0.. {
            let mut sight = self.look(&answers)?;
            self.ask(&sight, &mut answers)?;
            sight.dead.clone_from(&answers.dead);
            let alike = sight.count_alike();
            if alike > MOST_CLONES {
                return Err(InsideError::TooMany(alike));
            }
            let wanted = all_wanted.get_or_insert_with(|| sight.wanted(self.namespace.id(), seen));
            let mut next = wanted.iter().filter(|wanted| !failed.contains(&wanted.mount_point));
            let Some((wanted, fault)) =
                next.find_map(|wanted| Some((wanted, sight.fault(wanted, &answers.unanswered)?)))
            else {
                let places = sight.places(self.namespace.id());
                let mended = causes.into_iter().filter_map(|(mount_point, cause)| {
                    let place = places.iter().find(|place| place.mount_point == mount_point)?.clone();
                    Some(Mended { place, cause })
                });
                let mended = mended.collect();
                return Ok((places, mended));
            };
            let result = if step < MOST_STEPS { self.mend(&sight, wanted, &fault) } else { Err(InsideError::Restless) };
            drop(sight);
            match result {
                Ok(Some(cause)) if causes.iter().all(|(mount_point, _)| *mount_point != wanted.mount_point) => {
                    causes.push((wanted.mount_point.clone(), cause));
                }
                Ok(_) => {}
                Err(error @ InsideError::Namespace(NamespaceError::Ended)) => return Err(error),
                // A runtime that sets its container up changes the root itself, and with it every path.
                Err(InsideError::Namespace(NamespaceError::Changed(_))) if step < MOST_STEPS => all_wanted = None,
                Err(error) => {
                    failed.insert(wanted.mount_point.clone());
                    self.fail(Some(&wanted.mount_point), error);
                }
            }
        }
        Err(InsideError::Restless)
    }

    /// Mends one fault of a place; there may be others. The cause where this is what it was mended of.
    fn mend(&self, sight: &Sight<'_>, wanted: &Wanted, fault: &Fault) -> Result<Option<Cause>, InsideError> {
        let inside = InsideError::Namespace;
        let place = &wanted.mount_point;
        let is_put_in = matches!(fault, Fault::Absent { .. } | Fault::Dead);
        // Such a namespace locks the flags of what it was made with, and of nothing that comes later (mount_namespaces(7)).
        let is_read_only = wanted.flags.read_only || self.original.present.flags.read_only;
        if is_put_in && is_read_only && !self.namespace.is_of_own_user_namespace().map_err(InsideError::Search)? {
            return Err(InsideError::Unlocked);
        }
        match fault {
            Fault::Refused(error) => Err(error.to_error()),
            Fault::Absent { moved_to } => {
                let clone = self.original.clone(&wanted.below, wanted.flags)?;
                self.namespace.attach(&sight.tree, place, clone.as_fd()).map_err(inside)?;
                let Some(moved_to) = moved_to else { return Ok(Some(Cause::Missing)) };
                // The table has changed by what was just attached, but not on this way.
                self.namespace.detach(&sight.tree, moved_to).map_err(inside)?;
                Ok(Some(Cause::Moved))
            }
            Fault::Dead => {
                let clone = self.original.clone(&wanted.below, wanted.flags)?;
                self.namespace.swap(&sight.tree, place, clone.as_fd(), self.by).map_err(inside)?;
                Ok(Some(Cause::Dead))
            }
            Fault::DeadAbove => {
                self.namespace.detach(&sight.tree, place).map_err(inside)?;
                Ok(Some(Cause::Dead))
            }
            Fault::Covered => {
                self.namespace.detach(&sight.tree, place).map_err(inside)?;
                Ok(Some(Cause::Covered))
            }
        }
    }

    /// Asks the mounts that may be dead clones, each file system once.
    fn ask(&self, sight: &Sight<'_>, answers: &mut Answers) -> Result<(), InsideError> {
        for entry in sight.suspects() {
            let device = entry.device;
            if answers.has(device) {
                continue;
            }
            if !self.cache.questions.begin(device, DEATH_PATIENCE) {
                answers.unanswered.insert(device);
                continue;
            }
            let questions = Arc::clone(&self.cache.questions);
            let end = move || questions.end(device);
            match self.namespace.open(&sight.tree, &entry.mount_point) {
                Ok(fd) => match namespace::is_dead_within(fd.as_fd(), DEATH_PATIENCE, end) {
                    Ok(Some(true)) => answers.dead.insert(device),
                    Ok(Some(false)) => answers.alive.insert(device),
                    Ok(None) => answers.unanswered.insert(device),
                    Err(error) => {
                        self.cache.questions.end(device);
                        return Err(InsideError::Search(error));
                    }
                },
                Err(error) => {
                    end();
                    if matches!(error, NamespaceError::Ended) {
                        return Err(InsideError::Namespace(error));
                    }
                    // It has changed meanwhile, or cannot be reached: another mount of that file system may be.
                    continue;
                }
            };
        }
        Ok(())
    }
}

/// What the file systems of possibly dead clones have said.
#[derive(Debug, Default)]
struct Answers {
    dead: BTreeSet<(u32, u32)>,
    alive: BTreeSet<(u32, u32)>,
    unanswered: BTreeSet<(u32, u32)>,
}

impl Answers {
    fn has(&self, device: (u32, u32)) -> bool {
        [&self.dead, &self.alive, &self.unanswered].iter().any(|devices| devices.contains(&device))
    }
}
