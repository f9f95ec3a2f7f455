//! What the reconciler tells Prometheus: counted from its state when somebody asks, so that nothing is held for it.

use std::collections::BTreeMap;
use std::time::Instant;

use super::plan::{Observed, Wanted};
use super::reconciler::Reconciler;
use super::report::source_state;
use crate::api::types::MountReply;
use crate::backend::{self, SourceKey};
use crate::job::Refusal;
use crate::metrics::HookResult;
use crate::metrics::hook::Progress;
use crate::metrics::snapshot::{BindingKind, Snapshot, SourceNow};
use crate::nomad::model::AllocId;

impl Reconciler {
    /// How everything stands.
    pub(super) fn measure(&self) -> Snapshot {
        let mut bindings: BTreeMap<BindingKind, u64> = BTreeMap::new();
        for (entry, live) in
            self.entries.values().flat_map(|entry| entry.bindings.values().map(move |live| (entry, live)))
        {
            let kind = BindingKind {
                state: self.binding_state(entry, live).0,
                source: self.source_name(&live.binding.source),
                volume: live.binding.volume.name.clone(),
            };
            *bindings.entry(kind).or_default() += 1;
        }
        let sources = self.sources.values().map(|source| {
            self.metrics.know_source(&source.name());
            SourceNow {
                name: source.name(),
                kind: backend::of(&source.definition).kind(),
                state: source_state(source),
                pid: source.attached().and_then(|attached| attached.pid),
            }
        });
        Snapshot {
            nomad_connected: self.nomad.connected,
            nomad_heard: self.nomad.heard,
            pending_hooks: self.entries.values().map(|entry| entry.hooks.len()).sum(),
            allocations: self.entries.values().filter(|entry| !entry.bindings.is_empty()).count(),
            sources: sources.collect(),
            bindings,
        }
    }

    /// Counts the mounts of a source that is gone which running tasks had: what these had open through them is lost.
    pub(super) fn count_lost(&self, key: &SourceKey) {
        for entry in self.entries.values() {
            for (binding, live) in &entry.bindings {
                if live.binding.source == *key && live.identity.is_some() && entry.uses(binding) {
                    self.metrics.mount_lost(&self.source_name(key));
                }
            }
        }
    }

    /// Notes how far the hooks of an allocation are.
    pub(super) fn measure_hooks(&mut self, alloc: &AllocId) {
        let Some(entry) = self.entries.get_mut(alloc).filter(|entry| !entry.hooks.is_empty()) else { return };
        let wanted =
            || entry.bindings.iter().filter(|(key, _)| entry.wanted(key) == Wanted::Bound).map(|(_, live)| live);
        let mut progress = Progress {
            read: true,
            attached: wanted()
                .all(|live| self.sources.get(&live.binding.source).is_some_and(|source| source.attached().is_some())),
            recorded: wanted().all(|live| live.intent.is_some_and(|intent| intent <= entry.durable)),
            bound: wanted().all(|live| live.observed == Observed::Proper && live.in_flight.is_none()),
        };
        for hook in &mut entry.hooks {
            progress.read = hook.read;
            hook.times.note(progress);
        }
    }
}

/// How a hook with that deadline was answered.
pub(super) fn result(answer: &Result<MountReply, Refusal>, deadline: Instant) -> HookResult {
    match answer {
        Ok(_) => HookResult::Ready,
        Err(_) if deadline <= Instant::now() => HookResult::TimedOut,
        Err(_) => HookResult::Refused,
    }
}
