//! What a container's mount table says of a binding: where its clones are to be, and what is wrong there. Pure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{InsideError, Original, Place};
use crate::sys::mount::Flags;
use crate::sys::table::{self, Entry};
use crate::sys::tree::Tree;

/// The end of a root directory in mountinfo that was removed. A dead mount's often looks so, since the kernel drops what
/// its server no longer vouches for.
const DELETED: &str = "/deleted";

/// A place at which a clone has to be on top.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub mount_point: PathBuf,
    pub below: PathBuf,
    pub flags: Flags,
    /// The clone that was there, if one was.
    pub mount_id: Option<u64>,
    /// Where that one is now, if it is elsewhere.
    pub moved_to: Option<PathBuf>,
}

/// What is wrong at a place; the step that mends it is the next one of possibly several.
#[derive(Debug)]
pub(super) enum Fault {
    /// Nothing is mounted there; the clone may be elsewhere.
    Absent { moved_to: Option<PathBuf> },
    /// A dead clone is on top, on the plain directory.
    Dead,
    /// A dead clone is on top, and another clone beneath it.
    DeadAbove,
    /// Something else is on top, and a clone beneath it.
    Covered,
    /// It is left as it is.
    Refused(Refused),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Refused {
    Foreign,
    WithinOther,
    Unanswered,
}

impl Refused {
    pub(super) fn to_error(self) -> InsideError {
        match self {
            Self::Foreign => InsideError::Foreign,
            Self::WithinOther => InsideError::WithinOther,
            Self::Unanswered => InsideError::Unanswered,
        }
    }
}

/// One look at a namespace.
/// Types of file systems whose answers come from elsewhere, beside FUSE's own sub-types.
const REMOTE: [&str; 12] =
    ["9p", "afs", "beegfs", "ceph", "cifs", "fuse", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "virtiofs"];

pub(super) struct Sight<'a> {
    pub tree: Tree,
    original: &'a Original,
    other_devices: &'a [(u32, u32)],
    pub dead: BTreeSet<(u32, u32)>,
}

impl<'a> Sight<'a> {
    pub(super) fn new(
        tree: Tree,
        original: &'a Original,
        other_devices: &'a [(u32, u32)],
        dead: BTreeSet<(u32, u32)>,
    ) -> Self {
        Self { tree, original, other_devices, dead }
    }

    /// What of the volume a mount shows, if it can be a clone of the binding's mount, the present or a former one: of a
    /// file system of its kind, and read-only if the binding is. A runtime that makes a clone read-only takes its other
    /// flags off (a bind remount replaces them all), so those say nothing.
    fn below(&self, entry: &Entry) -> Option<PathBuf> {
        let present = &self.original.present;
        let can_be = entry.fs_type == present.fs_type && (entry.flags.read_only || !present.flags.read_only);
        let below = plain(&entry.root).strip_prefix(plain(&present.root)).ok()?;
        can_be.then(|| below.to_owned())
    }

    fn is_present(&self, entry: &Entry) -> bool {
        entry.device == self.original.present.device && self.below(entry).is_some()
    }

    fn is_dead(&self, entry: &Entry) -> bool {
        self.dead.contains(&entry.device) && self.below(entry).is_some()
    }

    fn is_suspect(&self, entry: &Entry) -> bool {
        entry.device != self.original.present.device && !self.is_of_other(entry) && self.below(entry).is_some()
    }

    /// A clone of this binding, dead or alive, and not one that belongs to another place below Nomad's directory.
    fn is_clone(&self, entry: &Entry) -> bool {
        (self.is_present(entry) || self.is_dead(entry)) && !self.is_of_another_destination(entry)
    }

    /// The mounts that may be dead clones, and can be seen.
    pub(super) fn suspects(&self) -> impl Iterator<Item = &Entry> {
        let is_reachable = |entry: &Entry| self.is_clear(&entry.mount_point) && entry.mount_point != Path::new("/");
        self.tree
            .entries()
            .iter()
            .filter(move |entry| self.is_suspect(entry) && self.tree.is_on_top(entry) && is_reachable(entry))
    }

    /// Whether no mount of another source is on the way.
    fn is_clear(&self, path: &Path) -> bool {
        let mut way = self.tree.way(path).into_iter().filter(|entry| entry.mount_point != path);
        way.all(|entry| !self.is_of_other(entry) && !self.may_hang(entry))
    }

    /// Whether a server or a program that is nobody's of ours answers for it: whatever else a container has mounted.
    fn may_hang(&self, entry: &Entry) -> bool {
        let own = [self.original.family.device, self.original.present.device];
        let is_remote = REMOTE.contains(&entry.fs_type.as_str()) || entry.fs_type.starts_with("fuse.");
        // A dead clone of the binding's has another device than the present ones.
        is_remote && !own.contains(&entry.device) && self.below(entry).is_none() && entry.mount_point != Path::new("/")
    }

