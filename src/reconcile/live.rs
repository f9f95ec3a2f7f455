//! What the reconciler knows of one binding.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime};

use super::binding::Binding;
use super::execute::Place;
use super::plan::Observed;
use crate::job::Refusal;
use crate::metrics::Cause;
use crate::sys::identity::Identity;

/// One binding, alive.
#[derive(Debug, Clone)]
pub struct Live {
    /// What is to be mounted where.
    pub binding: Binding,
    /// What the kernel said last.
    pub observed: Observed,
    /// The mount's identity, once it was proved by this agent.
    pub identity: Option<Identity>,
    /// The state of the ledger's page that first names it; none while it is not on a page.
    pub intent: Option<u64>,
    /// Since when a worker is at it.
    pub in_flight: Option<Instant>,
    /// Why the last step failed.
    pub error: Option<StepError>,
    /// Since when it is in its state.
    pub since: Instant,
    /// Whether it was found in place, not made, for the hook that waits.
    pub already: bool,
    /// Its source or the guard has changed while a worker was at it: what the worker reports is looked at once more.
    pub doubted: bool,
    /// A hook was told that it is there: it stays until its task is over, whatever later calls say.
    pub promised: bool,
    /// Numbers the look that a worker is at; it holds up nobody who takes the binding away.
    pub looking: Option<u64>,
    /// What has become of it under its task, and of what its containers see.
    pub health: Health,
    /// It is taken away although its task runs: an operator wants that, or it could not be attached whole.
    pub taken_back: Option<TakenBack>,
    /// Set for a worker that is to take it away and has not begun: it is to stay.
    pub called_off: Option<Arc<AtomicBool>>,
}

/// How a binding is taken away from a task that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenBack {
    /// Once nobody has it open.
    WhenUnused,
    /// At once.
    Forced,
}

/// What went wrong, or was mended, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What, in a few words.
    pub cause: String,
    /// The same for counters.
    pub kind: Cause,
    /// When.
    pub at: SystemTime,
}

impl Event {
    /// It happened now.
    pub fn now(cause: impl Into<String>, kind: Cause) -> Self {
        Self { cause: cause.into(), kind, at: SystemTime::now() }
    }
}

/// How a binding fares under its task.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// What is wrong still, on the host or in a container.
    pub broken: Option<Event>,
    /// The last thing that went wrong.
    pub last_fault: Option<Event>,
    /// The last thing that was mended.
    pub last_repair: Option<Event>,
    /// A former agent has told that it is mounted. What became of it in its task's containers until that agent ended is not
    /// known before they have been looked into.
    pub is_inherited: bool,
    /// The task's containers have been looked into since anything changed.
    pub is_looked_into: bool,
    /// The mounts that its containers had of it at the last look.
    pub places: Vec<Place>,
    /// How often in a row the containers could not be mended, or none was found.
    pub failures: u32,
    /// When they were last looked into.
    pub looked: Option<Instant>,
    /// When they are looked into again.
    pub retry: Option<Instant>,
    /// What Nomad is to be asked because the mount was lost: none if nothing.
    pub plea: Option<Plea>,
}

/// A wish to Nomad that a loss has caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plea {
    /// To be asked, not before then.
    Due(Instant, u32),
    /// It is being asked.
    Asking(u32),
    /// Nomad has taken it.
    Taken,
}

/// Why a step failed.
#[derive(Debug, Clone)]
pub struct StepError {
    /// What the job's author is told.
    pub refusal: Refusal,
    /// When it is tried again; none if only a new call can help.
    pub retry: Option<Instant>,
    /// How often it has failed in a row.
    pub times: u32,
    /// No waiting mends it: a hook is refused. What a running task was promised is tried again all the same.
    pub is_final: bool,
    /// It failed while the binding was being taken away: this holds back no attempt to bring it, nor the other way.
    pub leaving: bool,
}

impl Live {
    /// A binding of which nothing is known.
    pub fn new(binding: Binding) -> Self {
        Self {
            binding,
            observed: Observed::Unseen,
            identity: None,
            intent: None,
            in_flight: None,
            error: None,
            since: Instant::now(),
            already: false,
            doubted: false,
            promised: false,
            looking: None,
            health: Health::default(),
            taken_back: None,
            called_off: None,
        }
    }

    /// Notes that something is wrong with it.
    pub fn note_fault(&mut self, cause: &str, kind: Cause) {
        let event = Event::now(cause, kind);
        self.health.last_fault = Some(event.clone());
        self.health.broken = Some(event);
        self.health.is_looked_into = false;
        self.health.retry = None;
        self.health.failures = 0;
    }

    /// Whether the host's mount is proved, nothing is known that speaks against it, and nobody is at it but who looks
    /// into containers.
    pub fn is_proved(&self) -> bool {
        self.observed == Observed::Proper && !self.doubted && (self.in_flight.is_none() || self.looking.is_some())
    }

    /// Whether its error says to wait still, or for good, with bringing it, or with taking it away.
    pub fn is_held_back(&self, leaving: bool, now: Instant) -> bool {
        let held = |error: &StepError| error.leaving == leaving && error.retry.is_none_or(|at| at > now);
        self.error.as_ref().is_some_and(held)
    }

    /// What was proved of it may be so no longer: it is looked at once more.
    pub fn doubt(&mut self) {
        self.health.is_looked_into = false;
        self.health.retry = None;
        if self.in_flight.is_some() {
            self.doubted = true;
        } else if self.observed == Observed::Proper {
            self.observed = Observed::Unseen;
        }
    }
}
