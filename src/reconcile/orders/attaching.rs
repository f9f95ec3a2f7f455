//! A volume is attached to tasks that run.

use super::{About, Outcome};
use crate::config::Backend;
use crate::job::{self, Kind, Placement, Refusal, Wish};
use crate::nomad::model::{AllocId, Task, TaskState};
use crate::reconcile::binding::{Binding, Origin};
use crate::reconcile::hooks::of_volume;
use crate::reconcile::live::Live;
use crate::reconcile::plan::{Observed, Wanted};
use crate::reconcile::reconciler::Reconciler;
use crate::reconcile::source::State;

impl Reconciler {
    /// None: it has to wait for Nomad, or for what is under way.
    pub(super) fn begin_attaching(&mut self, alloc: &AllocId, wish: &Wish) -> Result<Option<Vec<About>>, Refusal> {
        if let Some(obstacle) = &self.nomad.obstacle {
            return Err(Refusal { kind: Kind::Unavailable, message: obstacle.clone(), hint: None });
        }
        let Some(entry) = self.entries.get(alloc) else { return Ok(None) };
        let (Some(allocation), Some(node)) = (&entry.allocation, &self.nomad.node) else { return Ok(None) };
        let is_leaving = entry.bindings.values().any(|live| live.taken_back.is_some());
        let is_about_to_start = |name: &String| {
            let is_pending = |task: &Task| task.state == TaskState::Pending;
            allocation.task(name).is_some_and(is_pending) && !allocation.status.is_terminal()
        };
        if !entry.hooks.is_empty() || is_leaving || wish.tasks.iter().any(is_about_to_start) {
            return Ok(None);
        }
        if entry.withdrawn {
            let why = entry.refusal.as_ref().map(|refusal| format!(": {refusal}")).unwrap_or_default();
            return Err(Refusal::configuration(format!("the job's own volumes are not mounted{why}"))
                .hint("see `saddlebag explain`; attach when its prestart task has succeeded"));
        }
        let mut resolved = Vec::new();
        for request in job::read_wish(allocation, wish, node)? {
            match self.resolve(request, Origin::Operator) {
                Ok(found) => resolved.push(found),
                // Its definition is being changed: it is looked up once that is done.
                Err(refusal) if refusal.kind == Kind::TryAgain => return Ok(None),
                Err(refusal) => return Err(refusal),
            }
        }
        // What the job has not asked for yet, it may ask for at any time.
        let of_job = match job::likely_hook_task(allocation).filter(|_| allocation.asks_for_storage()) {
            Some(task) => self.read_job(allocation, Some(task), node).map(|(_, found)| found).unwrap_or_default(),
            None => Vec::new(),
        };
        let there: Vec<&Binding> = entry.bindings.values().map(|live| &live.binding).collect();
        for (binding, _) in &resolved {
            if there.iter().any(|other| is_same(other, binding)) {
                continue;
            }
            let others = there.iter().copied().chain(of_job.iter().map(|(other, _)| other));
            let clash = others.filter(|other| other.key.task == binding.key.task).find_map(|other| {
                let place = |of: &'_ Binding| (of.label.clone(), of.key.destination.clone());
                let ((one, at), (two, beside)) = (place(binding), place(other));
                job::clash(&binding.key.task, (&one, &at), (&two, &beside))
            });
            if let Some(sentence) = clash {
                return Err(Refusal::configuration(sentence).hint("choose another --destination, or --name"));
            }
        }
        Ok(Some(self.want_ordered(alloc, resolved)))
    }

