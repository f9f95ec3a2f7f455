//! Whether sources answer: asked when somebody looks, when a hook waits, and now and then while tasks use a source that a
//! program or a server stands behind. What asks is a process of its own (see [`crate::backend::prober`]); nothing here
//! waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Ask;
use super::binding::BindingKey;
use super::events::Timer;
use super::reconciler::Reconciler;
use super::source::{Health, Source, State};
use crate::backend::probe::{Question, Verdict};
use crate::backend::prober::Report;
use crate::backend::{self, AttachError, SourceKey};
use crate::job::{Kind, Refusal};
use crate::metrics::Cause;
use crate::nomad::model::AllocId;

/// What was found so long ago is as good as new.
const FRESH: Duration = Duration::from_secs(2);
/// How long whoever looks waits for fresh probes.
const LOOK: Duration = Duration::from_secs(1);
/// A hook that waits for longer has its sources probed.
pub(super) const SUSPICIOUS_AFTER: Duration = Duration::from_secs(2);
/// How often a source that is not well is probed, where no outstanding probe will tell.
const SICK_AGAIN: Duration = Duration::from_secs(5);

/// Those who look, and wait for fresh probes.
#[derive(Default)]
pub(super) struct Looks {
    next: u64,
    waiting: BTreeMap<u64, (BTreeSet<SourceKey>, Ask)>,
}

/// What went wrong with a source, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// It or its servers ceased to answer.
    Hung,
    /// It answers, and some of what is asked of it fails.
    Degraded,
    /// Its servers cannot be reached.
    Unreachable,
    /// Its mount program ended.
    Lost,
    /// The same, since the kernel killed it for want of memory.
    OutOfMemory,
}

impl Reconciler {
    /// Where every fault of a source comes by, once each time that it begins.
    pub(super) fn count_fault(&mut self, key: &SourceKey, fault: Fault) {
        let cause = match fault {
            Fault::Hung => Cause::Hung,
            Fault::Unreachable => Cause::Unreachable,
            Fault::Lost => Cause::ProgramEnded,
            Fault::OutOfMemory => Cause::OutOfMemory,
            Fault::Degraded => Cause::Degraded,
        };
        self.metrics.fault(cause, &self.source_name(key));
    }

    /// Answers; whoever looks is answered once the sources that the answer is about were asked, or have kept their answer
    /// for themselves for [`LOOK`].
    pub(super) fn look_first(&mut self, ask: Ask) {
        let mut awaited = self.find_looked_at(&ask);
        let now = Instant::now();
        awaited.retain(|key| {
            let Some(source) = self.sources.get(key) else { return false };
            // What is known to hang is not waited for: its outstanding probe tells when it answers.
            let is_known = source.probed.is_some_and(|at| at + FRESH > now)
                || matches!(source.place.prober.outstanding(), Some(Some(_)));
            !is_known && begin(source)
        });
        if awaited.is_empty() {
            self.answer(ask);
            return;
        }
        let number = self.looks.next;
        self.looks.next += 1;
        self.looks.waiting.insert(number, (awaited, ask));
        self.set_timer(now + LOOK, Timer::Look(number));
    }

    /// The sources whose health an answer tells.
    fn find_looked_at(&self, ask: &Ask) -> BTreeSet<SourceKey> {
        let of = |is_meant: &dyn Fn(&AllocId) -> bool| {
            let entries = self.entries.values().filter(|entry| is_meant(&entry.id));
            entries.flat_map(|entry| entry.bindings.values().map(|live| live.binding.source.clone())).collect()
        };
        match ask {
            Ask::Status { alloc: None, .. } => self.sources.keys().cloned().collect(),
            Ask::Status { alloc: Some(alloc), .. } => of(&|id| id == alloc),
            Ask::Explain { prefix, .. } => of(&|id| id.as_str().starts_with(prefix.as_str())),
            // A scrape, and whoever follows, is told what is known: sources in use are asked by themselves.
            Ask::Measure { .. }
            | Ask::Follow { .. }
            | Ask::Mount { .. }
            | Ask::Order { .. }
            | Ask::Volume(_)
            | Ask::Question { .. } => BTreeSet::new(),
        }
    }

    pub(super) fn end_look(&mut self, number: u64) {
        if let Some((_, ask)) = self.looks.waiting.remove(&number) {
            self.answer(ask);
        }
    }

    fn end_looks_at(&mut self, key: &SourceKey) {
        let mut over = Vec::new();
        for (number, (awaited, _)) in &mut self.looks.waiting {
            awaited.remove(key);
            if awaited.is_empty() {
                over.push(*number);
            }
        }
        for number in over {
            self.end_look(number);
        }
    }

