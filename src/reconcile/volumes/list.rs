//! What is told of every volume.

use super::*;
use crate::config::BackendKind;

impl Reconciler {
    pub(super) fn list_volumes(&self) -> VolumeList {
        let mut volumes: Vec<VolumeStatus> = self
            .registry
            .defined()
            .filter_map(|defined| {
                let by = if defined.text.is_some() { DefinedBy::Registered } else { DefinedBy::Configuration };
                let placed = self.registry.place(&defined.volume)?;
                let mut told = self.tell_volume(&placed, by, defined.place.clone());
                told.access_mode = name_of(defined.volume.access_mode).to_owned();
                Some(told)
            })
            .collect();
        for (name, unusable) in self.registry.unusable() {
            match volumes.iter_mut().find(|told| told.name == *name) {
                Some(told) => told.reason = Some(unusable.reason.clone()),
                None => volumes.push(VolumeStatus {
                    name: name.clone(),
                    backend: String::new(),
                    path: String::new(),
                    access_mode: String::new(),
                    read_only: false,
                    size: None,
                    size_enforced: Enforcement::Unlimited,
                    size_reason: None,
                    defined: DefinedBy::Registered,
                    place: unusable.place.clone(),
                    reason: Some(unusable.reason.clone()),
                    used_by: self.find_users(|binding| binding.volume.name == *name),
                }),
            }
        }
        for live in self.entries.values().flat_map(|entry| entry.bindings.values()) {
            let name = &live.binding.volume.name;
            if !is_name(name) || volumes.iter().any(|told| told.name == *name) {
                continue;
            }
            // A name that is not defined any more was dynamic, or its definition is gone from the configuration.
            if let Some(placed) =
                self.registry.place_dynamic(name).filter(|of| of.backend.name == live.binding.volume.backend)
            {
                let place = format!("backend {} is dynamic", placed.backend.name);
                volumes.push(self.tell_volume(&placed, DefinedBy::Dynamic, place));
            }
        }
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        VolumeList { volumes }
    }

    fn tell_volume(&self, placed: &Placed, defined: DefinedBy, place: String) -> VolumeStatus {
        let volume = within_source(placed);
        let key = backend::key_of(&placed.backend);
        let (backend, path, size_enforced, size_reason) = match &placed.backend.kind {
            // The file, whether or not it was ever attached here.
            BackendKind::Image(image) => {
                let (_, reason) = self.find_enforcement(&volume, &key);
                (&image.parent.name, &image.path, Enforcement::Enforced, reason)
            }
            _ => {
                let (enforced, reason) = self.find_enforcement(&volume, &key);
                (&placed.backend.name, &placed.volume.path, enforced, reason)
            }
        };
        VolumeStatus {
            name: volume.name.clone(),
            backend: backend.clone(),
            path: path.display().to_string(),
            access_mode: name_of(AccessMode::default()).to_owned(),
            read_only: volume.read_only,
            size: volume.size,
            size_enforced,
            size_reason,
            defined,
            place,
            reason: None,
            used_by: self.find_users(|binding| binding.volume.name == volume.name),
        }
    }
}

fn name_of(mode: AccessMode) -> &'static str {
    AccessMode::NAMES.iter().find(|(_, known)| *known == mode).map_or("", |(name, _)| name)
}
