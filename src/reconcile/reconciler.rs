//! The loop.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::definitions::Definitions;
use super::entry::Entry;
use super::events::{Done, Timer};
use super::execute::{Cache, Host};
use super::follow::Followers;
use super::ledger::{Ledger, LedgerError};
use super::probes::Looks;
use super::questions::Asked;
use super::recovery::Recovery;
use super::sizes::Sizes;
use super::source::Source;
use super::volumes::Change;
use super::worker::{Desk, Work, Workers};
use super::{Ask, Handle};
use crate::backend::SourceKey;
use crate::config::Config;
use crate::guard::GuardClient;
use crate::guard::wire::Hello;
use crate::metrics::Metrics;
use crate::nomad::client::Client;
use crate::nomad::model::{AllocId, Node};
use crate::nomad::watch::{News, WatchHandle};
use crate::sys::memory;
use crate::sys::removals::{Removal, Removals};
use crate::sys::table_watch::TableWatch;
use crate::volume::Registry;

/// How the agent stands with Nomad.
#[derive(Debug, Default)]
pub(super) struct NomadView {
    pub connected: bool,
    /// When it last answered.
    pub heard: Option<SystemTime>,
    pub reason: Option<String>,
    pub node: Option<Node>,
    pub version: Option<String>,
    /// Why nothing is mounted although Nomad answers.
    pub obstacle: Option<String>,
    /// The ids of all that its last listing named.
    pub allocations: Vec<AllocId>,
}

/// The owner of all state.
pub struct Reconciler {
    pub(super) config: Arc<Config>,
    pub(super) registry: Registry,
    pub(super) guard_client: GuardClient,
    pub(super) host: Option<Host>,
    pub(super) ledger: Ledger,
    pub(super) metrics: Metrics,
    pub(super) followers: Followers,
    pub(super) workers: Workers<Done>,
    pub(super) results: UnboundedSender<Done>,
    pub(super) handle: Handle,
    pub(super) nomad: NomadView,
    pub(super) watch: WatchHandle,
    pub(super) guard: Result<Hello, String>,
    /// Boxed: a map's nodes are half empty as a rule, and an entry is large.
    pub(super) entries: BTreeMap<AllocId, Box<Entry>>,
    pub(super) sources: BTreeMap<SourceKey, Source>,
    pub(super) sizes: Sizes,
    pub(super) definitions: Definitions,
    pub(super) changes: BTreeMap<String, Change>,
    pub(super) asked: BTreeMap<u64, Asked>,
    pub(super) next_question: u64,
    pub(super) next_look: u64,
    pub(super) recovery: Recovery,
    pub(super) looks: Looks,
    unsent: Vec<(Desk, Work<Done>)>,
    pub(super) started: Instant,
    timers: BinaryHeap<std::cmp::Reverse<(Instant, Timer)>>,
    dirty: BTreeSet<AllocId>,
    pub(super) settled: Option<tokio::sync::oneshot::Sender<()>>,
    inbox: UnboundedReceiver<Done>,
    removals: Option<Removals>,
    /// Asks Nomad for what the watch does not.
    pub(super) client: Client,
    pub(super) tables: Option<TableWatch>,
    /// Whose the watched mount namespaces are.
    pub(super) containers: BTreeMap<u64, (AllocId, String)>,
    /// What looks into containers remember.
    pub(super) inside: Arc<Cache>,
    /// A look at all of the host's mounts is under way; and another has become due.
    pub(super) checking: bool,
    /// A sweep is to come.
    pub(super) will_sweep: bool,
    /// So many allocations were dropped since the heap's free pages were given back.
    pub(super) dropped: usize,
    pub(super) check_again: bool,
}