    /// Asks the sources for which an allocation's hooks have waited for a while.
    pub(super) fn probe_awaited(&mut self, alloc: &AllocId) {
        let Some(entry) = self.entries.get(alloc).filter(|entry| !entry.hooks.is_empty()) else { return };
        for live in entry.bindings.values() {
            if let Some(source) = self.sources.get(&live.binding.source) {
                begin(source);
            }
        }
    }

    /// As [`Self::keep_probing`], for the source of a binding.
    pub(super) fn keep_probing_for(&mut self, alloc: &AllocId, key: &BindingKey) {
        let live = self.entries.get(alloc).and_then(|entry| entry.bindings.get(key));
        if let Some(source) = live.map(|live| live.binding.source.clone()) {
            self.keep_probing(&source);
        }
    }

    /// Sets the time of the next probe, if there is to be one without anybody looking.
    pub(super) fn keep_probing(&mut self, key: &SourceKey) {
        let Some(source) = self.sources.get(key).filter(|source| source.attached().is_some()) else { return };
        let is_sound = source.health == Health::Sound;
        let wait = if is_sound { self.config.probe_interval } else { self.config.probe_interval.min(SICK_AGAIN) };
        // A source that is not well is asked also where none is otherwise: nothing else would tell that it is well again.
        let wait = if !is_sound && wait.is_zero() { SICK_AGAIN } else { wait };
        let at = Instant::now() + wait;
        // This is asked after each binding that is made: what costs more comes last.
        if wait.is_zero() || source.next_probe.is_some_and(|next| next <= at) {
            return;
        }
        let is_used =
            || self.entries.values().any(|entry| entry.bindings.values().any(|live| live.binding.source == *key));
        if is_sound && !(backend::of(&source.definition).has_server() && is_used()) {
            return;
        }
        if let Some(source) = self.sources.get_mut(key) {
            source.next_probe = Some(at);
            self.set_timer(at, Timer::Probe(key.clone()));
        }
    }

    pub(super) fn probe_if_due(&mut self, key: &SourceKey) {
        let Some(source) = self.sources.get_mut(key) else { return };
        if source.next_probe.take_if(|at| *at <= Instant::now()).is_none() {
            return;
        }
        begin(source);
        self.keep_probing(key);
    }

    pub(super) fn note_probed(&mut self, key: &SourceKey, report: &Report) {
        self.hear_probe(key, report);
        self.end_looks_at(key);
    }

    fn hear_probe(&mut self, key: &SourceKey, report: &Report) {
        let Some(source) = self.sources.get_mut(key) else { return };
        // It could not be attached since it did not answer: what a probe says then is for the next try.
        if matches!(source.state, State::Failed(..)) && source.health.trouble().is_some() {
            if report.is_over || !matches!(report.mount, Some(Verdict::Silent { .. })) {
                source.retry = Some(Instant::now());
                self.attach(key);
            }
            return;
        }
        let is_of_this_mount = source.attached().is_some_and(|now| now.identity.mount_id == report.mount_id);
        let Some(mount) = report.mount.as_ref().filter(|_| is_of_this_mount) else { return };
        source.probed = Some(Instant::now());
        if let Verdict::Refuses { reason, .. } = mount {
            tracing::warn!(source = %key, backend = source.name(), reason, "the mount answers with an error: it is looked at");
            source.health = Health::Sound;
            if source.beneath.is_some() {
                source.loss = Some((Instant::now(), reason.clone()));
            }
            self.doubt_source(key);
            return;
        }
        let since = report.asked;
        let health = match (mount, &report.servers) {
            (Verdict::Silent { reason }, Some(Verdict::Refuses { reason: servers, .. })) => {
                Health::Hung { since, reason: format!("{reason}: {servers}") }
            }
            (Verdict::Silent { reason }, _) | (_, Some(Verdict::Silent { reason })) => {
                Health::Hung { since, reason: reason.clone() }
            }
            (Verdict::Cut { reason }, _) | (_, Some(Verdict::Cut { reason } | Verdict::Refuses { reason, .. })) => {
                Health::Unreachable { since, reason: reason.clone() }
            }
            (_, Some(Verdict::Answers) | None) => match &report.ails {
                Some(reason) => Health::Degraded { since, reason: reason.clone() },
                None => Health::Sound,
            },
        };
        self.change_health(key, health);
        let is_silent = matches!(mount, Verdict::Silent { .. });
        if report.is_over && is_silent {
            // It was killed: another one waits in its place for the source to answer again.
            if let Some(source) = self.sources.get(key) {
                begin(source);
            }
        } else {
            self.keep_probing(key);
        }
    }

