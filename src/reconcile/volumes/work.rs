//! What is done to a volume in its source's worker.

use super::*;
use crate::backend::{Attached, Place};
use crate::config::Backend;

/// What was done.
pub enum Worked {
    /// Its directory is there.
    Made {
        /// It was made now.
        created: bool,
        /// Where it is on this host.
        at: PathBuf,
        /// Its size was set.
        sized: bool,
    },
    /// Nothing keeps it to its former size any more.
    Unsized,
    /// Its directory is out of the way.
    SetAside(Kept),
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// Its directory cannot be made.
    #[error(transparent)]
    Make(#[from] BindError),
    /// Its size cannot be set, or taken away.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// Its directory cannot be taken out of the way.
    #[error(transparent)]
    SetAside(#[from] SetAsideError),
}

impl WorkError {
    /// Whether the source is to be looked at again.
    pub(super) fn blames_source(&self) -> bool {
        match self {
            Self::Make(error) => error.blames_source(),
            Self::SetAside(error) => matches!(error, SetAsideError::SourceChanged),
            Self::Size(_) => false,
        }
    }

    /// What the operator is told.
    pub(super) fn refusal(&self, volume: &Resolved, is_registered: bool) -> Refusal {
        let (name, path) = (&volume.name, volume.path.display());
        let reason = whole(self);
        let still = if is_registered { "it is registered, and " } else { "" };
        match self {
            Self::Make(BindError::Volume(
                crate::sys::resolve::ResolveError::Symlink(_) | crate::sys::resolve::ResolveError::NotADirectory(_),
            )) => {
                let message = format!(
                    "volume {name:?}: {still}{path} on backend {} is not a plain directory: {reason}",
                    volume.backend
                );
                Refusal::configuration(message).hint("name the directory itself, without symbolic links on the way")
            }
            Self::Make(_) => {
                let kind = if self.blames_source() { Kind::TryAgain } else { Kind::Unavailable };
                let message = format!("volume {name:?}: {still}its directory {path} is not made: {reason}");
                refusal(kind, message).hint("it may be created again once that is mended")
            }
            Self::Size(error) => {
                let message = format!("volume {name:?}: its size is not as it was to be: {reason}");
                let hint = error.hint().unwrap_or_else(|| "it may be asked for again once that is mended".to_owned());
                refusal(Kind::Unavailable, message).hint(hint)
            }
            Self::SetAside(SetAsideError::Mounted(at)) => {
                let message = format!("volume {name:?} is not deleted: it is mounted at {}", at.display());
                refusal(Kind::TryAgain, message)
                    .hint("see `saddlebag status` for who has it; what no job explains is unmounted by hand")
            }
            Self::SetAside(SetAsideError::Noted(note)) => {
                let message = format!("volume {name:?} is not deleted: {reason}");
                let hint = format!(
                    "the note names the machine: let its tasks end there; remove {} by hand only where that machine is gone for good",
                    note.display()
                );
                refusal(Kind::TryAgain, message).hint(hint)
            }
            Self::SetAside(SetAsideError::Volume(_) | SetAsideError::Folder(_) | SetAsideError::OtherFileSystem) => {
                Refusal::configuration(format!("volume {name:?} is not deleted: {reason}"))
                    .hint("look at it on the storage system; nothing was touched")
            }
            Self::SetAside(_) => {
                let kind = if self.blames_source() { Kind::TryAgain } else { Kind::Unavailable };
                refusal(kind, format!("volume {name:?} is not deleted: {reason}"))
            }
        }
    }
}

/// Makes the directory and sets its size.
pub(super) fn make(
    definition: &Backend,
    place: &Place,
    volume: &Resolved,
    attached: &Attached,
) -> Result<Worked, WorkError> {
    let prepare = || backend::of(definition).prepare(volume).map_err(BindError::Prepare);
    prepare()?;
    let created = execute::make_volume(volume, attached)?;
    if created {
        // A bucket can be told of only once it is there.
        prepare()?;
    }
    let sized = is_enforced(definition, volume);
    if sized {
        backend::of(definition).set_size(place, attached, &volume.path, volume.size)?;
    }
    Ok(Worked::Made { created, at: attached.root.join(&volume.path), sized })
}

/// Has the storage system keep a directory to no size any more.
pub(super) fn unsize(
    definition: &Backend,
    place: &Place,
    volume: &Resolved,
    attached: &Attached,
) -> Result<Worked, WorkError> {
    if execute::has_volume(volume, attached)? {
        backend::of(definition).set_size(place, attached, &volume.path, None)?;
    }
    Ok(Worked::Unsized)
}

/// Takes the directory out of the way; first its size, which is the path's on some systems and the directory's on others.
pub(super) fn set_aside(
    definition: &Backend,
    place: &Place,
    volume: &Resolved,
    attached: &Attached,
) -> Result<Worked, WorkError> {
    if is_enforced(definition, volume) {
        unsize(definition, place, volume, attached)?;
    }
    let below = backend::of(definition).volumes_below();
    Ok(Worked::SetAside(execute::set_aside(volume, &below, attached, SystemTime::now())?))
}

fn is_enforced(definition: &Backend, volume: &Resolved) -> bool {
    volume.size.is_some() && backend::enforcement(definition, volume) == Enforcement::Enforced
}
