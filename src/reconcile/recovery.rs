//! What is mounted and on no page of the ledger: the ledger was lost, a page of it is torn or of a newer version, or
//! somebody else mounted it.
//!
//! Nothing of it is ever unmounted for that. It is handed to the guard at once, since a collection would empty it like
//! any other mount. When Nomad has named its allocation, it is compared with what the allocation's job asks for: where
//! the same directory of the same source is wanted at the same place, it is *adopted*, which means put on a page as if
//! it had just been made. What is left is *unexplained*: it stays, and `status` and `explain` name it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::binding::{Binding, BindingKey};
use super::entry::Entry;
use super::error::{BindError, whole};
use super::events::Done;
use super::execute::{self, Found};
use super::ledger::{BadPage, LedgerError};
use super::live::Live;
use super::plan::Observed;
use super::reconciler::Reconciler;
use super::worker::Desk;
use crate::api::types::{RecoveryStatus, Step, StepState, UnexplainedMount, UnreadablePage};
use crate::config;
use crate::job::Destination;
use crate::nomad::model::{AllocId, Allocation, Hook};
use crate::sys::identity::Identity;

/// What is known beside the ledger.
#[derive(Debug, Default)]
pub struct Recovery {
    unexplained: BTreeMap<PathBuf, Unexplained>,
    adopted: BTreeSet<(AllocId, BindingKey)>,
    unreadable: BTreeMap<PathBuf, BadPage>,
    /// Why the ledger could not be written when that was last tried.
    ledger_error: Option<String>,
    /// The mount table was read at least once.
    is_read: bool,
}

#[derive(Debug)]
struct Unexplained {
    mount: Found,
    why: String,
    is_compared: bool,
}

impl Recovery {
    /// What begins with these pages, which are left as they are.
    pub(super) fn new(bad: Vec<BadPage>) -> Self {
        for page in &bad {
            tracing::error!(page = %page.path.display(), reason = page.reason, "a page of the ledger cannot be read; it is left as it is, and what is mounted for it stays mounted");
        }
        let unreadable = bad.into_iter().map(|page| (page.path.clone(), page)).collect();
        Self { unreadable, ..Self::default() }
    }

    /// The page of that allocation that cannot be read: it is kept, so nothing can be recorded for the allocation.
    pub(super) fn unreadable(&self, alloc: &AllocId) -> Option<&BadPage> {
        self.unreadable.values().find(|page| page.path.file_stem().is_some_and(|stem| stem == alloc.as_str()))
    }

    /// While a mount is not explained it may be of any source.
    pub(super) fn holds_sources(&self) -> bool {
        !self.unexplained.is_empty()
    }

    /// Whether the mount table was read since the start.
    pub(super) fn is_read(&self) -> bool {
        self.is_read
    }

    /// Whether that binding was found in place and put on a page.
    pub(super) fn is_adopted(&self, alloc: &AllocId, key: &BindingKey) -> bool {
        !self.adopted.is_empty() && self.adopted.contains(&(alloc.clone(), key.clone()))
    }

    /// For `status`.
    pub(super) fn status(&self) -> RecoveryStatus {
        RecoveryStatus {
            unexplained: self.unexplained.values().map(Unexplained::status).collect(),
            unreadable_pages: self
                .unreadable
                .values()
                .map(|page| UnreadablePage { path: page.path.display().to_string(), reason: page.reason.clone() })
                .collect(),
            adopted: self.adopted.len(),
            ledger_error: self.ledger_error.clone(),
        }
    }

    /// For `explain`: what it has to say of one allocation.
    pub(super) fn steps(&self, alloc: &AllocId) -> Vec<Step> {
        let step = |name: String, state, detail| Step { name, state, detail, hint: None, log: Vec::new() };
        let page = self.unreadable(alloc).map(|page| {
            let detail = format!(
                "{} cannot be read ({}) and is left as it is: its mounts are known from the mount table",
                page.path.display(),
                page.reason
            );
            step("read the ledger's page".to_owned(), StepState::Done, detail)
        });
        let mounts = self.unexplained.values().filter(|found| found.mount.alloc == *alloc).map(|found| {
            let name = format!("explain the mount at {}", found.mount.path.display());
            step(name, StepState::Waiting, format!("it is left alone: {}", found.why))
        });
        page.into_iter().chain(mounts).collect()
    }