    /// How many mounts could be clones of the binding's, hidden ones too.
    pub(super) fn count_alike(&self) -> usize {
        self.tree.entries().iter().filter(|entry| self.below(entry).is_some() && !self.is_of_other(entry)).count()
    }

    /// Whether it is of another source. One that is a directory of the host may well be on the file system that Nomad's
    /// allocations are on too, over which every way in a container leads; and two may be on one.
    fn is_of_other(&self, entry: &Entry) -> bool {
        let own = [self.original.family.device, self.original.present.device];
        !own.contains(&entry.device) && self.other_devices.contains(&entry.device)
    }

    /// Where in the allocation directory's file system a mount point is, if it is there.
    fn in_allocation(&self, mount_point: &Path) -> Option<PathBuf> {
        let holder = self.tree.beneath(mount_point)?;
        if holder.device != self.original.family.device {
            return None;
        }
        Some(table::join(&holder.root, mount_point.strip_prefix(&holder.mount_point).ok()?))
    }

    fn is_of_another_destination(&self, entry: &Entry) -> bool {
        self.in_allocation(&entry.mount_point).is_some_and(|place| {
            place.starts_with(&self.original.family.directory) && place != self.original.destination
        })
    }

    /// Where the binding's own directory is visible.
    fn own_places(&self) -> Vec<PathBuf> {
        let mut places = Vec::new();
        for entry in self.tree.entries() {
            if entry.device != self.original.family.device {
                continue;
            }
            let Ok(below) = self.original.destination.strip_prefix(&entry.root) else { continue };
            let place = table::join(&entry.mount_point, below);
            let way = self.tree.way(&place);
            let Some(at) = way.iter().position(|passed| passed.mount_id == entry.mount_id) else { continue };
            if way[at + 1..].iter().all(|above| above.mount_point == place) {
                places.push(place);
            }
        }
        places
    }

    /// Where clones are to be: what was seen before in this namespace, the binding's own directory, and every clone that
    /// is there now; parents before children.
    pub(super) fn wanted(&self, namespace: u64, seen: &[Place]) -> Vec<Wanted> {
        let root_mount = self.root_mount();
        let seen: Vec<&Place> =
            seen.iter().filter(|place| place.namespace == namespace && Some(place.root_mount) == root_mount).collect();
        let own = self.own_places();
        let is_a_place = |path: &PathBuf| own.contains(path) || seen.iter().any(|place| place.mount_point == *path);
        // The kernel uses ids again: what is moved shows the same as it did, and is where nothing is known to belong.
        let is_moved = |place: &Place, entry: &Entry| {
            let is_same = entry.mount_id == place.mount_id
                && entry.flags == place.flags
                && self.below(entry).is_some_and(|below| below == place.below);
            is_same && self.is_clone(entry) && !is_a_place(&entry.mount_point)
        };
        let mut wanted: Vec<Wanted> = seen
            .iter()
            .map(|place| Wanted {
                mount_point: place.mount_point.clone(),
                below: place.below.clone(),
                flags: place.flags,
                mount_id: Some(place.mount_id),
                moved_to: self
                    .tree
                    .entries()
                    .iter()
                    .find(|entry| is_moved(place, entry))
                    .map(|entry| entry.mount_point.clone()),
            })
            .collect();
        let clones = self.tree.entries().iter().filter(|entry| {
            self.is_clone(entry)
                && !seen.iter().any(|place| is_moved(place, entry))
                && self.tree.way(&entry.mount_point).iter().any(|on| on.mount_id == entry.mount_id)
        });
        let clones = clones.map(|entry| Wanted {
            mount_point: entry.mount_point.clone(),
            below: self.below(entry).unwrap_or_default(),
            flags: entry.flags,
            mount_id: Some(entry.mount_id),
            moved_to: None,
        });
        let own = own.iter().map(|mount_point| Wanted {
            mount_point: mount_point.clone(),
            below: PathBuf::new(),
            flags: Flags::default(),
            mount_id: None,
            moved_to: None,
        });
        for more in clones.chain(own) {
            if wanted.iter().all(|other| other.mount_point != more.mount_point) {
                wanted.push(more);
            }
        }
        // What is below a mount that the host shares comes and goes with the host's own.
        wanted.retain(|wanted| {
            let group = self.tree.beneath(&wanted.mount_point).and_then(|beneath| beneath.peer_group);
            group.is_none_or(|group| !self.original.own_table.peer_groups.contains(&group))
        });
        wanted.sort_by_key(|wanted| wanted.mount_point.components().count());
        wanted
    }

