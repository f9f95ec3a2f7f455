//! What must hold between the blocks of all files.

use super::read::{Gathered, Said, place};
use super::{Backend, BackendKind, Volume, nfs};
use crate::hcl::{Located, Problem, Source, nearest};

/// Adds the mistakes between blocks, and gives back what is only doubtful.
pub(super) fn check(gathered: &Gathered, sources: &[Source<'_>], problems: &mut Vec<Located>) -> Vec<Located> {
    let at = |file: usize, at: usize, problem: Problem| {
        sources.get(file).map(|source| source.locate(Problem { span: at..at, ..problem }))
    };
    for (name, volume) in &gathered.volumes {
        let wanted = &volume.value.backend;
        if gathered.backends.contains_key(wanted) || gathered.wrong_backends.contains(wanted) {
            continue;
        }
        let problem = Problem::new(0..0, format!("volume {name:?} is on a backend {wanted:?}, which does not exist"));
        let problem = match nearest(wanted, gathered.backends.keys().map(String::as_str)) {
            Some(near) => problem.hint(format!("did you mean {near:?}?")),
            None => {
                problem.hint(format!("add a block backend \"host\" {wanted:?} or backend \"seaweedfs\" {wanted:?}"))
            }
        };
        problems.extend(at(volume.file, volume.at, problem));
    }
    for volume in gathered.volumes.values() {
        let backend = gathered.backends.get(&volume.value.backend);
        if let Some((message, hint)) = backend.and_then(|backend| find_fault(&volume.value, &backend.value)) {
            problems.extend(at(volume.file, volume.at, Problem::new(0..0, message).hint(hint)));
        }
    }
    let mut dynamic: Vec<_> = gathered.backends.values().filter(|backend| backend.value.dynamic).collect();
    dynamic.sort_by_key(|backend| (backend.file, backend.at));
    if let Some((first, others)) = dynamic.split_first() {
        for other in others {
            let (name, of_first) = (&other.value.name, &first.value.name);
            let message = format!("backend {name:?} is dynamic, and so is {of_first:?} at {}", place(first, sources));
            problems.extend(at(other.file, other.at, Problem::new(0..0, message).hint("at most one can be")));
        }
    }
    let mut warnings = overlaps(gathered, sources);
    if let Some((said, address)) = gathered.metrics.as_ref().and_then(|said| Some((said, said.value?)))
        && !address.ip().is_loopback()
    {
        let message = format!("metrics at {address} are told to everybody who can connect to it");
        let hint = "they name backends and volumes; keep others out with a firewall, or serve them at 127.0.0.1";
        warnings.extend(at(said.file, said.at, Problem::new(0..0, message).hint(hint)));
    }
    for (name, backend) in &gathered.backends {
        let BackendKind::Nfs(nfs) = &backend.value.kind else { continue };
        for doubt in nfs::options::doubts(nfs) {
            let problem = Problem::new(0..0, format!("backend {name:?}: {}", doubt.message));
            let problem = doubt.hint.into_iter().fold(problem, Problem::hint);
            warnings.extend(at(backend.file, backend.at, problem));
        }
    }
    for (name, volume) in gathered.volumes.iter().filter(|(_, volume)| volume.value.create && volume.value.read_only) {
        let message = format!("volume {name:?} is read-only, so create has no effect");
        warnings.extend(at(volume.file, volume.at, Problem::new(0..0, message)));
    }
    warnings.sort();
    warnings
}

/// What is wrong with a volume on that backend, and what to do about it.
pub(super) fn find_fault(volume: &Volume, backend: &Backend) -> Option<(String, &'static str)> {
    let name = &volume.name;
    if volume.format.is_some() && volume.collection.is_some() {
        let message =
            format!("volume {name:?} has a collection, and its image is a file: a collection is a directory's");
        return Some((message, "leave `collection` out, or put the image into a directory that has one"));
    }
    if volume.format.is_some() && backend.kind.is_read_only() {
        let message = format!("volume {name:?} has a format, and its backend is read-only");
        return Some((message, "an image is written to whenever it is attached: put it on another backend"));
    }
    match &backend.kind {
        BackendKind::Seaweedfs(seaweedfs) => seaweedfs.find_fault(volume),
        _ => volume.collection.as_ref().map(|_| {
            let backend = &volume.backend;
            (format!("volume {name:?} has a collection, and backend {backend:?} knows none"), "leave it out")
        }),
    }
}

/// Volumes that are the same directory as another one, or inside it.
fn overlaps(gathered: &Gathered, sources: &[Source<'_>]) -> Vec<Located> {
    let mut volumes: Vec<&Said<Volume>> = gathered.volumes.values().collect();
    // Paths compare by components, so all that is inside a directory follows it at once.
    volumes.sort_by(|a, b| (&a.value.backend, &a.value.path).cmp(&(&b.value.backend, &b.value.path)));
    let mut warnings = Vec::new();
    let mut around: Vec<&Said<Volume>> = Vec::new();
    for volume in volumes {
        let is_around = |outer: &Said<Volume>| {
            outer.value.backend == volume.value.backend && volume.value.path.starts_with(&outer.value.path)
        };
        while around.last().is_some_and(|outer| !is_around(outer)) {
            around.pop();
        }
        if let (Some(outer), Some(source)) = (around.last(), sources.get(volume.file)) {
            let relation = if outer.value.path == volume.value.path { "is the same directory as" } else { "is inside" };
            let (inner, outer_name, outer_place) = (&volume.value.name, &outer.value.name, place(outer, sources));
            let message = format!("volume {inner:?} {relation} volume {outer_name:?} at {outer_place}");
            warnings.push(source.locate(Problem::new(volume.at..volume.at, message)));
        }
        around.push(volume);
    }
    warnings
}
