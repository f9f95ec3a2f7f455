//! Hooks: `saddlebag mount` asks, the job's words are read, and it is answered when all is proved.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::binding::{Binding, BindingKey, Origin};
use super::entry::{BELIEVED_AFTER, Entry, WaitingHook};
use super::events::Timer;
use super::live::Live;
use super::plan::{Observed, Wanted};
use super::probes::SUSPICIOUS_AFTER;
use super::reconciler::Reconciler;
use super::source::State;
use crate::api::types::{MountReply, Mounted};
use crate::backend;
use crate::job::{self, Kind, Refusal, Request};
use crate::metrics::hook::Times;
use crate::nomad::model::{AllocId, Allocation};

/// So many hooks of one allocation may wait at a time; its tasks can ask as often as they like.
const MOST_HOOKS: usize = 16;

impl Reconciler {
    pub(super) fn take_hook(
        &mut self,
        alloc: AllocId,
        task: Option<String>,
        reply: oneshot::Sender<Result<MountReply, Refusal>>,
    ) {
        let deadline = Instant::now() + self.config.hook_timeout;
        let entry = self.entries.entry(alloc.clone()).or_insert_with(|| Entry::boxed(alloc.clone()));
        if entry.hooks.len() >= MOST_HOOKS {
            let _ = reply.send(Err(Refusal {
                kind: Kind::TryAgain,
                message: format!("{MOST_HOOKS} calls of allocation {} wait already", alloc.short()),
                hint: None,
            }));
            return;
        }
        tracing::info!(alloc = %alloc, task = task.as_deref().unwrap_or("?"), "a task asks for its volumes");
        let asked = Instant::now();
        entry.hooks.push(WaitingHook { task, asked, deadline, read: false, times: Times::begin(), reply });
        // Nomad's client may start a task before our listing names its allocation; or start one again that it calls dead.
        if entry.allocation.is_none() || entry.bindings.keys().any(|key| entry.wanted(key) == Wanted::Gone) {
            self.watch.refresh_now();
            self.set_timer(asked + BELIEVED_AFTER, Timer::Allocation(alloc.clone()));
        }
        self.set_timer(asked + SUSPICIOUS_AFTER, Timer::Awaited(alloc.clone()));
        self.set_timer(deadline, Timer::Allocation(alloc.clone()));
        self.touch(&alloc);
    }

    /// Reads the job for hooks that have not been, and answers those that can be.
    pub(super) fn serve_hooks(&mut self, alloc: &AllocId) {
        self.read_for_hooks(alloc);
        self.measure_hooks(alloc);
        let now = Instant::now();
        let Some(entry) = self.entries.get(alloc) else { return };
        if entry.hooks.is_empty() {
            return;
        }
        let is_read = entry.hooks.iter().all(|hook| hook.read);
        let is_too_early = entry.is_too_early();
        if is_read && !is_too_early && entry.is_ready() {
            let reply = ready(entry);
            if let Some(entry) = self.entries.get_mut(alloc) {
                for live in entry.bindings.values_mut() {
                    live.promised |= live.observed == Observed::Proper;
                }
            }
            self.answer_hooks(alloc, |_| true, &Ok(reply));
            return;
        }
        if let Some(refusal) = self.find_final_refusal(alloc).filter(|_| !is_too_early) {
            self.refuse(alloc, &refusal);
            return;
        }
        if entry.hooks.iter().any(|hook| hook.deadline <= now) {
            let refusal = self.say_why_not_yet(alloc);
            tracing::warn!(alloc = %alloc, reason = %refusal, "the volumes were not there in time");
            if let Some(entry) = self.entries.get_mut(alloc) {
                entry.refusal = Some(refusal.clone());
                entry.withdrawn = entry.hooks.iter().all(|hook| hook.deadline <= now);
            }
            self.answer_hooks(alloc, |hook| hook.deadline <= now, &Err(refusal));
            self.touch(alloc);
        }
    }

    /// Each task that asks has its own words read: two may ask before either is answered.
    fn read_for_hooks(&mut self, alloc: &AllocId) {
        while let Some(entry) = self.entries.get(alloc) {
            let Some(asking) = entry.hooks.iter().find(|hook| !hook.read) else { return };
            let (Some(allocation), Some(node)) = (&entry.allocation, &self.nomad.node) else { return };
            let asking = asking.task.clone();
            match self.read_job(allocation, asking.as_deref(), node) {
                Ok((task, bindings)) => self.want(alloc, asking.as_deref(), task, bindings),
                // A definition that it needs is being changed: it is read once that is done.
                Err(refusal) if refusal.kind == Kind::TryAgain => return,
                Err(refusal) => {
                    self.refuse(alloc, &refusal);
                    return;
                }
            }
        }
    }