    /// An allocation that only a mount speaks of.
    pub(super) fn find_alloc(&self, prefix: &str) -> Option<AllocId> {
        let mut allocs = self.unexplained.values().map(|found| &found.mount.alloc);
        allocs.find(|alloc| alloc.as_str().starts_with(prefix)).cloned()
    }
}

impl Unexplained {
    fn status(&self) -> UnexplainedMount {
        UnexplainedMount {
            path: self.mount.path.display().to_string(),
            alloc: self.mount.alloc.to_string(),
            task: self.mount.task.clone(),
            fs_type: self.mount.fs_type.clone(),
            reason: self.why.clone(),
        }
    }
}

impl Reconciler {
    /// Reads the mount table, away from the loop, for mounts that nothing explains.
    pub(super) fn find_unexplained(&mut self) {
        let Some(host) = self.host.clone() else { return };
        let bindings = self.entries.values().flat_map(|entry| entry.bindings.values().map(|live| (&entry.id, live)));
        let known: BTreeSet<(AllocId, BindingKey)> =
            bindings.map(|(alloc, live)| (alloc.clone(), live.binding.key.clone())).collect();
        self.submit(Desk::Host, move || {
            let found = execute::find_mounts(&host, |alloc, task, below, _| {
                let key = BindingKey { task: task.to_owned(), destination: Destination(below.to_owned()) };
                known.contains(&(alloc.clone(), key))
            });
            Done::MountsFound(found)
        });
    }

    /// Whoever asks for the status once more is told what has become of its troubles: somebody may have unmounted what is
    /// not explained, or given the ledger's disk room.
    pub(super) fn look_at_troubles(&mut self) {
        if self.recovery.holds_sources() {
            self.find_unexplained();
        }
        if self.recovery.ledger_error.is_some() {
            let ledger = self.ledger.clone();
            self.submit(Desk::Ledger, move || Done::LedgerTried(ledger.try_to_write()));
        }
    }

    pub(super) fn note_ledger_tried(&mut self, tried: Result<(), LedgerError>) {
        match tried {
            Ok(()) => self.note_ledger_written(),
            Err(error) => self.recovery.ledger_error = Some(whole(&error)),
        }
    }

    /// A page was written.
    pub(super) fn note_ledger_written(&mut self) {
        if self.recovery.ledger_error.take().is_some() {
            tracing::info!("the ledger can be written again");
        }
    }

    /// A page could not be written. Said once: it is tried again every second.
    pub(super) fn note_ledger_failed(&mut self, alloc: &AllocId, error: &LedgerError) {
        let reason = whole(error);
        if matches!(error, LedgerError::Unreadable(_)) {
            tracing::error!(%alloc, reason, "nothing new can be recorded for this allocation");
            return;
        }
        if self.recovery.ledger_error.is_none() {
            tracing::error!(%alloc, reason, "the ledger cannot be written; what is mounted stays, and nothing new is mounted");
        }
        self.recovery.ledger_error = Some(reason);
    }

