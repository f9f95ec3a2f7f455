//! What of a mount table is visible: mounts lie on mounts, and a path leads over those that are on top.

use std::collections::BTreeMap;
use std::path::Path;

use super::table::Entry;

/// The mounts of one mount namespace, as seen from its root.
#[derive(Debug, Clone)]
pub struct Tree {
    entries: Vec<Entry>,
    root: Option<usize>,
    children: BTreeMap<u64, Vec<usize>>,
}

impl Tree {
    /// Of a table that was read in one go.
    pub fn new(entries: Vec<Entry>) -> Self {
        let mut children: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (index, entry) in entries.iter().enumerate() {
            if entry.parent != entry.mount_id {
                children.entry(entry.parent).or_default().push(index);
            }
        }
        let ids: std::collections::BTreeSet<u64> = entries.iter().map(|entry| entry.mount_id).collect();
        let is_root = |entry: &Entry| entry.parent == entry.mount_id || !ids.contains(&entry.parent);
        let root = entries.iter().position(|entry| entry.mount_point == Path::new("/") && is_root(entry));
        Self { entries, root, children }
    }

    /// All mounts, hidden ones too.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The mount with that reusable id.
    pub fn find(&self, mount_id: u64) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.mount_id == mount_id)
    }

    /// The mounts that one comes to on the way to `path`, which holds no symlinks, from the root on: the last one is
    /// what is visible there.
    pub fn way(&self, path: &Path) -> Vec<&Entry> {
        let mut way = Vec::new();
        let mut next = self.root;
        while let Some(entry) = next.and_then(|index| self.entries.get(index)) {
            way.push(entry);
            // Of the mounts on this one that lie on the way, the first that one comes to.
            let on_it = self.children.get(&entry.mount_id).into_iter().flatten().copied();
            let on_the_way = on_it
                .filter(|child| self.entries.get(*child).is_some_and(|child| path.starts_with(&child.mount_point)));
            next = on_the_way
                .min_by_key(|child| self.entries.get(*child).map(|child| child.mount_point.as_os_str().len()));
            if way.len() > self.entries.len() {
                break;
            }
        }
        way
    }

    /// The mounts at the very `path`, the lowest first; only the last one is visible. None: `path` is a plain directory
    /// of another mount.
    pub fn stack(&self, path: &Path) -> Vec<&Entry> {
        self.way(path).into_iter().filter(|entry| entry.mount_point == path).collect()
    }

    /// The mount that holds the directory beneath what is mounted at `path`.
    pub fn beneath(&self, path: &Path) -> Option<&Entry> {
        self.way(path).into_iter().rfind(|entry| entry.mount_point != path)
    }

    /// Whether this is what one sees at its mount point.
    pub fn is_on_top(&self, entry: &Entry) -> bool {
        self.way(&entry.mount_point).last().is_some_and(|top| top.mount_id == entry.mount_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::table::parse;

    fn tree(mounts: &[(u64, u64, &str)]) -> Tree {
        let lines: Vec<String> =
            mounts.iter().map(|(id, parent, point)| format!("{id} {parent} 0:{id} / {point} rw - t s rw")).collect();
        Tree::new(parse(lines.join("\n").as_bytes()).unwrap())
    }

    fn ids(mounts: &[&Entry]) -> Vec<u64> {
        mounts.iter().map(|entry| entry.mount_id).collect()
    }

    #[test]
    fn the_way_leads_over_what_is_on_top() {
        let tree = tree(&[(1, 9, "/"), (2, 1, "/a"), (3, 2, "/a"), (4, 3, "/a/b"), (5, 2, "/a/b"), (6, 1, "/ab")]);
        assert_eq!(ids(&tree.way(Path::new("/a/b/c"))), [1, 2, 3, 4]);
        assert_eq!(ids(&tree.stack(Path::new("/a"))), [2, 3]);
        assert_eq!(tree.beneath(Path::new("/a")).unwrap().mount_id, 1);
        assert_eq!(tree.beneath(Path::new("/a/b")).unwrap().mount_id, 3);
        assert!(tree.is_on_top(tree.find(4).unwrap()));
        for hidden in [2, 5] {
            assert!(!tree.is_on_top(tree.find(hidden).unwrap()));
        }
        assert!(tree.stack(Path::new("/a/c")).is_empty());
    }

    #[test]
    fn a_mount_above_hides_what_lies_below() {
        let tree = tree(&[(1, 1, "/"), (2, 1, "/a/b"), (3, 1, "/a")]);
        assert_eq!(ids(&tree.way(Path::new("/a/b"))), [1, 3]);
        assert!(!tree.is_on_top(tree.find(2).unwrap()));
    }
}
