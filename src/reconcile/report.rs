//! What the reconciler says of itself: `status` and `explain`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::binding::Origin;
use super::entry::Entry;
use super::live::{Event, Live};
use super::orders::SHORTEST_PREFIX;
use super::plan::{Observed, Wanted};
use super::reconciler::Reconciler;
use super::source::{Source, State};
use crate::api::types::{
    BindingStatus, Explanation, GuardStatus, Happened, NomadStatus, SourceStatus, Status, Step, StepState,
};
use crate::backend;
use crate::job::{Kind, Placement, Refusal};
use crate::nomad::model::AllocId;
use crate::sys::process;

/// A step that takes longer than this is called hung.
const HUNG_AFTER: Duration = Duration::from_secs(10);

impl Reconciler {
    pub(super) fn status(&self, only: Option<&AllocId>) -> Status {
        let entries = || self.entries.values().filter(|entry| only.is_none_or(|only| entry.id == *only));
        let bindings: Vec<BindingStatus> =
            entries().flat_map(|entry| entry.bindings.values().map(|live| self.binding_status(entry, live))).collect();
        // An allocation's own socket shows nothing of the node's other sources.
        let sources = if only.is_some() { Vec::new() } else { self.source_statuses() };
        Status {
            index: 0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            nomad: NomadStatus {
                address: self.config.nomad.address.clone(),
                connected: self.nomad.connected,
                version: self.nomad.version.clone(),
                node_id: self.nomad.node.as_ref().map(|node| node.id.clone()),
                node_name: self.nomad.node.as_ref().map(|node| node.name.clone()),
                reason: self.nomad.obstacle.clone().or_else(|| self.nomad.reason.clone()),
            },
            guard: match &self.guard {
                Ok(hello) => GuardStatus { running: true, pid: i32::try_from(hello.pid).ok(), reason: None },
                Err(reason) => GuardStatus { running: false, pid: None, reason: Some(reason.clone()) },
            },
            sources,
            bindings,
            // An allocation's own socket shows nothing of others.
            recovery: if only.is_some() { Default::default() } else { self.recovery.status() },
        }
    }

    fn source_statuses(&self) -> Vec<SourceStatus> {
        let of = |source: &Source| {
            let attached = source.attached();
            let key = &source.place.key;
            let uses = |entry: &Entry| entry.bindings.values().filter(|live| live.binding.source == *key).count();
            let of_it = |entry: &Entry| -> Vec<String> {
                let bindings = entry.bindings.values().filter(|live| live.binding.source == *key);
                bindings.map(|live| live.binding.volume.name.clone()).collect()
            };
            let volumes: BTreeSet<String> = self.entries.values().flat_map(|entry| of_it(entry)).collect();
            SourceStatus {
                name: source.name(),
                backends: source.names.iter().cloned().collect(),
                volumes: volumes.into_iter().collect(),
                kind: backend::of(&source.definition).kind().to_owned(),
                state: source_state(source).to_owned(),
                mount_point: attached.map(|attached| attached.root.display().to_string()),
                pid: attached.and_then(|attached| attached.pid).and_then(|pid| u32::try_from(pid).ok()),
                log: has_program(source).then(|| source.place.log.display().to_string()),
                memory_bytes: attached
                    .and_then(|attached| attached.pid)
                    .and_then(|pid| process::resident_memory(pid).ok()),
                bindings: self.entries.values().map(|entry| uses(entry)).sum(),
                age_seconds: source.age().as_secs(),
                reason: match &source.state {
                    _ if source.trouble().is_some() => source.trouble().and_then(|(_, reason)| reason),
                    State::Failed(refusal, _) => Some(sentence(refusal)),
                    _ if source.is_hung() => {
                        Some("its worker waits for the storage system, which does not answer".into())
                    }
                    State::Attached(_) if source.is_being_asked() => {
                        Some("it is being asked whether it answers, and has not answered yet".into())
                    }
                    State::Attached(_) => source.recent_loss(),
                    _ => tried_before(source),
                },
            }
        };
        self.sources.values().map(of).collect()
    }

