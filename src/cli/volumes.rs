//! `saddlebag volume register`, `create`, `deregister`, `delete`, `list` and `status`: volumes as things with a life.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::api::volumes::{
    DefinedBy, DefinitionRequest, NameRequest, Outcome, UsedBy, VolumeList, VolumeReply, VolumeStatus,
};
use crate::cli::args::{AnswerArgs, DefinitionArgs, DeleteArgs, ListArgs, NameArgs, SocketArgs, VolumeStatusArgs};
use crate::cli::client::{self, Question};
use crate::cli::exit::{Failure, UNAVAILABLE, USAGE};
use crate::cli::text::{one_line, sentence, short};
use crate::cli::{Ended, exit, status as node, table, volume};
use crate::config::LARGEST_DEFINITION;
use crate::hcl::nearest;

/// Registers a volume.
///
/// # Errors
/// A [`Failure`] that says why it is not; its former definition stays then.
pub fn register(args: &DefinitionArgs) -> Ended {
    define("/v1/volume/register", args)
}

/// Registers a volume and makes its directory.
///
/// # Errors
/// A [`Failure`] that says what is not done.
pub fn create(args: &DefinitionArgs) -> Ended {
    define("/v1/volume/create", args)
}

fn define(path: &str, args: &DefinitionArgs) -> Ended {
    let (file, text) = read_definition(&args.file)?;
    ask(path, &DefinitionRequest { file, text }, &args.answer)
}

/// Forgets a volume's definition.
///
/// # Errors
/// A [`Failure`] that says why it stays.
pub fn deregister(args: &NameArgs) -> Ended {
    ask("/v1/volume/deregister", &NameRequest { volume: args.name.clone(), dynamic: false }, &args.answer)
}

/// Takes a volume's directory out of the way, and forgets it.
///
/// # Errors
/// A [`Failure`] that says why it stays.
pub fn delete(args: &DeleteArgs) -> Ended {
    ask("/v1/volume/delete", &NameRequest { volume: args.name.clone(), dynamic: args.dynamic }, &args.answer)
}

fn ask(path: &str, request: &impl serde::Serialize, args: &AnswerArgs) -> Ended {
    let reply: VolumeReply = volume::order(path, request, &args.socket, args.timeout)?;
    if args.json {
        return node::print_json(&reply);
    }
    for warning in &reply.warnings {
        exit::eprint(&format!("warning: {}", one_line(warning)));
    }
    exit::print(&lines(&reply))
}

/// The name to tell mistakes by, and the text; one byte more than is taken, so that what is too long is told of.
fn read_definition(path: &Path) -> Result<(String, String), Failure> {
    let limit = u64::try_from(LARGEST_DEFINITION).unwrap_or(u64::MAX).saturating_add(1);
    let mut text = String::new();
    let (name, read) = if path == Path::new("-") {
        ("standard input".to_owned(), io::stdin().lock().take(limit).read_to_string(&mut text))
    } else {
        let read = File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text));
        (path.display().to_string(), read)
    };
    read.map_err(|error| Failure::new(USAGE, format!("cannot read {}: {error}", one_line(&name))))?;
    if text.len() > LARGEST_DEFINITION {
        return Err(Failure::new(USAGE, format!("{} has more than {LARGEST_DEFINITION} bytes", one_line(&name))));
    }
    Ok((name, text))
}

fn lines(reply: &VolumeReply) -> String {
    let VolumeReply { volume, outcome, created, directory, kept, .. } = reply;
    let of = |directory: &Option<String>| directory.clone().unwrap_or_default();
    let mut lines = vec![match outcome {
        Outcome::Registered => format!("volume {volume} registered"),
        Outcome::Changed => format!("volume {volume} changed"),
        Outcome::Unchanged => format!("volume {volume} unchanged"),
        Outcome::Deregistered => format!("volume {volume} deregistered; its data is where it was"),
        Outcome::Deleted => format!("volume {volume} deleted"),
        Outcome::Absent => format!("no volume {volume} is registered: nothing to do"),
    }];
    match created {
        Some(true) => lines.push(format!("its directory is created: {}", of(directory))),
        Some(false) => lines.push(format!("its directory was there already: {}", of(directory))),
        None => {}
    }
    match (outcome, kept) {
        (_, Some(kept)) => {
            lines.push(format!("its data lies at {kept}"));
            lines.push(format!("to remove it for good: {}", removal(kept)));
        }
        (Outcome::Deleted, None) => lines.push("it had no directory".to_owned()),
        _ => {}
    }
    lines.iter().map(|line| one_line(line).into_owned()).collect::<Vec<_>>().join("\n")
}

