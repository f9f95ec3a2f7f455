//! What the guard counts of its decisions, for the agent's metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::question::Answer;
use super::wire::Decisions;
use crate::sys::fanotify::Verdict;

/// Counted by every reader and question, each without waiting for another.
#[derive(Debug, Default)]
pub(super) struct Counts {
    allowed: AtomicU64,
    denied: AtomicU64,
    detached: AtomicU64,
    in_use: AtomicU64,
    unknown: AtomicU64,
    unanswered: AtomicU64,
    unasked: AtomicU64,
}

impl Counts {
    /// An open was answered.
    pub(super) fn verdict(&self, verdict: Verdict) {
        let counter = match verdict {
            Verdict::Allow => &self.allowed,
            Verdict::Deny => &self.denied,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The agent has answered, or nobody.
    pub(super) fn answer(&self, answer: Option<Answer>) {
        let counter = match answer {
            Some(Answer::Detached) => &self.detached,
            Some(Answer::InUse) => &self.in_use,
            Some(Answer::Unknown) => &self.unknown,
            None => &self.unanswered,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Too many questions waited already.
    pub(super) fn unasked(&self) {
        self.unasked.fetch_add(1, Ordering::Relaxed);
    }

    /// How they stand.
    pub(super) fn read(&self) -> Decisions {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Decisions {
            allowed: read(&self.allowed),
            denied: read(&self.denied),
            answered_detached: read(&self.detached),
            answered_in_use: read(&self.in_use),
            answered_unknown: read(&self.unknown),
            unanswered: read(&self.unanswered),
            unasked: read(&self.unasked),
        }
    }
}
