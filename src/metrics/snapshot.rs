//! What is true at one moment, and its gauges. Made for one scrape and dropped with it.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::PREFIX;
use crate::guard::Hello;
use crate::sys::process;

/// The most series of bindings. Past it volumes are no longer told apart: they are summed up under an empty name.
pub const MOST_BINDING_SERIES: usize = 2000;

/// The states that a source can be in, as `status` names them.
const SOURCE_STATES: [&str; 7] = ["attached", "attaching", "detached", "detaching", "failed", "hung", "unreachable"];

/// What bindings are counted by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct BindingKind {
    /// As `status` names it.
    pub state: &'static str,
    /// The source's name.
    pub source: String,
    /// The volume's name.
    pub volume: String,
}

/// One source.
#[derive(Debug, Clone)]
pub struct SourceNow {
    /// Its name.
    pub name: String,
    /// Its backend's kind.
    pub kind: &'static str,
    /// As `status` names it.
    pub state: &'static str,
    /// Its mount program, where there is one.
    pub pid: Option<i32>,
}

/// What the reconciler knows.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Whether Nomad's last answer was one.
    pub nomad_connected: bool,
    /// When Nomad last answered.
    pub nomad_heard: Option<SystemTime>,
    /// Calls of prestart tasks that wait.
    pub pending_hooks: usize,
    /// Allocations with a binding.
    pub allocations: usize,
    /// The sources.
    pub sources: Vec<SourceNow>,
    /// How many bindings there are of each kind.
    pub bindings: BTreeMap<BindingKind, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceState {
    source: String,
    kind: &'static str,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Process {
    process: &'static str,
    source: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verdict {
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    answer: &'static str,
}

/// The gauges of a moment. Reads `/proc` for the processes, and nothing that a file system's server could hold up: what
/// is read there takes no lock of a process that waits for one.
pub(super) fn gauges(snapshot: &Snapshot, guard: Option<&Hello>) -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    agent(&mut registry, snapshot);
    sources(&mut registry, snapshot);
    bindings(&mut registry, &snapshot.bindings);
    self::guard(&mut registry, guard);
    processes(&mut registry, snapshot, guard);
    registry
}

fn agent(registry: &mut Registry, snapshot: &Snapshot) {
    let since_epoch = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let connected: Gauge = Gauge::default();
    connected.set(i64::from(snapshot.nomad_connected));
    registry.register("nomad_connected", "Whether Nomad answered the agent's last question", connected);
    let heard = Gauge::<f64, AtomicU64>::default();
    heard.set(snapshot.nomad_heard.map(since_epoch).unwrap_or_default());
    registry.register_with_unit(
        "nomad_last_contact_timestamp",
        "When Nomad last answered, since the epoch; an idle Nomad answers every five minutes",
        Unit::Seconds,
        heard,
    );
    let number = |value: usize| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge
    };
    registry.register("hooks_pending", "Calls of prestart tasks that wait", number(snapshot.pending_hooks));
    registry.register("allocations", "Allocations of this node with volumes", number(snapshot.allocations));
}

fn sources(registry: &mut Registry, snapshot: &Snapshot) {
    // Two sources can have one name, when a backend was defined anew while its old source is in use: they add up.
    let states = Family::<SourceState, Gauge>::default();
    for source in &snapshot.sources {
        for state in SOURCE_STATES {
            let labels = SourceState { source: source.name.clone(), kind: source.kind, state };
            states.get_or_create(&labels).inc_by(i64::from(state == source.state));
        }
    }
    registry.register("source_state", "1 for the state that the source is in, 0 for every other", states);
}

fn bindings(registry: &mut Registry, bindings: &BTreeMap<BindingKind, u64>) {
    let family = Family::<BindingKind, Gauge>::default();
    for (number, (kind, count)) in bindings.iter().enumerate() {
        let mut kind = kind.clone();
        if number >= MOST_BINDING_SERIES {
            kind.volume.clear();
        }
        family.get_or_create(&kind).inc_by(i64::try_from(*count).unwrap_or(i64::MAX));
    }
    registry.register("bindings", "Volumes in tasks, by their state, source and volume", family);
}

