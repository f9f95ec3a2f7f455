//! What the agent counts and measures, and how it is told to Prometheus.
//!
//! * [`Metrics`] counts what happens. Clones share one set of counters; every call is short, takes no lock that is held
//!   for longer than a look-up, and may be made from any thread.
//! * [`labels`] are the words that counters are told apart by. Each is a closed list, but for names of sources.
//! * [`snapshot`] is what is true at one moment (states of sources and bindings, processes): it is counted from the
//!   reconciler's own state when somebody scrapes, so that nothing is held for it in between.
//! * [`hook`] measures the phases of a hook; [`scrape`] puts everything together; [`text`] writes the older format.
//!
//! Names follow Prometheus' conventions: prefix `saddlebag_`, base units, `_total` for what only grows.

pub mod hook;
pub mod labels;
pub mod scrape;
pub mod snapshot;
pub mod text;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use labels::{Cause, HookResult, LedgerOperation, Phase, Place};

/// The prefix of every name.
pub(crate) const PREFIX: &str = "saddlebag";

/// From one fsync on a fast disk to the longest that a hook may take, in seconds.
const HOOK_BUCKETS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// From a page in the cache to a disk that hardly answers, in seconds.
const LEDGER_BUCKETS: [f64; 13] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Fault {
    cause: Cause,
    source: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Repair {
    cause: Cause,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSource {
    source: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPhase {
    phase: Phase,
    result: HookResult,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOperation {
    operation: LedgerOperation,
}

/// Counts what happens in this agent, from its start on.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    registry: Registry,
    faults: Family<Fault, Counter>,
    repairs: Family<Repair, Counter>,
    failed_repairs: Family<Repair, Counter>,
    mounts_lost: Family<OfSource, Counter>,
    hooks: Histograms<OfPhase>,
    ledger: Histograms<OfOperation>,
    ledger_failures: Family<OfOperation, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Counters that all stand at nothing.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let info = Info::new([
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", option_env!("SADDLEBAG_COMMIT").unwrap_or("")),
        ]);
        registry.register(
            "build",
            "The version of the agent, and the commit that it was built from where that is known",
            info,
        );
        let started = Gauge::<f64, AtomicU64>::default();
        started.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        registry.register_with_unit("start_time", "When the agent started, since the epoch", Unit::Seconds, started);
        let faults = Family::default();
        registry.register("faults", "Faults of mounts that were found, by their cause and source", faults.clone());
        let repairs = Family::default();
        registry.register("repairs", "Mounts that were made good again, by what was wrong and where", repairs.clone());
        let failed_repairs = Family::default();
        registry.register("repair_failures", "Tries to make a mount good again that failed", failed_repairs.clone());
        let mounts_lost = Family::default();
        registry.register(
            "mounts_lost",
            "Mounts that died in use: files that tasks had open through them are lost to these tasks",
            mounts_lost.clone(),
        );
        let hooks = Histograms::new_with_constructor(|| Histogram::new(HOOK_BUCKETS));
        registry.register_with_unit(
            "hook_duration",
            "How long the calls of prestart tasks took, by phase; phase whole is the answer, record and bind go on side by side",
            Unit::Seconds,
            hooks.clone(),
        );
        let ledger = Histograms::new_with_constructor(|| Histogram::new(LEDGER_BUCKETS));
        registry.register_with_unit(
            "ledger_write_duration",
            "How long writing a page of the ledger took until it was durable, or failed",
            Unit::Seconds,
            ledger.clone(),
        );
        let ledger_failures = Family::default();
        registry.register(
            "ledger_write_failures",
            "Pages of the ledger that could not be written",
            ledger_failures.clone(),
        );
        let metrics = Self(Arc::new(Counts {
            registry,
            faults,
            repairs,
            failed_repairs,
            mounts_lost,
            hooks,
            ledger,
            ledger_failures,
        }));
        metrics.begin_at_nothing();
        metrics
    }

    /// A counter that appears with its first event has no increase that Prometheus could see: each is there from the
    /// start, where what it can be told apart by is known.
    fn begin_at_nothing(&self) {
        let counts = &self.0;
        for (cause, place) in Cause::ALL.iter().flat_map(|cause| Place::ALL.iter().map(move |place| (*cause, *place))) {
            drop(counts.repairs.get_or_create(&Repair { cause, place }));
            drop(counts.failed_repairs.get_or_create(&Repair { cause, place }));
        }
        for operation in LedgerOperation::ALL {
            drop(counts.ledger.get_or_create(&OfOperation { operation }));
            drop(counts.ledger_failures.get_or_create(&OfOperation { operation }));
        }
        for phase in Phase::ALL {
            drop(counts.hooks.get_or_create(&OfPhase { phase, result: HookResult::Ready }));
        }
        for result in HookResult::ALL {
            drop(counts.hooks.get_or_create(&OfPhase { phase: Phase::Whole, result }));
        }
    }

    /// The same for a source, once it is known. Saying it again is harmless.
    pub fn know_source(&self, source: &str) {
        for cause in Cause::ALL {
            drop(self.0.faults.get_or_create(&Fault { cause, source: source.to_owned() }));
        }
        drop(self.0.mounts_lost.get_or_create(&OfSource { source: source.to_owned() }));
    }

    /// A fault was found: once for each mount of which it is true and each time that it becomes true, not for each
    /// look at it. `source` is the source's name for people (`Source::name`). A mount program that ended is one fault
    /// of its source, [`Cause::ProgramEnded`]; the bindings that die with it are each [`Cause::Dead`].
    pub fn fault(&self, cause: Cause, source: &str) {
        self.0.faults.get_or_create(&Fault { cause, source: source.to_owned() }).inc();
    }

    /// What was wrong is good again, and proved: a source mounted anew and a binding replaced on the host count as
    /// [`Place::Host`], a clone replaced inside a running container as [`Place::Container`], once for each.
    pub fn repair(&self, cause: Cause, place: Place) {
        self.0.repairs.get_or_create(&Repair { cause, place }).inc();
    }

    /// A try to make good again what was wrong has failed; it may be tried again.
    pub fn repair_failed(&self, cause: Cause, place: Place) {
        self.0.failed_repairs.get_or_create(&Repair { cause, place }).inc();
    }

    /// A mount that a task was using is gone, and with it what the task had open through it: once for each binding.
    pub fn mount_lost(&self, source: &str) {
        self.0.mounts_lost.get_or_create(&OfSource { source: source.to_owned() }).inc();
    }

    /// A phase of a hook took so long.
    pub fn hook_phase(&self, phase: Phase, result: HookResult, took: Duration) {
        self.0.hooks.get_or_create(&OfPhase { phase, result }).observe(took.as_secs_f64());
    }

    /// A page of the ledger is about to be written; what is returned measures it until [`LedgerWrite::end`].
    pub fn begin_ledger_write(&self, operation: LedgerOperation) -> LedgerWrite {
        LedgerWrite { metrics: self.clone(), operation, begun: Instant::now() }
    }

    /// What it counts, for an encoder.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }
}

/// A write of the ledger that is going on, on whatever thread.
#[derive(Debug)]
#[must_use]
pub struct LedgerWrite {
    metrics: Metrics,
    operation: LedgerOperation,
    begun: Instant,
}

impl LedgerWrite {
    /// It has ended, well or not.
    pub fn end<T, E>(self, result: &Result<T, E>) {
        let counts = &self.metrics.0;
        let labels = OfOperation { operation: self.operation };
        counts.ledger.get_or_create(&labels).observe(self.begun.elapsed().as_secs_f64());
        if result.is_err() {
            counts.ledger_failures.get_or_create(&labels).inc();
        }
    }
}
