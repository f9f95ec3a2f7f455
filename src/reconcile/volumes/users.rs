//! Who uses a volume: every binding that is made, may be made, or is being taken away.

use super::*;

impl Reconciler {
    /// The tasks that a volume is bound for, or may be: by this agent's state, which holds all of the ledger.
    pub(super) fn find_users(&self, is_meant: impl Fn(&Binding) -> bool) -> Vec<UsedBy> {
        let mut users = Vec::new();
        for entry in self.entries.values() {
            let (namespace, job, _) = entry.names();
            let bindings = entry.bindings.values().map(|live| &live.binding).filter(|binding| is_meant(binding));
            users.extend(bindings.map(|binding| UsedBy {
                namespace: namespace.clone(),
                job: job.clone(),
                alloc: entry.id.to_string(),
                task: binding.key.task.clone(),
                read_only: binding.read_only,
            }));
        }
        users.sort();
        users.dedup();
        users
    }

    /// Refuses where a volume of that name is in use, and says by whom.
    pub(super) fn refuse_if_used(&self, name: &str, so: &str) -> Result<(), Refusal> {
        let users = self.find_users(|binding| binding.volume.name == name);
        refuse_users(&format!("volume {name:?} is in use"), so, &users)
    }

    /// Refuses to move the file of an image that is attached, or may be.
    pub(super) fn refuse_if_attached(&self, placed: &Placed) -> Result<(), Refusal> {
        let source = self.sources.get(&backend::key_of(&placed.backend));
        if source
            .is_none_or(|source| matches!(source.state, State::Detached | State::Failed(..)) && !source.is_recalled)
        {
            return Ok(());
        }
        let message = format!("volume {:?} is not deleted: its image is attached still", placed.volume.name);
        Err(refusal(Kind::TryAgain, message).hint("it is let go soon after its last task; see `saddlebag status`"))
    }

    /// Refuses to delete a directory that another volume has a part in, or somebody uses by another name.
    pub(super) fn refuse_if_shared(&self, placed: &Placed) -> Result<(), Refusal> {
        let name = &placed.volume.name;
        let here = Whereabouts::of(&placed.backend, &within_source(placed).path);
        let users = self.find_users(|binding| {
            // One of a source that is not known may be of anything.
            self.sources.get(&binding.source).is_none_or(|source| {
                let there = Whereabouts::of(&source.definition, &binding.volume.path);
                there.is_within(&here) || here.is_within(&there)
            })
        });
        refuse_users(&format!("the directory of volume {name:?} is in use"), "it cannot be deleted", &users)?;
        for defined in self.registry.defined().filter(|defined| defined.volume.name != *name) {
            let Some(other) = self.registry.place_file(&defined.volume) else { continue };
            if Whereabouts::of(&other.backend, &within_source(&other).path).is_within(&here) {
                let message = format!(
                    "volume {name:?} cannot be deleted: volume {:?} (defined at {}) lies in its directory",
                    defined.volume.name, defined.place
                );
                return Err(Refusal::configuration(message).hint("delete or deregister that one first"));
            }
        }
        match self.recovery.status().unreadable_pages.first() {
            Some(page) => {
                let message = format!(
                    "volume {name:?} is not deleted: who uses it is not known while {} cannot be read",
                    page.path
                );
                Err(refusal(Kind::Unavailable, message).hint("see `saddlebag status`"))
            }
            None => Ok(()),
        }
    }
}

fn refuse_users(what: &str, so: &str, users: &[UsedBy]) -> Result<(), Refusal> {
    let Some(first) = users.first() else { return Ok(()) };
    let UsedBy { job, alloc, task, .. } = first;
    let others = match users.len() {
        1 => String::new(),
        2 => " and one other".to_owned(),
        more => format!(" and {} others", more - 1),
    };
    let who = format!("task {task} of job {job} (allocation {}){others}", alloc.get(..8).unwrap_or(alloc));
    Err(refusal(Kind::TryAgain, format!("{what} by {who}: {so}"))
        .hint("stop the job, or detach what was attached by hand; `saddlebag volume status` names all who use it"))
}