    /// What is wrong at a place, if anything is.
    pub(super) fn fault(&self, wanted: &Wanted, unanswered: &BTreeSet<(u32, u32)>) -> Option<Fault> {
        let place = &wanted.mount_point;
        let stack = self.tree.stack(place);
        // Where the place is the root of the very mount that holds the allocation directory, that is what lies beneath.
        let above = stack.iter().rposition(|entry| {
            let is_holder = self.original.destination.starts_with(&entry.root) && !self.is_clone(entry);
            is_holder && entry.device == self.original.family.device
        });
        let stack = &stack[above.map_or(0, |above| above + 1)..];
        let is_right =
            |entry: &Entry| self.is_present(entry) && self.below(entry).is_some_and(|below| below == wanted.below);
        let refused = |why| Some(Fault::Refused(why));
        let Some((top, beneath)) = stack.split_last() else {
            if !self.is_clear(place) {
                return refused(Refused::WithinOther);
            }
            return Some(Fault::Absent { moved_to: self.moved_to(wanted) });
        };
        if is_right(top) {
            return None;
        }
        if !self.is_clear(place) {
            return refused(Refused::WithinOther);
        }
        if unanswered.contains(&top.device) {
            return refused(Refused::Unanswered);
        }
        let is_ours = |entry: &&Entry| is_right(entry) || self.is_dead(entry);
        // One that is covered cannot be asked whether it is dead; that it was there before says enough.
        let was_ours =
            |entry: &&Entry| is_ours(entry) || Some(entry.mount_id) == wanted.mount_id && self.is_suspect(entry);
        match is_ours(top) {
            // One left beneath on an older kernel: it has died before, or it would not have been mounted over.
            true if beneath.last().is_some_and(|entry| is_ours(entry) || self.is_suspect(entry)) => {
                Some(Fault::DeadAbove)
            }
            true => Some(Fault::Dead),
            false if beneath.iter().any(was_ours) => Some(Fault::Covered),
            false => refused(Refused::Foreign),
        }
    }

    fn moved_to(&self, wanted: &Wanted) -> Option<PathBuf> {
        let entry = self.tree.find(wanted.mount_id?)?;
        let is_there = wanted.moved_to.as_ref() == Some(&entry.mount_point) && self.is_clone(entry);
        (is_there && self.tree.is_on_top(entry)).then(|| entry.mount_point.clone())
    }

    fn root_mount(&self) -> Option<u64> {
        self.tree.way(Path::new("/")).first().map(|root| root.mount_id)
    }

    /// The clones that are right and on top.
    pub(super) fn places(&self, namespace: u64) -> Vec<Place> {
        let Some(root_mount) = self.root_mount() else { return Vec::new() };
        self.clones_on_top()
            .filter(|entry| self.is_present(entry))
            .filter_map(|entry| {
                Some(Place {
                    namespace,
                    root_mount,
                    mount_point: entry.mount_point.clone(),
                    below: self.below(entry)?,
                    flags: entry.flags,
                    mount_id: entry.mount_id,
                })
            })
            .collect()
    }

    /// What is to be taken away with the binding: its clones that are on top, and what has the binding's own place and
    /// was a clone of a former mount. Children before parents.
    pub(super) fn to_release(&self) -> Vec<&Entry> {
        let own = self.own_places();
        let mut found: Vec<&Entry> = self
            .tree
            .entries()
            .iter()
            .filter(|entry| {
                let was_clone = self.is_suspect(entry) && own.contains(&entry.mount_point);
                (was_clone || self.is_clone(entry)) && self.tree.is_on_top(entry)
            })
            .collect();
        found.sort_by_key(|entry| std::cmp::Reverse(entry.mount_point.components().count()));
        found
    }

    /// Whether it is of the file system that the binding is of now.
    pub(super) fn is_of_present(&self, entry: &Entry) -> bool {
        entry.device == self.original.present.device
    }

    fn clones_on_top(&self) -> impl Iterator<Item = &Entry> {
        self.tree.entries().iter().filter(|entry| self.is_clone(entry) && self.tree.is_on_top(entry))
    }
}

/// A root directory as it was before it was removed. No directory's path has an empty name in it, so the kernel's mark
/// cannot be one.
fn plain(root: &Path) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    let bytes = root.as_os_str().as_bytes();
    let kept = bytes.strip_suffix(DELETED.as_bytes()).and_then(|bytes| bytes.strip_suffix(b"/"));
    match kept {
        Some([]) => Path::new("/"),
        Some(kept) => Path::new(std::ffi::OsStr::from_bytes(kept)),
        None => root,
    }
}
