//! Orders: an operator attaches a volume to tasks that run, or takes one away, and is answered when that is done.
//!
//! A binding that is ordered is one like any other: on the ledger, guarded, mounted on the host and then inside each
//! container of its task, mended when it is lost, and detached when its task is over. Only the job does not know of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::binding::{Binding, BindingKey, Origin};
use super::entry::{Entry, Live, StepError, TakenBack};
use super::error::whole;
use super::execute::{self, TakeOutError};
use super::hooks::of_volume;
use super::plan::{Observed, Wanted};
use super::reconciler::{Done, Reconciler, Timer};
use super::source::State;
use super::worker::Desk;
use crate::api::types::{DetachReply, Detached, MountReply, Mounted};
use crate::config::Backend;
use crate::hcl::nearest;
use crate::job::{self, Kind, Placement, Refusal, Wish};
use crate::nomad::model::{AllocId, Task, TaskState};

/// So many orders of one allocation may wait at a time.
const MOST_ORDERS: usize = 16;
/// The shortest beginning of an id that names an allocation, in characters.
pub(super) const SHORTEST_PREFIX: usize = 4;
/// The first wait before what could not be taken back is tried again; doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// The longest such wait.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Which of an allocation's attached volumes are to go.
#[derive(Debug, Clone)]
pub struct Selection {
    /// A label, or a path below a task's directory.
    pub volume: String,
    /// Of these tasks; of all if none is named.
    pub tasks: Vec<String>,
    /// Also from under processes that have it open.
    pub force: bool,
}

/// What is ordered, and where the answer goes.
pub enum What {
    /// Attach a volume.
    Attach {
        /// Which, and where.
        wish: Wish,
        /// The answer.
        reply: oneshot::Sender<Result<MountReply, Refusal>>,
    },
    /// Take one away.
    Detach {
        /// Which.
        selection: Selection,
        /// The answer.
        reply: oneshot::Sender<Result<DetachReply, Refusal>>,
    },
}

impl What {
    fn refuse(self, refusal: Refusal) {
        // Who asked may have gone.
        match self {
            Self::Attach { reply, .. } => drop(reply.send(Err(refusal))),
            Self::Detach { reply, .. } => drop(reply.send(Err(refusal))),
        }
    }
}

/// An order that has not been answered.
pub struct Order {
    what: What,
    /// Until when it is answered, at the latest.
    deadline: Instant,
    /// The bindings that it is about, once they are known.
    about: Option<Vec<About>>,
}

impl Order {
    /// Whether it takes that binding away.
    fn takes_away(&self, key: &BindingKey) -> bool {
        let is_about = |about: &Vec<About>| about.iter().any(|about| about.key == *key);
        matches!(self.what, What::Detach { .. }) && self.about.as_ref().is_some_and(is_about)
    }
}

/// A binding that an order is about.
struct About {
    key: BindingKey,
    label: String,
    /// It was there before.
    already: bool,
}

/// How an order stands.
enum Outcome {
    Waits,
    Done,
    Refused(Refusal),
}

fn usage(message: String) -> Refusal {
    Refusal { kind: Kind::Usage, message, hint: None }
}

fn backoff(times: u32) -> Duration {
    (FIRST_RETRY * 2_u32.saturating_pow(times.min(10))).min(LONGEST_RETRY)
}

impl Reconciler {
    pub(super) fn take_order(&mut self, prefix: &str, what: What) {
        let alloc = match self.find_by_prefix(prefix) {
            Ok(alloc) => alloc,
            Err(refusal) => return what.refuse(refusal),
        };
        let entry = self.entries.entry(alloc.clone()).or_insert_with(|| Box::new(Entry::new(alloc.clone())));
        if entry.orders.len() >= MOST_ORDERS {
            let message = format!("{MOST_ORDERS} orders for allocation {} wait already", alloc.short());
            return what.refuse(Refusal { kind: Kind::TryAgain, message, hint: None });
        }
        let deadline = Instant::now() + self.config.hook_timeout;
        entry.orders.push(Order { what, deadline, about: None });
        if entry.allocation.is_none() {
            // Of a job that asks for no storage Nomad's list is not kept otherwise.
            self.client.keep(&alloc);
            self.watch.refresh_now();
        }
        self.set_timer(deadline, Timer::Allocation(alloc.clone()));
        self.touch(&alloc);
    }

