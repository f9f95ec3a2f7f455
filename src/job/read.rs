//! From an allocation to its requests.

use std::collections::BTreeMap;

use super::form::{self, Ask, shorten};
use super::interpolate::{self, ExpandError, Names};
use super::{Destination, Kind, Placement, Refusal, Request, SourceName, Wish, destination, words};
use crate::config::{NAME_RULE, is_name};
use crate::hcl::{Text, nearest};
use crate::nomad::model::{Allocation, Hook, Node, Task, TaskState};

/// The longest URL that is handed on, in bytes.
const LONGEST_URL: usize = 1024;

/// What the words of an allocation ask for, as the task that calls the hook sees it: one request for each volume and
/// task, by the order of the words and of the job's tasks.
///
/// The words of job and group, with those of the calling task, are for every task but the calling one, poststop tasks,
/// and tasks with words of their own. A task with words of its own gets what these say, merged as Nomad merges meta.
///
/// # Errors
/// A [`Refusal`] for the first thing that cannot be: an unknown key, task, name of Nomad or driver, a destination that
/// is not the job's to give, two volumes at one place.
pub fn read(allocation: &Allocation, hook_task: &str, node: &Node) -> Result<Vec<Request>, Refusal> {
    let Some(hook) = allocation.task(hook_task) else {
        let message = format!("group {:?} has no task {:?}", allocation.group, shorten(hook_task));
        let refusal = Refusal { kind: Kind::Usage, message, hint: None };
        return Err(near_task(refusal, allocation, hook_task));
    };
    words::check(allocation)?;
    let mut requests = Vec::new();
    let mut names = BTreeMap::new();
    let mut is_said = false;
    let base = words::base(allocation, hook);
    if !base.is_empty() {
        is_said = true;
        for ask in form::read(&base, &format!("group {:?}", allocation.group))? {
            let takes = |task: &Task| task.hook != Hook::Poststop;
            let targets = targets(allocation, hook, &ask, None, takes)?;
            apply(allocation, node, &ask, &targets, &mut names, &mut requests)?;
        }
    }
    for task in allocation.tasks.iter().filter(|task| task.name != hook.name && words::has_own_words(task)) {
        is_said = true;
        for ask in form::read(&words::own(allocation, task), &format!("task {:?}", task.name))? {
            let targets = targets(allocation, hook, &ask, Some(task), |other| other.name == task.name)?;
            apply(allocation, node, &ask, &targets, &mut names, &mut requests)?;
        }
    }
    if !is_said {
        let message = format!("the job says nothing of storage for group {:?}", allocation.group);
        return Err(Refusal::configuration(message)
            .hint("write meta { storage_volume = \"NAME\" } in the group, with the name of a volume"));
    }
    if requests.is_empty() {
        let message = format!("group {:?} has no task that could get its volume", allocation.group);
        return Err(Refusal::configuration(message).hint(format!(
            "add the task that needs it: {hook_task:?} only calls for it, and poststop tasks have to be named"
        )));
    }
    check_places(&requests)?;
    Ok(requests)
}

