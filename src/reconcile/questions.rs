//! The guard's questions: Nomad's agent stands at the door of a guarded mount. It is never let in; the question is only
//! whether the mount can be taken out of its way, so that what it is about to do ends clean.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::binding::BindingKey;
use super::events::Timer;
use super::execute::Force;
use super::plan::Wanted;
use super::reconciler::Reconciler;
use crate::guard::question::{Answer, Question};
use crate::nomad::model::AllocId;

/// How long Nomad's news is waited for: what the servers say of an allocation comes some hundred milliseconds after
/// Nomad's client has acted on it. Less than the guard itself waits.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A question that waits.
pub(super) struct Asked {
    alloc: AllocId,
    key: BindingKey,
    reply: oneshot::Sender<Answer>,
    /// The mount is being taken out of the way.
    detaching: bool,
}

impl Reconciler {
    pub(super) fn take_question(&mut self, question: Question, reply: oneshot::Sender<Answer>) {
        let Some((alloc, key)) = self.find_binding(&question) else {
            tracing::warn!(path = %question.path.display(), pid = question.pid, "Nomad opens a guarded directory that no record names; it is kept out");
            let _ = reply.send(Answer::Unknown);
            return;
        };
        tracing::info!(alloc = %alloc, task = key.task, destination = %key.destination.as_path().display(), pid = question.pid, "Nomad opens a volume's directory; it is kept out");
        self.next_question += 1;
        let number = self.next_question;
        self.asked.insert(number, Asked { alloc: alloc.clone(), key, reply, detaching: false });
        self.set_timer(Instant::now() + PATIENCE, Timer::Question(number));
        self.watch.refresh_now();
        self.touch(&alloc);
    }

    fn find_binding(&self, question: &Question) -> Option<(AllocId, BindingKey)> {
        let by_mount = |alloc: &AllocId| {
            let bindings = &self.entries.get(alloc)?.bindings;
            let found = bindings
                .iter()
                .find(|(_, live)| live.identity.is_some_and(|identity| identity.mount_id == question.mount_id));
            found.map(|(key, _)| (alloc.clone(), key.clone()))
        };
        // By the path first: it names the allocation. A record that was never observed has no mount id yet.
        let by_path = || {
            let within = question.path.strip_prefix(&self.host.as_ref()?.alloc_root).ok()?;
            let alloc = AllocId::parse(within.iter().next()?.to_str()?).ok()?;
            let bindings = &self.entries.get(&alloc)?.bindings;
            let key = bindings.keys().find(|key| {
                within.starts_with(Path::new(alloc.as_str()).join(&key.task).join(key.destination.as_path()))
            });
            key.map(|key| (alloc.clone(), key.clone()))
        };
        by_path().or_else(|| self.entries.keys().find_map(by_mount))
    }

    /// Whether nobody will use the binding any more. Nomad at the door is itself a sign, but not enough: an operator who
    /// lists the directory comes in by the same process.
    fn is_unused(&self, alloc: &AllocId, key: &BindingKey) -> bool {
        let Some(entry) = self.entries.get(alloc) else { return true };
        if entry.uses(key) {
            return false;
        }
        // Nomad's servers have forgotten it, and its client is at the directory.
        entry.missing || entry.wanted(key) == Wanted::Gone
    }

    /// Answers what can be answered for one allocation.
    pub(super) fn serve_questions(&mut self, alloc: &AllocId) {
        let numbers: Vec<u64> =
            self.asked.iter().filter(|(_, asked)| asked.alloc == *alloc).map(|(number, _)| *number).collect();
        for number in numbers {
            self.serve_question(number);
        }
    }

    /// The same for all, after Nomad's news.
    pub(super) fn serve_all_questions(&mut self) {
        let numbers: Vec<u64> = self.asked.keys().copied().collect();
        for number in numbers {
            self.serve_question(number);
        }
    }

    fn serve_question(&mut self, number: u64) {
        let Some(asked) = self.asked.get(&number) else { return };
        let (alloc, key, detaching) = (asked.alloc.clone(), asked.key.clone(), asked.detaching);
        let live = self.entries.get(&alloc).and_then(|entry| entry.bindings.get(&key));
        let Some(live) = live else {
            self.answer_question(number, Answer::Detached);
            return;
        };
        // A worker that is at it comes back with a result, and then this is asked again.
        if live.in_flight.is_some() && live.looking.is_none() || detaching || !self.is_unused(&alloc, &key) {
            return;
        }
        if let Some(asked) = self.asked.get_mut(&number) {
            asked.detaching = true;
        }
        self.start_unbinding(&alloc, &key, Force::AtOnce);
    }

    pub(super) fn give_up_question(&mut self, number: u64) {
        if let Some(asked) = self.asked.get(&number) {
            tracing::warn!(alloc = %asked.alloc, task = asked.key.task, destination = %asked.key.destination.as_path().display(), "Nomad is kept out of a volume that may still be used; what it leaves of the allocation's directory is swept later");
            self.answer_question(number, Answer::InUse);
        }
    }

    fn answer_question(&mut self, number: u64, answer: Answer) {
        if let Some(asked) = self.asked.remove(&number) {
            // A guard that waited too long has denied by itself.
            let _ = asked.reply.send(answer);
        }
    }
}
