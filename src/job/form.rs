//! The two forms of `storage_volume`: one name or URL, or volume blocks.

use super::refusal::Refusal;
use super::words::{TOO_MANY_BYTES, Words};
use super::{OnFailure, interpolate};
use crate::config::{NAME_RULE, is_name};
use crate::hcl::{Document, Problem, Section, Source, Spanned, Text, nearest};

/// The most volume blocks in one text.
const MOST_BLOCKS: usize = 256;

/// What the words ask for, before any task is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ask {
    /// The label of its block; the scalar form has none.
    pub label: Option<String>,
    /// A name or URL.
    pub source: Text,
    /// Where, if it is said.
    pub destination: Option<Text>,
    /// Whether read-only.
    pub read_only: bool,
    /// For which tasks, if it is said.
    pub tasks: Option<Vec<String>>,
    /// What to do when the mount is lost.
    pub on_failure: OnFailure,
}

/// Reads words in either form. Nothing is asked for where nothing is said.
pub(super) fn read(words: &Words, place: &str) -> Result<Vec<Ask>, Refusal> {
    let Some(volume) = &words.volume else {
        return match words.key_for_one() {
            None => Ok(Vec::new()),
            Some(key) => {
                let message = format!("{key} is set for {place}, and storage_volume is not");
                Err(Refusal::configuration(message).hint("add storage_volume = \"NAME\" to the same meta"))
            }
        };
    };
    let volume = volume.trim();
    if volume.is_empty() {
        let refusal = Refusal::configuration(format!("storage_volume is empty for {place}"));
        return Err(refusal.hint("write the name of a volume"));
    }
    if is_single_token(volume) { scalar(words, volume).map(|ask| vec![ask]) } else { blocks(words, volume) }
}

/// Whether the text is one word without quotes and braces, but for what stands in `${…}`.
fn is_single_token(text: &str) -> bool {
    match interpolate::scan(text) {
        Ok(scanned) => scanned.parts.iter().all(|part| match part {
            crate::hcl::Part::Literal(literal) => {
                !literal.contains(|c: char| c.is_whitespace() || matches!(c, '"' | '{' | '}'))
            }
            crate::hcl::Part::Reference(_) => true,
        }),
        // A `${` that never ends: told best as the scalar that it was meant to be, unless it is more than one word.
        Err(_) => !text.contains(char::is_whitespace),
    }
}

fn scalar(words: &Words, volume: &str) -> Result<Ask, Refusal> {
    let read_only = match words.read_only.as_deref().map(str::trim) {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            let shown: String = other.chars().take(100).collect();
            let refusal =
                Refusal::configuration(format!("storage_read_only is {shown:?}, which is neither true nor false"));
            return Err(refusal.hint("write storage_read_only = \"true\" or \"false\""));
        }
    };
    let tasks = words.tasks.as_deref().map(|tasks| {
        let names = tasks.split(|c: char| c == ',' || c.is_whitespace());
        names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
    });
    let text = |key: &str, text: &str| {
        interpolate::scan(text).map_err(|error| Refusal::configuration(format!("{key} {error}")))
    };
    Ok(Ask {
        label: None,
        source: text("storage_volume", volume)?,
        destination: words.destination.as_deref().map(|at| text("storage_destination", at.trim())).transpose()?,
        read_only,
        tasks,
        on_failure: OnFailure::default(),
    })
}

