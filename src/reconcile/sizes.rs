//! Sizes of volumes: set where a backend enforces them, and what `status` says of each.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::binding::{Binding, BindingKey};
use super::events::Done;
use super::reconciler::Reconciler;
use super::worker::Desk;
use crate::backend::{self, Attached, Enforcement, Place, SizeError, SourceKey};
use crate::config;
use crate::hcl::written_size;
use crate::nomad::model::AllocId;
use crate::volume::{Placed, Resolved};

/// What this agent has set, by source and directory: the size, and why the storage system did not take it.
pub(super) type Sizes = BTreeMap<(SourceKey, PathBuf), (u64, Option<String>)>;

/// A size that is to be set, in the source's worker.
pub(super) struct Sizing {
    definition: config::Backend,
    place: Place,
    directory: PathBuf,
    size: u64,
}

impl Sizing {
    /// Sets it.
    pub(super) fn set(self, attached: &Attached) -> Done {
        let Self { definition, place, directory, size } = self;
        let set = backend::of(&definition).set_size(&place, attached, &directory, Some(size));
        Done::Sized(place.key, directory, size, set)
    }
}

impl Reconciler {
    /// What has to be set before a binding's volume is as it is defined: nothing where its backend enforces no size, or
    /// this agent has set it already.
    pub(super) fn find_sizing(&self, binding: &Binding) -> Option<Sizing> {
        let (volume, size) = (&binding.volume, binding.volume.size?);
        let source = self.sources.get(&binding.source)?;
        if backend::enforcement(&source.definition, volume) != Enforcement::Enforced {
            return None;
        }
        let known = self.sizes.get(&(binding.source.clone(), volume.path.clone()));
        if known.is_some_and(|known| *known == (size, None)) {
            return None;
        }
        Some(Sizing {
            definition: source.definition.clone(),
            place: source.place.clone(),
            directory: volume.path.clone(),
            size,
        })
    }

    /// The same for a binding that a former agent made, after all that waits for its source already.
    pub(super) fn size_if_unknown(&mut self, alloc: &AllocId, key: &BindingKey) {
        let Some(binding) = self.live_mut(alloc, key).map(|live| live.binding.clone()) else { return };
        let Some(sizing) = self.find_sizing(&binding) else { return };
        let Some(attached) = self.sources.get(&binding.source).and_then(|source| source.attached()).cloned() else {
            return;
        };
        self.submit(Desk::Source(binding.source), move || sizing.set(&attached));
    }

    pub(super) fn note_sized(&mut self, key: SourceKey, directory: PathBuf, size: u64, set: Result<(), SizeError>) {
        let reason = set.err().map(|error| {
            let reason = match error.hint() {
                Some(hint) => format!("{error}; {hint}"),
                None => error.to_string(),
            };
            tracing::warn!(source = %key, directory = %directory.display(), size, reason, "the volume's size is not enforced");
            reason
        });
        self.sizes.insert((key, directory), (size, reason));
    }

    /// Gives bindings the sizes that the definitions of their volumes have now: a page may be of an earlier one, and
    /// what is set must not be what was.
    pub(super) fn take_sizes(&mut self) {
        let placed = self.registry.defined().filter_map(|defined| self.registry.place(&defined.volume));
        let sizes: BTreeMap<String, (SourceKey, PathBuf, Option<u64>)> = placed
            .map(|Placed { volume, backend }| {
                let path = backend::of(&backend).volumes_below().join(&volume.path);
                (volume.name, (backend::key_of(&backend), path, volume.size))
            })
            .collect();
        for entry in self.entries.values_mut() {
            for (key, live) in &mut entry.bindings {
                let of = &mut live.binding;
                let Some((source, path, size)) = sizes.get(&of.volume.name) else { continue };
                if of.source != *source || of.volume.path != *path || of.volume.size == *size {
                    continue;
                }
                of.volume.size = *size;
                if let Some(recorded) = entry.page.as_mut().and_then(|page| page.find_mut(key)) {
                    // It goes to the disk with the page's next change.
                    recorded.binding.volume.size = *size;
                }
            }
        }
    }

    /// Whether a volume, its path within its source, is kept to its size, and why not where its backend would.
    pub(super) fn find_enforcement(&self, volume: &Resolved, key: &SourceKey) -> (Enforcement, Option<String>) {
        let Some(source) = self.sources.get(key) else {
            return (Enforcement::without_limits(volume.size), None);
        };
        let promised = backend::enforcement(&source.definition, volume);
        // A file system of its own is never larger than it is.
        if source.beneath.is_some() {
            let reason = self.sizes.get(&(key.clone(), volume.path.clone())).and_then(|(_, reason)| reason.clone());
            return (promised, reason);
        }
        let (Enforcement::Enforced, Some(size)) = (promised, volume.size) else { return (promised, None) };
        match self.sizes.get(&(key.clone(), volume.path.clone())) {
            Some((set, None)) if *set == size => (Enforcement::Enforced, None),
            Some((_, Some(reason))) => (Enforcement::Advisory, Some(reason.clone())),
            _ => (Enforcement::Advisory, Some("this agent has not set it yet".to_owned())),
        }
    }

    /// The size of a binding's volume: of an image the present one, which may have grown under it.
    pub(super) fn size_of(&self, binding: &Binding) -> Option<u64> {
        match self.sources.get(&binding.source).map(|source| &source.definition.kind) {
            Some(config::BackendKind::Image(image)) => Some(image.size),
            _ => binding.volume.size,
        }
    }

    /// Its size in a sentence's words: `10GiB (enforced), `.
    pub(super) fn say_size(&self, binding: &Binding) -> String {
        match (self.size_of(binding), self.find_enforcement(&binding.volume, &binding.source)) {
            (None, _) => "of unlimited size, ".to_owned(),
            (Some(size), (enforced, None)) => format!("{} ({enforced}), ", written_size(size)),
            (Some(size), (enforced, Some(reason))) => format!("{} ({enforced}: {reason}), ", written_size(size)),
        }
    }
}
