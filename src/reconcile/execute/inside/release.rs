//! Taking a binding's clones away from the containers that run.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use super::{Cache, Holder, Host, InsideError, MOST_STEPS, Original, Place, SEARCHES};
use crate::job::Placement;
use crate::nomad::model::AllocId;
use crate::reconcile::binding::Binding;
use crate::reconcile::execute::inside::sight::Sight;
use crate::sys::mount::MountError;
use crate::sys::namespace::{Namespace, NamespaceError};
use crate::sys::process;
use crate::sys::table::Entry;
use crate::sys::tree::Tree;

/// Takes every clone of a binding's mount away from the containers of its task, while the binding is still mounted on
/// the host. With `force` at once, and who has one open keeps it; else only where nobody uses any: each is looked at
/// before the first is taken, and what was taken is put back if one turns out to be in use then.
///
/// # Errors
/// [`InsideError::Busy`] where a clone is in use; else why not all are gone.
pub fn release_inside(host: &Host, alloc: &AllocId, binding: &Binding, force: bool) -> Result<(), InsideError> {
    if binding.placement == Placement::Link {
        return Ok(());
    }
    let asked = Arc::<Cache>::default().ask();
    let original = Original::of(host, alloc, binding, &asked)?;
    let mut taken: Vec<Place> = Vec::new();
    for _ in 0..SEARCHES {
        let namespaces = original.find_namespaces(&asked.cache, Instant::now())?;
        let mut has_ended = false;
        if !force {
            for namespace in &namespaces {
                has_ended |= check(&original, namespace).or_else(ended)?;
            }
        }
        for namespace in &namespaces {
            match take(&original, namespace, force, &mut taken).or_else(ended) {
                Ok(ended) => has_ended |= ended,
                Err(error) => {
                    if matches!(error, InsideError::Busy(_)) {
                        put_back(&original, &namespaces, &taken);
                    }
                    return Err(error);
                }
            }
        }
        if !has_ended {
            break;
        }
    }
    Ok(())
}

/// A namespace whose process has ended has nothing to take away, unless it is found again by another.
fn ended(error: InsideError) -> Result<bool, InsideError> {
    match error {
        InsideError::Namespace(NamespaceError::Ended) => Ok(true),
        error => Err(error),
    }
}

fn look<'a>(original: &'a Original, namespace: &Namespace) -> Result<Sight<'a>, InsideError> {
    let tree = Tree::new(namespace.read_table().map_err(InsideError::Namespace)?);
    Ok(Sight::new(tree, original, &[], BTreeSet::new()))
}

fn busy(namespace: &Namespace, entry: &Entry) -> InsideError {
    let user = process::find_user_of_mount(namespace.id(), entry.mount_id);
    InsideError::Busy(user.map(|(pid, command)| Holder { pid, command }))
}

/// Whether anything is in use; changes nothing.
fn check(original: &Original, namespace: &Namespace) -> Result<bool, InsideError> {
    let sight = look(original, namespace)?;
    let targets = sight.to_release();
    for entry in targets.iter().filter(|entry| sight.is_of_present(entry)) {
        // One that is used by nothing but other clones is free once those are gone.
        let holds_others = targets.iter().any(|other| other.parent == entry.mount_id);
        if holds_others {
            continue;
        }
        if namespace.is_busy(&sight.tree, &entry.mount_point).map_err(InsideError::Namespace)? {
            return Err(busy(namespace, entry));
        }
    }
    Ok(false)
}

fn take(original: &Original, namespace: &Namespace, force: bool, taken: &mut Vec<Place>) -> Result<bool, InsideError> {
    for _ in 0..MOST_STEPS {
        let sight = look(original, namespace)?;
        let Some(entry) = sight.to_release().first().copied() else { return Ok(false) };
        // A dead one serves nobody.
        let result = if force || !sight.is_of_present(entry) {
            namespace.detach(&sight.tree, &entry.mount_point)
        } else {
            namespace.unmount(&sight.tree, &entry.mount_point)
        };
        match result {
            Ok(()) => {
                let places = sight.places(namespace.id());
                taken.extend(places.into_iter().filter(|place| place.mount_id == entry.mount_id));
            }
            Err(NamespaceError::Mount(MountError::Busy)) => return Err(busy(namespace, entry)),
            Err(error) => return Err(InsideError::Namespace(error)),
        }
    }
    Err(InsideError::Restless)
}

/// As far as it goes: the error that is told is why something is in use.
fn put_back(original: &Original, namespaces: &[Namespace], taken: &[Place]) {
    for place in taken.iter().rev() {
        let Some(namespace) = namespaces.iter().find(|namespace| namespace.id() == place.namespace) else { continue };
        let result = original.clone(&place.below, place.flags).and_then(|clone| {
            let sight = look(original, namespace)?;
            namespace.attach(&sight.tree, &place.mount_point, clone.as_fd()).map_err(InsideError::Namespace)
        });
        if let Err(error) = result {
            tracing::warn!(path = %place.mount_point.display(), pid = namespace.pid(), %error, "a clone that was taken away is not put back");
        }
    }
}