    fn change_health(&mut self, key: &SourceKey, health: Health) {
        let Some(source) = self.sources.get_mut(key) else { return };
        let name = source.name();
        let before = std::mem::replace(&mut source.health, health.clone());
        let kind = |health: &Health| health.trouble().map(|(kind, ..)| kind);
        if kind(&before) == kind(&health) {
            // Since when it is so does not change with each probe that says so.
            match (&mut source.health, before) {
                (Health::Hung { since, .. }, Health::Hung { since: first, .. })
                | (Health::Degraded { since, .. }, Health::Degraded { since: first, .. })
                | (Health::Unreachable { since, .. }, Health::Unreachable { since: first, .. }) => *since = first,
                _ => {}
            }
            return;
        }
        match &health {
            Health::Hung { reason, .. } => {
                tracing::error!(source = %key, backend = name, reason, "the source hangs: whoever uses it waits");
                self.count_fault(key, Fault::Hung);
            }
            Health::Degraded { reason, .. } => {
                tracing::error!(source = %key, backend = name, reason, "some of what is asked of the source fails");
                self.count_fault(key, Fault::Degraded);
            }
            Health::Unreachable { reason, .. } => {
                tracing::error!(source = %key, backend = name, reason, "the source's servers cannot be reached");
                self.count_fault(key, Fault::Unreachable);
            }
            Health::Sound => {
                let after = before.trouble().map(|(_, since, _)| since.elapsed().as_secs()).unwrap_or_default();
                tracing::info!(source = %key, backend = name, seconds = after, "the source answers again");
                self.doubt_bindings(key);
                self.attach_above(key);
            }
        }
        self.touch_users(key);
    }

    /// Why a source that is attached cannot be used now, said to a job.
    pub(super) fn say_trouble(&self, source: &Source, volume: &str, waited: &str) -> Option<Refusal> {
        let (_, _, reason) = source.health.trouble()?;
        let hint = Some("see `saddlebag status` on this client; other backends are not affected".to_owned());
        let name = source.name();
        Some(match source.health {
            Health::Degraded { .. } => return None,
            Health::Unreachable { .. } => Refusal {
                kind: Kind::Unavailable,
                message: format!("volume {volume}: backend {name} cannot be used: {reason}"),
                hint,
            },
            _ => Refusal {
                kind: Kind::TryAgain,
                message: format!("volume {volume}: backend {name} did not answer within {waited}: {reason}"),
                hint,
            },
        })
    }
}

impl Source {
    /// It was attached just now, and answered.
    pub(super) fn note_answer(&mut self) {
        self.health = Health::Sound;
        self.probed = Some(Instant::now());
    }

    /// It could not be attached. Says whether that is news: a source that hangs is tried again and again.
    pub(super) fn note_refusal(&mut self, error: &AttachError) -> bool {
        let AttachError::Silent(reason) = error else {
            self.health = Health::Sound;
            return true;
        };
        let is_news = self.health == Health::Sound;
        if is_news {
            self.health = Health::Hung { since: Instant::now(), reason: reason.clone() };
        }
        is_news
    }

    /// The state and its reason for people, where a probe knows better than the mount table.
    pub(super) fn trouble(&self) -> Option<(&'static str, Option<String>)> {
        match &self.state {
            State::Attached(_) | State::Failed(..) | State::Attaching => {
                let (state, since, reason) = self.health.trouble()?;
                let since = humantime::format_duration(Duration::from_secs(since.elapsed().as_secs()));
                Some((state, Some(format!("{reason} (since {since})"))))
            }
            State::Detached | State::Detaching => None,
        }
    }

    /// Whether a probe is outstanding that has not been answered yet, and nothing newer is known.
    pub(super) fn is_being_asked(&self) -> bool {
        let is_old = self.probed.is_none_or(|at| at.elapsed() > FRESH);
        is_old && self.attached().is_some() && matches!(self.place.prober.outstanding(), Some(None))
    }

    /// For how long it has been in the state that `status` shows.
    pub(super) fn age(&self) -> Duration {
        let trouble = self.trouble().and(self.health.trouble());
        trouble.map_or(self.since, |(_, since, _)| since).elapsed()
    }
}

/// Begins a probe of a source that is attached, unless one is outstanding; says whether one is now.
fn begin(source: &Source) -> bool {
    let Some(attached) = source.attached() else { return false };
    let question = Question::new(&source.definition, &source.place, &attached.root, attached.identity.mount_id);
    match source.place.prober.begin(question) {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(source = %source.place.key, %error, "no thread for a probe");
            false
        }
    }
}