    pub(super) fn note_mounts_found(&mut self, found: std::io::Result<Vec<Found>>) {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "the mount table cannot be read: what is mounted and on no page of the ledger is not known");
                self.recovery.is_read = true;
                return;
            }
        };
        self.recovery.is_read = true;
        let mut before = std::mem::take(&mut self.recovery.unexplained);
        let mut fresh = Vec::new();
        for mount in found {
            if self.is_explained(&mount) {
                continue;
            }
            let known = before.remove(&mount.path).filter(|known| known.mount == mount);
            let unexplained = known.unwrap_or_else(|| {
                tracing::warn!(path = %mount.path.display(), fs_type = mount.fs_type, "a mount that no page of the ledger names: it is left alone and guarded");
                fresh.push(mount.clone());
                Unexplained { mount: mount.clone(), why: "Nomad has not named its allocation".into(), is_compared: false }
            });
            self.recovery.unexplained.insert(mount.path, unexplained);
        }
        self.guard_mounts(fresh);
        self.explain_mounts();
    }

    /// Whether a page speaks of an allocation that Nomad does not name, and that has no directory here: the page is
    /// another machine's, or its allocation is long gone. Nothing is attached, made or mounted for it, and nobody waits.
    pub(super) fn is_dormant(&self, entry: &Entry) -> bool {
        let Some(host) = &self.host else { return false };
        let is_unheard = entry.page.is_some() && entry.allocation.is_none() && !entry.collected;
        let directory = host.alloc_root.join(entry.id.as_str());
        is_unheard && directory.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    }

    /// By its place, or by its id where a task has moved it.
    fn is_explained(&self, mount: &Found) -> bool {
        let Some(entry) = self.entries.get(&mount.alloc) else { return false };
        let key = BindingKey { task: mount.task.clone(), destination: Destination(mount.below.clone()) };
        entry.bindings.keys().any(|known| {
            *known == key || entry.identity(known).is_some_and(|identity| identity.mount_id == mount.mount_id)
        })
    }

    fn guard_mounts(&mut self, mounts: Vec<Found>) {
        let Some(host) = self.host.clone() else { return };
        for mount in mounts {
            let host = host.clone();
            self.submit(Desk::Found(mount.device.0, mount.device.1), move || {
                if let Err(error) = execute::guard_found(&host, &mount) {
                    tracing::error!(path = %mount.path.display(), %error, "a mount that no page names is not in the guard's care yet");
                }
                Done::Nothing
            });
        }
    }

    /// Hands every unexplained mount to another guard.
    pub(super) fn guard_unexplained_anew(&mut self) {
        let mounts = self.recovery.unexplained.values().map(|found| found.mount.clone()).collect();
        self.guard_mounts(mounts);
    }

    /// Compares what is not explained with what the jobs ask for, as far as Nomad has named them and their sources are
    /// there.
    pub(super) fn explain_mounts(&mut self) {
        if self.recovery.unexplained.is_empty() {
            return;
        }
        let paths: Vec<PathBuf> = self.recovery.unexplained.keys().cloned().collect();
        for path in paths {
            let Some(found) = self.recovery.unexplained.get(&path).filter(|found| !found.is_compared) else { continue };
            let mount = found.mount.clone();
            let why = match self.wanted_at(&mount) {
                Err(why) => why,
                Ok((task, binding, definition)) => {
                    self.ensure_source(&binding.source, &definition);
                    self.compare(&mount, task, binding)
                }
            };
            if let Some(found) = self.recovery.unexplained.get_mut(&path) {
                found.why = why;
            }
        }
    }

    /// What the job of a mount's allocation asks for at its place, and the task that asked.
    fn wanted_at(&self, mount: &Found) -> Result<(String, Binding, config::Backend), String> {
        let entry = self.entries.get(&mount.alloc);
        let Some(allocation) = entry.and_then(|entry| entry.allocation.as_ref()) else {
            let named = self.nomad.connected && self.nomad.node.is_some();
            return Err(if named {
                "Nomad names no such allocation among this node's that ask for storage".to_owned()
            } else {
                "Nomad has not named its allocation yet".to_owned()
            });
        };
        let Some(node) = &self.nomad.node else { return Err("Nomad has not been heard yet".to_owned()) };
        let mut refusal = None;
        for task in hook_tasks(allocation) {
            let bindings = match self.read_job(allocation, Some(&task), node) {
                Ok((_, bindings)) => bindings,
                Err(error) => {
                    refusal = Some(format!("its job cannot be read: {}", error.message));
                    continue;
                }
            };
            let here = |binding: &Binding| {
                binding.key.task == mount.task
                    && binding.key.destination.as_path() == mount.below
                    && binding.placement == mount.placement
            };
            if let Some((binding, definition)) = bindings.into_iter().find(|(binding, _)| here(binding)) {
                return Ok((task, binding, definition));
            }
        }
        Err(refusal.unwrap_or_else(|| "its job asks for nothing there".to_owned()))
    }

    /// Has the source's worker compare it; says what is waited for.
    fn compare(&mut self, mount: &Found, task: String, binding: Binding) -> String {
        let Some(host) = self.host.clone() else { return "Nomad has not been heard yet".to_owned() };
        let Some(source) = self.sources.get(&binding.source).and_then(|source| source.attached()).cloned() else {
            let name = self.source_name(&binding.source);
            self.attach(&binding.source);
            return format!("backend {name}, which it may be of, is not attached yet");
        };
        if let Some(found) = self.recovery.unexplained.get_mut(&mount.path) {
            found.is_compared = true;
        }
        let (path, alloc) = (mount.path.clone(), mount.alloc.clone());
        self.submit(Desk::Source(binding.source.clone()), move || {
            // Nothing is recorded that could make a dead mount ours: only what is right now is taken over.
            let seen = execute::observe(&host, &alloc, &binding, &source, None);
            Done::Compared(path, task, Box::new(binding), seen)
        });
        "it is being compared with what its job asks for".to_owned()
    }

    pub(super) fn note_compared(
        &mut self,
        path: &PathBuf,
        task: String,
        binding: Binding,
        seen: Result<(Observed, Option<Identity>), BindError>,
    ) {
        let Some(found) = self.recovery.unexplained.get_mut(path) else { return };
        found.is_compared = false;
        let mount = found.mount.clone();
        match seen {
            Ok((Observed::Proper, Some(identity))) if identity.mount_id == mount.mount_id => {
                self.recovery.unexplained.remove(path);
                self.adopt(&mount, task, binding, identity);
            }
            Ok(_) => found.why = "another directory is mounted there than its job asks for".to_owned(),
            Err(error) => found.why = format!("it cannot be compared with what its job asks for: {}", whole(&error)),
        }
    }

    fn adopt(&mut self, mount: &Found, task: String, binding: Binding, identity: Identity) {
        let alloc = mount.alloc.clone();
        let Some(entry) = self.entries.get_mut(&alloc).filter(|entry| !entry.bindings.contains_key(&binding.key))
        else {
            return;
        };
        tracing::warn!(%alloc, task = binding.key.task, volume = binding.volume.name, path = %mount.path.display(), "adopted: a mount that no page named is what its job asks for");
        self.recovery.adopted.insert((alloc.clone(), binding.key.clone()));
        entry.adopt(task, binding, identity);
        self.save(&alloc);
        self.touch(&alloc);
    }
}

impl Entry {
    /// Takes over a mount that is there and proved: on the page as if it had just been made, for a task that was told
    /// so by an agent that is gone.
    fn adopt(&mut self, hook_task: String, binding: Binding, identity: Identity) {
        let key = binding.key.clone();
        let mut live = Live::new(binding);
        live.observed = Observed::Proper;
        live.identity = Some(identity);
        live.promised = true;
        live.already = true;
        self.bindings.insert(key.clone(), Box::new(live));
        self.hook_task.get_or_insert(hook_task);
        self.intend(std::slice::from_ref(&key));
        self.complete(&key);
    }
}

/// The tasks that may have asked: those that ran before the main tasks, first the one that most likely did.
fn hook_tasks(allocation: &Allocation) -> Vec<String> {
    let likely = crate::job::likely_hook_task(allocation).map(str::to_owned);
    let prestart = allocation.tasks.iter().filter(|task| task.hook == Hook::Prestart && task.started);
    let others = prestart.map(|task| task.name.clone()).filter(|name| Some(name) != likely.as_ref());
    likely.iter().cloned().chain(others).collect()
}
