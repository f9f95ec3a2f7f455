//! Which words apply to which task: Nomad's merge of job, group and task meta, for the `storage_*` keys.

use std::collections::BTreeMap;

use super::Refusal;
use crate::hcl::nearest;
use crate::nomad::model::{Allocation, Task};

/// Storage words of this many bytes or more are not read.
pub(super) const TOO_MANY_BYTES: usize = 64 * 1024;

/// Every key that there is.
pub(super) const KEYS: [&str; 4] = ["storage_volume", "storage_destination", "storage_read_only", "storage_tasks"];

const PREFIX: &str = "storage_";

/// The words that apply together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// `storage_volume`
    pub volume: Option<String>,
    /// `storage_destination`
    pub destination: Option<String>,
    /// `storage_read_only`
    pub read_only: Option<String>,
    /// `storage_tasks`
    pub tasks: Option<String>,
}

impl Words {
    fn of(meta: &BTreeMap<String, String>) -> Self {
        let word = |key: &str| meta.get(key).cloned();
        Self {
            volume: word("storage_volume"),
            destination: word("storage_destination"),
            read_only: word("storage_read_only"),
            tasks: word("storage_tasks"),
        }
    }

    /// Whether nothing at all is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The first key that is set and says something of one volume only.
    pub fn key_for_one(&self) -> Option<&'static str> {
        let set = [&self.destination, &self.read_only, &self.tasks];
        set.iter()
            .zip(["storage_destination", "storage_read_only", "storage_tasks"])
            .find_map(|(word, key)| if word.is_some() { Some(key) } else { None })
    }
}

/// Whether a task has storage words of its own, which then replace what job and group say key by key.
pub(super) fn has_own_words(task: &Task) -> bool {
    task.meta.keys().any(|key| key.starts_with(PREFIX))
}

/// A task's meta as Nomad merges it: task over group over job.
pub(super) fn merge(allocation: &Allocation, task: &Task) -> BTreeMap<String, String> {
    let mut merged = allocation.job_meta.clone();
    merged.extend(allocation.group_meta.clone());
    merged.extend(task.meta.clone());
    merged
}

/// The words for the tasks that have none of their own: as the task that calls the hook would see them.
pub(super) fn base(allocation: &Allocation, hook: &Task) -> Words {
    Words::of(&merge(allocation, hook))
}

/// The words of a task that has words of its own.
///
/// `storage_tasks` of the job or group says who gets what the job or group says, so it is not inherited here.
pub(super) fn own(allocation: &Allocation, task: &Task) -> Words {
    Words { tasks: task.meta.get("storage_tasks").cloned(), ..Words::of(&merge(allocation, task)) }
}

/// Refuses keys that do not exist and words beyond all measure.
pub(super) fn check(allocation: &Allocation) -> Result<(), Refusal> {
    let job = std::iter::once((&allocation.job_meta, format!("job {:?}", allocation.job_id)));
    let group = std::iter::once((&allocation.group_meta, format!("group {:?}", allocation.group)));
    let tasks = allocation.tasks.iter().map(|task| (&task.meta, format!("task {:?}", task.name)));
    let mut bytes = 0;
    for (meta, place) in job.chain(group).chain(tasks) {
        for (key, value) in meta.iter().filter(|(key, _)| key.starts_with(PREFIX)) {
            bytes += value.len();
            if KEYS.contains(&key.as_str()) {
                continue;
            }
            let key: String = key.chars().take(100).collect();
            let refusal = Refusal::configuration(format!("unknown key {key:?} in the meta of {place}"));
            return Err(match nearest(&key, KEYS) {
                Some(near) => refusal.hint(format!("did you mean {near:?}?")),
                None => refusal.hint(format!("the keys are {}", KEYS.join(", "))),
            });
        }
    }
    if bytes >= TOO_MANY_BYTES {
        let message =
            format!("the storage words of this job have {bytes} bytes, and fewer than {TOO_MANY_BYTES} are read");
        return Err(Refusal::configuration(message).hint("say it shorter"));
    }
    Ok(())
}