/// What an operator types to remove a deleted volume's data. The agent itself removes nothing that holds data.
fn removal(kept: &str) -> String {
    format!("rm --recursive -- '{}'", kept.replace('\'', r"'\''"))
}

fn fetch(socket: &SocketArgs) -> Result<Vec<VolumeStatus>, Failure> {
    let list: VolumeList = client::ask_once(&socket.path(), Question::get("/v1/volumes"))?;
    Ok(list.volumes)
}

/// Lists every volume.
///
/// # Errors
/// A [`Failure`] where the agent does not answer.
pub fn list(args: &ListArgs) -> Ended {
    let volumes = fetch(&args.socket)?;
    if args.json {
        return node::print_json(&VolumeList { volumes });
    }
    if volumes.is_empty() {
        return exit::print("No volumes: none is defined on this node.");
    }
    let row = |volume: &VolumeStatus| {
        [
            volume.name.clone(),
            volume.backend.clone(),
            place_on_backend(volume),
            access(volume),
            node::size(volume.size, volume.size_enforced),
            defined(volume).to_owned(),
            used(&volume.used_by),
        ]
    };
    let header = ["Volume", "Backend", "Path", "Access mode", "Size", "Defined", "Used by"];
    let wrong = volumes.iter().filter_map(|volume| {
        let reason = one_line(volume.reason.as_deref()?).into_owned();
        Some(format!("Volume {} cannot be used: {}", one_line(&volume.name), sentence(&reason)))
    });
    let page: Vec<String> = std::iter::once(table::plain(header, volumes.iter().map(row))).chain(wrong).collect();
    exit::print(&page.join("\n"))
}

/// Shows one volume.
///
/// # Errors
/// A [`Failure`] where the agent does not answer, or knows no such volume.
pub fn status(args: &VolumeStatusArgs) -> Ended {
    let volumes = fetch(&args.socket)?;
    let Some(volume) = volumes.iter().find(|volume| volume.name == args.name) else {
        let failure = Failure::new(UNAVAILABLE, format!("this node knows no volume {:?}", args.name));
        return Err(match nearest(&args.name, volumes.iter().map(|volume| volume.name.as_str())) {
            Some(near) => failure.hint(format!("did you mean {near:?}?")),
            None => failure.hint("`saddlebag volume list` shows all that it knows"),
        });
    };
    if args.json {
        return node::print_json(volume);
    }
    let mut pairs = vec![
        ("Volume", volume.name.clone()),
        ("Backend", volume.backend.clone()),
        ("Path", place_on_backend(volume)),
        ("Access mode", access(volume)),
        ("Size", node::size(volume.size, volume.size_enforced)),
        ("Defined", format!("{} ({})", defined(volume), volume.place)),
    ];
    pairs.extend(volume.size_reason.iter().map(|reason| ("Size reason", reason.clone())));
    pairs.extend(volume.reason.iter().map(|reason| ("Not usable", reason.clone())));
    let users = if volume.used_by.is_empty() {
        "No task uses it.".to_owned()
    } else {
        let row = |user: &UsedBy| {
            let access = if user.read_only { "read-only" } else { "read-write" };
            [
                user.namespace.clone(),
                user.job.clone(),
                user.task.clone(),
                short(&user.alloc).to_owned(),
                access.to_owned(),
            ]
        };
        let header = ["Namespace", "Job", "Task", "Alloc", "Access"];
        format!("Used by\n{}", table::plain(header, volume.used_by.iter().map(row)))
    };
    exit::print(&format!("{}\n\n{users}", table::head(&pairs)))
}

fn place_on_backend(volume: &VolumeStatus) -> String {
    if volume.path.is_empty() && volume.reason.is_none() { "/".to_owned() } else { volume.path.clone() }
}

fn access(volume: &VolumeStatus) -> String {
    let is_told = volume.access_mode.ends_with("reader-only");
    if volume.read_only && !is_told {
        format!("{} (read-only)", volume.access_mode)
    } else {
        volume.access_mode.clone()
    }
}

fn defined(volume: &VolumeStatus) -> &'static str {
    match volume.defined {
        DefinedBy::Configuration => "configuration",
        DefinedBy::Registered => "registered",
        DefinedBy::Dynamic => "dynamic",
    }
}

fn used(users: &[UsedBy]) -> String {
    match users {
        [] => String::new(),
        [only] => format!("{} ({})", only.task, only.job),
        many => format!("{} tasks", many.len()),
    }
}
