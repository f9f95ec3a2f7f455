//! Backends: a backend prepares a source and knows nothing of allocations.
//!
//! A source is a file system of a storage system that this node has mounted; all volumes of it share it. A new backend
//! is a file in this folder and a line in [`of`].
//!
//! Everything here may wait on a server: it is called from a worker of that source alone (see [`crate::reconcile`]).

mod error;
mod examine;
mod fuse;
mod gluster;
mod host;
mod image;
pub mod logs;
mod mount_point;
mod nfs;
pub mod probe;
pub mod prober;
pub mod program;
mod seaweedfs;
mod server;
mod size;
mod whereabouts;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use error::{AttachError, DetachError, PrepareError};
pub use image::{ImageError, name_of as image_note};
pub use size::{Enforcement, SizeError};
pub use whereabouts::Whereabouts;

use crate::check::Check;
use crate::config::{self, BackendKind};
use crate::sys::identity::Identity;
use crate::volume::Resolved;

/// Names a source on this node: the kind of backend and a digest of all that decides whether two volumes can share a
/// mount. It is a file name and stays the same for the same options.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceKey(pub String);

impl fmt::Display for SourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where on this host a source lives.
#[derive(Debug, Clone)]
pub struct Place {
    /// The source's key: names its cgroup and unit.
    pub key: SourceKey,
    /// Where a mount program mounts it: a directory that only root can enter.
    pub mount_point: PathBuf,
    /// Where its mount program's output goes.
    pub log: PathBuf,
    /// A folder for its cache.
    pub cache: PathBuf,
    /// A socket for its mount program.
    pub socket: PathBuf,
    /// Asks it whether it answers, without waiting for it in the kernel.
    pub prober: prober::Prober,
    /// Whether it is for a moment only, in namespaces of its own that end with whoever mounts it ([`crate::doctor`]): its
    /// program is a child like any other, and everything that it writes is in the folders here.
    pub is_trial: bool,
    /// The source that it lies on, where it lies on one, as that is attached now.
    pub beneath: Option<Attached>,
    /// Whether a source that is made at its first use may be made now: nobody was ever promised what is in it.
    pub may_create: bool,
}

/// A source that is mounted and answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The directory that volumes are directories of.
    pub root: PathBuf,
    /// That directory's identity; a later one that differs is another mount.
    pub identity: Identity,
    /// The mount program, where there is one.
    pub pid: Option<i32>,
    /// Whether it was there already.
    pub found: bool,
    /// Whether a directory of it that lies on another file system can be a volume: that one is mounted for as long as the
    /// source, and is not the source's own affair.
    pub may_cross: bool,
}

/// What every storage system can do.
pub trait Backend: Send + Sync {
    /// The kind, as the configuration calls it.
    fn kind(&self) -> &'static str;

    /// The directory of the source that its volumes are below.
    fn volumes_below(&self) -> PathBuf {
        PathBuf::new()
    }

    /// What decides whether two volumes can share a mount: equal texts can.
    fn options(&self) -> String;

    /// Mounts the source, or finds it mounted, and proves that it answers.
    ///
    /// # Errors
    /// Why not, with the last lines of the mount program's own log. Nothing half done remains.
    fn attach(&self, place: &Place) -> Result<Attached, AttachError>;

    /// Whether a program or a server stands behind it, which may cease to answer while the kernel has it mounted.
    fn has_server(&self) -> bool {
        false
    }

    /// Asks the storage system's servers themselves whether they answer, and not through the mount; at most for
    /// `patience`.
    ///
    /// # Errors
    /// [`AttachError::Unreachable`] where none accepts a connection, [`AttachError::NoReply`] where none that does
    /// answers.
    fn probe(&self, _patience: Duration) -> Result<(), AttachError> {
        Ok(())
    }

    /// Looks at the programs and the servers that it needs, without mounting anything; each within some seconds. Where one
    /// of these is a problem, or skipped, no trial is made.
    fn examine(&self) -> Vec<Check> {
        Vec::new()
    }