    fn find_by_prefix(&self, prefix: &str) -> Result<AllocId, Refusal> {
        if prefix.len() < SHORTEST_PREFIX {
            return Err(usage(format!("{prefix:?} is too short to name an allocation"))
                .hint("give at least four characters of its id"));
        }
        let known: BTreeSet<&AllocId> = self
            .entries
            .keys()
            .chain(&self.nomad.allocations)
            .filter(|alloc| alloc.as_str().starts_with(prefix))
            .collect();
        match known.iter().copied().collect::<Vec<_>>().as_slice() {
            [only] => Ok((*only).clone()),
            [] => Err(Refusal {
                kind: Kind::Unavailable,
                message: format!("no allocation of this node has an id that begins with {prefix:?}"),
                hint: Some("see `nomad node status -self` for this node's allocations".into()),
            }),
            _ => Err(usage(format!("more than one allocation has an id that begins with {prefix:?}"))
                .hint("give more characters of it")),
        }
    }

    /// Begins orders, and answers those that are done or cannot be.
    pub(super) fn serve_orders(&mut self, alloc: &AllocId) {
        let count = self.entries.get(alloc).map_or(0, |entry| entry.orders.len());
        for _ in 0..count {
            // The others stay where they can be seen; those that wait on come last, and so keep their order.
            let Some(entry) = self.entries.get_mut(alloc).filter(|entry| !entry.orders.is_empty()) else { return };
            let mut order = entry.orders.remove(0);
            let outcome = match &order.about {
                None => self.begin_order(alloc, &mut order),
                Some(about) => match &order.what {
                    What::Attach { .. } => self.is_attached(alloc, about),
                    What::Detach { .. } => self.is_detached(alloc, about),
                },
            };
            match outcome {
                Outcome::Waits if order.deadline > Instant::now() => {
                    if let Some(entry) = self.entries.get_mut(alloc) {
                        entry.orders.push(order);
                    }
                }
                Outcome::Waits => {
                    let refusal = self.say_why_not_ordered(alloc, &order);
                    self.refuse_order(alloc, order, refusal);
                }
                Outcome::Done => self.fulfil(alloc, order),
                Outcome::Refused(refusal) => self.refuse_order(alloc, order, refusal),
            }
        }
        self.serve_taken_back(alloc);
    }

    fn begin_order(&mut self, alloc: &AllocId, order: &mut Order) -> Outcome {
        match &order.what {
            What::Attach { wish, .. } => match self.begin_attaching(alloc, wish) {
                Ok(None) => Outcome::Waits,
                Ok(Some(about)) => {
                    order.about = Some(about);
                    self.touch(alloc);
                    Outcome::Waits
                }
                Err(refusal) => Outcome::Refused(refusal),
            },
            What::Detach { selection, .. } => match self.begin_detaching(alloc, selection) {
                Ok(about) => {
                    order.about = Some(about);
                    self.touch(alloc);
                    Outcome::Waits
                }
                Err(refusal) => Outcome::Refused(refusal),
            },
        }
    }