    fn binding_status(&self, entry: &Entry, live: &Live) -> BindingStatus {
        let (namespace, job, group) = entry.names();
        let (state, reason) = self.binding_state(entry, live);
        let (size_enforced, size_reason) = self.find_enforcement(&live.binding.volume, &live.binding.source);
        BindingStatus {
            volume: live.binding.label.clone(),
            alloc: entry.id.to_string(),
            namespace,
            job,
            group,
            task: live.binding.key.task.clone(),
            destination: live.binding.key.destination.as_path().display().to_string(),
            source: self.source_name(&live.binding.source),
            read_only: live.binding.read_only,
            size: self.size_of(&live.binding),
            size_enforced,
            size_reason,
            by_hand: live.binding.origin == Origin::Operator,
            state: state.to_owned(),
            age_seconds: live.since.elapsed().as_secs(),
            reason,
            last_fault: live.health.last_fault.as_ref().map(happened),
            last_repair: live.health.last_repair.as_ref().map(happened),
        }
    }

    pub(super) fn binding_state(&self, entry: &Entry, live: &Live) -> (&'static str, Option<String>) {
        let failure = live.error.as_ref().map(|error| sentence(&error.refusal));
        if live.in_flight.is_some_and(|since| since.elapsed() > HUNG_AFTER) {
            return ("hung", Some("its source does not answer".to_owned()));
        }
        if entry.wanted(&live.binding.key) == Wanted::Gone {
            return match (entry.page.is_some(), &entry.refusal) {
                (false, Some(refusal)) => ("failed", Some(sentence(refusal))),
                _ => ("leaving", failure),
            };
        }
        if failure.is_some() {
            return ("failed", failure);
        }
        if let Some((state, reason)) = self.sources.get(&live.binding.source).and_then(Source::trouble) {
            return (state, reason);
        }
        if let Some(broken) = &live.health.broken {
            // The host's mount alone makes no task whole.
            return ("mending", Some(broken.cause.clone()));
        }
        match live.observed {
            // Who only looks into a container finds out whether it is as well as the host.
            Observed::Proper if live.in_flight.is_none() || live.looking.is_some() => {
                if live.binding.origin == Origin::Operator && !live.promised {
                    // Its task's containers may not show it yet, or never.
                    return ("mounting", None);
                }
                if live.health.is_inherited && entry.may_be_inside(&live.binding.key) {
                    let reason = "what its task's containers see has not been looked at since the agent began";
                    return ("checking", Some(reason.to_owned()));
                }
                let attached = self.sources.get(&live.binding.source).is_some_and(|source| source.attached().is_some());
                // Never called mounted while its source is not proved to be there.
                if attached { ("mounted", None) } else { ("waiting", self.source_reason(live)) }
            }
            Observed::Stale => ("failed", Some("its mount is dead, and its job has it stay so".to_owned())),
            Observed::Foreign => ("failed", Some("something else is mounted at its destination".to_owned())),
            _ if live.in_flight.is_some() => ("mounting", None),
            _ => ("waiting", self.source_reason(live)),
        }
    }

    fn source_reason(&self, live: &Live) -> Option<String> {
        match &self.sources.get(&live.binding.source)?.state {
            State::Failed(refusal, _) => Some(sentence(refusal)),
            _ => None,
        }
    }

    pub(super) fn explain(&self, prefix: &str) -> Result<Explanation, Refusal> {
        let usage = |message: String, hint: &str| Refusal { kind: Kind::Usage, message, hint: Some(hint.to_owned()) };
        if prefix.len() < SHORTEST_PREFIX {
            return Err(usage(
                format!("{prefix:?} is too short to name an allocation"),
                "give at least four characters of its id",
            ));
        }
        let mut found = self.entries.values().filter(|entry| entry.id.as_str().starts_with(prefix));
        let Some(entry) = found.next() else {
            if let Some(alloc) = self.recovery.find_alloc(prefix) {
                return Ok(self.explain_mounts_only(&alloc));
            }
            return Err(Refusal {
                kind: Kind::Unavailable,
                message: format!("no allocation of this node that asks for storage has an id that begins with {prefix:?}"),
                hint: Some("see `nomad node status -self` for this node's allocations; the job's meta must hold storage_volume".into()),
            });
        };
        if found.next().is_some() {
            return Err(usage(
                format!("more than one allocation has an id that begins with {prefix:?}"),
                "give more characters of it",
            ));
        }
        let (namespace, job, group) = entry.names();
        let steps = self.steps(entry);
        let failed = steps.iter().find(|step| step.state == StepState::Failed);
        let waiting = steps.iter().find(|step| step.state == StepState::Waiting);
        let summary = match (failed, waiting) {
            (Some(step), _) => format!("failed: {}", step.detail),
            (None, Some(step)) => format!("waiting: {}", step.detail),
            (None, None) if entry.is_over() => "over: its tasks have ended and its volumes are detached".to_owned(),
            (None, None) => "every volume is mounted and proved".to_owned(),
        };
        Ok(Explanation { alloc: entry.id.to_string(), namespace, job, group, summary, steps })
    }