/// Why the reconciler cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger cannot be used.
    #[error("the ledger cannot be used")]
    Ledger(#[from] LedgerError),
    /// A directory of the agent's own.
    #[error("cannot create {}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// How long at most a start waits for what an earlier agent had mounted before it says that it is ready.
const SETTLE: Duration = Duration::from_secs(60);

/// With so many allocations from the ledger the heap of a start is worth being given back.
const MANY_ENTRIES: usize = 100;

impl Reconciler {
    /// A reconciler that knows what the ledger knows. `settled` is told once every recorded binding is proved or has
    /// failed.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn new(
        config: Arc<Config>,
        guard_client: GuardClient,
        handle: Handle,
        client: Client,
        watch: WatchHandle,
        settled: tokio::sync::oneshot::Sender<()>,
    ) -> Result<Self, StartError> {
        let ledger = Ledger::open(&config.ledger_dir())?;
        let (pages, bad) = ledger.read()?;
        let definitions = Definitions::new(config.registered_dir());
        let mut registry = Registry::new(&config);
        definitions.recall(&config, &mut registry);
        let (results, inbox) = mpsc::unbounded_channel();
        let mut reconciler = Self {
            registry,
            guard_client,
            host: None,
            ledger,
            metrics: Metrics::new(),
            followers: Followers::default(),
            workers: Workers::new(results.clone()),
            results,
            handle,
            nomad: NomadView::default(),
            watch,
            guard: Err("it has not been asked yet".to_owned()),
            entries: BTreeMap::new(),
            sources: BTreeMap::new(),
            sizes: Sizes::default(),
            definitions,
            changes: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_question: 0,
            next_look: 0,
            recovery: Recovery::new(bad),
            looks: Looks::default(),
            unsent: Vec::new(),
            started: Instant::now(),
            timers: BinaryHeap::new(),
            dirty: BTreeSet::new(),
            settled: Some(settled),
            inbox,
            removals: None,
            client,
            tables: None,
            containers: BTreeMap::new(),
            inside: Arc::default(),
            checking: false,
            will_sweep: false,
            dropped: 0,
            check_again: false,
            config,
        };
        reconciler.watch_tables();
        reconciler.recall_sources()?;
        for page in pages {
            tracing::info!(alloc = %page.alloc, bindings = page.bindings.len(), "recalled from the ledger");
            // Its job may ask for no storage: an operator attached it.
            reconciler.client.keep(&page.alloc);
            reconciler.dirty.insert(page.alloc.clone());
            reconciler.entries.insert(page.alloc.clone(), Box::new(Entry::from_page(page)));
        }
        reconciler.take_sizes();
        reconciler.recall_alloc_root();
        reconciler.set_timer(Instant::now() + SETTLE, Timer::Settle);
        Ok(reconciler)
    }

    /// What it counts.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Where results and news of watchers go.
    pub fn results(&self) -> UnboundedSender<Done> {
        self.results.clone()
    }

    /// Runs until `asks` closes. Each arm of the select takes from a channel or a timer, all of which keep what is not
    /// taken: whichever arm wins, nothing of the others is lost.
    pub async fn run(mut self, mut asks: mpsc::Receiver<Ask>, mut news: mpsc::Receiver<News>) {
        self.attach_what_is_kept();
        loop {
            self.serve_changes();
            self.reconcile_dirty();
            self.tell_if_settled();
            self.stir_followers();
            let alarm = self.timers.peek().map(|next| tokio::time::Instant::from_std(next.0.0));
            tokio::select! {
                ask = asks.recv() => match ask {
                    Some(ask) => self.look_first(ask),
                    None => return,
                },
                Some(news) = news.recv() => self.hear(news),
                Some(done) = self.inbox.recv() => self.note(done),
                () = tokio::time::sleep_until(alarm.unwrap_or_else(tokio::time::Instant::now)), if alarm.is_some() => {
                    self.ring();
                }
            }
        }
    }

    pub(super) fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Mount { alloc, task, reply } => self.take_hook(alloc, task, reply),
            Ask::Order { prefix, what } => self.take_order(&prefix, what),
            Ask::Status { alloc, reply } => {
                // Whoever asked may have gone.
                let _ = reply.send(self.status(alloc.as_ref()));
                self.look_at_troubles();
            }
            Ask::Follow { index, wait, reply } => self.take_follower(index, wait, reply),
            Ask::Measure { reply } => drop(reply.send(self.measure())),
            Ask::Explain { prefix, reply } => {
                let _ = reply.send(self.explain(&prefix));
            }
            Ask::Volume(ask) => self.take_volume_ask(ask),
            Ask::Question { question, reply } => self.take_question(question, reply),
        }
    }

    fn note(&mut self, done: Done) {
        match done {
            Done::Attached(key, result) => self.note_attached(&key, result),
            Done::Detached(key, result) => self.note_detached(&key, result),
            Done::Sized(key, directory, size, result) => self.note_sized(key, directory, size, result),
            Done::DefinitionStored(name, stored) => self.note_definition_stored(&name, stored),
            Done::VolumeWorked(name, size, worked) => self.note_volume_worked(&name, size, worked),
            Done::ProgramEnded(key, pid, starved) => self.note_program_ended(&key, pid, starved),
            Done::Probed(key, report) => self.note_probed(&key, &report),
            Done::Observed(alloc, key, look, result) => {
                self.note_observed(&alloc, &key, look, result);
                self.keep_probing_for(&alloc, &key);
            }
            Done::Bound(alloc, key, result) => {
                self.note_bound(&alloc, &key, result);
                self.keep_probing_for(&alloc, &key);
            }
            Done::Unbound(alloc, key, force, result) => self.note_unbound(&alloc, &key, force, result),
            Done::TakenOut(alloc, key, result) => self.note_taken_out(&alloc, &key, result),
            Done::Visible(alloc, generation) => self.note_visible(&alloc, generation),
            Done::Saved(alloc, generation, result) => self.note_saved(&alloc, generation, result),
            Done::Forgotten(alloc, result) => self.note_forgotten(&alloc, result),
            Done::Looked(alloc, collected) => self.note_looked(&alloc, collected),
            Done::LedgerTried(tried) => self.note_ledger_tried(tried),
            Done::MountsFound(found) => self.note_mounts_found(found),
            Done::Compared(path, task, binding, seen) => self.note_compared(&path, task, *binding, seen),
            Done::Obstacle(obstacle) => self.note_obstacle(obstacle),
            Done::Swept(is_unfinished) => {
                if is_unfinished {
                    self.sweep_later();
                }
            }
            Done::Nothing => {}
            Done::Removed(removal) => self.note_removed(&removal),
            Done::Table(event) => self.note_table(event),
            Done::Displaced(displaced) => self.note_displaced(displaced),
            Done::MendedInside(alloc, key, look, identity, found) => {
                self.note_mended_inside(&alloc, &key, look, identity, found);
            }
            Done::Pleaded(alloc, task, answer) => self.note_pleaded(&alloc, task.as_deref(), answer),
            Done::Guard(hello) => self.note_guard(hello),
        }
    }

    /// Marks an allocation to be reconciled before the next event is taken.
    pub(super) fn touch(&mut self, alloc: &AllocId) {
        self.dirty.insert(alloc.clone());
    }

    /// The same for every allocation with a binding of that source.
    pub(super) fn touch_users(&mut self, key: &SourceKey) {
        let users =
            self.entries.values().filter(|entry| entry.bindings.values().any(|live| live.binding.source == *key));
        self.dirty.extend(users.map(|entry| entry.id.clone()));
    }

    /// The same for all.
    pub(super) fn touch_all(&mut self) {
        self.dirty.extend(self.entries.keys().cloned());
    }

    pub(super) fn set_timer(&mut self, at: Instant, timer: Timer) {
        self.timers.push(std::cmp::Reverse((at, timer)));
    }

    fn reconcile_dirty(&mut self) {
        while let Some(alloc) = self.dirty.pop_first() {
            self.reconcile(&alloc);
        }
    }

    fn ring(&mut self) {
        let now = Instant::now();
        while let Some(std::cmp::Reverse((at, _))) = self.timers.peek() {
            if *at > now {
                break;
            }
            let Some(std::cmp::Reverse((_, timer))) = self.timers.pop() else { break };
            match timer {
                Timer::Allocation(alloc) => {
                    self.look_if_due(&alloc);
                    if self.entries.get(&alloc).is_some_and(|entry| entry.is_too_early()) {
                        self.watch.refresh_now();
                    }
                    self.touch(&alloc);
                }
                Timer::Resubmit => {
                    for (desk, work) in std::mem::take(&mut self.unsent) {
                        self.send(desk, work);
                    }
                }
                Timer::Source(key) => self.wake_source(&key),
                Timer::Probe(key) => self.probe_if_due(&key),
                Timer::Look(number) => self.end_look(number),
                Timer::Awaited(alloc) => self.probe_awaited(&alloc),
                Timer::Follow => self.serve_followers(),
                Timer::Sweep => self.sweep_forgotten(),
                Timer::Question(number) => self.give_up_question(number),
                Timer::Volume(name) => self.give_up_change(&name),
                Timer::Settle => {
                    if let Some(settled) = self.settled.take() {
                        tracing::warn!("ready, although not everything that was mounted before is mounted again");
                        let _ = settled.send(());
                        self.touch_all();
                    }
                }
            }
        }
    }

    fn tell_if_settled(&mut self) {
        if self.settled.is_none() {
            return;
        }
        let is_settled = |entry: &Entry| {
            entry.bindings.values().all(|live| {
                // What passes by itself is waited for a while: after a boot the guard comes up beside this agent.
                let has_failed = live.error.as_ref().is_some_and(|error| error.is_final || error.times > 3);
                live.is_proved()
                    || live.in_flight.is_none() && has_failed
                    || self
                        .sources
                        .get(&live.binding.source)
                        .is_some_and(|source| source.failures > 1 || source.health.trouble().is_some())
            })
        };
        let waits_for_root = match &self.host {
            Some(_) => !self.recovery.is_read(),
            None => !self.entries.is_empty(),
        };
        if !waits_for_root
            && self
                .entries
                .values()
                .filter(|entry| entry.page.is_some())
                .all(|entry| is_settled(entry) || self.is_dormant(entry))
            && let Some(settled) = self.settled.take()
        {
            let _ = settled.send(());
            // What was put off until then.
            self.touch_all();
            if self.entries.len() >= MANY_ENTRIES {
                // Reading the ledger and looking at each of its bindings took more than keeping them does.
                self.give_back_memory();
            }
        }
    }

    /// An allocation was dropped: what many had is given back to the kernel, and what the last one had.
    pub(super) fn note_dropped(&mut self) {
        self.dropped += 1;
        if self.dropped >= MANY_ENTRIES || self.entries.is_empty() {
            self.dropped = 0;
            self.give_back_memory();
        }
    }

    fn give_back_memory(&mut self) {
        self.submit(Desk::Host, || {
            memory::give_back();
            Done::Nothing
        });
    }

    /// Hands work to a desk. A worker that cannot be started is an error of this host that passes.
    pub(super) fn submit(&mut self, desk: Desk, work: impl FnOnce() -> Done + Send + 'static) {
        self.send(desk, Box::new(work));
    }

    fn send(&mut self, desk: Desk, work: Work<Done>) {
        if let Err((work, error)) = self.workers.submit(desk.clone(), work) {
            tracing::error!(?desk, reason = super::error::whole(&error), "no thread for this work; it is tried again");
            self.unsent.push((desk, work));
            self.set_timer(Instant::now() + Duration::from_secs(1), Timer::Resubmit);
        }
    }

    /// Where Nomad's allocations are, from now on.
    pub(super) fn use_alloc_root(&mut self, alloc_root: &Path) {
        if self.host.as_ref().is_some_and(|host| host.alloc_root == alloc_root) {
            return;
        }
        tracing::info!(alloc_root = %alloc_root.display(), "Nomad's allocations");
        self.host = Some(Host {
            alloc_root: alloc_root.to_owned(),
            links: self.config.links_dir(),
            guard: self.guard_client.clone(),
        });
        self.watch_removals(alloc_root);
        self.find_unexplained();
        self.touch_all();
    }

    /// A purge takes an allocation from Nomad's servers at once, before its client has ended the tasks, and no index of
    /// what is left moves: that its directory goes is the one sign that it is over.
    fn watch_removals(&mut self, alloc_root: &Path) {
        let results = self.results.clone();
        match Removals::watch(alloc_root, move |removal| results.send(Done::Removed(removal)).is_ok()) {
            Ok(removals) => self.removals = Some(removals),
            Err(error) => {
                self.removals = None;
                tracing::error!(
                    reason = super::error::whole(&error),
                    "Nomad's removals are not watched: what a purged allocation leaves stays until Nomad's next news"
                );
            }
        }
    }

    fn note_removed(&mut self, removal: &Removal) {
        let concerned: Vec<AllocId> = match removal {
            Removal::Unknown => self.entries.keys().cloned().collect(),
            Removal::Entry(name) => name
                .to_str()
                .and_then(|name| AllocId::parse(name).ok())
                .filter(|alloc| self.entries.contains_key(alloc))
                .into_iter()
                .collect(),
        };
        if concerned.is_empty() {
            return;
        }
        // Those that are not missing yet are looked at when the listing comes.
        self.watch.refresh_now();
        for alloc in concerned {
            self.look_again(&alloc);
        }
    }
}
