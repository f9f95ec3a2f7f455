//! `saddlebag status`: what the agent has mounted, and what is not well.

use crate::api::types::{BindingStatus, SourceStatus, Status};
use crate::backend::Enforcement;
use crate::cli::args::StatusArgs;
use crate::cli::client::{self, Question};
use crate::cli::exit::{Failure, UNAVAILABLE};
use crate::cli::text::{age, bytes, one_line, sentence, short};
use crate::cli::{Ended, exit, table, watch};
use crate::hcl::written_size;

/// Asks the agent and prints what it knows.
///
/// # Errors
/// A [`Failure`] where the agent does not answer.
pub fn run(args: StatusArgs) -> Ended {
    if args.watch {
        return watch::run(&args);
    }
    let mut status: Status = client::ask_once(&args.socket.path(), Question::get("/v1/status"))?;
    retain_wanted(&args, &mut status);
    if args.json {
        return print_json(&status);
    }
    let is_filtered = args.namespace.is_some() || args.job.is_some();
    exit::print(&page(&status, is_filtered))
}

/// Leaves out what was not asked for.
pub(super) fn retain_wanted(args: &StatusArgs, status: &mut Status) {
    status.bindings.retain(|binding| {
        args.namespace.as_ref().is_none_or(|namespace| *namespace == binding.namespace)
            && args.job.as_ref().is_none_or(|job| *job == binding.job)
    });
}

/// Prints a value as JSON for people and programs.
///
/// # Errors
/// A [`Failure`] where it cannot be written.
pub fn print_json(value: &impl serde::Serialize) -> Ended {
    let json = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(UNAVAILABLE, format!("the answer cannot be written as JSON: {error}")))?;
    exit::print(&json)
}

/// The whole page.
pub(super) fn page(status: &Status, is_filtered: bool) -> String {
    let mut page = vec![head(status), format!("Sources\n{}", sources(&status.sources))];
    page.push(format!("Volumes\n{}", volumes(&status.bindings, is_filtered)));
    let troubles = troubles(status);
    if !troubles.is_empty() {
        page.push(format!("Not well\n{}", troubles.join("\n")));
    }
    let faults: Vec<String> = status.bindings.iter().filter_map(fault).collect();
    if !faults.is_empty() {
        page.push(format!("Last faults\n{}", faults.join("\n")));
    }
    page.join("\n\n")
}

fn head(status: &Status) -> String {
    let Status { version, pid, uptime_seconds, nomad, guard, .. } = status;
    let mut pairs = vec![("Agent", format!("{version} (pid {pid}, up {})", age(*uptime_seconds)))];
    let version = nomad.version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
    pairs.push(match (nomad.connected, &nomad.reason) {
        (true, None) => ("Nomad", format!("connected to{version} at {}", nomad.address)),
        // It answers, and nothing can be mounted all the same.
        (true, Some(reason)) => ("Nomad", format!("connected to{version} at {}, but {reason}", nomad.address)),
        (false, Some(reason)) => ("Nomad", format!("not connected to {}: {reason}", nomad.address)),
        (false, None) => ("Nomad", format!("not connected to {}", nomad.address)),
    });
    if let Some(id) = &nomad.node_id {
        let name = nomad.node_name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        pairs.push(("Node", format!("{}{name}", short(id))));
    }
    let pid = guard.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    pairs.push(match (guard.running, &guard.reason) {
        (true, _) => ("Guard", format!("running{pid}")),
        (false, Some(reason)) => ("Guard", format!("not running: {reason}")),
        (false, None) => ("Guard", "not running".to_owned()),
    });
    let recovery = &status.recovery;
    if recovery.adopted > 0 {
        pairs.push((
            "Adopted",
            format!("{} found in place, on no page of the ledger", counted(recovery.adopted, "mount")),
        ));
    }
    if !recovery.unexplained.is_empty() {
        pairs.push(("Unexplained", format!("{}, left alone: see below", counted(recovery.unexplained.len(), "mount"))));
    }
    table::head(&pairs)
}

fn sources(sources: &[SourceStatus]) -> String {
    if sources.is_empty() {
        return "No sources: no volume has needed one yet.".to_owned();
    }
    let row = |source: &SourceStatus| {
        [
            source.name.clone(),
            source.kind.clone(),
            source.state.clone(),
            source.bindings.to_string(),
            source.memory_bytes.map(bytes).unwrap_or_default(),
            age(source.age_seconds),
            source.mount_point.clone().unwrap_or_default(),
        ]
    };
    let header = ["Source", "Kind", "State", "Volumes", "Memory", "Age", "Mounted at"];
    let log = |source: &SourceStatus| {
        let log = source.log.as_ref()?;
        Some(format!("The log of {}: {}", one_line(&source.name), one_line(log)))
    };
    // The volumes of a directory of this host share nothing that could be another's.
    let shared = |source: &SourceStatus| {
        let has_mount = source.pid.is_some();
        (has_mount && (source.volumes.len() > 1 || source.backends.len() > 1)).then(|| {
            let whose = if source.backends.len() > 1 {
                format!(" of {}", source.backends.join(" and "))
            } else {
                String::new()
            };
            let volumes =
                if source.volumes.is_empty() { "no volume now".to_owned() } else { source.volumes.join(", ") };
            format!("One mount{} serves: {}", one_line(&whose), one_line(&volumes))
        })
    };
    let logs = sources.iter().filter_map(shared).chain(sources.iter().filter_map(log));
    std::iter::once(table::plain(header, sources.iter().map(row))).chain(logs).collect::<Vec<_>>().join("\n")
}

