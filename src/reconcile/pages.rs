//! The ledger's pages: written before a mount is made, completed after it, forgotten when it is gone.

use std::time::{Duration, Instant};

use super::binding::BindingKey;
use super::entry::Entry;
use super::events::{Done, Timer};
use super::ledger::LedgerError;
use super::live::StepError;
use super::plan::Recorded;
use super::reconciler::Reconciler;
use super::worker::Desk;
use crate::job::{Kind, Refusal};
use crate::metrics::LedgerOperation;
use crate::nomad::model::AllocId;

/// How long after a page could not be written it is tried again.
const WRITE_RETRY: Duration = Duration::from_secs(1);
/// How long after a page could not be removed it is tried again.
const REMOVE_RETRY: Duration = Duration::from_secs(10);

impl Reconciler {
    pub(super) fn intend(&mut self, alloc: &AllocId, keys: &[BindingKey]) {
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        if entry.withdrawn {
            return;
        }
        let fresh: Vec<BindingKey> = keys
            .iter()
            .filter(|key| entry.bindings.get(*key).is_some_and(|live| live.intent.is_none()))
            .cloned()
            .collect();
        // One change of a page at a time is on its way to the disk; what comes meanwhile goes with the next.
        if fresh.is_empty() || entry.saving {
            return;
        }
        let is_new = entry.page.is_none();
        entry.intend(&fresh);
        if !is_new {
            self.save(alloc);
            return;
        }
        entry.saving = true;
        let (Some(page), generation) = (entry.page.clone(), entry.generation) else { return };
        if let Some(bad) = self.recovery.unreadable(alloc) {
            let error = LedgerError::Unreadable(bad.path.clone());
            self.note_saved(alloc, generation, Err(error));
            return;
        }
        let (ledger, results, alloc) = (self.ledger.clone(), self.results.clone(), alloc.clone());
        let metrics = self.metrics.clone();
        self.submit(Desk::Ledger, move || {
            let write = metrics.begin_ledger_write(LedgerOperation::Intend);
            let saved = ledger.show(&page).and_then(|visible| {
                // The mounts are made while the disk works; the hook is answered when both are done.
                let _ = results.send(Done::Visible(alloc.clone(), generation));
                visible.make_durable()
            });
            write.end(&saved);
            Done::Saved(alloc, generation, saved)
        });
    }

    /// Writes the page as it is now, unless it is being written: then once more after that.
    pub(super) fn save(&mut self, alloc: &AllocId) {
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        let Some(page) = entry.page.clone().filter(|_| !entry.saving) else { return };
        entry.saving = true;
        entry.save_again = None;
        let generation = entry.generation;
        if self.recovery.unreadable(alloc).is_some() {
            self.save_in_memory(alloc, generation);
            return;
        }
        let (ledger, alloc) = (self.ledger.clone(), alloc.clone());
        let metrics = self.metrics.clone();
        self.submit(Desk::Ledger, move || {
            let write = metrics.begin_ledger_write(LedgerOperation::Replace);
            let saved = ledger.replace(&page);
            write.end(&saved);
            Done::Saved(alloc, generation, saved)
        });
    }

    pub(super) fn forget(&mut self, alloc: &AllocId) {
        let Some(entry) = self.entries.get_mut(alloc).filter(|entry| !entry.saving) else { return };
        entry.saving = true;
        if self.recovery.unreadable(alloc).is_some() {
            self.note_forgotten(alloc, Ok(()));
            return;
        }
        let (ledger, alloc) = (self.ledger.clone(), alloc.clone());
        let metrics = self.metrics.clone();
        self.submit(Desk::Ledger, move || {
            let write = metrics.begin_ledger_write(LedgerOperation::Forget);
            let forgotten = ledger.forget(&alloc);
            write.end(&forgotten);
            Done::Forgotten(alloc, forgotten)
        });
    }

    /// For an allocation whose page cannot be read and is kept: what was adopted of it is known by its mounts, which the
    /// next agent finds as this one did. Nothing new is mounted for it that only a page could tell of.
    fn save_in_memory(&mut self, alloc: &AllocId, generation: u64) {
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        let is_new = entry.bindings.iter().any(|(key, live)| {
            live.intent.is_some_and(|intent| intent > entry.visible) && !self.recovery.is_adopted(alloc, key)
        });
        let page = self.recovery.unreadable(alloc).map(|bad| bad.path.clone()).filter(|_| is_new);
        self.note_saved(alloc, generation, page.map_or(Ok(()), |page| Err(LedgerError::Unreadable(page))));
    }

    pub(super) fn note_visible(&mut self, alloc: &AllocId, generation: u64) {
        if let Some(entry) = self.entries.get_mut(alloc) {
            entry.visible = entry.visible.max(generation);
        }
        self.touch(alloc);
    }

    pub(super) fn note_saved(&mut self, alloc: &AllocId, generation: u64, saved: Result<(), LedgerError>) {
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        entry.saving = false;
        match saved {
            Ok(()) => {
                entry.visible = entry.visible.max(generation);
                entry.durable = entry.durable.max(generation);
                if entry.generation > generation {
                    self.save(alloc);
                }
                self.note_ledger_written();
                self.touch(alloc);
            }
            Err(error) => {
                let reason = super::error::whole(&error);
                let hint = match error {
                    LedgerError::Unreadable(_) => {
                        "move the file away when nothing of its allocation is mounted, or run the version that wrote it"
                    }
                    _ => "look at the disk of the agent's state_dir on this client",
                };
                entry.fail_unrecorded(&Refusal {
                    kind: Kind::Unavailable,
                    message: format!("nothing is mounted that could not be recorded: {reason}"),
                    hint: Some(hint.into()),
                });
                self.note_ledger_failed(alloc, &error);
                let Some(entry) = self.entries.get_mut(alloc) else { return };
                let at = Instant::now() + WRITE_RETRY;
                entry.save_again = Some(at);
                self.set_timer(at, Timer::Allocation(alloc.clone()));
                self.touch(alloc);
            }
        }
    }

    pub(super) fn note_forgotten(&mut self, alloc: &AllocId, forgotten: Result<(), LedgerError>) {
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        entry.saving = false;
        if let Err(error) = forgotten {
            tracing::error!(alloc = %alloc, reason = super::error::whole(&error), "a page of the ledger stays");
            self.set_timer(Instant::now() + REMOVE_RETRY, Timer::Allocation(alloc.clone()));
            return;
        }
        entry.page = None;
        (entry.generation, entry.visible, entry.durable) = (0, 0, 0);
        tracing::info!(alloc = %alloc, "its volumes are detached");
        self.touch(alloc);
    }
}

impl Entry {
    /// What could not be written is off the page again, and was never mounted.
    fn fail_unrecorded(&mut self, refusal: &Refusal) {
        let visible = self.visible;
        let failed: Vec<BindingKey> = self
            .bindings
            .values_mut()
            .filter(|live| live.intent.is_some_and(|intent| intent > visible))
            .map(|live| {
                live.intent = None;
                live.error =
                    Some(StepError { refusal: refusal.clone(), retry: None, times: 0, is_final: true, leaving: false });
                live.binding.key.clone()
            })
            .collect();
        if let Some(page) = &mut self.page {
            page.bindings.retain(|recorded| !failed.contains(&recorded.binding.key));
            if page.bindings.is_empty() {
                self.page = None;
            }
        }
        debug_assert!(self.bindings.values().all(|live| live.intent.is_some() || self.recorded(live) == Recorded::No));
    }
}
