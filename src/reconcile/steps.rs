//! From the plan's steps to work for the desks, and from their results back to the state.

use std::time::{Duration, Instant};

use super::binding::{BindingKey, Stage};
use super::entry::Entry;
use super::error::{BindError, UnbindError};
use super::events::{Done, Timer};
use super::execute::{self, Creation, Force};
use super::live::{Live, StepError};
use super::plan::{self, Observed, Step, Wanted};
use super::reconciler::Reconciler;
use super::source::Source;
use super::worker::Desk;
use crate::backend;
use crate::job::{Kind, Refusal};
use crate::nomad::model::AllocId;
use crate::sys::identity::Identity;
use crate::sys::resolve::ResolveError;

/// The first wait after a step failed in a way that may pass; doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The longest wait between two tries of a step.
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// So long after an agent's start, at the most, it does nothing else before all mounts of the host are proved.
const FIRST_THINGS: Duration = Duration::from_secs(1);
/// How long after something was unmounted empty directories are looked for that nobody has a record of.
const SWEPT_AFTER: Duration = Duration::from_secs(10);
/// The first wait before the directory of an allocation that Nomad no longer names is looked at again; doubled each time.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// The longest such wait.
const LONGEST_LOOK: Duration = Duration::from_secs(300);

fn backoff(times: u32) -> Duration {
    (FIRST_RETRY * 2_u32.saturating_pow(times.min(8))).min(LONGEST_RETRY)
}

impl Reconciler {
    /// Brings one allocation nearer to what is wanted.
    pub(super) fn reconcile(&mut self, alloc: &AllocId) {
        let now = Instant::now();
        self.serve_hooks(alloc);
        self.serve_orders(alloc);
        self.keep_socket(alloc);
        if self.entries.get(alloc).is_some_and(|entry| entry.save_again.is_some_and(|at| at <= now)) {
            self.save(alloc);
        }
        let Some(entry) = self.entries.get(alloc) else { return };
        let view = entry.view(|key| self.sources.get(key).is_some_and(Source::is_usable));
        // Where Nomad's allocations are is not known before Nomad was heard once.
        if self.is_dormant(entry) {
            self.set_timer(now + LONGEST_RETRY, Timer::Allocation(alloc.clone()));
        } else if self.host.is_some() || entry.page.is_none() {
            for step in plan::plan(&view, entry.page.is_some()) {
                self.take_step(alloc, step, now);
            }
        }
        self.serve_pleas(alloc);
        self.serve_hooks(alloc);
        self.serve_orders(alloc);
        self.serve_questions(alloc);
        self.drop_if_over(alloc);
        self.forget_if_unordered(alloc);
    }

    fn take_step(&mut self, alloc: &AllocId, step: Step, now: Instant) {
        match step {
            Step::Attach(key) => self.attach(&key),
            Step::Intend(keys) => self.intend(alloc, &keys),
            Step::Complete(key) => {
                if let Some(entry) = self.entries.get_mut(alloc) {
                    entry.complete(&key);
                }
                self.save(alloc);
            }
            Step::Forget => self.forget(alloc),
            Step::Observe(key) | Step::Bind(key) | Step::Replace(key) | Step::Uncover(key) | Step::MendInside(key)
                if self.is_held(alloc, &key, false, now) => {}
            Step::Unbind(key) if self.is_held(alloc, &key, true, now) => {}
            Step::Observe(key) => self.start_observing(alloc, &key, Cover::Left),
            Step::Uncover(key) => self.start_observing(alloc, &key, Cover::Removed),
            Step::MendInside(_) if self.has_just_come() => {
                self.set_timer(self.started + FIRST_THINGS, Timer::Allocation(alloc.clone()));
            }
            Step::MendInside(key) => self.start_mending_inside(alloc, &key),
            Step::Bind(key) => self.start_binding(alloc, &key, false),
            Step::Replace(key) => self.start_binding(alloc, &key, true),
            Step::Unbind(key) => {
                // Nomad's word ends a task; of one that it has forgotten it has none.
                let is_forgotten = self.entries.get(alloc).is_some_and(|entry| entry.allocation.is_none());
                let force = if is_forgotten { Force::WhenItsTaskIsGone } else { Force::WhenUnused };
                self.start_unbinding(alloc, &key, force);
            }
        }
    }

