//! What a guard leaves behind for its successor: who it was and what it guarded.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::opener::write_whole;
use crate::sys::process;

/// A guard's record in the run directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The same for all guards that handed their groups on.
    pub(super) lineage: String,
    /// Which guard of the lineage.
    pub(super) number: u64,
    /// The guard's process.
    pub(super) pid: i32,
    /// When that started, in clock ticks since boot.
    pub(super) start_time: u64,
    /// The groups that it guarded.
    pub(super) groups: BTreeSet<String>,
}

impl State {
    /// The state of a guard that begins. `taken` are the groups that it took over; None: it is nobody's successor.
    /// When a group is missing from them, marks were lost, and the lineage ends.
    pub(super) fn begin(previous: Option<&Self>, taken: Option<BTreeSet<String>>) -> io::Result<Self> {
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        let start_time = process::start_time(pid)?;
        // The number goes on in a new lineage too: it keeps descriptor numbers of successive guards apart.
        let number = previous.map_or(0, |previous| previous.number.wrapping_add(1));
        let heir = previous.zip(taken.as_ref()).filter(|(previous, taken)| previous.groups.is_subset(taken));
        let lineage = match heir {
            Some((previous, _)) => previous.lineage.clone(),
            None => new_lineage()?,
        };
        Ok(Self { lineage, number, pid, start_time, groups: taken.unwrap_or_default() })
    }

    /// The generation's name.
    pub(super) fn generation(&self) -> String {
        format!("{}-{}", self.lineage, self.number)
    }

    /// Reads the state that the guard before has left. None: none, or not readable, which is no heritage either.
    pub(super) fn read(run_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path(run_dir)).ok()?).ok()
    }

    /// Leaves the state for a successor.
    pub(super) fn write(&self, run_dir: &Path) -> io::Result<()> {
        write_whole(&path(run_dir), &serde_json::to_vec(self)?)
    }
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("guard.json")
}

fn new_lineage() -> io::Result<String> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(uuid.chars().filter(char::is_ascii_hexdigit).take(12).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(groups: &[&str]) -> State {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        State { lineage: "abc".into(), number: 4, pid: 1, start_time: 1, groups }
    }

    #[test]
    fn a_lineage_goes_on_only_when_no_group_was_lost() {
        let previous = state(&["a", "b"]);
        let all = state(&["a", "b"]).groups;
        assert_eq!(State::begin(Some(&previous), Some(all)).unwrap().generation(), "abc-5");
        let fewer = state(&["a"]).groups;
        assert_ne!(State::begin(Some(&previous), Some(fewer)).unwrap().lineage, "abc");
        assert_ne!(State::begin(Some(&previous), None).unwrap().lineage, "abc");
    }
}