    /// An allocation of which only mounts are there.
    fn explain_mounts_only(&self, alloc: &AllocId) -> Explanation {
        let steps = self.recovery.steps(alloc);
        Explanation {
            alloc: alloc.to_string(),
            namespace: String::new(),
            job: String::new(),
            group: String::new(),
            summary: "nothing but a mount speaks of it; what is mounted is left alone".to_owned(),
            steps,
        }
    }

    fn steps(&self, entry: &Entry) -> Vec<Step> {
        let mut steps = self.recovery.steps(&entry.id);
        let Some(allocation) = &entry.allocation else {
            let detail = match (&self.nomad.reason, entry.missing) {
                (Some(reason), _) if !self.nomad.connected => format!("Nomad cannot be asked: {reason}"),
                (_, true) => "Nomad no longer names it among this node's allocations".to_owned(),
                _ => "Nomad has not named it yet".to_owned(),
            };
            steps.push(step("find the allocation", StepState::Waiting, detail));
            self.binding_steps(entry, &mut steps);
            return steps;
        };
        steps.push(step(
            "find the allocation",
            StepState::Done,
            format!("{} of job {}", allocation.name, allocation.job_id),
        ));
        if !allocation.asks_for_storage() {
            self.binding_steps(entry, &mut steps);
            return steps;
        }
        let asks = entry.hooks.iter().find_map(|hook| hook.task.as_deref()).or(entry.hook_task.as_deref());
        match self.nomad.node.as_ref().map(|node| self.read_job(allocation, asks, node)) {
            Some(Err(refusal)) => {
                steps.push(failed("read the job", &refusal));
                return steps;
            }
            Some(Ok((task, bindings))) => {
                let mut names: Vec<&str> = bindings.iter().map(|(binding, _)| binding.label.as_str()).collect();
                names.dedup();
                steps.push(step("read the job", StepState::Done, format!("it asks for {}", names.join(", "))));
                let called = entry.hook_task.is_some() || !entry.hooks.is_empty();
                let state = if called { StepState::Done } else { StepState::Waiting };
                let detail = if called {
                    format!("task {task} has asked")
                } else if entry.is_over() {
                    format!("task {task} never asked, and the allocation is over")
                } else {
                    format!("task {task} has not run `saddlebag mount` yet")
                };
                steps.push(step("be asked by the prestart task", state, detail));
            }
            None => {}
        }
        if let (Some(refusal), true) = (&entry.refusal, entry.bindings.values().all(|live| live.error.is_none())) {
            steps.push(failed("answer the prestart task", refusal));
        }
        self.binding_steps(entry, &mut steps);
        steps
    }

    fn binding_steps(&self, entry: &Entry, steps: &mut Vec<Step>) {
        let mut told = Vec::new();
        for live in entry.bindings.values() {
            let binding = &live.binding;
            if !told.contains(&&binding.source) {
                told.push(&binding.source);
                if let Some(source) = self.sources.get(&binding.source) {
                    steps.push(source_step(source));
                }
            }
            let name = format!(
                "mount {} at {} of task {}",
                binding.label,
                binding.key.destination.as_path().display(),
                binding.key.task
            );
            let (state, reason) = self.binding_state(entry, live);
            let access = if binding.read_only { "read-only" } else { "read-write" };
            steps.push(match (state, &live.error) {
                ("mounted", _) => step(
                    &name,
                    StepState::Done,
                    format!(
                        "{access}, {}{} on {}, {}{}",
                        self.say_size(&live.binding),
                        shown(&binding.volume.path),
                        self.source_name(&binding.source),
                        safety(binding.placement),
                        if binding.origin == Origin::Operator {
                            "; an operator has attached it"
                        } else if self.recovery.is_adopted(&entry.id, &binding.key) {
                            "; it was found in place, on no page of the ledger"
                        } else {
                            ""
                        }
                    ),
                ),
                (_, Some(error)) => failed(&name, &error.refusal),
                ("failed", None) => step(&name, StepState::Failed, reason.unwrap_or_default()),
                ("leaving", None) => step(&name, StepState::Waiting, "its task is over; it is being unmounted".into()),
                (state, None) => step(&name, StepState::Waiting, reason.unwrap_or_else(|| state.to_owned())),
            });
            for (name, event) in [("last fault", &live.health.last_fault), ("last repair", &live.health.last_repair)] {
                if let Some(event) = event {
                    let event = happened(event);
                    steps.push(step(name, StepState::Done, format!("{} ({})", event.cause, event.at)));
                }
            }
        }
    }
}