    /// An agent that comes proves the host's mounts first: who waits for it to be ready waits for no container to be looked
    /// into, and for no socket of an allocation that had all it wanted.
    fn has_just_come(&self) -> bool {
        self.settled.is_some() && self.started.elapsed() < FIRST_THINGS
    }

    /// A worker is at the binding, or its last failure says to wait.
    fn is_held(&self, alloc: &AllocId, key: &BindingKey, leaving: bool, now: Instant) -> bool {
        let live = self.entries.get(alloc).and_then(|entry| entry.bindings.get(key));
        // Who only looks may look for long, at a server that hangs: that holds up nobody who takes the binding away.
        let is_at_it = |live: &Live| live.in_flight.is_some() && !(leaving && live.looking.is_some());
        live.is_none_or(|live| is_at_it(live) || live.is_held_back(leaving, now))
    }

    pub(super) fn live_mut(&mut self, alloc: &AllocId, key: &BindingKey) -> Option<&mut Live> {
        self.entries.get_mut(alloc)?.bindings.get_mut(key).map(Box::as_mut)
    }

    fn start_observing(&mut self, alloc: &AllocId, key: &BindingKey, cover: Cover) {
        let Some(host) = self.host.clone() else { return };
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        let recorded = entry.identity(key);
        let Some(live) = entry.bindings.get_mut(key) else { return };
        let binding = live.binding.clone();
        let Some(source) = self.sources.get(&binding.source).and_then(|source| source.attached()).cloned() else {
            return;
        };
        self.next_look += 1;
        let look = self.next_look;
        live.looking = Some(look);
        live.in_flight = Some(Instant::now());
        let (alloc, key) = (alloc.clone(), key.clone());
        self.submit(Desk::Source(binding.source.clone()), move || {
            let found = match cover {
                Cover::Left => Ok(()),
                Cover::Removed => execute::uncover(&host, &alloc, &binding, &source, recorded.as_ref()),
            };
            let found = found.and_then(|()| execute::observe(&host, &alloc, &binding, &source, recorded.as_ref()));
            Done::Observed(alloc, key, look, found)
        });
    }

    fn start_binding(&mut self, alloc: &AllocId, key: &BindingKey, replace: bool) {
        let Some(host) = self.host.clone() else { return };
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        let former = entry.identity(key);
        let Some(live) = entry.bindings.get_mut(key) else { return };
        let binding = live.binding.clone();
        let Some(source) = self.sources.get(&binding.source).and_then(|source| source.attached()).cloned() else {
            return;
        };
        let Some(definition) = self.sources.get(&binding.source).map(|source| source.definition.clone()) else {
            return;
        };
        live.in_flight = Some(Instant::now());
        let (alloc, key) = (alloc.clone(), key.clone());
        let (sizing, results) = (self.find_sizing(&binding), self.results.clone());
        self.submit(Desk::Source(binding.source.clone()), move || {
            let backend = backend::of(&definition);
            let backend = backend.as_ref();
            let bound = match former {
                _ if replace => execute::replace(&host, &alloc, &binding, &source, backend),
                Some(former) => execute::restore(&host, &alloc, &binding, &source, backend, &former),
                None => execute::bind(&host, &alloc, &binding, &source, backend, Creation::AsDefined),
            };
            // Before anybody is told that it is there, and may write.
            if let (Ok(_), Some(sizing)) = (&bound, sizing) {
                let _ = results.send(sizing.set(&source));
            }
            Done::Bound(alloc, key, bound)
        });
    }

