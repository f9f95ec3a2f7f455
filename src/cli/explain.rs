//! `saddlebag explain`: the way of an allocation's volumes, step by step.

use crate::api::types::{Explanation, Step, StepState};
use crate::cli::args::ExplainArgs;
use crate::cli::client::{self, Question};
use crate::cli::exit::{Failure, USAGE};
use crate::cli::text::{one_line, one_line_each};
use crate::cli::{Ended, exit, status, table};

/// The fewest characters of an id that are asked for.
const SHORTEST_PREFIX: usize = 4;
/// The characters of a whole id.
const WHOLE_ID: usize = 36;

/// Asks the agent about one allocation and prints what it says.
///
/// # Errors
/// A [`Failure`]: 64 where it cannot be an allocation's id; 69, by the agent's own answer, where the agent knows none
/// that begins so: it may have been collected, or be on another node, so the caller has made no mistake.
pub fn run(args: ExplainArgs) -> Ended {
    let id = alloc_prefix(&args.alloc)?;
    let explanation: Explanation =
        client::ask_once(&args.socket.path(), Question::get(format!("/v1/allocation/{id}")))?;
    if args.json { status::print_json(&explanation) } else { exit::print(&text(&explanation)) }
}

/// The id of an allocation, or the beginning of one, as it was typed.
///
/// # Errors
/// A [`Failure`] where it cannot be one.
pub(super) fn alloc_prefix(typed: &str) -> Result<String, Failure> {
    // It becomes part of a path; an id has no other characters (Nomad's are lower-case UUIDs).
    let id = typed.to_ascii_lowercase();
    let is_of_an_id = id.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f' | b'-'));
    if is_of_an_id && (SHORTEST_PREFIX..=WHOLE_ID).contains(&id.len()) {
        return Ok(id);
    }
    Err(Failure::new(USAGE, format!("{typed:?} is not an allocation's id")).hint(
        "give the id that `nomad job status JOB` or `saddlebag status` shows, or at least its first 4 characters",
    ))
}

fn text(explanation: &Explanation) -> String {
    let Explanation { alloc, namespace, job, group, summary, steps } = explanation;
    let head = table::head(&[
        ("Allocation", alloc.clone()),
        ("Job", format!("{job} (namespace {namespace}, group {group})")),
        ("Summary", summary.clone()),
    ]);
    if steps.is_empty() {
        return format!("{head}\n\nNo steps: nothing was asked for this allocation.");
    }
    let width = steps.len().to_string().len();
    let steps = steps.iter().enumerate().map(|(at, shown)| step(at + 1, width, shown));
    format!("{head}\n\nSteps\n{}", steps.collect::<Vec<_>>().join("\n"))
}

/// `  1. done     read the job`, and what is to be said of it below.
fn step(number: usize, width: usize, step: &Step) -> String {
    let state = match step.state {
        StepState::Done => "done",
        StepState::Failed => "FAILED",
        StepState::Waiting => "waiting",
    };
    let mut lines = vec![format!("{number:>width$}. {state:7}  {}", one_line(&step.name))];
    let indent = " ".repeat(width + 11);
    if !step.detail.trim().is_empty() {
        lines.extend(one_line_each(&step.detail).lines().map(|line| format!("{indent}{line}")));
    }
    if let Some(hint) = &step.hint {
        lines.push(format!("{indent}hint: {}", one_line(hint)));
    }
    if !step.log.is_empty() {
        lines.push(format!("{indent}its log ends with:"));
        lines.extend(step.log.iter().map(|line| format!("{indent}  | {}", one_line(line))));
    }
    lines.join("\n")
}