    /// What a job asks for, resolved: the task that asks, and its bindings. Pure.
    pub(super) fn read_job(
        &self,
        allocation: &Allocation,
        task: Option<&str>,
        node: &crate::nomad::model::Node,
    ) -> Result<(String, Vec<(Binding, crate::config::Backend)>), Refusal> {
        if let Some(obstacle) = &self.nomad.obstacle {
            return Err(Refusal { kind: Kind::Unavailable, message: obstacle.clone(), hint: None });
        }
        let task = task.or_else(|| job::likely_hook_task(allocation)).ok_or_else(|| Refusal {
            kind: Kind::Usage,
            message: "the call does not say which task it comes from, and the group has not exactly one prestart task"
                .into(),
            hint: Some("send {\"task\": \"<the task's name>\"} in the body".into()),
        })?;
        let requests = job::read(allocation, task, node)?;
        let mut bindings = Vec::with_capacity(requests.len());
        for request in requests {
            bindings.push(self.resolve(request, Origin::Job)?);
        }
        Ok((task.to_owned(), bindings))
    }

    /// The binding that a request becomes. Pure.
    pub(super) fn resolve(
        &self,
        request: Request,
        origin: Origin,
    ) -> Result<(Binding, crate::config::Backend), Refusal> {
        let placed = self.registry.resolve(&request.source)?;
        let mut volume = placed.volume;
        volume.path = backend::of(&placed.backend).volumes_below().join(&volume.path);
        let binding = Binding {
            key: BindingKey { task: request.task, destination: request.destination },
            label: request.label,
            source: backend::key_of(&placed.backend),
            placement: request.placement,
            read_only: request.read_only || volume.read_only,
            on_failure: request.on_failure,
            origin,
            volume,
        };
        Ok((binding, placed.backend))
    }

    /// Has a binding's source attached as soon as it goes: somebody may have mended it since its last failure, and who
    /// asks is worth a try at once.
    pub(super) fn attach_for(&mut self, binding: &Binding, definition: &crate::config::Backend) {
        self.ensure_source(&binding.source, definition);
        if let Some(source) = self.sources.get_mut(&binding.source) {
            source.retry = source.retry.map(|_| Instant::now());
        }
        self.attach(&binding.source);
    }

    fn want(
        &mut self,
        alloc: &AllocId,
        asking: Option<&str>,
        task: String,
        bindings: Vec<(Binding, crate::config::Backend)>,
    ) {
        for (binding, definition) in &bindings {
            self.attach_for(binding, definition);
        }
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        entry.withdrawn = false;
        entry.refusal = None;
        entry.hook_task = Some(task);
        let is_first = entry.hooks.iter().all(|hook| !hook.read);
        for hook in entry.hooks.iter_mut().filter(|hook| hook.task.as_deref() == asking) {
            hook.read = true;
        }
        // What an earlier call asked for and never got is not asked for any more, unless it is again.
        let is_begun = |live: &Live| live.intent.is_some() || live.in_flight.is_some();
        entry.bindings.retain(|_, live| !is_first || is_begun(live) || live.binding.origin == Origin::Operator);
        for (binding, _) in bindings {
            match entry.bindings.get_mut(&binding.key) {
                Some(live) => {
                    // Asked for once more: what is there is looked at again, and an old failure is forgotten.
                    live.error = None;
                    live.already = live.observed == Observed::Proper;
                    if live.in_flight.is_none() {
                        live.observed = Observed::Unseen;
                    }
                }
                None => {
                    let mut live = Live::new(binding.clone());
                    // Nothing of this was ever on a page, so nothing of ours can be there.
                    live.observed = Observed::Missing;
                    entry.bindings.insert(binding.key, Box::new(live));
                }
            }
        }
    }

    /// Answers every waiting hook with a refusal, and takes back what was begun for it.
    fn refuse(&mut self, alloc: &AllocId, refusal: &Refusal) {
        tracing::warn!(alloc = %alloc, reason = %refusal, "refused");
        if let Some(entry) = self.entries.get_mut(alloc) {
            entry.refusal = Some(refusal.clone());
            entry.withdrawn = true;
        }
        self.answer_hooks(alloc, |_| true, &Err(refusal.clone()));
        self.touch(alloc);
    }

    fn answer_hooks(
        &mut self,
        alloc: &AllocId,
        which: impl Fn(&WaitingHook) -> bool,
        answer: &Result<MountReply, Refusal>,
    ) {
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        let (answered, waiting) = std::mem::take(&mut entry.hooks).into_iter().partition(which);
        entry.hooks = waiting;
        for hook in answered {
            hook.times.tell(&self.metrics, super::measure::result(answer, hook.deadline));
            // A caller that went away has nothing to be told.
            let _ = hook.reply.send(answer.clone());
        }
        if let Ok(reply) = answer {
            tracing::info!(alloc = %alloc, volumes = reply.bindings.len(), "the volumes are mounted and proved");
        }
    }