fn volumes(bindings: &[BindingStatus], is_filtered: bool) -> String {
    if bindings.is_empty() {
        return if is_filtered {
            "No volumes of such a job on this node.".to_owned()
        } else {
            "No volumes: no allocation on this node uses one.".to_owned()
        };
    }
    let cells = |binding: &BindingStatus| {
        [
            if binding.by_hand { format!("{} (by hand)", binding.volume) } else { binding.volume.clone() },
            short(&binding.alloc).to_owned(),
            binding.job.clone(),
            binding.task.clone(),
            binding.source.clone(),
            if binding.read_only { "read-only" } else { "read-write" }.to_owned(),
            size(binding.size, binding.size_enforced),
            binding.state.clone(),
            age(binding.age_seconds),
        ]
    };
    // Most clusters have one namespace only: a column of it would say nothing.
    if bindings.iter().all(|binding| binding.namespace == "default") {
        let header = ["Volume", "Alloc", "Job", "Task", "Source", "Access", "Size", "State", "Age"];
        return table::plain(header, bindings.iter().map(cells));
    }
    let header = ["Volume", "Alloc", "Namespace", "Job", "Task", "Source", "Access", "Size", "State", "Age"];
    let row = |binding: &BindingStatus| {
        let [volume, alloc, job, task, source, access, size, state, age] = cells(binding);
        [volume, alloc, binding.namespace.clone(), job, task, source, access, size, state, age]
    };
    table::plain(header, bindings.iter().map(row))
}

/// A volume's size and whether anything keeps it to that: `10GiB enforced`, `unlimited`.
pub(super) fn size(size: Option<u64>, enforced: Enforcement) -> String {
    size.map_or_else(|| enforced.to_string(), |size| format!("{} {enforced}", written_size(size)))
}

/// What last happened to a volume under its task, and whether it was mended after that.
fn fault(binding: &BindingStatus) -> Option<String> {
    let BindingStatus { volume, task, job, alloc, last_fault: Some(fault), last_repair, .. } = binding else {
        return None;
    };
    // RFC 3339 in UTC: the later one is the greater text.
    let outcome = match last_repair.as_ref().filter(|repair| repair.at >= fault.at) {
        Some(repair) => format!("mended {}", repair.at),
        None => "not mended yet".to_owned(),
    };
    let what = format!("{}  {volume} for task {task} of job {job} (allocation {})", fault.at, short(alloc));
    Some(format!("{}: {}; {}", one_line(&what), one_line(&fault.cause), one_line(&outcome)))
}

/// A state as the verb of a sentence.
fn is_in(state: &str) -> String {
    if state == "failed" { "has failed".to_owned() } else { format!("is {state}") }
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// One line for each reason, in full.
fn troubles(status: &Status) -> Vec<String> {
    let sources = status.sources.iter().filter_map(|source| {
        let reason = source.reason.as_ref()?;
        Some(format!("Source {} {}: {}", one_line(&source.name), one_line(&is_in(&source.state)), sentence(reason)))
    });
    let volumes = status.bindings.iter().filter_map(|binding| {
        let BindingStatus { volume, task, job, alloc, state, reason: Some(reason), .. } = binding else { return None };
        let what =
            format!("Volume {volume} for task {task} of job {job} (allocation {}) {}", short(alloc), is_in(state));
        Some(format!("{}: {}", one_line(&what), sentence(reason)))
    });
    let sizes = status.bindings.iter().filter_map(|binding| {
        let BindingStatus { volume, task, job, size: Some(size), size_reason: Some(reason), .. } = binding else {
            return None;
        };
        let what =
            format!("Size {} of volume {volume} for task {task} of job {job} is not enforced", written_size(*size));
        Some(format!("{}: {}", one_line(&what), sentence(reason)))
    });
    let recovery = &status.recovery;
    let ledger = recovery.ledger_error.iter().map(|reason| format!("Ledger: {}", sentence(reason)));
    let pages = recovery
        .unreadable_pages
        .iter()
        .map(|page| format!("Page {} cannot be read and is kept: {}", one_line(&page.path), sentence(&page.reason)));
    let mounts = recovery.unexplained.iter().map(|mount| {
        let what = format!("Mount {} ({}) is left alone", mount.path, mount.fs_type);
        format!("{}: {}", one_line(&what), sentence(&mount.reason))
    });
    sources.chain(volumes).chain(sizes).chain(ledger).chain(pages).chain(mounts).collect()
}
