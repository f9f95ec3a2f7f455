//! Sources that lie on another one: attached after it, lost with it, and a reason to keep it.

use std::time::Instant;

use super::events::Timer;
use super::reconciler::Reconciler;
use super::source::State;
use crate::backend::{Attached, SourceKey};

impl Reconciler {
    /// A source as it is attached, where what lies on it can be used.
    pub(super) fn find_beneath(&self, beneath: &SourceKey) -> Option<Attached> {
        self.sources.get(beneath).filter(|source| source.is_usable())?.attached().cloned()
    }

    fn above(&self, key: &SourceKey) -> Vec<SourceKey> {
        let above = self.sources.iter().filter(|(_, source)| source.beneath.as_ref() == Some(key));
        above.map(|(above, _)| above.clone()).collect()
    }

    /// Whether a source that lies on it is there, or is wanted.
    pub(super) fn is_lain_on(&self, key: &SourceKey) -> bool {
        self.above(key).iter().any(|above| {
            let is_there = |state: &State| matches!(state, State::Attached(_) | State::Attaching | State::Detaching);
            self.sources.get(above).is_some_and(|source| is_there(&source.state)) || self.is_used(above)
        })
    }

    /// Whether a task was ever told that something of it is mounted, as far as the ledger knows.
    pub(super) fn was_promised(&self, key: &SourceKey) -> bool {
        self.entries.values().any(|entry| {
            entry
                .bindings
                .iter()
                .any(|(binding, live)| live.binding.source == *key && entry.identity(binding).is_some())
        })
    }

    /// What it lies on has to be attached first; it follows by itself.
    pub(super) fn wait_for_beneath(&mut self, key: &SourceKey, beneath: SourceKey) {
        self.attach(&beneath);
        let has_failed = |state: &State| matches!(state, State::Failed(..));
        if self.sources.get(&beneath).is_some_and(|source| has_failed(&source.state)) {
            self.fail_like(key, &beneath);
        }
    }

    /// A source is attached, or answers again: so is, then, what lies on it and is needed; and what was attached by
    /// another mount of it is looked at.
    pub(super) fn attach_above(&mut self, key: &SourceKey) {
        let Some(attached) = self.find_beneath(key) else { return };
        for above in self.above(key) {
            let Some(source) = self.sources.get_mut(&above) else { continue };
            if source.attached().is_some() {
                if source.place.beneath.as_ref().is_some_and(|by| by.identity != attached.identity) {
                    self.doubt_source(&above);
                }
                continue;
            }
            source.retry = source.retry.map(|_| Instant::now());
            if self.is_needed(&above) {
                self.attach(&above);
            } else {
                // It may wait to be let go.
                self.wake_source(&above);
            }
        }
    }

    /// A source could not be attached: nor could what lies on it.
    pub(super) fn fail_above(&mut self, key: &SourceKey) {
        for above in self.above(key) {
            let is_there = self.sources.get(&above).is_some_and(|source| source.attached().is_some());
            if !is_there && self.is_needed(&above) {
                self.fail_like(&above, key);
            }
        }
    }

    fn fail_like(&mut self, key: &SourceKey, beneath: &SourceKey) {
        let Some(below) = self.sources.get(beneath) else { return };
        let State::Failed(refusal, log) = &below.state else { return };
        let (refusal, log, is_temporary, retry) = (refusal.clone(), log.clone(), below.is_worth_waiting, below.retry);
        let Some(source) = self.sources.get_mut(key) else { return };
        source.fail(refusal, log, is_temporary);
        // Not before the one beneath is tried.
        source.retry = retry.or(source.retry);
        if let Some(at) = source.retry {
            self.set_timer(at, Timer::Source(key.clone()));
        }
        self.touch_users(key);
    }

    /// A source was lost: so was what lies on it. It is attached again once that one is.
    pub(super) fn lose_above(&mut self, key: &SourceKey, cause: &str) {
        for above in self.above(key) {
            let Some(source) = self.sources.get_mut(&above).filter(|source| source.attached().is_some()) else {
                continue;
            };
            let name = source.name();
            source.lose(&format!("the mount program of the backend that it is on had ended: {cause}"));
            source.set(State::Detached);
            // Its mount is there still, and is taken away where nobody needs it any more.
            source.is_recalled = true;
            tracing::error!(source = %above, backend = name, "what it lies on was lost, and so are its mounts");
            self.count_lost(&above);
            self.doubt_bindings(&above);
            self.linger(&above);
            self.touch_users(&above);
        }
    }
}
