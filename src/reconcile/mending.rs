//! What is lost under a running task, and how it is mended: on the host, inside its containers, or by Nomad.
//!
//! The kernel tells of each change of a mount table, the host's and those of the containers that hold a volume; then,
//! and only then, is looked. A binding under which something broke is called whole again when the host *and* every
//! container of its task see the present mount.

use std::time::{Duration, Instant};

use super::binding::{BindingKey, Origin};
use super::entry::Entry;
use super::events::{Done, Timer};
use super::execute::inside::{Cause, Found};
use super::execute::{self, Displaced, InsideError, Proved};
use super::live::{Event, Live, Plea};
use super::plan::Observed;
use super::reconciler::Reconciler;
use super::worker::Desk;
use crate::job::{OnFailure, Placement};
use crate::metrics::{Cause as Counted, Metrics, Place as MendedAt};
use crate::nomad::model::AllocId;
use crate::sys::identity::Identity;
use crate::sys::table_watch::{TableEvent, TableWatch};

/// The first wait before a container that could not be mended, or that is not there yet, is looked for again; doubled
/// each time.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// The longest such wait.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// The shortest time between two looks into a container that changes its own mounts.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);
/// So often is a container of a task looked for that Nomad calls running: some drivers have none.
const MOST_LOOKS: u32 = 6;

fn backoff(times: u32) -> Duration {
    (FIRST_RETRY * 2_u32.saturating_pow(times.min(10))).min(LONGEST_RETRY)
}

impl Reconciler {
    /// Has the kernel tell of every change of the mount tables that matter.
    pub(super) fn watch_tables(&mut self) {
        let results = self.results();
        match TableWatch::start(move |event| results.send(Done::Table(event)).is_ok()) {
            Ok(tables) => self.tables = Some(tables),
            Err(error) => {
                tracing::error!(%error, "mount tables are not watched: what is unmounted by hand is noticed at the next use only");
            }
        }
    }

    pub(super) fn note_table(&mut self, event: TableEvent) {
        match event {
            TableEvent::Own => {
                self.check_host();
                self.look_at_foreign_again();
            }
            TableEvent::Changed(namespace) => self.doubt_inside(namespace),
            TableEvent::Ended(namespace) => {
                self.doubt_inside(namespace);
                self.containers.remove(&namespace);
            }
        }
    }

    /// What was in a binding's place may have gone.
    fn look_at_foreign_again(&mut self) {
        let mut doubted = Vec::new();
        for entry in self.entries.values_mut() {
            for live in entry.bindings.values_mut() {
                if live.observed == Observed::Foreign && live.in_flight.is_none() {
                    live.observed = Observed::Unseen;
                    doubted.push(entry.id.clone());
                }
            }
        }
        for alloc in doubted {
            self.touch(&alloc);
        }
    }

    /// Every proved mount of the host is looked at, one look at a time.
    fn check_host(&mut self) {
        if std::mem::replace(&mut self.checking, true) {
            self.check_again = true;
            return;
        }
        let Some(host) = self.host.clone() else {
            self.checking = false;
            return;
        };
        let bindings = self.entries.values().flat_map(|entry| entry.bindings.values().map(|live| (&entry.id, live)));
        // No more than says where to look: this is done for every binding of the node.
        let proved: Vec<Proved> = bindings
            .filter(|(_, live)| live.is_proved())
            .filter_map(|(alloc, live)| {
                let (key, placement) = (live.binding.key.clone(), live.binding.placement);
                Some(Proved { alloc: alloc.clone(), key, placement, identity: live.identity? })
            })
            .collect();
        self.submit(Desk::Host, move || Done::Displaced(execute::find_displaced(&host, proved)));
    }

    pub(super) fn note_displaced(&mut self, displaced: Vec<(Proved, Displaced)>) {
        self.checking = false;
        for (Proved { alloc, key, identity, .. }, how) in displaced {
            let Some(live) = self.live_mut(&alloc, &key) else { continue };
            // The agent itself may have taken it away, or made another, since it was looked at.
            if !live.is_proved() || live.identity != Some(identity) {
                continue;
            }
            tracing::warn!(%alloc, task = key.task, volume = live.binding.volume.name, cause = how.cause(), "a binding is not as it was left");
            let kind = if how == Displaced::Hidden { Counted::Covered } else { Counted::Unmounted };
            live.note_fault(how.cause(), kind);
            let source = live.binding.source.clone();
            live.observed = Observed::Unseen;
            self.metrics.fault(kind, &self.source_name(&source));
            self.touch(&alloc);
        }
        if std::mem::take(&mut self.check_again) {
            self.check_host();
        }
    }

