//! Orders: an operator attaches a volume to tasks that run, or takes one away, and is answered when that is done.
//!
//! A binding that is ordered is one like any other: on the ledger, guarded, mounted on the host and then inside each
//! container of its task, mended when it is lost, and detached when its task is over. Only the job does not know of it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::binding::BindingKey;
use super::entry::Entry;
use super::events::Timer;
use super::hooks::of_volume;
use super::live::TakenBack;
use super::plan::Observed;
use super::reconciler::Reconciler;
use super::source::State;
use crate::api::types::{DetachReply, Detached, MountReply, Mounted};
use crate::job::{Kind, Placement, Refusal, Wish};
use crate::nomad::model::AllocId;

mod attaching;
mod detaching;

/// So many orders of one allocation may wait at a time.
const MOST_ORDERS: usize = 16;
/// The shortest beginning of an id that names an allocation, in characters.
pub(super) const SHORTEST_PREFIX: usize = 4;

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
                return attaching::unseen(live);
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
