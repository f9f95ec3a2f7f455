//! What the reconciler knows of one allocation.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use super::binding::{BindingKey, Origin, Record, Recorded, Stage};
use super::execute::Leaving;
use super::live::{Live, Plea, TakenBack};
use super::orders::Order;
use super::plan::{self, BindingView, Observed, Wanted};
use crate::api::types::MountReply;
use crate::backend::SourceKey;
use crate::job::{OnFailure, Placement, Refusal};
use crate::metrics::hook::Times;
use crate::nomad::model::{AllocId, Allocation, TaskState};
use crate::sys::identity::Identity;

/// How long after a hook has asked Nomad's list is believed when it calls a task dead: the client reports a task that
/// starts again some hundred milliseconds later.
pub const BELIEVED_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

/// A `saddlebag mount` that waits.
pub struct WaitingHook {
    /// The task that asks, where it said so.
    pub task: Option<String>,
    /// When it asked: what Nomad said before may be older than its task.
    pub asked: Instant,
    /// Until when it is answered, at the latest.
    pub deadline: Instant,
    /// Whether the job's words have been read for it.
    pub read: bool,
    /// What each of its phases took.
    pub times: Times,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<MountReply, Refusal>>,
}

/// One allocation.
pub struct Entry {
    /// Its id.
    pub id: AllocId,
    /// What Nomad's last listing says of it.
    pub allocation: Option<Allocation>,
    /// Nomad's last listing did not name it, and earlier ones or the ledger did.
    pub missing: bool,
    /// Nomad has begun to remove its directory.
    pub collected: bool,
    /// When Nomad's list last named it.
    pub heard: Option<Instant>,
    /// When its directory is looked at again, while Nomad's list does not name it.
    pub look_at: Option<Instant>,
    /// How often it was looked at.
    pub looks: u32,
    /// The ledger's page as it is to be.
    pub page: Option<Record>,
    /// Counts the changes of the page.
    pub generation: u64,
    /// The generation that the next agent will find.
    pub visible: u64,
    /// The generation that survives a power cut.
    pub durable: u64,
    /// Whether the ledger's desk is at the page.
    pub saving: bool,
    /// The page could not be written; when that is tried again.
    pub save_again: Option<Instant>,
    /// The bindings. Boxed: a map's smallest node has room for eleven, and most allocations have one.
    pub bindings: BTreeMap<BindingKey, Box<Live>>,
    /// The hooks that wait.
    pub hooks: Vec<WaitingHook>,
    /// What operators want of it and have not been answered yet.
    pub orders: Vec<Order>,
    /// Its last hook failed, so that none of its bindings is wanted until the next one asks.
    pub withdrawn: bool,
    /// Why its last hook failed.
    pub refusal: Option<Refusal>,
    /// Its hook's task, once it has asked.
    pub hook_task: Option<String>,
    /// Its own socket's task.
    pub socket: Option<tokio::task::JoinHandle<()>>,
}

impl Entry {
    /// An allocation of which nothing is known.
    pub fn new(id: AllocId) -> Self {
        Self {
            id,
            allocation: None,
            missing: false,
            collected: false,
            heard: None,
            look_at: None,
            looks: 0,
            page: None,
            generation: 0,
            visible: 0,
            durable: 0,
            saving: false,
            save_again: None,
            bindings: BTreeMap::new(),
            hooks: Vec::new(),
            orders: Vec::new(),
            withdrawn: false,
            refusal: None,
            hook_task: None,
            socket: None,
        }
    }

    /// The same, for the map of all.
    pub fn boxed(id: AllocId) -> Box<Self> {
        Box::new(Self::new(id))
    }

    /// An allocation as a former agent left it.
    pub fn from_page(page: Record) -> Self {
        let mut entry = Self::new(page.alloc.clone());
        for recorded in &page.bindings {
            let mut live = Live::new(recorded.binding.clone());
            live.intent = Some(0);
            live.promised = matches!(recorded.stage, Stage::Mounted(_));
            live.health.is_inherited = live.promised && recorded.binding.placement == Placement::Mount;
            if recorded.binding.origin == Origin::Operator && !live.promised {
                // Nobody was told that it is there; whoever asked for it asks again.
                live.taken_back = Some(TakenBack::WhenUnused);
            }
            entry.bindings.insert(recorded.binding.key.clone(), Box::new(live));
        }
        entry.hook_task = Some(page.hook_task.clone());
        entry.page = Some(page);
        entry
    }