    /// None: it has to wait for Nomad, or for what is under way.
    fn begin_attaching(&mut self, alloc: &AllocId, wish: &Wish) -> Result<Option<Vec<About>>, Refusal> {
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
            resolved.push(self.resolve(request, Origin::Operator)?);
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

    fn begin_detaching(&mut self, alloc: &AllocId, selection: &Selection) -> Result<Vec<About>, Refusal> {
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

    fn is_attached(&self, alloc: &AllocId, about: &[About]) -> Outcome {
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

    fn is_detached(&self, alloc: &AllocId, about: &[About]) -> Outcome {
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

    fn say_why_not_ordered(&self, alloc: &AllocId, order: &Order) -> Refusal {
        let waited = humantime::format_duration(Duration::from_secs(self.config.hook_timeout.as_secs()));
        let entry = self.entries.get(alloc);
        let again =
            |message: String, hint: &str| Refusal { kind: Kind::TryAgain, message, hint: Some(hint.to_owned()) };
        let Some(about) = &order.about else {
            return match &self.nomad.reason {
                Some(reason) if !self.nomad.connected => {
                    again(format!("Nomad could not be asked within {waited}: {reason}"), "see `saddlebag status`")
                }
                _ => again(
                    format!("allocation {} did not come to rest within {waited}", alloc.short()),
                    "see `nomad alloc status`: a task has not started; or `saddlebag explain`: its prestart task waits, or another volume is being detached",
                ),
            };
        };
        let lives = about.iter().filter_map(|about| entry?.bindings.get(&about.key));
        for live in lives {
            let volume = &live.binding.volume.name;
            if let Some(error) = &live.error {
                return error.refusal.clone();
            }
            let Some(source) = self.sources.get(&live.binding.source) else { continue };
            if let State::Failed(refusal, _) = &source.state {
                return of_volume(live, refusal);
            }
            if let Some(refusal) = self.say_trouble(source, volume, &waited.to_string()) {
                return refusal;
            }
            if live.binding.placement == Placement::Mount
                && live.health.places.is_empty()
                && live.observed == Observed::Proper
            {
                return unseen(live);
            }
        }
        again(format!("it was not done within {waited}"), "see `saddlebag explain`")
    }

    fn fulfil(&mut self, alloc: &AllocId, order: Order) {
        let about = order.about.unwrap_or_default();
        match order.what {
            What::Attach { reply, .. } => {
                let mut bindings = Vec::new();
                for About { key, label, already } in about {
                    let Some(live) = self.live_mut(alloc, &key) else { continue };
                    live.promised = true;
                    bindings.push(Mounted {
                        volume: label,
                        task: key.task.clone(),
                        destination: key.destination.as_path().display().to_string(),
                        read_only: live.binding.read_only,
                        already,
                    });
                }
                tracing::info!(%alloc, volumes = bindings.len(), "attached, and proved in each container");
                let _ = reply.send(Ok(MountReply { alloc: alloc.to_string(), bindings }));
            }
            What::Detach { reply, .. } => {
                let detached = about.into_iter().map(|About { key, label, .. }| Detached {
                    volume: label,
                    task: key.task,
                    destination: key.destination.as_path().display().to_string(),
                });
                let _ = reply.send(Ok(DetachReply { alloc: alloc.to_string(), detached: detached.collect() }));
            }
        }
    }

    /// What was begun for it is taken back, and what was to go stays.
    fn refuse_order(&mut self, alloc: &AllocId, order: Order, refusal: Refusal) {
        tracing::warn!(%alloc, reason = %refusal, "an operator's order is refused");
        let is_attach = matches!(order.what, What::Attach { .. });
        for About { key, already, .. } in order.about.unwrap_or_default() {
            let Some(entry) = self.entries.get_mut(alloc) else { continue };
            let is_others = entry.orders.iter().any(|other| other.takes_away(&key));
            let Some(live) = entry.bindings.get_mut(&key) else { continue };
            // What somebody else was told is attached stays.
            if is_attach && !already && !live.promised {
                live.taken_back = Some(TakenBack::WhenUnused);
                live.error = None;
            } else if !is_attach && !is_others {
                live.taken_back = None;
                live.error = None;
                if let Some(called_off) = &live.called_off {
                    called_off.store(true, Ordering::Relaxed);
                }
                // What had been taken in a container comes back by being looked for.
                live.doubt();
            }
        }
        order.what.refuse(refusal);
        self.touch(alloc);
    }

    /// Takes away what is to go although its task runs. Where the task is over, it goes as any other.
    fn serve_taken_back(&mut self, alloc: &AllocId) {
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

    pub(super) fn note_taken_out(&mut self, alloc: &AllocId, key: &BindingKey, taken: Result<(), TakeOutError>) {
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

    /// An allocation whose job asks for no storage is forgotten once nothing of it is ordered any more.
    pub(super) fn forget_if_unordered(&mut self, alloc: &AllocId) {
        let is_nobodys = |entry: &Entry| {
            let asks = entry.allocation.as_ref().is_none_or(crate::nomad::model::Allocation::asks_for_storage);
            let is_empty = entry.page.is_none() && entry.bindings.is_empty() && !entry.saving;
            !asks && is_empty && entry.orders.is_empty() && entry.hooks.is_empty()
        };
        if self.entries.get(alloc).is_some_and(|entry| is_nobodys(entry)) {
            self.entries.remove(alloc);
            self.client.keep_no_longer(alloc);
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

fn unseen(live: &Live) -> Refusal {
    let (volume, key) = (&live.binding.volume.name, &live.binding.key);
    let message =
        format!("volume {volume}: no container of task {} shows {}", key.task, key.destination.as_path().display());
    Refusal::configuration(message).hint("a container is shown local/ of its task: choose a --destination there")
}