    /// Something was mounted or unmounted in a container, or it has ended.
    fn doubt_inside(&mut self, namespace: u64) {
        let Some((alloc, task)) = self.containers.get(&namespace).cloned() else { return };
        let Some(entry) = self.entries.get_mut(&alloc) else { return };
        let now = Instant::now();
        let mut later = None;
        for live in entry.bindings.values_mut().filter(|live| live.binding.key.task == task) {
            // A container may change its mounts as often as it likes; it is not looked into as often.
            let soonest = live.health.looked.map(|looked| looked + BETWEEN_LOOKS).filter(|at| *at > now);
            live.health.is_looked_into = false;
            live.health.retry = soonest;
            if soonest.is_none() {
                live.health.failures = 0;
            }
            later = later.max(soonest);
        }
        if let Some(at) = later {
            self.set_timer(at, Timer::Allocation(alloc.clone()));
        }
        self.touch(&alloc);
    }

    /// A dead mount was found under a binding.
    pub(super) fn note_dead(&mut self, alloc: &AllocId, key: &BindingKey) {
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        let is_used = entry.may_use(key);
        let Some(live) = entry.bindings.get_mut(key) else { return };
        let first = live.health.broken.is_none();
        live.note_fault("its mount died: files that were open through it are lost", Counted::Dead);
        let source = live.binding.source.clone();
        if is_used && first {
            tracing::error!(%alloc, task = key.task, volume = live.binding.volume.name, on_failure = ?live.binding.on_failure, "the mount under a running task died: files that it had open are lost");
            if live.binding.on_failure != OnFailure::Reattach {
                live.health.plea = Some(Plea::Due(Instant::now(), 0));
            }
        }
        self.metrics.fault(Counted::Dead, &self.source_name(&source));
    }

    /// The host's mount is right: with no container to look into, the binding is whole.
    pub(super) fn note_host_whole(&mut self, alloc: &AllocId, key: &BindingKey) {
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        let may_be_inside = entry.may_be_inside(key);
        let metrics = self.metrics.clone();
        let Some(live) = entry.bindings.get_mut(key) else { return };
        if live.binding.placement == Placement::Link || !may_be_inside {
            live.note_whole(alloc, &metrics, MendedAt::Host);
        }
    }

    pub(super) fn start_mending_inside(&mut self, alloc: &AllocId, key: &BindingKey) {
        let Some(host) = self.host.clone() else { return };
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        let Some(live) = entry.bindings.get_mut(key) else { return };
        let Some(identity) = live.identity else { return };
        live.health.is_looked_into = true;
        live.health.looked = Some(Instant::now());
        live.in_flight = Some(Instant::now());
        self.next_look += 1;
        let look = self.next_look;
        live.looking = Some(look);
        let (binding, places) = (live.binding.clone(), live.health.places.clone());
        let others: Vec<_> = self
            .sources
            .iter()
            .filter(|(other, _)| **other != binding.source)
            .filter_map(|(_, source)| Some(source.attached()?.identity.device))
            .collect();
        let (alloc, key, asked) = (alloc.clone(), key.clone(), self.inside.ask());
        self.submit(Desk::inside(&binding.source, &alloc), move || {
            let found = execute::mend_inside(&host, &alloc, &binding, &places, &others, &asked);
            Done::MendedInside(alloc, key, look, identity, found)
        });
    }

