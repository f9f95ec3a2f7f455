//! What the reconciler knows of one source.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::backend::prober::Prober;
use crate::backend::{self, Attached, Place, SourceKey};
use crate::config::{self, Config};
use crate::job::{Kind, Refusal};
use crate::sys::cgroup::OomKills;

/// The first wait after a source could not be attached; doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest wait between two tries.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// A mount program that lived for longer did not end for a reason that it met at once.
const LONG_LIFE: Duration = Duration::from_secs(60);
/// So many times in a row a program that ended soon is replaced at once.
const SUDDEN_DEATHS: u32 = 2;
/// How long the loss of a source is told of.
const LOSS_IS_NEWS: Duration = Duration::from_secs(3600);

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

/// Whether a source that is mounted answers, by its last probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does, or was not asked yet.
    Sound,
    /// It does not, or its servers do not: whoever uses it waits.
    Hung {
        /// Since when it was asked in vain.
        since: Instant,
        /// What does not answer.
        reason: String,
    },
    /// It answers, and some of what is asked of it fails.
    Degraded {
        /// Since when.
        since: Instant,
        /// What, and why.
        reason: String,
    },
    /// None of its servers can be reached, although the mount answers.
    Unreachable {
        /// Since when.
        since: Instant,
        /// Why.
        reason: String,
    },
}

impl Health {
    /// `hung`, `degraded` or `unreachable`, since when and why; none where it is sound.
    pub fn trouble(&self) -> Option<(&'static str, Instant, &str)> {
        match self {
            Self::Sound => None,
            Self::Hung { since, reason } => Some(("hung", *since, reason)),
            Self::Degraded { since, reason } => Some(("degraded", *since, reason)),
            Self::Unreachable { since, reason } => Some(("unreachable", *since, reason)),
        }
    }
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
    /// Why, the last time: for who has waited for it while the next try is under way.
    pub refused: Option<Refusal>,
    /// Whether the last failure may pass by itself, so that hooks wait for it.
    pub is_worth_waiting: bool,
    /// Whether it is kept without any binding.
    pub keep: bool,
    /// An earlier agent knew it, and may have left it mounted.
    pub is_recalled: bool,
    /// The process that is watched.
    pub watched: Option<i32>,
    /// Whether it answers.
    pub health: Health,
    /// When a probe last said so.
    pub probed: Option<Instant>,
    /// When it is probed next without anybody looking.
    pub next_probe: Option<Instant>,
    /// How often in a row its mount program ended soon after it was attached.
    pub deaths: u32,
    /// How often its mount programs were killed for want of memory.
    pub oom_kills: Arc<Mutex<OomKills>>,
    /// The last time that it was lost, and why.
    pub loss: Option<(Instant, String)>,
    /// The source that it lies on, where it lies on one: it is attached after that one, and lost with it.
    pub beneath: Option<SourceKey>,
    /// How often in a row it could not be detached.
    pub detach_failures: u32,
}

impl Source {
    /// A source that is not attached.
    pub fn new(key: SourceKey, definition: config::Backend, config: &Config, prober: Prober) -> Self {
        let place = Place {
            mount_point: config.sources_dir().join(&key.0),
            log: config.logs_dir().join(format!("{key}.log")),
            cache: config.state_dir.join("cache").join(&key.0),
            socket: config.run_dir.join(format!("{key}.sock")),
            key,
            prober,
            is_trial: false,
            beneath: None,
            may_create: true,
        };
        Self {
            names: BTreeSet::from([definition.name.clone()]),
            keep: definition.attach_at_start,
            beneath: backend::beneath(&definition).map(backend::key_of),
            detach_failures: 0,
            definition,
            place,
            state: State::Detached,
            since: Instant::now(),
            retry: None,
            failures: 0,
            refused: None,
            is_worth_waiting: true,
            is_recalled: false,
            watched: None,
            health: Health::Sound,
            probed: None,
            next_probe: None,
            deaths: 0,
            oom_kills: Arc::default(),
            loss: None,
        }
    }

    /// The attached source.
    pub fn attached(&self) -> Option<&Attached> {
        match &self.state {
            State::Attached(attached) => Some(attached),
            _ => None,
        }
    }

    /// Whether something may be bound from it: it is attached, and answers as far as is known. What is asked of a source
    /// that hangs would only wait, and keep its worker in the kernel.
    pub fn is_usable(&self) -> bool {
        self.attached().is_some() && matches!(self.health, Health::Sound | Health::Degraded { .. })
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
        self.refused = Some(refusal.clone());
        self.set(State::Failed(refusal, log));
        at
    }

    /// Notes that its mount program has ended, and why, in a word for people.
    pub fn note_loss(&mut self, starved: bool) -> String {
        let cause = match (self.definition.kind.memory_limit(), starved) {
            (Some(limit), true) => {
                format!("out of memory: the kernel killed it at its memory_limit of {} MiB", limit >> 20)
            }
            (None, true) => "out of memory: the kernel killed it at its limit".to_owned(),
            (_, false) => "it was killed, or ended by itself".to_owned(),
        };
        self.lose(&cause);
        cause
    }

    /// Notes that nothing can be read through its mount any more, and why.
    pub fn lose(&mut self, cause: &str) {
        self.health = Health::Sound;
        self.loss = Some((Instant::now(), cause.to_owned()));
    }

    /// Its mount program has ended: it is mounted again at once, or, where that happened soon after the last time too, at
    /// the returned time. A program that cannot live would else be started for ever.
    pub fn wait_after_loss(&mut self, cause: &str) -> Option<Instant> {
        self.deaths = if self.since.elapsed() < LONG_LIFE { self.deaths.saturating_add(1) } else { 0 };
        if self.deaths <= SUDDEN_DEATHS {
            self.set(State::Detached);
            return None;
        }
        let refusal = Refusal {
            kind: Kind::Unavailable,
            message: format!("backend {} was lost {} times in a row: {cause}", self.name(), self.deaths + 1),
            hint: Some("see its mount program's log; it is mounted again after a wait".into()),
        };
        self.failures = self.deaths - SUDDEN_DEATHS;
        Some(self.fail(refusal, Vec::new(), true))
    }

    /// What is said of a source that is there and was lost not long ago.
    pub fn recent_loss(&self) -> Option<String> {
        let (at, cause) = self.loss.as_ref().filter(|(at, _)| at.elapsed() < LOSS_IS_NEWS)?;
        let ago = humantime::format_duration(Duration::from_secs(at.elapsed().as_secs()));
        Some(match self.beneath {
            Some(_) => format!("mounted again: it was lost {ago} ago ({cause})"),
            None => format!("mounted again: its mount program had ended {ago} ago ({cause})"),
        })
    }

    /// How long it is kept after its last binding: where it was in use all the same, it is not tried again at once.
    pub fn linger(&self) -> Duration {
        let tried = self.detach_failures;
        if tried == 0 {
            return self.definition.linger;
        }
        let again = (FIRST_RETRY * 2_u32.saturating_pow(tried.min(8))).min(LONGEST_RETRY);
        self.definition.linger.max(again)
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