    /// A failure that no waiting mends.
    fn find_final_refusal(&self, alloc: &AllocId) -> Option<Refusal> {
        let entry = self.entries.get(alloc)?;
        if entry.hooks.iter().any(|hook| !hook.read) {
            return None;
        }
        if entry.bindings.keys().all(|key| entry.wanted(key) == Wanted::Gone) {
            return Some(Refusal {
                kind: Kind::Unavailable,
                message: format!("allocation {} is over: none of its tasks will start any more", alloc.short()),
                hint: None,
            });
        }
        entry.bindings.values().find_map(|live| {
            if live.observed == Observed::Foreign && live.in_flight.is_none() {
                return Some(Refusal {
                    kind: Kind::Configuration,
                    message: format!(
                        "volume {}: something else is mounted at {} of task {}",
                        live.binding.volume.name,
                        live.binding.key.destination.as_path().display(),
                        live.binding.key.task
                    ),
                    hint: Some("unmount it on the client, or choose another storage_destination".into()),
                });
            }
            let failed = live.error.as_ref().filter(|error| error.is_final && !error.leaving);
            failed.map(|error| error.refusal.clone()).or_else(|| {
                let source = self.sources.get(&live.binding.source)?;
                match &source.state {
                    State::Failed(refusal, _) if !source.is_worth_waiting => Some(of_volume(live, refusal)),
                    _ => None,
                }
            })
        })
    }

    fn say_why_not_yet(&self, alloc: &AllocId) -> Refusal {
        let waited = humantime::format_duration(Duration::from_secs(self.config.hook_timeout.as_secs()));
        let Some(entry) = self.entries.get(alloc) else {
            return Refusal { kind: Kind::TryAgain, message: "the allocation is gone".into(), hint: None };
        };
        if !self.nomad.connected && entry.allocation.is_none() {
            let reason = self.nomad.reason.clone().unwrap_or_else(|| "no answer yet".into());
            return Refusal {
                kind: Kind::Unavailable,
                message: format!("Nomad could not be asked for allocation {} within {waited}: {reason}", alloc.short()),
                hint: None,
            };
        }
        if let (Some(allocation), Some(node), Some(unread)) =
            (&entry.allocation, &self.nomad.node, entry.hooks.iter().find(|hook| !hook.read))
            && let Err(refusal) = self.read_job(allocation, unread.task.as_deref(), node)
        {
            return refusal;
        }
        if entry.allocation.is_none() {
            return Refusal {
                kind: Kind::NotPermitted,
                message: format!("Nomad's list of this node's allocations did not name {} within {waited}", alloc.short()),
                hint: Some("the agent's token needs read-job in the job's namespace; and the allocation must be one of this node's".into()),
            };
        }
        for live in entry.bindings.values() {
            if let Some(error) = &live.error {
                return error.refusal.clone();
            }
            let Some(source) = self.sources.get(&live.binding.source) else { continue };
            if let State::Failed(refusal, _) = &source.state {
                return of_volume(live, refusal);
            }
            if let Some(refusal) = self.say_trouble(source, &live.binding.volume.name, &waited.to_string()) {
                return refusal;
            }
            if let (State::Attaching, Some(refusal)) = (&source.state, &source.refused) {
                return of_volume(live, refusal);
            }
            if live.observed != Observed::Proper {
                return Refusal {
                    kind: Kind::TryAgain,
                    message: format!(
                        "volume {}: backend {} did not answer within {waited}",
                        live.binding.volume.name,
                        source.name()
                    ),
                    hint: Some("see `saddlebag status` on this client; other backends are not affected".into()),
                };
            }
        }
        Refusal {
            kind: Kind::TryAgain,
            message: format!("the ledger could not be made durable within {waited}"),
            hint: Some("look at the disk of the agent's state_dir".into()),
        }
    }
}

/// What is wrong with a source, said to a job, which knows its volume by name and not where it comes from.
pub(super) fn of_volume(live: &Live, refusal: &Refusal) -> Refusal {
    Refusal { message: format!("volume {}: {}", live.binding.volume.name, refusal.message), ..refusal.clone() }
}

fn ready(entry: &Entry) -> MountReply {
    let bindings: BTreeMap<_, _> =
        entry.bindings.iter().filter(|(key, _)| entry.wanted(key) == Wanted::Bound).collect();
    MountReply {
        alloc: entry.id.to_string(),
        bindings: bindings
            .values()
            .map(|live| Mounted {
                volume: live.binding.label.clone(),
                task: live.binding.key.task.clone(),
                destination: live.binding.key.destination.as_path().display().to_string(),
                read_only: live.binding.read_only,
                already: live.already,
            })
            .collect(),
    }
}