    /// Takes what Nomad says of it now. A task that has been started has containers that nobody has looked into.
    pub fn hear(&mut self, allocation: Allocation) {
        let starts = |of: &Allocation, name: &str| of.task(name).map(|task| (task.state, task.restarts));
        for live in self.bindings.values_mut() {
            let name = &live.binding.key.task;
            let before = self.allocation.as_ref().and_then(|former| starts(former, name));
            if before != starts(&allocation, name) {
                live.health.is_looked_into = false;
                live.health.retry = None;
                live.health.failures = 0;
                live.health.plea = live.health.plea.filter(|plea| *plea != Plea::Taken);
            }
        }
        self.allocation = Some(allocation);
    }

    /// What is wanted of a binding. A task's own state decides, never the allocation's `ClientStatus`, which can say
    /// `failed` while tasks still run; while Nomad says nothing, what is recorded stays.
    pub fn wanted(&self, key: &BindingKey) -> Wanted {
        let live = self.bindings.get(key);
        if live.is_some_and(|live| live.taken_back.is_some()) {
            return Wanted::Gone;
        }
        let is_promised = live.is_some_and(|live| live.promised);
        if self.withdrawn && !is_promised && !self.uses(key) {
            return Wanted::Gone;
        }
        let Some(allocation) = &self.allocation else {
            return if self.missing && self.collected { Wanted::Gone } else { Wanted::Bound };
        };
        let is_over = match allocation.task(&key.task) {
            None => true,
            // A terminal client starts no task any more; what it never started, it never will.
            Some(task) => {
                task.state == TaskState::Dead
                    || task.state == TaskState::Pending && !task.started && allocation.status.is_terminal()
            }
        };
        if is_over { Wanted::Gone } else { Wanted::Bound }
    }

    /// Whether its task is known to run.
    pub fn uses(&self, key: &BindingKey) -> bool {
        self.allocation
            .as_ref()
            .and_then(|allocation| allocation.task(&key.task))
            .is_some_and(|task| task.state == TaskState::Running)
    }

    /// Whether its task may be running: while Nomad says nothing of the allocation, nobody knows that it is not.
    pub fn may_use(&self, key: &BindingKey) -> bool {
        self.allocation.is_none() || self.uses(key)
    }

    /// Whether a container may have it: its task may be running, or may have been started since Nomad was last heard. What
    /// Nomad's servers say of a task lags behind its client, for seconds where they have just been started; a mount that
    /// died meanwhile is dead in the container too, and whoever has been told that it is mounted may have it. So is one that
    /// died under a former agent.
    pub fn may_be_inside(&self, key: &BindingKey) -> bool {
        let is_pending = || {
            self.allocation
                .as_ref()
                .and_then(|of| of.task(&key.task))
                .is_some_and(|task| task.state == TaskState::Pending)
        };
        let was_lost = self
            .bindings
            .get(key)
            .is_some_and(|live| live.promised && (live.health.broken.is_some() || live.health.is_inherited));
        self.may_use(key) || was_lost && is_pending()
    }

    /// Whether its task's containers may see something else of it than the host does.
    fn is_to_be_looked_into(&self, live: &Live) -> bool {
        // A task that is about to be restarted gets new containers. Where Nomad has been asked in vain, those that are there
        // are mended meanwhile.
        let waits = matches!(live.health.plea, Some(Plea::Due(_, 0) | Plea::Asking(0)));
        let later = live.health.retry.is_some_and(|at| at > Instant::now());
        live.binding.placement == Placement::Mount && !live.health.is_looked_into && !waits && !later
    }

    /// Whether every one of its tasks is over, or Nomad knows it no longer.
    pub fn is_over(&self) -> bool {
        match &self.allocation {
            Some(allocation) => {
                allocation.status.is_terminal() && allocation.tasks.iter().all(|task| task.state != TaskState::Running)
            }
            None => self.missing && (self.collected || self.page.is_none()),
        }
    }

    /// How far the ledger's page that others can see knows a binding.
    pub fn recorded(&self, live: &Live) -> plan::Recorded {
        let Some(recorded) = self.page.as_ref().and_then(|page| page.find(&live.binding.key)) else {
            return plan::Recorded::No;
        };
        if live.intent.is_none_or(|intent| intent > self.visible) {
            return plan::Recorded::No;
        }
        match recorded.stage {
            Stage::Intended => plan::Recorded::Intended,
            Stage::Mounted(_) => plan::Recorded::Mounted,
        }
    }

    /// The allocation as the plan sees it.
    pub fn view(&self, is_attached: impl Fn(&SourceKey) -> bool) -> Vec<BindingView> {
        self.bindings
            .iter()
            .map(|(key, live)| BindingView {
                key: key.clone(),
                source: live.binding.source.clone(),
                source_attached: is_attached(&live.binding.source),
                wanted: self.wanted(key),
                recorded: self.recorded(live),
                observed: live.observed,
                used: self.uses(key),
                given_up: self.may_use(key) && live.binding.on_failure == OnFailure::Fail,
                look_inside: self.may_be_inside(key) && self.is_to_be_looked_into(live),
            })
            .collect()
    }