/// What an operator wishes for tasks of an allocation that run, by the rules that its job's words have.
///
/// # Errors
/// A [`Refusal`], as of [`read`]; also where no task is named and not exactly one runs, and for a task that does not.
pub fn read_wish(allocation: &Allocation, wish: &Wish, node: &Node) -> Result<Vec<Request>, Refusal> {
    let is_running = |task: &&Task| task.state == TaskState::Running;
    let running: Vec<&Task> = allocation.tasks.iter().filter(is_running).collect();
    let names = || running.iter().map(|task| task.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut targets: Vec<&Task> = Vec::new();
    for name in &wish.tasks {
        let Some(task) = allocation.task(name) else {
            let message = format!("group {:?} has no task {:?}", allocation.group, shorten(name));
            return Err(near_task(Refusal { kind: Kind::Usage, message, hint: None }, allocation, name));
        };
        if !is_running(&task) {
            let message = format!("task {name:?} of allocation {} does not run", allocation.id.short());
            return Err(Refusal { kind: Kind::Unavailable, message, hint: None }
                .hint("a volume is attached to tasks that run; write it into the job for those that start"));
        }
        if !targets.iter().any(|target| target.name == task.name) {
            targets.push(task);
        }
    }
    if targets.is_empty() {
        targets = match running.as_slice() {
            [] => {
                let message = format!("no task of allocation {} runs", allocation.id.short());
                return Err(Refusal { kind: Kind::Unavailable, message, hint: None });
            }
            [only] => vec![only],
            _ => {
                let message = format!("several tasks of allocation {} run: {}", allocation.id.short(), names());
                return Err(
                    Refusal { kind: Kind::Usage, message, hint: None }.hint("name those that are meant with --task")
                );
            }
        };
    }
    let text = |what: &str, text: &str| {
        interpolate::scan(text).map_err(|error| Refusal::configuration(format!("the {what} {error}")))
    };
    let label = wish.label.clone().or_else(|| is_name(&wish.volume).then(|| wish.volume.clone()));
    if let Some(label) = label.as_deref().filter(|label| !is_name(label)) {
        let message = format!("{:?} is no name for a volume", shorten(label));
        return Err(Refusal { kind: Kind::Usage, message, hint: None }.hint(format!("a name is {NAME_RULE}")));
    }
    let ask = Ask {
        label,
        source: text("volume", &wish.volume)?,
        destination: wish.destination.as_deref().map(|destination| text("destination", destination)).transpose()?,
        read_only: wish.read_only,
        tasks: None,
        on_failure: wish.on_failure,
    };
    let mut requests = Vec::new();
    apply(allocation, node, &ask, &targets, &mut BTreeMap::new(), &mut requests)?;
    Ok(requests)
}

/// The task that will most likely call the hook: the only prestart task that is no sidecar; of several, the one whose
/// name says so. A guess, good enough to mount sources early, and for nothing else.
pub fn likely_hook_task(allocation: &Allocation) -> Option<&str> {
    const NAMES: [&str; 4] = ["storage", "saddlebag", "mount", "volumes"];
    let prestart: Vec<&str> = allocation
        .tasks
        .iter()
        .filter(|task| task.hook == Hook::Prestart && !task.sidecar)
        .map(|task| task.name.as_str())
        .collect();
    match prestart.as_slice() {
        [only] => Some(only),
        several => NAMES.iter().find_map(|name| several.iter().find(|task| *task == name).copied()),
    }
}

/// The tasks that an ask is for: those that it names, else those that `takes` accepts by default.
///
/// A task with words of its own is served by these alone, whatever a list elsewhere says: the deepest meta wins.
fn targets<'a>(
    allocation: &'a Allocation,
    hook: &Task,
    ask: &Ask,
    owner: Option<&Task>,
    takes: impl Fn(&Task) -> bool,
) -> Result<Vec<&'a Task>, Refusal> {
    let what = what(ask);
    let is_owner = |task: &Task| owner.is_some_and(|owner| owner.name == task.name);
    let serves = |task: &&Task| task.name != hook.name && (is_owner(task) || !words::has_own_words(task));
    let Some(named) = &ask.tasks else {
        return Ok(allocation.tasks.iter().filter(serves).filter(|task| takes(task)).collect());
    };
    if named.is_empty() {
        let refusal = Refusal::configuration(format!("the list of tasks of {what} is empty"));
        return Err(refusal.hint("name a task, or leave the list out for all tasks"));
    }
    for name in named {
        if *name == hook.name {
            let message = format!("{what} names the task {name:?}, which calls for it and cannot get it");
            return Err(Refusal::configuration(message).hint("name the tasks that use the volume"));
        }
        if allocation.task(name).is_none() {
            let message =
                format!("{what} names the task {:?}, which group {:?} does not have", shorten(name), allocation.group);
            return Err(near_task(Refusal::configuration(message), allocation, name));
        }
    }
    Ok(allocation.tasks.iter().filter(serves).filter(|task| named.contains(&task.name)).collect())
}

fn apply<'a>(
    allocation: &'a Allocation,
    node: &Node,
    ask: &Ask,
    targets: &[&'a Task],
    names_of: &mut BTreeMap<&'a str, Names>,
    requests: &mut Vec<Request>,
) -> Result<(), Refusal> {
    for task in targets {
        let names = &*names_of.entry(&task.name).or_insert_with(|| Names::of(allocation, task, node));
        let source = expand(names, &ask.source, ask, "source", "storage_volume")?;
        let (label, source) = name_source(ask, source)?;
        let text = match &ask.destination {
            Some(text) => expand(names, text, ask, "destination", "storage_destination")?,
            None => format!("local/{label}"),
        };
        let destination = destination::check(&text, &label)?;
        refuse_moving_disk(allocation, &label, &destination)?;
        requests.push(Request {
            label,
            source,
            task: task.name.clone(),
            destination,
            placement: placement(task)?,
            read_only: ask.read_only,
            on_failure: ask.on_failure,
        });
    }
    Ok(())
}

fn what(ask: &Ask) -> String {
    ask.label.as_ref().map_or_else(|| "storage_volume".to_owned(), |label| format!("volume {label:?}"))
}

fn expand(names: &Names, text: &Text, ask: &Ask, key: &str, scalar_key: &str) -> Result<String, Refusal> {
    names.expand(text).map_err(|error: ExpandError| {
        let subject = match &ask.label {
            Some(label) => format!("the {key} of volume {label:?}"),
            None => scalar_key.to_owned(),
        };
        Refusal { hint: error.hint(), ..Refusal::configuration(format!("{subject} {error}")) }
    })
}