fn blocks(words: &Words, text: &str) -> Result<Vec<Ask>, Refusal> {
    let refuse = |problem: Problem| refusal_of(text, problem);
    let document = match Document::parse(text, TOO_MANY_BYTES) {
        Ok(document) => document,
        Err(_) if !text.contains('{') => {
            let shown: String = text.chars().take(100).collect();
            let message = format!("storage_volume is neither one name or URL nor volume blocks: {shown:?}");
            return Err(Refusal::configuration(message).hint(
                "write one name, or for several volumes a block volume \"NAME\" { } for each, each on lines of its own",
            ));
        }
        Err(problem) => return Err(refuse(problem)),
    };
    if let Some(key) = words.key_for_one() {
        let inner = key.trim_start_matches("storage_");
        let example = match inner {
            "destination" => "\"local/x\"",
            "read_only" => "true",
            _ => "[\"x\"]",
        };
        let message = format!("{key} cannot go with the volume blocks in storage_volume");
        return Err(
            Refusal::configuration(message).hint(format!("write {inner} = {example} in the block it is meant for"))
        );
    }
    let mut problems = Vec::new();
    let mut asks: Vec<Ask> = Vec::new();
    let mut outer = document.section();
    for (labels, section) in outer.blocks("volume", &["NAME"]) {
        let Some(label) = labels.into_iter().next() else { continue };
        if !is_name(&label.value) {
            let problem = Problem::new(label.span, format!("{:?} cannot label a volume", shorten(&label.value)));
            problems.push(problem.hint(format!("a label is {NAME_RULE}")));
        } else if asks.iter().any(|ask| ask.label.as_ref() == Some(&label.value)) {
            let problem = Problem::new(label.span, format!("volume {:?} is there twice", label.value));
            problems.push(problem.hint("give one of them another label"));
        } else {
            asks.push(block(label.value, section, &mut problems));
        }
    }
    outer.finish(&mut problems);
    // One sentence: the first mistake in the order of the text.
    if let Some(first) = problems.into_iter().min_by_key(|problem| problem.span.start) {
        return Err(refuse(first));
    }
    if asks.is_empty() {
        let refusal = Refusal::configuration("storage_volume holds no volume block");
        return Err(refusal.hint("write the name of a volume, or a block volume \"NAME\" { }"));
    }
    if asks.len() > MOST_BLOCKS {
        let message = format!("storage_volume holds {} volume blocks, and at most {MOST_BLOCKS} are read", asks.len());
        return Err(Refusal::configuration(message));
    }
    Ok(asks)
}

fn block(label: String, mut section: Section<'_>, problems: &mut Vec<Problem>) -> Ask {
    let literal = |text: &str| Text { parts: vec![crate::hcl::Part::Literal(text.to_owned())] };
    let source = section.text("source").map_or_else(|| literal(&label), |source| source.value);
    let destination = section.text("destination").map(|destination| destination.value);
    let read_only = section.boolean("read_only").is_some_and(|read_only| read_only.value);
    let tasks = section.strings("tasks").map(|tasks| tasks.value.into_iter().map(|task| task.value).collect());
    let on_failure = match section.string("on_failure") {
        None => OnFailure::default(),
        Some(said) => on_failure(&said).unwrap_or_else(|problem| {
            section.problem(problem);
            OnFailure::default()
        }),
    };
    section.finish(problems);
    Ask { label: Some(label), source, destination, read_only, tasks, on_failure }
}

fn on_failure(said: &Spanned<String>) -> Result<OnFailure, Problem> {
    let names = ["reattach", "restart", "fail"];
    match said.value.as_str() {
        "reattach" => Ok(OnFailure::Reattach),
        "restart" => Ok(OnFailure::Restart),
        "fail" => Ok(OnFailure::Fail),
        other => {
            let problem = Problem::new(said.span.clone(), format!("on_failure cannot be {:?}", shorten(other)));
            Err(match nearest(other, names) {
                Some(near) => problem.hint(format!("did you mean {near:?}?")),
                None => problem.hint("it is reattach, restart or fail"),
            })
        }
    }
}

fn refusal_of(text: &str, problem: Problem) -> Refusal {
    let (line, column) = Source { name: "storage_volume", text }.line_and_column(problem.span.start);
    let message = format!("storage_volume, line {line}, column {column}: {}", problem.message);
    Refusal { hint: problem.hint, ..Refusal::configuration(message) }
}

pub(super) fn shorten(text: &str) -> String {
    text.chars().take(100).collect()
}