    /// Puts bindings on the page, as intended; makes the page where there is none.
    pub fn intend(&mut self, keys: &[BindingKey]) {
        self.generation += 1;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default();
        let identity = self.allocation.as_ref();
        let text = |of: fn(&Allocation) -> &String| identity.map(|a| of(a).clone()).unwrap_or_default();
        let (namespace, job, group) = (text(|a| &a.namespace), text(|a| &a.job_id), text(|a| &a.group));
        let page = self.page.get_or_insert_with(|| Record {
            version: Record::VERSION,
            alloc: self.id.clone(),
            namespace,
            job,
            group,
            hook_task: self.hook_task.clone().unwrap_or_default(),
            bindings: Vec::new(),
        });
        // Most allocations have one, and a vector makes room for four.
        page.bindings.reserve_exact(keys.len());
        for key in keys {
            if let Some(live) = self.bindings.get_mut(key) {
                live.intent = Some(self.generation);
                page.bindings.push(Recorded { binding: live.binding.clone(), stage: Stage::Intended, since });
            }
        }
    }

    /// Notes that a binding is made.
    pub fn complete(&mut self, key: &BindingKey) {
        let Some(identity) = self.bindings.get(key).and_then(|live| live.identity) else { return };
        if let Some(recorded) = self.page.as_mut().and_then(|page| page.find_mut(key)) {
            recorded.stage = Stage::Mounted(identity);
            self.generation += 1;
        }
    }

    /// Whether the page on the disk is the one that is to be there.
    pub fn is_page_written(&self) -> bool {
        self.page.is_none() || self.durable >= self.generation
    }

    /// Takes a binding off the page.
    pub fn strike(&mut self, key: &BindingKey) {
        if let Some(page) = &mut self.page {
            page.bindings.retain(|recorded| recorded.binding.key != *key);
            self.generation += 1;
        }
    }

    /// Whether some task of a waiting hook's bindings is over by what Nomad said before, or just after, it asked. A
    /// task that Nomad is about to start again is called dead until its client has said otherwise.
    pub fn is_too_early(&self) -> bool {
        let Some(asked) = self.hooks.iter().map(|hook| hook.asked).max() else { return false };
        let is_fresh = self.heard.is_some_and(|heard| heard >= asked + BELIEVED_AFTER);
        !is_fresh && !self.withdrawn && self.bindings.keys().any(|key| self.wanted(key) == Wanted::Gone)
    }

    /// The identity of a binding's mount, by this agent's proof or by the ledger.
    pub fn identity(&self, key: &BindingKey) -> Option<Identity> {
        let proved = self.bindings.get(key).and_then(|live| live.identity);
        proved.or_else(|| match self.page.as_ref()?.find(key)?.stage {
            Stage::Mounted(identity) => Some(identity),
            Stage::Intended => None,
        })
    }

    /// Notes that a worker is taking a binding away, and says what it needs for that.
    pub fn begin_leaving(&mut self, key: &BindingKey) -> Option<Leaving> {
        let identity = self.identity(key);
        let others = self.bindings.values().filter(|other| other.binding.key != *key);
        let others = others
            .filter(|other| other.binding.placement == Placement::Mount && self.identity(&other.binding.key).is_some())
            .map(|other| Path::new(&other.binding.key.task).join(other.binding.key.destination.as_path()))
            .collect();
        let live = self.bindings.get_mut(key)?;
        live.in_flight = Some(Instant::now());
        live.looking = None;
        Some(Leaving { alloc: self.id.clone(), binding: live.binding.clone(), identity, others })
    }

    /// Whether everything that is wanted is proved, and on a page that survives a power cut.
    pub fn is_ready(&self) -> bool {
        let mut wanted = self.bindings.iter().filter(|(key, _)| self.wanted(key) == Wanted::Bound).peekable();
        wanted.peek().is_some()
            && wanted.all(|(_, live)| {
                live.observed == Observed::Proper
                    && live.in_flight.is_none()
                    && live.intent.is_some_and(|intent| intent <= self.durable)
            })
    }

    /// The job's identity for people: namespace, job, group.
    pub fn names(&self) -> (String, String, String) {
        match (&self.allocation, &self.page) {
            (Some(a), _) => (a.namespace.clone(), a.job_id.clone(), a.group.clone()),
            (None, Some(page)) => (page.namespace.clone(), page.job.clone(), page.group.clone()),
            (None, None) => Default::default(),
        }
    }
}
