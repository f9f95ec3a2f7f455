//! A volume that was attached is taken from tasks that run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{About, Outcome, Selection};
use crate::hcl::nearest;
use crate::job::{Kind, Refusal};
use crate::nomad::model::AllocId;
use crate::reconcile::binding::{Binding, BindingKey, Origin};
use crate::reconcile::error::whole;
use crate::reconcile::events::{Done, Timer};
use crate::reconcile::execute::{self, TakeOutError};
use crate::reconcile::live::{Live, StepError, TakenBack};
use crate::reconcile::plan::Observed;
use crate::reconcile::reconciler::Reconciler;
use crate::reconcile::worker::Desk;

/// The first wait before what could not be taken back is tried again; doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// The longest such wait.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

impl Reconciler {
    pub(super) fn begin_detaching(&mut self, alloc: &AllocId, selection: &Selection) -> Result<Vec<About>, Refusal> {
        let Some(entry) = self.entries.get_mut(alloc) else { return Ok(Vec::new()) };
        let is_named = |binding: &Binding| {
            binding.label == selection.volume || binding.key.destination.as_path().as_os_str() == &*selection.volume
        };
        let is_of_task = |task: &String| selection.tasks.is_empty() || selection.tasks.contains(task);
        let named: Vec<&Live> =
            entry.bindings.values().map(Box::as_ref).filter(|live| is_named(&live.binding)).collect();
        let meant: Vec<&Live> = named.iter().copied().filter(|live| is_of_task(&live.binding.key.task)).collect();
        if let Some(of_job) = meant.iter().find(|live| live.binding.origin == Origin::Job) {
            let message =
                format!("volume {} of task {} is the job's own", of_job.binding.label, of_job.binding.key.task);
            return Err(Refusal::configuration(message)
                .hint("take it out of the job and run that: a task that restarts without its volume would write to the local disk"));
        }
        if meant.is_empty() {
            let message = match named.first() {
                Some(live) => format!(
                    "volume {} is attached to task {}, and to none of those named",
                    live.binding.label, live.binding.key.task
                ),
                None => format!("allocation {} has no attached volume {:?}", alloc.short(), selection.volume),
            };
            let attached = entry.bindings.values().filter(|live| live.binding.origin == Origin::Operator);
            let labels: Vec<&str> = attached.map(|live| live.binding.label.as_str()).collect();
            let refusal = Refusal { kind: Kind::Unavailable, message, hint: None };
            return Err(match nearest(&selection.volume, labels.iter().copied()) {
                Some(near) => refusal.hint(format!("did you mean {near:?}?")),
                None if labels.is_empty() => refusal.hint("no volume was attached to it"),
                None => refusal.hint(format!("attached are {}", labels.join(", "))),
            });
        }
        let about: Vec<About> = meant
            .iter()
            .map(|live| About { key: live.binding.key.clone(), label: live.binding.label.clone(), already: true })
            .collect();
        for About { key, label, .. } in &about {
            tracing::info!(%alloc, task = key.task, volume = label, forced = selection.force, "an operator detaches a volume");
            if let Some(live) = entry.bindings.get_mut(key) {
                live.error = None;
                live.taken_back = Some(if selection.force { TakenBack::Forced } else { TakenBack::WhenUnused });
            }
        }
        Ok(about)
    }

    pub(super) fn is_detached(&self, alloc: &AllocId, about: &[About]) -> Outcome {
        let Some(entry) = self.entries.get(alloc) else { return Outcome::Done };
        let left: Vec<&Live> =
            about.iter().filter_map(|about| entry.bindings.get(&about.key)).map(Box::as_ref).collect();
        let failed = left.iter().filter(|live| live.in_flight.is_none()).find_map(|live| live.error.as_ref());
        match failed.filter(|error| error.leaving) {
            Some(error) => Outcome::Refused(error.refusal.clone()),
            // Another agent must not find it on the page either.
            None if left.is_empty() && !entry.saving && entry.save_again.is_none() && entry.is_page_written() => {
                Outcome::Done
            }
            None => Outcome::Waits,
        }
    }