    pub(super) fn start_unbinding(&mut self, alloc: &AllocId, key: &BindingKey, force: Force) {
        let Some(host) = self.host.clone() else { return };
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        let Some(leaving) = entry.begin_leaving(key) else { return };
        self.submit(Desk::Host, move || {
            let unbound = execute::unbind(&host, &leaving, force);
            Done::Unbound(leaving.alloc, leaving.binding.key, force, unbound)
        });
    }

    pub(super) fn note_observed(
        &mut self,
        alloc: &AllocId,
        key: &BindingKey,
        look: u64,
        found: Result<(Observed, Option<Identity>), BindError>,
    ) {
        let Some(live) = self.live_mut(alloc, key) else { return };
        // Somebody has acted since: what was seen is of the past.
        if live.looking != Some(look) {
            return;
        }
        live.looking = None;
        live.in_flight = None;
        match found {
            Ok((observed, identity)) => {
                live.already = observed == Observed::Proper;
                live.settle(observed, identity);
                match observed {
                    Observed::Stale => self.note_dead(alloc, key),
                    Observed::Proper => {
                        // An agent may have made it and died before its page said so.
                        if let Some(identity) = identity {
                            self.note_replaced(alloc, key, &identity);
                        }
                        self.note_host_whole(alloc, key);
                        self.size_if_unknown(alloc, key);
                    }
                    _ => {}
                }
                self.touch(alloc);
            }
            Err(error) => self.fail_binding(alloc, key, &error),
        }
    }

    pub(super) fn note_bound(&mut self, alloc: &AllocId, key: &BindingKey, bound: Result<Identity, BindError>) {
        let Some(live) = self.live_mut(alloc, key) else { return };
        live.in_flight = None;
        match bound {
            Ok(identity) => {
                live.already = false;
                tracing::info!(
                    alloc = %alloc,
                    task = key.task,
                    volume = live.binding.volume.name,
                    destination = %key.destination.as_path().display(),
                    "mounted"
                );
                live.settle(Observed::Proper, Some(identity));
                live.health.is_looked_into = false;
                self.note_replaced(alloc, key, &identity);
                self.note_host_whole(alloc, key);
                self.touch(alloc);
            }
            // A mount is there that this agent knows nothing of: see whose it is.
            Err(BindError::Destination(ResolveError::CrossesMount(at)))
                if live.observed == Observed::Missing && at.ends_with(key.destination.as_path()) =>
            {
                live.observed = Observed::Unseen;
                self.touch(alloc);
            }
            Err(error) => self.fail_binding(alloc, key, &error),
        }
    }

    /// The page names the mount that was there before a reboot, or before its source was lost. By the page alone the next
    /// one is known as ours once it is dead in turn.
    fn note_replaced(&mut self, alloc: &AllocId, key: &BindingKey, identity: &Identity) {
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        let recorded = entry.page.as_ref().and_then(|page| page.find(key));
        if recorded.is_some_and(|recorded| matches!(&recorded.stage, Stage::Mounted(old) if old != identity)) {
            entry.complete(key);
            self.save(alloc);
        }
    }

    fn fail_binding(&mut self, alloc: &AllocId, key: &BindingKey, error: &BindError) {
        let Some(live) = self.live_mut(alloc, key) else { return };
        let refusal = error.refusal(&live.binding);
        let times = live.error.as_ref().filter(|error| !error.leaving).map_or(0, |error| error.times + 1);
        let is_final = !error.is_temporary() && !error.blames_source();
        let at = Instant::now() + if is_final { LONGEST_RETRY } else { backoff(times) };
        // A task that runs calls no hook any more: what is on its page is tried for as long as it is wanted.
        let retry = (!is_final || live.intent.is_some()).then_some(at);
        tracing::warn!(alloc = %alloc, task = key.task, volume = live.binding.volume.name, reason = super::error::whole(error), "not mounted");
        live.error = Some(StepError { refusal, retry, times, is_final, leaving: false });
        live.since = Instant::now();
        let source = live.binding.source.clone();
        if error.blames_source() {
            self.doubt_source(&source);
        }
        if retry.is_some() {
            self.set_timer(at, Timer::Allocation(alloc.clone()));
        }
        self.touch(alloc);
    }

