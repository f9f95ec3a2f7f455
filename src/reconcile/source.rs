//! What the reconciler knows of one source.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::backend::{Attached, Place, SourceKey};
use crate::config::{self, Config};
use crate::job::Refusal;

/// The first wait after a source could not be attached; doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest wait between two tries.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// How a source stands.
#[derive(Debug, Clone)]
pub enum State {
    /// Not mounted, and nobody tries.
    Detached,
    /// Its worker is at it.
    Attaching,
    /// Mounted, and it answered.
    Attached(Attached),
    /// It could not be attached; the next try is at [`Source::retry`], if there is one.
    Failed(Refusal, Vec<String>),
    /// Its worker takes it away.
    Detaching,
}

/// One source.
#[derive(Debug)]
pub struct Source {
    /// How it is attached.
    pub definition: config::Backend,
    /// The backends of the configuration that share it.
    pub names: BTreeSet<String>,
    /// Where it lives.
    pub place: Place,
    /// How it stands.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// When it is tried again.
    pub retry: Option<Instant>,
    /// How often it failed in a row.
    pub failures: u32,
    /// Whether the last failure may pass by itself, so that hooks wait for it.
    pub is_worth_waiting: bool,
    /// Whether it is kept without any binding.
    pub keep: bool,
    /// An earlier agent knew it, and may have left it mounted.
    pub is_recalled: bool,
    /// The process that is watched.
    pub watched: Option<i32>,
}

impl Source {
    /// A source that is not attached.
    pub fn new(key: SourceKey, definition: config::Backend, config: &Config) -> Self {
        let place = Place {
            mount_point: config.sources_dir().join(&key.0),
            log: config.logs_dir().join(format!("{key}.log")),
            cache: config.state_dir.join("cache").join(&key.0),
            socket: config.run_dir.join(format!("{key}.sock")),
            key,
        };
        Self {
            names: BTreeSet::from([definition.name.clone()]),
            keep: definition.attach_at_start,
            definition,
            place,
            state: State::Detached,
            since: Instant::now(),
            retry: None,
            failures: 0,
            is_worth_waiting: true,
            is_recalled: false,
            watched: None,
        }
    }

    /// The attached source.
    pub fn attached(&self) -> Option<&Attached> {
        match &self.state {
            State::Attached(attached) => Some(attached),
            _ => None,
        }
    }

    /// Whether its worker may be asked to attach it now.
    pub fn may_attach(&self, now: Instant) -> bool {
        match self.state {
            State::Detached => true,
            State::Failed(..) => self.retry.is_some_and(|at| at <= now),
            State::Attaching | State::Attached(_) | State::Detaching => false,
        }
    }

    /// Changes the state.
    pub fn set(&mut self, state: State) {
        self.state = state;
        self.since = Instant::now();
    }

    /// Notes a failure, and when to try again: what only a person can mend is tried as well, but rarely, since the
    /// person will not come and tell us.
    pub fn fail(&mut self, refusal: Refusal, log: Vec<String>, is_temporary: bool) -> Instant {
        let wait = if is_temporary {
            (FIRST_RETRY * 2_u32.saturating_pow(self.failures.min(8))).min(LONGEST_RETRY)
        } else {
            LONGEST_RETRY
        };
        self.failures = self.failures.saturating_add(1);
        let at = Instant::now() + wait;
        self.retry = Some(at);
        self.is_worth_waiting = is_temporary;
        self.set(State::Failed(refusal, log));
        at
    }

    /// Since when its worker is at something that takes longer than it should.
    pub fn is_hung(&self) -> bool {
        let patience = self.definition.attach_timeout + Duration::from_secs(10);
        matches!(self.state, State::Attaching | State::Detaching) && self.since.elapsed() > patience
    }

    /// The name for people: the backends that share it.
    pub fn name(&self) -> String {
        self.names.iter().cloned().collect::<Vec<_>>().join(",")
    }
}
