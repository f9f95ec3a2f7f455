//! What comes out of reading a job: one request for each volume and task.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What the agent does when the mount under a running task is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Mount it again under the running task.
    #[default]
    Reattach,
    /// Restart the task.
    Restart,
    /// Fail the task.
    Fail,
}

/// How a task's driver sees a directory of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// The driver binds the task's directory with all mounts below it (`docker`, `podman`, `exec`, `java`):
    /// the binding is mounted at the destination itself.
    Mount,
    /// The task sees the host's own mounts (`raw_exec`, `qemu`): the destination becomes a symbolic link to a
    /// binding outside the allocation directory, which garbage collection unlinks and does not follow.
    Link,
}

/// A destination below a task's directory: relative, of plain components only, not owned by Nomad.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Destination(pub(crate) PathBuf);

impl Destination {
    /// The path, relative to the task's directory: `local/pgdata`.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

/// What the job calls its storage.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SourceName {
    /// A registered volume's name.
    Named(String),
    /// A URL, as written, interpolated.
    Url(String),
}

/// What an operator asks for on the command line, beside the job's words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// A registered volume's name or a URL; Nomad's runtime names may stand in it.
    pub volume: String,
    /// Its label; where it has none, as in the scalar form of a job's words.
    pub label: Option<String>,
    /// Where, below the task's directory; `local/<label>` if nothing is said.
    pub destination: Option<String>,
    /// The tasks. If none is named, the only one that runs is meant.
    pub tasks: Vec<String>,
    /// Whether read-only.
    pub read_only: bool,
    /// What to do when the mount is lost.
    pub on_failure: OnFailure,
}

/// One volume for one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The label that the job gave it; the registered name where it gave none.
    pub label: String,
    /// Where it comes from.
    pub source: SourceName,
    /// The task that gets it.
    pub task: String,
    /// Where, below the task's directory.
    pub destination: Destination,
    /// How the task's driver has to be served.
    pub placement: Placement,
    /// Whether the job asks for it read-only.
    pub read_only: bool,
    /// What to do when the mount is lost.
    pub on_failure: OnFailure,
}
