//! Which errors a task may see, and when: those of its own mount program's death, or its filer's, until all is mended.

use super::storm::status;
use super::witness::{Call, Witness, now};
use crate::support::World;
use anyhow::Context as _;
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

/// A time in which calls on a source's volumes may fail.
#[derive(Debug)]
struct Fault {
    began: u64,
    /// Not yet over.
    ended: Option<u64>,
}

/// A container is made so long before its task says hello, at the most, and so long after that its mounts are mended.
const CONTAINER_STARTS: u64 = 10_000;

/// A call that failed for the end of a SeaweedFS began so long before it, at the most, and its last consequence is so long
/// after it: `weed mount` tries again for a while. Milliseconds.
const BEFORE_AN_END: u64 = 5_000;
const UNTIL_IT_SERVES: u64 = 20_000;

impl Fault {
    /// A call may fail while it lasts. A container that is made meanwhile gets the dead mount of the host, and has it until
    /// Nomad has told the agent that the task runs.
    fn excuses(&self, call: &Call) -> bool {
        let overlaps = |began: u64, ended: u64| self.began <= ended && self.ended.is_none_or(|end| began <= end);
        let is_new = |since: u64| {
            call.ended <= since + CONTAINER_STARTS && overlaps(since.saturating_sub(CONTAINER_STARTS), since)
        };
        overlaps(call.began, call.ended) || call.never_since.is_some_and(is_new)
    }
}

/// What is and was amiss with the sources, by their names.
#[derive(Default)]
pub struct Weather {
    faults: BTreeMap<&'static str, Vec<Fault>>,
    killed: BTreeSet<i64>,
    pub is_filer_away: bool,
    /// How often the SeaweedFS of each has ended by itself.
    ends: BTreeMap<&'static str, usize>,
    /// Calls that failed when they might.
    pub excused: usize,
}

impl Weather {
    /// Before somebody is killed.
    pub fn begin(&mut self, source: &'static str, programs: &[Pid]) {
        self.killed.extend(programs.iter().map(|pid| i64::from(pid.as_raw())));
        let faults = self.faults.entry(source).or_default();
        if faults.last().is_none_or(|last| last.ended.is_some()) {
            faults.push(Fault { began: now(), ended: None });
        }
    }

    /// A SeaweedFS that ends by itself is started again, and serves within some seconds. What its log tells of that since
    /// the last look is a fault, and no news.
    pub fn note_ends(&mut self, source: &'static str, log: &str) -> anyhow::Result<()> {
        let ends = log.lines().filter(|line| line.starts_with("lab: it ended by itself"));
        for line in ends.skip(self.ends.get(source).copied().unwrap_or_default()) {
            let at = line.split(" at ").nth(1).and_then(|rest| rest.split(',').next()).context("a time")?;
            let at = (at.parse::<f64>()? * 1000.0) as u64;
            println!("         {at} the SeaweedFS of {source} has ended by itself");
            let fault = Fault { began: at.saturating_sub(BEFORE_AN_END), ended: Some(at + UNTIL_IT_SERVES) };
            // Before one that is not over yet, which stays the last.
            let faults = self.faults.entry(source).or_default();
            let last = faults.len() - usize::from(faults.last().is_some_and(|last| last.ended.is_none()));
            faults.insert(last, fault);
            *self.ends.entry(source).or_default() += 1;
        }
        Ok(())
    }

    pub fn is_rough(&self) -> bool {
        self.open().next().is_some()
    }

    /// Whether a source was amiss then, or a little before.
    pub fn was_rough(&self, source: &str, at: SystemTime, after: Duration) -> bool {
        let Ok(ago) = SystemTime::now().duration_since(at) else { return false };
        let at = now().saturating_sub(ago.as_millis() as u64);
        let after = after.as_millis() as u64;
        let known = self.faults.get(source).map(Vec::as_slice).unwrap_or_default();
        known.iter().any(|fault| fault.began <= at && fault.ended.is_none_or(|ended| at <= ended + after))
    }

    fn open(&self) -> impl Iterator<Item = &'static str> {
        let is_open = |faults: &&Vec<Fault>| faults.last().is_some_and(|last| last.ended.is_none());
        self.faults.iter().filter(move |(_, faults)| is_open(faults)).map(|(source, _)| *source)
    }

    /// A fault is over when the agent calls the source attached, by a program that nobody has killed, and every binding
    /// of it that a task uses mounted.
    pub fn look(&mut self, world: &World, witness: &Witness, serves: bool) -> anyhow::Result<()> {
        // An agent that is about to be ready has no answer yet.
        let Ok(status) = status(world) else { return Ok(()) };
        let mended: Vec<_> =
            self.open().filter(|source| self.obstacle(&status, witness, source, serves).is_none()).collect();
        for source in mended {
            if let Some(last) = self.faults.get_mut(source).and_then(|faults| faults.last_mut()) {
                last.ended = Some(now());
                println!("         {} {source} is mended after {} ms", now(), now() - last.began);
            }
        }
        Ok(())
    }

    /// What is not mended.
    fn obstacle(&self, status: &Value, witness: &Witness, name: &str, serves: bool) -> Option<String> {
        if name == "main" && !serves {
            return Some("its SeaweedFS does not serve".to_owned());
        }
        let source = status["sources"].as_array()?.iter().find(|source| source["name"] == name)?;
        let pid = source["pid"].as_i64();
        if source["state"] != "attached" || pid.is_none_or(|pid| self.killed.contains(&pid)) {
            return Some(format!("{source:#}"));
        }
        let used: BTreeSet<_> = witness.seen().connected.keys().cloned().collect();
        let is_used = |one: &&Value| {
            let word = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
            used.contains(&(word("alloc"), word("task")))
        };
        let mut bindings = status["bindings"].as_array()?.iter().filter(|one| one["source"] == name).filter(is_used);
        bindings.find(|one| one["state"] != "mounted" && one["state"] != "leaving").map(|one| format!("{one:#}"))
    }

    /// Why it is still rough.
    pub fn explain(&self, world: &World, witness: &Witness) -> String {
        let Ok(status) = status(world) else { return "no agent answers".to_owned() };
        let why = |source| format!("{source}: {:?}", self.obstacle(&status, witness, source, !self.is_filer_away));
        self.open().map(why).collect::<Vec<_>>().join("\n")
    }

    /// Fails where a call has failed that might not.
    pub fn judge(&mut self, witness: &Witness) -> anyhow::Result<()> {
        let (faults, wrongs) = {
            let mut seen = witness.seen();
            (std::mem::take(&mut seen.faults), seen.wrongs.clone())
        };
        anyhow::ensure!(wrongs.is_empty(), "seen by tasks:\n{}", wrongs.join("\n"));
        for fault in faults {
            let source = fault.file.volume.split('-').next().unwrap_or_default();
            let known = self.faults.get(source).map(Vec::as_slice).unwrap_or_default();
            let may = known.iter().any(|of| of.excuses(&fault));
            let Call { file, job, began, ended, call, never_since } = &fault;
            anyhow::ensure!(
                may,
                "{call} of {job}, {file:?}, from {began} to {ended}, no success since {never_since:?}, and nothing was \
                 amiss; known: {known:?}"
            );
            self.excused += 1;
        }
        Ok(())
    }
}