/// The label and the source: what came out of interpolation is checked as strictly as what was written out.
fn name_source(ask: &Ask, source: String) -> Result<(String, SourceName), Refusal> {
    if source.contains("://") {
        if source.len() > LONGEST_URL || source.chars().any(|c| c.is_control() || c.is_whitespace()) {
            let shown = shorten(&source);
            let message =
                format!("{} holds spaces or control characters, or is too long for a URL: {shown:?}", what(ask));
            return Err(Refusal::configuration(message));
        }
        let label = match &ask.label {
            Some(label) => label.clone(),
            None => {
                // An NFS URL's options follow its path.
                let plain = source.split('?').next().unwrap_or_default();
                let path = plain.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map(|(_, path)| path);
                let last = path.and_then(|path| path.rsplit('/').next()).unwrap_or_default();
                if !is_name(last) {
                    let message = format!("the URL {:?} does not end in a name for its volume", shorten(&source));
                    return Err(Refusal::configuration(message)
                        .hint("give it one in the block form: volume \"NAME\" { source = \"URL\" }, each key on a line of its own"));
                }
                last.to_owned()
            }
        };
        return Ok((label, SourceName::Url(source)));
    }
    if !is_name(&source) {
        let message = match &ask.label {
            Some(label) => {
                format!("the source {:?} of volume {label:?} is neither a volume's name nor a URL", shorten(&source))
            }
            None => format!("storage_volume {:?} is neither a volume's name nor a URL", shorten(&source)),
        };
        return Err(Refusal::configuration(message).hint(format!("a name is {NAME_RULE}; a URL has ://")));
    }
    Ok((ask.label.clone().unwrap_or_else(|| source.clone()), SourceName::Named(source)))
}

/// Nomad moves `local/` of every task with such a disk, across mounts: the volume's files would move with it.
fn refuse_moving_disk(allocation: &Allocation, label: &str, at: &Destination) -> Result<(), Refusal> {
    let option = match (allocation.sticky_disk, allocation.migrate_disk) {
        (false, false) => return Ok(()),
        (true, _) => "sticky",
        (false, true) => "migrate",
    };
    if !destination::is_moved_with_disk(at) {
        return Ok(());
    }
    let shown = at.as_path().display();
    let message = format!(
        "group {:?} has ephemeral_disk {{ {option} = true }}, with which Nomad would move the files of volume {label:?} out of {shown}",
        allocation.group
    );
    Err(Refusal::configuration(message).hint(format!(
        "write the destination volumes/{label}, which Nomad leaves alone; docker shows it by volumes = [\"volumes/{label}:/data\"]"
    )))
}

/// How the driver shows a task what is mounted below its directory.
fn placement(task: &Task) -> Result<Placement, Refusal> {
    match task.driver.as_str() {
        "docker" | "podman" | "exec" | "java" => Ok(Placement::Mount),
        "raw_exec" | "qemu" => Ok(Placement::Link),
        other => {
            let message = format!(
                "task {:?} has the driver {:?}, which does not show a task what is mounted below its directory",
                task.name,
                shorten(other)
            );
            Err(Refusal::configuration(message).hint(
                "run it under docker, podman, exec, java, raw_exec or qemu, or list the other tasks in storage_tasks",
            ))
        }
    }
}

/// Refuses two volumes at one place of a task, one inside another, and one label for two.
fn check_places(requests: &[Request]) -> Result<(), Refusal> {
    let mut of_tasks: BTreeMap<&str, Vec<&Request>> = BTreeMap::new();
    for request in requests {
        let earlier = of_tasks.entry(&request.task).or_default();
        let clash = |earlier: &&Request| {
            let (one, other) = ((&*earlier.label, &earlier.destination), (&*request.label, &request.destination));
            clash(&request.task, one, other)
        };
        if let Some(sentence) = earlier.iter().find_map(clash) {
            return Err(Refusal::configuration(sentence).hint("give each a label and a destination of its own"));
        }
        earlier.push(request);
    }
    Ok(())
}

/// Why two volumes, each of a label and a destination, cannot both be in a task's directory, in a sentence. None: they
/// can.
pub fn clash(task: &str, one: (&str, &Destination), other: (&str, &Destination)) -> Option<String> {
    let (a, b) = (one.1.as_path(), other.1.as_path());
    let inside = |inner: (&str, &Destination), outer: (&str, &Destination)| {
        let (below, above) = (inner.1.as_path().display(), outer.1.as_path().display());
        format!("volume {:?} at {below} of task {task:?} is inside volume {:?} at {above}", inner.0, outer.0)
    };
    if a == b {
        Some(format!("volumes {:?} and {:?} are both at {} of task {task:?}", one.0, other.0, a.display()))
    } else if b.starts_with(a) {
        Some(inside(other, one))
    } else if a.starts_with(b) {
        Some(inside(one, other))
    } else if one.0 == other.0 {
        Some(format!("task {task:?} gets two volumes with the label {:?}", one.0))
    } else {
        None
    }
}

fn near_task(refusal: Refusal, allocation: &Allocation, name: &str) -> Refusal {
    match nearest(name, allocation.tasks.iter().map(|task| task.name.as_str())) {
        Some(near) => refusal.hint(format!("did you mean {near:?}?")),
        None => {
            let names: Vec<&str> = allocation.tasks.iter().map(|task| task.name.as_str()).collect();
            refusal.hint(format!("its tasks are {}", names.join(", ")))
        }
    }
}
