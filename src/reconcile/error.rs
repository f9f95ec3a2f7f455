//! Why a binding could not be made or taken away, and what its job is told.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use crate::backend::PrepareError;
use crate::guard::GuardError;
use crate::job::{Kind, Refusal};
use crate::sys::inode::InodeError;
use crate::sys::mount::MountError;
use crate::sys::resolve::ResolveError;

use super::binding::Binding;

/// What calls on a file system fail with while the servers behind it cannot be reached.
const OUTAGES: [Errno; 11] = [
    Errno::IO,
    Errno::REMOTEIO,
    Errno::TIMEDOUT,
    Errno::NOTCONN,
    Errno::CONNREFUSED,
    Errno::CONNRESET,
    Errno::CONNABORTED,
    Errno::HOSTDOWN,
    Errno::HOSTUNREACH,
    Errno::NETDOWN,
    Errno::NETUNREACH,
];

/// Why a binding was not made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The source's own root.
    #[error("the source's root cannot be opened")]
    Source(#[source] ResolveError),
    /// Another mount is at the source's root than the one that was attached.
    #[error("the source is no longer the mount that was attached")]
    SourceChanged,
    /// The storage system was not brought to treat the volume as its definition says.
    #[error(transparent)]
    Prepare(PrepareError),
    /// The volume's directory is not there, and its definition does not allow to create it.
    #[error("the volume's directory does not exist")]
    NoSuchDirectory,
    /// The volume's directory cannot be opened.
    #[error("the volume's directory cannot be opened")]
    Volume(#[source] ResolveError),
    /// The volume's directory is on another file system of the server than the export.
    #[error("the volume's directory is on another file system of its server than the export")]
    OtherFileSystem,
    /// Nomad has removed the allocation's directory.
    #[error("the allocation's directory is gone")]
    AllocationGone,
    /// The destination cannot be reached within the task's directory.
    #[error("the destination cannot be used")]
    Destination(#[source] ResolveError),
    /// The destination holds something.
    #[error("the destination is not empty")]
    DestinationNotEmpty,
    /// There is something at the destination where a link is to be.
    #[error("something other than the link to the volume is at the destination")]
    DestinationTaken,
    /// The directory beneath the mount.
    #[error("the directory beneath the mount cannot be closed to writes")]
    Beneath(#[source] InodeError),
    /// The allocation directory's file system has no immutable flag.
    #[error(
        "the allocation directory's file system has no immutable flag, so a task could write beneath a missing mount"
    )]
    NotFailClosed,
    /// The kernel refused the mount.
    #[error("the kernel refused the mount")]
    Mount(#[source] MountError),
    /// The guard did not mark it; it was not mounted then.
    #[error("the guard did not take the mount into its care")]
    Guard(#[source] GuardError),
    /// The mount lives, and shows another directory than the volume is now.
    #[error("the volume's directory was replaced by another while it was mounted")]
    VolumeReplaced,
    /// The mount does not say whether it is dead.
    #[error("the mount neither answers nor is dead")]
    Undecided,
    /// What is at the destination is not what was mounted.
    #[error("the mount at the destination is not the volume")]
    NotProved,
    /// Something else of this host.
    #[error("cannot {what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl BindError {
    /// This host refused `what`.
    pub fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }

    /// Whether the same may work in a moment, with nobody's help.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::SourceChanged | Self::Guard(_) | Self::NotProved | Self::Undecided)
            || matches!(self, Self::Prepare(error) if error.is_temporary)
            || self.errno().is_some_and(|errno| OUTAGES.contains(&errno))
    }

    /// Whether the source did not answer, and is to be looked at again before anything else is bound from it.
    pub fn blames_source(&self) -> bool {
        matches!(self, Self::Source(_) | Self::SourceChanged)
            || matches!(self.errno(), Some(Errno::NOTCONN | Errno::STALE))
    }

    /// What a call on the source, or on this host, failed with.
    fn errno(&self) -> Option<Errno> {
        match self {
            Self::Host { source, .. } | Self::Volume(ResolveError::Call { source, .. }) => Errno::from_io_error(source),
            _ => None,
        }
    }

    /// What the author of the job is told.
    pub fn refusal(&self, binding: &Binding) -> Refusal {
        let volume = &binding.volume;
        let place = format!("{} of task {}", binding.key.destination.as_path().display(), binding.key.task);
        let path = volume.path.display();
        let (kind, message, hint) = match self {
            Self::Prepare(error) => {
                let kind = if error.is_temporary { Kind::Unavailable } else { Kind::Configuration };
                (kind, error.message.clone(), error.hint.clone())
            }
            Self::NoSuchDirectory => (
                Kind::Configuration,
                format!("volume {} has no directory {path} on backend {}", volume.name, volume.backend),
                Some(format!(
                    "create it there, or write create = true into the definition of volume {} if it may be new",
                    volume.name
                )),
            ),
            Self::OtherFileSystem => (
                Kind::Configuration,
                format!(
                    "volume {}: {path} is on another file system of its server than what backend {} has mounted",
                    volume.name, volume.backend
                ),
                Some("define a backend whose export is that directory".into()),
            ),
            Self::Volume(ResolveError::Symlink(_) | ResolveError::NotADirectory(_)) => (
                Kind::Configuration,
                format!("volume {}: {path} on backend {} is not a plain directory", volume.name, volume.backend),
                Some("name the directory itself, without symbolic links on the way".into()),
            ),
            Self::Destination(ResolveError::Symlink(at)) => (
                Kind::NotPermitted,
                format!("volume {}: {} a symbolic link", volume.name, on_the_way(binding, at)),
                Some("destinations are not followed over symbolic links: remove it or choose another".into()),
            ),
            Self::Destination(ResolveError::NotADirectory(at)) => (
                Kind::Configuration,
                format!("volume {}: {} not a directory", volume.name, on_the_way(binding, at)),
                Some("choose another storage_destination".into()),
            ),
            Self::VolumeReplaced => (
                Kind::Configuration,
                format!(
                    "volume {}: its directory {path} was replaced by another, and task {} goes on with the former one",
                    volume.name, binding.key.task
                ),
                Some("put the former directory back, or stop the job and run it again for the new one".into()),
            ),
            Self::DestinationNotEmpty => (
                Kind::Configuration,
                format!("volume {}: {place} is there already and not empty", volume.name),
                Some("choose a destination that nothing else writes to, for example local/volumes/data".into()),
            ),
            Self::DestinationTaken => (
                Kind::Configuration,
                format!("volume {}: {place} is there already, where the link to the volume has to be", volume.name),
                Some("choose a destination that nothing else makes, for example local/volumes/data".into()),
            ),
            Self::NotFailClosed => (
                Kind::Unavailable,
                format!("volume {}: {self}", volume.name),
                Some("put Nomad's data_dir on ext4, xfs or btrfs".into()),
            ),
            Self::Guard(_) | Self::SourceChanged | Self::NotProved => {
                (Kind::TryAgain, format!("volume {} at {place}: {}", volume.name, whole(self)), None)
            }
            _ => (Kind::Unavailable, format!("volume {} at {place}: {}", volume.name, whole(self)), None),
        };
        Refusal { kind, message, hint }
    }
}

/// The subject of a sentence about what is at the destination or above it, and `is`. The path is beneath the
/// allocation's directory, as the walk to the destination met it.
fn on_the_way(binding: &Binding, at: &Path) -> String {
    let (task, destination) = (&binding.key.task, binding.key.destination.as_path());
    let at = at.strip_prefix(task).unwrap_or(at);
    if at == destination {
        format!("{} of task {task} is", at.display())
    } else {
        format!("{}, on the way to {} of task {task}, is", at.display(), destination.display())
    }
}

/// An error with all its causes in one line.
pub fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Why a binding was not taken away.
#[derive(Debug, thiserror::Error)]
pub enum UnbindError {
    /// Somebody on this host has it open.
    #[error("a process on this host still has it open")]
    Busy,
    /// Nomad has forgotten the allocation, and a process of its task goes on.
    #[error("Nomad has forgotten its allocation, and process {0} of its task still lives")]
    TaskLives(i32),
    /// Whether such a process lives cannot be told.
    #[error("whether its task still lives cannot be told")]
    Processes(#[source] io::Error),
    /// The destination cannot be reached.
    #[error("the destination cannot be reached")]
    Destination(#[source] ResolveError),
    /// The kernel refused.
    #[error("the kernel refused to unmount it")]
    Mount(#[source] MountError),
    /// The directory beneath.
    #[error("the directory beneath cannot be opened to removal")]
    Beneath(#[source] InodeError),
    /// The mount is not where it was made, and the mount table cannot be read.
    #[error("it is not where it was made, and the mount table cannot be read")]
    Table(#[source] io::Error),
    /// A mount is in the task's directory that may be it.
    #[error("a mount at {} of the allocation's directory may be it, which no record proves", .0.display())]
    Unexplained(std::path::PathBuf),
}