fn happened(event: &Event) -> Happened {
    Happened { cause: event.cause.clone(), at: humantime::format_rfc3339_seconds(event.at).to_string() }
}

fn shown(path: &std::path::Path) -> String {
    if path.as_os_str().is_empty() { "the root".to_owned() } else { path.display().to_string() }
}

/// What keeps garbage collection out of it.
fn safety(placement: Placement) -> &'static str {
    match placement {
        Placement::Mount => "guarded and proved",
        Placement::Link => "a link to a mount outside the allocation's directory, proved",
    }
}

fn source_step(source: &Source) -> Step {
    let name = format!("attach {}", source.name());
    if let (Some((state, reason)), State::Attached(attached)) = (source.trouble(), &source.state) {
        let detail = format!("{}: {state}: {}", attached.root.display(), reason.unwrap_or_default());
        let hint = "whoever uses it waits; it goes on by itself when it answers again".to_owned();
        return Step { hint: Some(hint), ..step(&name, StepState::Waiting, detail) };
    }
    match &source.state {
        State::Attached(attached) => {
            let program = attached.pid.map(|pid| format!(", served by process {pid}")).unwrap_or_default();
            let loss = source.recent_loss().map(|loss| format!("; {loss}")).unwrap_or_default();
            let mut step =
                step(&name, StepState::Done, format!("{}{program}{}{loss}", attached.root.display(), log_of(source)));
            if has_program(source) {
                step.log = backend::program::last_lines(&source.place.log);
            }
            step
        }
        State::Failed(refusal, log) => {
            let mut step = failed(&name, refusal);
            step.log.clone_from(log);
            if let Some(at) = source.retry {
                let wait = at.saturating_duration_since(Instant::now()).as_secs();
                step.detail.push_str(&format!(" (tried {} times; next try in {wait} s)", source.failures));
            }
            step.detail.push_str(&log_of(source));
            step
        }
        State::Detached => step(&name, StepState::Waiting, "not attached".into()),
        State::Attaching | State::Detaching => {
            let last = tried_before(source).map(|last| format!("; {last}")).unwrap_or_default();
            step(&name, StepState::Waiting, format!("{}{last}", source_state(source)))
        }
    }
}

/// Why it could not be attached the last time, while that is tried again.
fn tried_before(source: &Source) -> Option<String> {
    let refusal = source.refused.as_ref().filter(|_| matches!(source.state, State::Attaching))?;
    Some(format!("the last time ({} so far): {}", source.failures, sentence(refusal)))
}

/// Whether a program of its own serves it, or is to: that one has a log.
fn has_program(source: &Source) -> bool {
    source.attached().and_then(|attached| attached.pid).is_some() || source.place.log.exists()
}

fn log_of(source: &Source) -> String {
    if has_program(source) { format!("; its log is {}", source.place.log.display()) } else { String::new() }
}

pub(super) fn source_state(source: &Source) -> &'static str {
    if let Some((state, _)) = source.trouble() {
        return state;
    }
    if source.is_hung() {
        return "hung";
    }
    match source.state {
        State::Detached => "detached",
        State::Attaching => "attaching",
        State::Attached(_) => "attached",
        State::Failed(..) => "failed",
        State::Detaching => "detaching",
    }
}

fn sentence(refusal: &Refusal) -> String {
    match &refusal.hint {
        Some(hint) => format!("{}; {hint}", refusal.message),
        None => refusal.message.clone(),
    }
}

fn step(name: &str, state: StepState, detail: String) -> Step {
    Step { name: name.to_owned(), state, detail, hint: None, log: Vec::new() }
}

fn failed(name: &str, refusal: &Refusal) -> Step {
    Step { hint: refusal.hint.clone(), ..step(name, StepState::Failed, refusal.message.clone()) }
}