    pub(super) fn note_mended_inside(
        &mut self,
        alloc: &AllocId,
        key: &BindingKey,
        look: u64,
        identity: Identity,
        found: Result<Found, InsideError>,
    ) {
        self.watch_containers(alloc, key, found.as_ref().ok());
        let metrics = self.metrics.clone();
        let Some(live) = self.live_mut(alloc, key) else { return };
        if live.looking != Some(look) {
            return;
        }
        live.looking = None;
        live.in_flight = None;
        // What it found wrong, and could not mend, is said as a fault.
        live.health.is_inherited = false;
        if std::mem::take(&mut live.doubted) {
            live.doubt();
        }
        let is_current = live.identity == Some(identity) && live.observed == Observed::Proper;
        // What an operator attaches comes to containers that run already.
        let is_new = live.binding.origin == Origin::Operator && !live.promised;
        match found {
            Ok(found) => {
                live.health.places.clone_from(&found.places);
                for mended in &found.mended {
                    if is_new && mended.cause == Cause::Missing {
                        let (pid, place) = (found.pid_in(mended.place.namespace), mended.place.mount_point.display());
                        tracing::info!(%alloc, task = key.task, volume = live.binding.volume.name, %place, pid, "mounted inside a container");
                        continue;
                    }
                    let (place, cause) = (&mended.place.mount_point, inside_cause(mended.cause));
                    tracing::warn!(%alloc, task = key.task, volume = live.binding.volume.name, place = %place.display(), cause, "mended inside a container");
                    metrics.repair(counted(mended.cause), MendedAt::Container);
                    // Its task ran before Nomad was heard to say so, or by then.
                    let is_reason = mended.cause == Cause::Dead && live.binding.on_failure != OnFailure::Reattach;
                    if is_reason && live.health.plea.is_none() {
                        live.health.plea = Some(Plea::Due(Instant::now(), 0));
                    }
                    if live.health.broken.is_none() {
                        live.note_fault(&format!("inside a container: {cause}"), counted(mended.cause));
                        live.health.is_looked_into = true;
                    }
                }
                if let Some(failure) = found.failures.first() {
                    let reason = super::error::whole(&failure.error);
                    tracing::error!(%alloc, task = key.task, volume = live.binding.volume.name, reason, "not mended inside a container");
                    if live.health.broken.is_none() {
                        live.note_fault(&format!("inside a container: {reason}"), Counted::Dead);
                    }
                    self.look_inside_later(alloc, key);
                } else if found.namespaces.is_empty() && live.health.failures < MOST_LOOKS {
                    self.look_inside_later(alloc, key);
                } else if is_current && live.health.is_looked_into {
                    live.note_whole(alloc, &metrics, MendedAt::Host);
                }
            }
            Err(error) => {
                let reason = super::error::whole(&error);
                tracing::error!(%alloc, task = key.task, volume = live.binding.volume.name, reason, "its containers cannot be looked into");
                if live.health.broken.is_none() {
                    live.note_fault(&format!("its containers cannot be looked into: {reason}"), Counted::Dead);
                }
                self.look_inside_later(alloc, key);
            }
        }
        self.touch(alloc);
    }

    fn look_inside_later(&mut self, alloc: &AllocId, key: &BindingKey) {
        let Some(live) = self.live_mut(alloc, key) else { return };
        let at = Instant::now() + backoff(live.health.failures);
        live.health.is_looked_into = false;
        live.health.failures = live.health.failures.saturating_add(1);
        live.health.retry = Some(at);
        self.set_timer(at, Timer::Allocation(alloc.clone()));
    }

    fn watch_containers(&mut self, alloc: &AllocId, key: &BindingKey, found: Option<&Found>) {
        if let Some(found) = found {
            // A watch keeps a namespace, and every mount in it: one that nobody is in any more is let go of.
            let is_left = |id: &u64, whose: &(AllocId, String)| {
                whose.0 == *alloc && whose.1 == key.task && found.namespaces.iter().all(|there| there.id() != *id)
            };
            let left: Vec<u64> =
                self.containers.iter().filter(|(id, whose)| is_left(id, whose)).map(|(id, _)| *id).collect();
            for id in left {
                self.containers.remove(&id);
                if let Some(tables) = &self.tables {
                    tables.forget(id);
                }
            }
        }
        for namespace in found.iter().flat_map(|found| &found.namespaces) {
            if self.containers.contains_key(&namespace.id()) {
                continue;
            }
            match self.tables.as_ref().map(|tables| tables.watch(namespace)) {
                // Without a watch of the own table there is none of others.
                None | Some(Ok(true)) => {}
                // It has just ended.
                Some(Ok(false)) => continue,
                Some(Err(error)) => {
                    tracing::warn!(%alloc, task = key.task, %error, "a container's mount table is not watched: what is unmounted in it by hand is not noticed");
                    continue;
                }
            }
            self.containers.insert(namespace.id(), (alloc.clone(), key.task.clone()));
        }
    }

