//! Taking a binding away from a task that runs: out of its containers first, then off the host.

use super::inside::{self, Holder};
use super::{Force, Host, InsideError, Leaving, Site, leave, link, unbind};
use crate::nomad::model::AllocId;
use crate::reconcile::binding::Binding;
use crate::reconcile::error::UnbindError;
use crate::sys::identity;
use crate::sys::process;
use crate::sys::resolve::ResolveError;
use std::os::fd::AsFd;

/// Why a binding was not taken away from a task that runs. What had been taken is put back, as far as it goes.
#[derive(Debug, thiserror::Error)]
pub enum TakeOutError {
    /// A clone in a container stays.
    #[error("a container still has it")]
    Inside(#[source] InsideError),
    /// Nobody wants it any more.
    #[error("it was called off")]
    CalledOff,
    /// A process of the host has it open.
    #[error("{} still has it open", .0.as_ref().map_or_else(|| "a process of this host".into(), Holder::to_string))]
    Busy(Option<Holder>),
    /// The host's mount stays.
    #[error("it is not unmounted on the host")]
    Host(#[source] UnbindError),
}

/// Takes a binding away although its task runs: every clone of it in the containers of its task, and then its mount.
/// With `force` whoever has something open keeps that; else only where nobody has. Runs in a worker of its source.
///
/// # Errors
/// [`TakeOutError`]; the binding has to be looked at again then.
pub fn take_out(host: &Host, leaving: &Leaving, force: bool) -> Result<(), TakeOutError> {
    let Leaving { alloc, binding, identity, .. } = leaving;
    // First: what is refused here has been taken from nobody.
    if !force && leave::is_used(host, alloc, binding).map_err(TakeOutError::Host)? {
        return Err(TakeOutError::Busy(find_user(host, alloc, binding)));
    }
    match inside::release_inside(host, alloc, binding, force) {
        // Where it is not mounted on the host there is nothing that a container could be shown.
        Ok(()) | Err(InsideError::NotBound) => {}
        // Something else is in the way, and it was never made.
        Err(InsideError::Host(ResolveError::Symlink(_) | ResolveError::NotADirectory(_))) if identity.is_none() => {}
        Err(error) => return Err(TakeOutError::Inside(error)),
    }
    let how = if force { Force::AtOnce } else { Force::WhenUnused };
    unbind(host, leaving, how).map_err(|error| {
        // The task keeps its way to what stays.
        if let Err(error) = link(host, alloc, binding) {
            tracing::warn!(%alloc, task = binding.key.task, volume = binding.volume.name, reason = super::super::error::whole(&error), "the link to a volume is not made again");
        }
        match error {
            UnbindError::Busy => TakeOutError::Busy(find_user(host, alloc, binding)),
            error => TakeOutError::Host(error),
        }
    })
}

/// Who has the host's mount open; none where nobody is found.
fn find_user(host: &Host, alloc: &AllocId, binding: &Binding) -> Option<Holder> {
    let top = Site::of(host, alloc, binding).and_then(|site| site.open_top()).ok()?;
    let mount = identity::reusable_mount_id(top.as_fd()).ok()?;
    drop(top);
    let (pid, command) = process::find_user_of_mount(process::own_mount_namespace().ok()?, mount)?;
    Some(Holder { pid, command })
}
