//! Why a source cannot be attached or detached, as a person is told.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::ImageError;
use crate::job::{Kind, Refusal};

/// Why a source cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The mount program is not installed.
    #[error("the program {program} is not installed (looked for {})", looked_for(.looked))]
    ProgramMissing {
        /// Its name.
        program: String,
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// No server of the list accepts a connection.
    #[error("no connection to {what} {server}")]
    Unreachable {
        /// What it is: `filer`, `glusterd`.
        what: &'static str,
        /// Its address.
        server: String,
        /// The cause.
        source: io::Error,
    },
    /// The mount program ended before its mount was there.
    #[error("{program} ended before its mount was there")]
    ProgramEnded {
        /// Its name.
        program: String,
        /// The last lines that it wrote.
        log: Vec<String>,
    },
    /// The mount program did not mount in time.
    #[error("{program} did not mount within {}", humantime::format_duration(*.after))]
    TooSlow {
        /// Its name.
        program: String,
        /// How long it was waited for.
        after: Duration,
        /// The last lines that it wrote.
        log: Vec<String>,
    },
    /// The directory that should hold the volumes is not there.
    #[error("the directory {} does not exist", .0.display())]
    NoDirectory(PathBuf),
    /// A file that the configuration counts on is not there.
    #[error("the file {} for {what} does not exist", .path.display())]
    NoFile {
        /// What it is for: `TLS`.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
    },
    /// Something else is mounted where the source belongs.
    #[error("a file system of type {fs_type} is mounted at {}, where {expected} belongs", .at.display())]
    Foreign {
        /// Where.
        at: PathBuf,
        /// What is there.
        fs_type: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// It is mounted, and does not answer as it should.
    #[error("it is mounted, and does not answer: {source}")]
    NoAnswer {
        /// What it answers.
        source: io::Error,
    },
    /// A server accepts connections and says nothing.
    #[error("{what} {server} accepts connections and has not answered for {}", humantime::format_duration(*.after))]
    NoReply {
        /// What it is: `filer`, `glusterd`.
        what: &'static str,
        /// Its address.
        server: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// It is mounted, and whoever asks it waits.
    #[error("it is mounted, but {0}")]
    Silent(String),
    /// It is mounted, and what it stands on cannot be reached.
    #[error("{0}")]
    Cut(String),
    /// Its mount was taken away, and its mount program serves others still.
    #[error("its mount was taken away, and its mount program (pid {0}) still serves tasks")]
    StillServing(i32),
    /// The server, or the mount program that asked it, says why not.
    #[error("{reason}")]
    Refused {
        /// One sentence.
        reason: String,
        /// What to do.
        hint: String,
        /// Whether it may pass with nobody's help.
        passes: bool,
        /// What the mount program wrote.
        log: Vec<String>,
    },
    /// An image, and what lies between it and its backend.
    #[error("{0}")]
    Image(ImageError),
    /// The kernel or the disk refused something.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

fn looked_for(places: &[PathBuf]) -> String {
    places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl AttachError {
    /// The kernel or the disk refused `what`.
    pub fn host(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Host { what, source }
    }

    /// Whether the same may work in a moment, with nobody's help.
    pub fn is_temporary(&self) -> bool {
        if let Self::Image(error) = self {
            return error.is_temporary();
        }
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::NoAnswer { .. }
                | Self::TooSlow { .. }
                | Self::ProgramEnded { .. }
                | Self::NoReply { .. }
                | Self::Silent(_)
                | Self::Cut(_)
                | Self::StillServing(_)
                | Self::Refused { passes: true, .. }
        )
    }

    /// Whether there is no answer at all: whoever uses the source waits.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::NoReply { .. } | Self::Silent(_))
    }

    /// The mount program's own last lines.
    pub fn log(&self) -> &[String] {
        match self {
            Self::ProgramEnded { log, .. } | Self::TooSlow { log, .. } | Self::Refused { log, .. } => log,
            _ => &[],
        }
    }

    /// What the author of a job is told.
    pub fn refusal(&self, backend: &str) -> Refusal {
        let (kind, hint) = match self {
            Self::ProgramMissing { .. } => {
                (Kind::Unavailable, "install it on this client, or name its path in the backend's `program`".to_owned())
            }
            Self::Unreachable { server, .. } => {
                (Kind::Unavailable, format!("check that {server} is up and reachable from this client"))
            }
            Self::ProgramEnded { log, .. } | Self::TooSlow { log, .. } => (
                Kind::Unavailable,
                log.last().map_or_else(
                    || "it wrote nothing to its log".to_owned(),
                    |line| format!("its log ends with: {line}"),
                ),
            ),
            Self::NoDirectory(path) => (Kind::Configuration, format!("create {} on this client", path.display())),
            Self::NoFile { path, .. } => (Kind::Configuration, format!("put {} on this client", path.display())),
            Self::Foreign { at, .. } => (
                Kind::Configuration,
                format!("look at `findmnt {}` and unmount what does not belong there", at.display()),
            ),
            Self::Refused { hint, .. } => (Kind::Unavailable, hint.clone()),
            Self::NoReply { server, .. } => {
                (Kind::Unavailable, format!("look at {server}: its process or its host hangs"))
            }
            Self::Silent(_) => (
                Kind::Unavailable,
                "look at its mount program and its servers; it goes on by itself when they answer".to_owned(),
            ),
            Self::Cut(_) => (
                Kind::Unavailable,
                "start its servers, or look at the network to them; it goes on by itself when they answer".to_owned(),
            ),
            Self::StillServing(pid) => (
                Kind::Unavailable,
                format!(
                    "it ends when no task has anything of it any more; a second one beside it is not started (`ps {pid}`)"
                ),
            ),
            Self::Image(error) => error.advice(),
            Self::NoAnswer { .. } | Self::Host { .. } => {
                (Kind::Unavailable, "see the agent's log on this client".to_owned())
            }
        };
        Refusal { kind, message: format!("backend {backend} cannot be used: {}", self.sentence()), hint: Some(hint) }
    }

    /// What is wrong, with its cause.
    pub fn sentence(&self) -> String {
        match self {
            Self::Unreachable { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}

/// Why a source was not detached.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// Something still uses it.
    #[error("it is still in use")]
    Busy,
    /// The kernel refused.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

/// Why a storage system was not brought to treat a volume as its definition says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PrepareError {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Whether the same may work in a moment, with nobody's help.
    pub is_temporary: bool,
}