    /// Asks Nomad to restart the task, or to place the allocation anew, where the job wants that after a loss.
    pub(super) fn serve_pleas(&mut self, alloc: &AllocId) {
        let now = Instant::now();
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        let due: Vec<(BindingKey, OnFailure, u32)> = entry
            .bindings
            .values()
            .filter_map(|live| match live.health.plea {
                // A task is restarted once there is something to restart it on.
                Some(Plea::Due(at, times)) if at <= now && may_ask(entry, live) => {
                    Some((live.binding.key.clone(), live.binding.on_failure, times))
                }
                _ => None,
            })
            .collect();
        let mut asked = Vec::new();
        for (key, wish, times) in due {
            // Several volumes of a task, or of an allocation, are one wish.
            let who = if wish == OnFailure::Fail { None } else { Some(key.task.clone()) };
            if let Some(live) = entry.bindings.get_mut(&key) {
                live.health.plea = Some(Plea::Asking(times));
            }
            if asked.contains(&who) {
                continue;
            }
            asked.push(who.clone());
            let (client, results, alloc) = (self.client.clone(), self.results.clone(), alloc.clone());
            tokio::spawn(async move {
                let answer = match &who {
                    Some(task) => client.restart_task(&alloc, task).await,
                    None => client.stop_allocation(&alloc).await,
                };
                let answer = answer.map_err(|error| crate::nomad::error::one_line(&error));
                let _ = results.send(Done::Pleaded(alloc, who, answer));
            });
        }
    }

    pub(super) fn note_pleaded(&mut self, alloc: &AllocId, task: Option<&str>, answer: Result<(), String>) {
        let Some(entry) = self.entries.get_mut(alloc) else { return };
        let mut again = None;
        for live in entry.bindings.values_mut().filter(|live| task.is_none_or(|task| live.binding.key.task == task)) {
            let Some(Plea::Asking(times)) = live.health.plea else { continue };
            live.health.plea = Some(if answer.is_ok() {
                Plea::Taken
            } else {
                let at = Instant::now() + backoff(times + 2);
                again = Some(at);
                Plea::Due(at, times.saturating_add(1))
            });
        }
        match (&answer, task) {
            (Ok(()), Some(task)) => tracing::warn!(%alloc, task, "Nomad restarts the task: its mount was lost"),
            (Ok(()), None) => {
                tracing::warn!(%alloc, "Nomad stops the allocation and places it anew: its mount was lost")
            }
            (Err(reason), _) => tracing::error!(%alloc, task, reason, "Nomad was asked in vain, and is asked again"),
        }
        if let Some(at) = again {
            self.set_timer(at, Timer::Allocation(alloc.clone()));
        }
        self.touch(alloc);
    }
}

/// The same as it is counted.
fn counted(cause: Cause) -> Counted {
    match cause {
        Cause::Dead => Counted::Dead,
        Cause::Missing => Counted::Unmounted,
        Cause::Covered => Counted::Covered,
        Cause::Moved => Counted::Moved,
    }
}

/// What was wrong with a container's mount, in a few words.
fn inside_cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Dead => "its mount was dead",
        Cause::Missing => "its mount was unmounted",
        Cause::Covered => "something was mounted over it",
        Cause::Moved => "its mount was moved",
    }
}

/// Whether Nomad may be asked now: a task that is over needs nothing, and one that is restarted needs its mount first.
fn may_ask(entry: &Entry, live: &Live) -> bool {
    let is_there = live.observed == Observed::Proper && live.in_flight.is_none();
    entry.uses(&live.binding.key) && (live.binding.on_failure == OnFailure::Fail || is_there)
}

impl Live {
    /// Host and containers see the present mount.
    fn note_whole(&mut self, alloc: &AllocId, metrics: &Metrics, place: MendedAt) {
        self.health.failures = 0;
        self.health.is_looked_into = true;
        self.health.retry = None;
        if let Some(broken) = self.health.broken.take() {
            tracing::warn!(%alloc, task = self.binding.key.task, volume = self.binding.volume.name, cause = broken.cause, "mended");
            metrics.repair(broken.kind, place);
            self.health.last_repair = Some(Event::now(format!("mended after: {}", broken.cause), broken.kind));
        }
    }
}