    pub(super) fn note_unbound(
        &mut self,
        alloc: &AllocId,
        key: &BindingKey,
        force: Force,
        unbound: Result<(), UnbindError>,
    ) {
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        let Some(live) = entry.bindings.get_mut(key) else { return };
        live.in_flight = None;
        match unbound {
            Ok(()) => {
                let (source, volume) = (live.binding.source.clone(), live.binding.volume.name.clone());
                tracing::info!(alloc = %alloc, task = key.task, volume, forced = force == Force::AtOnce, "unmounted");
                entry.strike(key);
                // A call that came meanwhile wants it again: it is made anew, and not forgotten.
                let is_wanted = !entry.hooks.is_empty() && entry.wanted(key) == Wanted::Bound;
                match entry.bindings.get_mut(key) {
                    Some(live) if is_wanted => {
                        let mut fresh = Live::new(live.binding.clone());
                        fresh.observed = Observed::Missing;
                        **live = fresh;
                    }
                    _ => drop(entry.bindings.remove(key)),
                }
                if entry.page.as_ref().is_some_and(|page| !page.bindings.is_empty()) {
                    self.save(alloc);
                }
                self.sweep(alloc, key);
                self.linger(&source);
            }
            Err(error) => {
                let times = live.error.as_ref().filter(|error| error.leaving).map_or(0, |error| error.times + 1);
                let at = Instant::now() + backoff(times);
                let reason = super::error::whole(&error);
                if times == 0 || !matches!(error, UnbindError::Busy | UnbindError::TaskLives(_)) {
                    tracing::warn!(alloc = %alloc, task = key.task, volume = live.binding.volume.name, %reason, "not unmounted yet");
                }
                let message = format!("volume {} is not unmounted yet: {reason}", live.binding.volume.name);
                let hint = "find the process with `fuser -vm` on the mount; it is tried again by itself".to_owned();
                live.error = Some(StepError {
                    refusal: Refusal { kind: Kind::TryAgain, message, hint: Some(hint) },
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

    /// An allocation that Nomad no longer names is swept and dropped once nothing of it is left.
    fn drop_if_over(&mut self, alloc: &AllocId) {
        let Some(entry) = self.entries.get(alloc) else { return };
        let is_unasked = entry.hooks.is_empty() && entry.orders.is_empty();
        let is_idle = entry.page.is_none() && is_unasked && !entry.saving;
        if entry.missing
            && is_idle
            && entry.bindings.values().all(|live| live.in_flight.is_none())
            && let Some(entry) = self.entries.remove(alloc)
        {
            self.client.keep_no_longer(alloc);
            if let Some(socket) = entry.socket {
                socket.abort();
            }
            for live in entry.bindings.values() {
                self.linger(&live.binding.source);
            }
            self.note_dropped();
        }
    }

    /// Asks, for an allocation that Nomad no longer names, whether its directory is being removed.
    pub(super) fn look_if_due(&mut self, alloc: &AllocId) {
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        if entry.look_at.take_if(|at| *at <= Instant::now()).is_some() {
            self.look_again(alloc);
        }
    }

    /// The same now.
    pub(super) fn look_again(&mut self, alloc: &AllocId) {
        let Some(entry) = self.entries.get(alloc) else { return };
        if !entry.missing || entry.collected || entry.page.is_none() {
            return;
        }
        let Some(host) = self.host.clone() else { return };
        let alloc = alloc.clone();
        self.submit(Desk::Host, move || {
            let collected = execute::is_collected(&host, &alloc);
            Done::Looked(alloc, collected)
        });
    }

    pub(super) fn note_looked(&mut self, alloc: &AllocId, collected: bool) {
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        if !entry.missing {
            return;
        }
        entry.collected = collected;
        if collected {
            tracing::info!(alloc = %alloc, "Nomad has collected it");
            self.touch(alloc);
        } else if entry.look_at.is_none() {
            // Nomad's client is still at it, or our token lost sight of it: only the directory itself can tell. That it
            // goes is told by the kernel; that it was begun and stopped half way is not.
            let at = Instant::now() + (FIRST_LOOK * 2_u32.saturating_pow(entry.looks.min(8))).min(LONGEST_LOOK);
            entry.looks = entry.looks.saturating_add(1);
            entry.look_at = Some(at);
            self.set_timer(at, Timer::Allocation(alloc.clone()));
        }
    }

    /// Removes the empty directories that a collection had to leave because the mount was in its way.
    fn sweep(&mut self, alloc: &AllocId, key: &BindingKey) {
        let Some(host) = self.host.clone() else { return };
        let (alloc, key) = (alloc.clone(), key.clone());
        self.submit(Desk::Host, move || {
            execute::sweep(&host, &alloc, &key);
            Done::Nothing
        });
        self.sweep_later();
    }

    /// Looks once more in a while: Nomad may be at the same directory now.
    pub(super) fn sweep_later(&mut self) {
        if !std::mem::replace(&mut self.will_sweep, true) {
            self.set_timer(Instant::now() + SWEPT_AFTER, Timer::Sweep);
        }
    }

    pub(super) fn sweep_forgotten(&mut self) {
        self.will_sweep = false;
        let Some(host) = self.host.clone().filter(|_| self.nomad.heard.is_some()) else { return };
        // What Nomad names is Nomad's, unless it is known to be over; what an entry still has to take away is swept then.
        let is_done = |entry: &Entry| {
            entry.is_over() && entry.page.is_none() && entry.bindings.is_empty() && entry.hooks.is_empty()
        };
        let is_done = |alloc: &&AllocId| self.entries.get(*alloc).is_some_and(|entry| is_done(entry));
        let known =
            self.entries.keys().chain(&self.nomad.allocations).filter(|alloc| !is_done(alloc)).cloned().collect();
        self.submit(Desk::Host, move || Done::Swept(execute::sweep_forgotten(&host, &known)));
    }

    /// An allocation's own socket is there while a task of it may ask.
    fn keep_socket(&mut self, alloc: &AllocId) {
        let has_just_come = self.has_just_come();
        let Some(host) = &self.host else { return };
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        if has_just_come && entry.socket.is_none() && !entry.bindings.is_empty() {
            return self.set_timer(self.started + FIRST_THINGS, Timer::Allocation(alloc.clone()));
        }
        let wanted = entry.allocation.as_ref().is_some_and(|a| a.asks_for_storage()) && !entry.is_over();
        match (&entry.socket, wanted) {
            (None, true) => {
                let serve = crate::api::allocation::serve(host.alloc_root.clone(), alloc.clone(), self.handle.clone());
                entry.socket = Some(tokio::spawn(serve));
            }
            (Some(socket), false) => {
                socket.abort();
                entry.socket = None;
            }
            _ => {}
        }
    }
}

/// What becomes of a mount that covers a binding, before the binding is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cover {
    Left,
    Removed,
}

impl Live {
    fn settle(&mut self, observed: Observed, identity: Option<Identity>) {
        if self.observed != observed {
            self.since = Instant::now();
        }
        // What changed meanwhile is looked at once more before anything is called proved.
        let doubted = std::mem::take(&mut self.doubted) && observed == Observed::Proper;
        self.observed = if doubted { Observed::Unseen } else { observed };
        if self.identity != identity {
            self.health.is_looked_into = false;
        }
        self.identity = identity;
        self.error = None;
    }
}