    /// The command by which an operator makes a directory on it; `path` is below that of its volumes.
    fn command_to_make(&self, path: &Path) -> Option<String> {
        let _ = path;
        None
    }

    /// The folder of its cache.
    fn cache(&self, place: &Place) -> PathBuf {
        place.cache.clone()
    }

    /// What is wrong with a source that is mounted and answers. May hang as the source does: only ever called in a
    /// process of its own.
    fn find_ailment(&self, _question: &probe::Question) -> Option<String> {
        None
    }

    /// What this storage system makes of a volume's size, once [`Backend::set_size`] has set it. Asks nobody.
    fn enforcement(&self, volume: &Resolved) -> Enforcement {
        Enforcement::without_limits(volume.size)
    }

    /// Has the storage system keep a volume's directory, which is there, to so many bytes; or to none any more. It is
    /// called where [`Backend::enforcement`] says that sizes are enforced: when a directory is created, at the first use
    /// of a volume in an agent's life, and when its definition's size has changed. Setting the same size twice is no error.
    /// `directory` is relative to the source's root.
    ///
    /// # Errors
    /// [`SizeError`]: the size is then called advisory, with that reason.
    fn set_size(
        &self,
        _place: &Place,
        _attached: &Attached,
        _directory: &Path,
        _bytes: Option<u64>,
    ) -> Result<(), SizeError> {
        Ok(())
    }

    /// Has the storage system treat what is in a volume's directory as the volume's definition says, before anybody uses
    /// it: called before the directory is looked for, and again once it was made. Most systems need nothing of the kind.
    ///
    /// # Errors
    /// Why it cannot be so; the volume is then not used.
    fn prepare(&self, _volume: &Resolved) -> Result<(), PrepareError> {
        Ok(())
    }

    /// Why a source that is mounted and answers is of no use any more, and has to be attached anew. In a process of its
    /// own, as [`Backend::find_ailment`].
    fn find_damage(&self, _question: &probe::Question) -> Option<String> {
        None
    }

    /// Takes the source away when nothing uses it any more.
    ///
    /// # Errors
    /// [`DetachError::Busy`] where something does; it then stays as it is.
    fn detach(&self, place: &Place) -> Result<(), DetachError>;
}

/// The backend of a definition.
pub fn of(definition: &config::Backend) -> Box<dyn Backend> {
    match &definition.kind {
        BackendKind::Host(settings) => Box::new(host::Host::new(settings.clone(), definition.dynamic)),
        BackendKind::Gluster(settings) => Box::new(gluster::Gluster::new(settings.as_ref().clone(), definition)),
        BackendKind::Seaweedfs(settings) => Box::new(seaweedfs::Seaweedfs::new(settings.clone(), definition)),
        BackendKind::Nfs(settings) => Box::new(nfs::Nfs::new(settings.clone(), definition)),
        BackendKind::Image(settings) => Box::new(image::Image::new(settings.clone())),
    }
}

/// What becomes of a volume's size on a backend, once it is set. The one place that decides it.
pub fn enforcement(definition: &config::Backend, volume: &Resolved) -> Enforcement {
    of(definition).enforcement(volume)
}

/// The key of the source that a definition stands for.
pub fn key_of(definition: &config::Backend) -> SourceKey {
    let backend = of(definition);
    SourceKey(format!("{}-{:016x}", backend.kind(), fnv1a(backend.options().as_bytes())))
}

/// The definition of the source that a definition's own lies on, where it lies on one.
pub fn beneath(definition: &config::Backend) -> Option<&config::Backend> {
    match &definition.kind {
        BackendKind::Image(image) => Some(&image.parent),
        _ => None,
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): the same on every machine and in every version, which the standard library's
/// hashers do not promise.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_published_one() {
        // Test vectors of the FNV reference implementation.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