fn guard(registry: &mut Registry, guard: Option<&Hello>) {
    let up: Gauge = Gauge::default();
    up.set(i64::from(guard.is_some()));
    registry.register("guard_up", "Whether the guard answers", up);
    let Some(hello) = guard else { return };
    let groups: Gauge = Gauge::default();
    groups.set(i64::try_from(hello.groups.len()).unwrap_or(i64::MAX));
    registry.register("guard_groups", "Groups of marks that the guard reads: one for each source", groups);
    // A guard of an older version does not say.
    let Some(decisions) = &hello.decisions else { return };
    let verdicts = Family::<Verdict, Counter>::default();
    for (verdict, count) in [("allowed", decisions.allowed), ("denied", decisions.denied)] {
        verdicts.get_or_create(&Verdict { verdict }).inc_by(count);
    }
    registry.register("guard_decisions", "Opens below volumes that the guard answered, since it started", verdicts);
    let questions = Family::<Answer, Counter>::default();
    for (answer, count) in [
        ("detached", decisions.answered_detached),
        ("in_use", decisions.answered_in_use),
        ("unknown", decisions.answered_unknown),
        ("none", decisions.unanswered),
        ("unasked", decisions.unasked),
    ] {
        questions.get_or_create(&Answer { answer }).inc_by(count);
    }
    registry.register(
        "guard_questions",
        "Directories that the guard kept Nomad out of, by what the agent said when it was asked whether they are used",
        questions,
    );
}

fn processes(registry: &mut Registry, snapshot: &Snapshot, guard: Option<&Hello>) {
    let pid_of = |pid: u32| i32::try_from(pid).ok();
    let of = |process, source: &str| Process { process, source: source.to_owned() };
    let own = Some((of("agent", ""), std::process::id())).and_then(|(labels, pid)| Some((labels, pid_of(pid)?)));
    let guard = guard.and_then(|hello| Some((of("guard", ""), pid_of(hello.pid)?)));
    let mounts = snapshot.sources.iter().filter_map(|source| Some((of("mount", &source.name), source.pid?)));
    let memory = Family::<Process, Gauge>::default();
    let descriptors = Family::<Process, Gauge>::default();
    let threads = Family::<Process, Gauge>::default();
    for (labels, pid) in own.into_iter().chain(guard).chain(mounts) {
        // One that has just ended has nothing to tell.
        let set = |family: &Family<Process, Gauge>, value: std::io::Result<u64>| {
            if let Ok(value) = value {
                family.get_or_create(&labels).inc_by(i64::try_from(value).unwrap_or(i64::MAX));
            }
        };
        set(&memory, process::resident_memory(pid));
        set(&descriptors, process::open_descriptors(pid));
        set(&threads, process::threads(pid));
    }
    registry.register_with_unit(
        "process_resident_memory",
        "Resident memory of the agent, the guard, and each source's mount program",
        Unit::Bytes,
        memory,
    );
    registry.register("process_open_descriptors", "Descriptors that these have open", descriptors);
    registry.register("process_threads", "Threads of these", threads);
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn snapshot(volumes: usize) -> Snapshot {
        let kind =
            |number: usize| BindingKind { state: "mounted", source: "main".into(), volume: format!("v{number:05}") };
        let source = |state| SourceNow { name: "main".into(), kind: "seaweedfs", state, pid: None };
        Snapshot {
            nomad_connected: true,
            nomad_heard: None,
            pending_hooks: 2,
            allocations: volumes,
            sources: vec![source("attached"), source("failed")],
            bindings: (0..volumes).map(|number| (kind(number), 1)).collect(),
        }
    }

    fn text(snapshot: &Snapshot) -> String {
        let mut text = String::new();
        encode(&mut text, &gauges(snapshot, None)).unwrap();
        text
    }

    #[test]
    fn sources_of_one_name_are_one_series() {
        let text = text(&snapshot(1));
        let states: Vec<&str> = text.lines().filter(|line| line.starts_with("saddlebag_source_state{")).collect();
        assert_eq!(states.len(), SOURCE_STATES.len(), "{text}");
        let on = states.iter().filter(|line| line.ends_with(" 1")).count();
        assert_eq!(on, 2, "{text}");
    }

    #[test]
    fn no_number_of_volumes_makes_more_series_than_are_allowed() {
        let text = text(&snapshot(MOST_BINDING_SERIES + 500));
        let series: Vec<&str> = text.lines().filter(|line| line.starts_with("saddlebag_bindings{")).collect();
        assert_eq!(series.len(), MOST_BINDING_SERIES + 1);
        let rest = series.iter().find(|line| line.contains("volume=\"\"")).unwrap();
        assert!(rest.ends_with(" 500"), "{rest}");
    }

    #[test]
    fn the_own_process_is_measured() {
        let text = text(&snapshot(0));
        for name in ["resident_memory_bytes", "open_descriptors", "threads"] {
            let start = format!("saddlebag_process_{name}{{process=\"agent\",source=\"\"}} ");
            let value = text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("{text}"));
            assert!(value.parse::<u64>().unwrap() > 0, "{name}");
        }
    }
}
