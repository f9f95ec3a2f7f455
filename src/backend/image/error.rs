//! Why an image cannot be attached, as a person is told.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::Format;
use crate::job::Kind;
use crate::sys::block_fs::MountFailed;

/// Why an image cannot be attached. Each is of the image that [`super::AttachError`] speaks of.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The backend that it is on is not attached, or was attached anew meanwhile.
    #[error("the backend that its image is on is not attached")]
    NoParent,
    /// It is not there, and is not to be made.
    #[error("the image {} does not exist", .0.display())]
    Missing(PathBuf),
    /// Something else than a plain file is there.
    #[error("{} is not a plain file", .0.display())]
    NotAFile(PathBuf),
    /// It holds another file system than its definition says.
    #[error("the image {} holds {found}, and its definition says {}", .path.display(), .wanted.name())]
    WrongFormat {
        /// The image.
        path: PathBuf,
        /// What its definition says.
        wanted: Format,
        /// What is in it.
        found: String,
    },
    /// It holds nothing that is known. It is not formatted: it was there before.
    #[error("the file {} holds no file system that is known; it was there before, so it is not formatted", .0.display())]
    Unformatted(PathBuf),
    /// A draft is not blank.
    #[error("a file that was made just now is not blank: {0}")]
    NotBlank(String),
    /// Its file system is damaged beyond what is mended without a person's word.
    #[error("the file system in {} is damaged: {said}", .path.display())]
    Damaged {
        /// The image.
        path: PathBuf,
        /// What says so.
        said: String,
        /// The command that mends it.
        command: String,
    },
    /// It is attached on this machine by somebody else.
    #[error("the image {} is attached already: {by}", .path.display())]
    Taken {
        /// The image.
        path: PathBuf,
        /// By what.
        by: String,
    },
    /// Somebody holds a lock on it.
    #[error("somebody else holds the lock of the image {}", .0.display())]
    Locked(PathBuf),
    /// A note says that another machine has it attached.
    #[error("the image {} is attached on {host}", .path.display())]
    Owned {
        /// The image.
        path: PathBuf,
        /// The other machine's name.
        host: String,
        /// The note, as this machine sees it.
        note: PathBuf,
    },
    /// The note beside it cannot be read.
    #[error("the note {} on who has the image attached cannot be read: {reason}", .note.display())]
    BadNote {
        /// The note.
        note: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Its definition says less than it has.
    #[error("the image {} has {} MiB, and its definition says {} MiB: an image cannot be shrunk", .path.display(), .has >> 20, .wanted >> 20)]
    Shrunk {
        /// The image.
        path: PathBuf,
        /// Its length in bytes.
        has: u64,
        /// What its definition says, in bytes.
        wanted: u64,
    },
    /// A program is not installed.
    #[error("the program {program} is not installed")]
    NoProgram {
        /// Its name.
        program: &'static str,
        /// Debian's package of it.
        package: &'static str,
    },
    /// A program failed.
    #[error("{program} failed: {said}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The end of what it said.
        said: String,
    },
    /// A program took too long, and was ended.
    #[error("{program} did not end within {}", humantime::format_duration(*.after))]
    TooSlow {
        /// Its name.
        program: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The kernel does not mount it.
    #[error("the image cannot be mounted: {0}")]
    Mount(MountFailed),
    /// The kernel or the backend refused something.
    #[error("cannot {what}: {source}")]
    Call {
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl ImageError {
    /// The kernel or the backend refused `what`.
    pub(super) fn call(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Call { what, source }
    }

    /// Whether the same may work in a moment, with nobody's help: another machine may be about to let it go.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::NoParent
                | Self::Locked(_)
                | Self::Owned { .. }
                | Self::TooSlow { .. }
                | Self::Mount(_)
                | Self::Call { .. }
        )
    }

    /// What kind of refusal it is, and what to do.
    pub fn advice(&self) -> (Kind, String) {
        let operator = "see the agent's log on this client".to_owned();
        match self {
            Self::NoParent => (Kind::Unavailable, "it is attached when its backend is".to_owned()),
            Self::Missing(_) => (
                Kind::Configuration,
                "write create = true into the volume's block to have it made at its first use".to_owned(),
            ),
            Self::NotAFile(_) => {
                (Kind::Configuration, "give the volume another path: an image is a file of its own".to_owned())
            }
            Self::WrongFormat { .. } | Self::Unformatted(_) => (
                Kind::Configuration,
                "name the file system that is in it as format, or move the file away if nothing in it is needed"
                    .to_owned(),
            ),
            Self::Damaged { command, .. } => {
                (Kind::Unavailable, format!("mend it with `{command}` on this client, while no task uses it"))
            }
            Self::Taken { .. } => {
                (Kind::Unavailable, "`losetup --all` and `findmnt` on this client show what has it".to_owned())
            }
            Self::Locked(_) => (
                Kind::TryAgain,
                "it is attached when the other one lets it go; another client of the backend may have it".to_owned(),
            ),
            Self::Owned { host, note, .. } => (
                Kind::TryAgain,
                format!(
                    "it is attached when {host} lets it go; only if that machine can never write again, remove {}",
                    note.display()
                ),
            ),
            Self::BadNote { note, .. } => {
                (Kind::Unavailable, format!("if no machine has the image attached, remove {}", note.display()))
            }
            Self::Shrunk { has, .. } => {
                (Kind::Configuration, format!("write size = \"{}MiB\" or more into the volume's block", has >> 20))
            }
            Self::NoProgram { package, .. } => (Kind::Unavailable, format!("apt install {package} on this client")),
            Self::NotBlank(_) | Self::Program { .. } | Self::TooSlow { .. } | Self::Mount(_) | Self::Call { .. } => {
                (Kind::Unavailable, operator)
            }
        }
    }
}