    /// Takes away what is to go although its task runs. Where the task is over, it goes as any other.
    pub(super) fn serve_taken_back(&mut self, alloc: &AllocId) {
        let now = Instant::now();
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        let is_due = |live: &Live| {
            let is_free = live.in_flight.is_none() || live.looking.is_some();
            live.taken_back.is_some() && is_free && !live.is_held_back(true, now)
        };
        // What is on no page was never mounted.
        let is_nowhere = |live: &Live| is_due(live) && live.intent.is_none();
        let unused: Vec<_> =
            entry.bindings.values().filter(|live| is_nowhere(live)).map(|live| live.binding.source.clone()).collect();
        entry.bindings.retain(|_, live| !is_nowhere(live));
        let due: Vec<BindingKey> = entry
            .bindings
            .iter()
            .filter(|(key, live)| is_due(live) && entry.uses(key))
            .map(|(key, _)| key.clone())
            .collect();
        for source in unused {
            self.linger(&source);
        }
        for key in due {
            self.start_taking_out(alloc, &key);
        }
    }

    fn start_taking_out(&mut self, alloc: &AllocId, key: &BindingKey) {
        let Some(host) = self.host.clone() else { return };
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        let Some(leaving) = entry.begin_leaving(key) else { return };
        let Some(live) = entry.bindings.get_mut(key) else { return };
        let force = live.taken_back == Some(TakenBack::Forced);
        let called_off = Arc::<AtomicBool>::default();
        live.called_off = Some(Arc::clone(&called_off));
        self.submit(Desk::inside(&leaving.binding.source, &leaving.alloc), move || {
            // It may have waited for long, and whoever ordered it was told that it was not done.
            let taken = if called_off.load(Ordering::Relaxed) {
                Err(TakeOutError::CalledOff)
            } else {
                execute::take_out(&host, &leaving, force)
            };
            Done::TakenOut(leaving.alloc, leaving.binding.key, taken)
        });
    }

    pub(in crate::reconcile) fn note_taken_out(
        &mut self,
        alloc: &AllocId,
        key: &BindingKey,
        taken: Result<(), TakeOutError>,
    ) {
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        let Some(live) = entry.bindings.get_mut(key) else { return };
        live.in_flight = None;
        live.called_off = None;
        let (source, volume) = (live.binding.source.clone(), live.binding.volume.name.clone());
        match taken {
            // Whoever ordered it has been told that it stays: it is made anew.
            Ok(()) if live.taken_back.is_none() => live.observed = Observed::Missing,
            Err(TakeOutError::CalledOff) => live.doubt(),
            Ok(()) => {
                let forced = live.taken_back == Some(TakenBack::Forced);
                tracing::info!(%alloc, task = key.task, volume, forced, "detached from a task that runs");
                entry.strike(key);
                entry.bindings.remove(key);
                // Another of the same volume in that task may have lost a clone by it.
                for other in entry.bindings.values_mut().filter(|other| other.binding.key.task == key.task) {
                    other.health.is_looked_into = false;
                    other.health.retry = None;
                }
                if entry.page.as_ref().is_some_and(|page| !page.bindings.is_empty()) {
                    self.save(alloc);
                }
                self.linger(&source);
            }
            Err(error) => {
                let reason = whole(&error);
                tracing::warn!(%alloc, task = key.task, volume, %reason, "not detached");
                let times = live.error.as_ref().filter(|error| error.leaving).map_or(0, |error| error.times + 1);
                let at = Instant::now() + backoff(times);
                live.error = Some(StepError {
                    refusal: Refusal {
                        kind: Kind::TryAgain,
                        message: format!("volume {volume} stays in task {}: {reason}", key.task),
                        hint: Some(
                            "end what uses it, or take it away with --force: what is open then stays open".into(),
                        ),
                    },
                    retry: Some(at),
                    times,
                    is_final: false,
                    leaving: true,
                });
                self.set_timer(at, Timer::Allocation(alloc.clone()));
            }
        }
        self.touch(alloc);
    }
}

fn backoff(times: u32) -> Duration {
    (FIRST_RETRY * 2_u32.saturating_pow(times.min(10))).min(LONGEST_RETRY)
}