    fn want_ordered(&mut self, alloc: &AllocId, resolved: Vec<(Binding, Backend)>) -> Vec<About> {
        let mut about = Vec::new();
        for (binding, definition) in resolved {
            self.attach_for(&binding, &definition);
            let Some(entry) = self.entries.get_mut(alloc) else { continue };
            let (key, label) = (binding.key.clone(), binding.label.clone());
            let already = entry.bindings.contains_key(&key);
            if !already {
                tracing::info!(%alloc, task = key.task, volume = binding.volume.name, destination = %key.destination.as_path().display(), "an operator attaches a volume");
                let mut live = Live::new(binding);
                // Nothing of this was ever on a page, so nothing of ours can be there.
                live.observed = Observed::Missing;
                entry.bindings.insert(key.clone(), Box::new(live));
            }
            about.push(About { key, label, already });
        }
        about
    }

    pub(super) fn is_attached(&self, alloc: &AllocId, about: &[About]) -> Outcome {
        let Some(entry) = self.entries.get(alloc) else { return Outcome::Waits };
        // Another agent must find it on the page as made, or it takes it back.
        let is_written = !entry.saving && entry.save_again.is_none() && entry.is_page_written();
        let mut outcome = if is_written { Outcome::Done } else { Outcome::Waits };
        for About { key, label, .. } in about {
            let Some(live) = entry.bindings.get(key) else {
                let message = format!("volume {label} was taken away again meanwhile");
                return Outcome::Refused(Refusal { kind: Kind::TryAgain, message, hint: None });
            };
            if entry.wanted(key) == Wanted::Gone {
                let message = format!("task {} of allocation {} is over", key.task, alloc.short());
                return Outcome::Refused(Refusal { kind: Kind::Unavailable, message, hint: None });
            }
            if let Some(refusal) = self.find_what_no_waiting_mends(live) {
                return Outcome::Refused(refusal);
            }
            let is_on_host = live.observed == Observed::Proper
                && live.in_flight.is_none()
                && live.intent.is_some_and(|intent| intent <= entry.durable);
            if !is_on_host || !is_inside(live) {
                outcome = Outcome::Waits;
            } else if live.binding.placement == Placement::Mount && live.health.places.is_empty() {
                return Outcome::Refused(unseen(live));
            }
        }
        outcome
    }

    fn find_what_no_waiting_mends(&self, live: &Live) -> Option<Refusal> {
        let (volume, key) = (&live.binding.volume.name, &live.binding.key);
        if live.observed == Observed::Foreign && live.in_flight.is_none() {
            let at = key.destination.as_path().display();
            let message = format!("volume {volume}: something else is mounted at {at} of task {}", key.task);
            return Some(Refusal::configuration(message).hint("choose another --destination"));
        }
        if let Some(error) = live.error.as_ref().filter(|error| error.is_final && !error.leaving) {
            return Some(error.refusal.clone());
        }
        if let Some(broken) = live.health.broken.as_ref().filter(|_| live.health.failures > 0) {
            let message = format!("volume {volume} is not mounted in task {}: {}", key.task, broken.cause);
            return Some(Refusal { kind: Kind::Unavailable, message, hint: None });
        }
        let source = self.sources.get(&live.binding.source)?;
        match &source.state {
            State::Failed(refusal, _) if !source.is_worth_waiting => Some(of_volume(live, refusal)),
            _ => None,
        }
    }
}

/// Whether an order would make nothing but what is there.
fn is_same(there: &Binding, ordered: &Binding) -> bool {
    let Binding { key, label, volume, source, placement, read_only, on_failure, origin: _ } = ordered;
    there.key == *key
        && there.label == *label
        && there.volume.path == volume.path
        && there.source == *source
        && there.placement == *placement
        && there.read_only == *read_only
        && there.on_failure == *on_failure
}

/// Whether its task's containers have been looked into since it is there.
fn is_inside(live: &Live) -> bool {
    live.binding.placement == Placement::Link || live.health.is_looked_into && live.health.broken.is_none()
}

pub(super) fn unseen(live: &Live) -> Refusal {
    let (volume, key) = (&live.binding.volume.name, &live.binding.key);
    let message =
        format!("volume {volume}: no container of task {} shows {}", key.task, key.destination.as_path().display());
    Refusal::configuration(message).hint("a container is shown local/ of its task: choose a --destination there")
}
