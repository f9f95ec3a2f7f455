//! What travels over the host's socket about volumes as such: their definitions, their directories, who uses them.
//!
//! | request | body | answer |
//! | --- | --- | --- |
//! | `POST /v1/volume/register` | [`DefinitionRequest`] | [`VolumeReply`] |
//! | `POST /v1/volume/create` | [`DefinitionRequest`] | [`VolumeReply`] |
//! | `POST /v1/volume/deregister` | [`NameRequest`] | [`VolumeReply`] |
//! | `POST /v1/volume/delete` | [`NameRequest`] | [`VolumeReply`] |
//! | `GET /v1/volumes` | | [`VolumeList`] |
//!
//! Root may ask for everything, members of the configured group may list. Each can be asked twice.

use serde::{Deserialize, Serialize};

use crate::backend::Enforcement;

/// Registers a volume, or changes its definition. Ends when that survives a power cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefinitionRequest {
    /// The file's name, for mistakes.
    pub file: String,
    /// One `volume` block, as a configuration file has it.
    pub text: String,
}

/// Names a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameRequest {
    /// Its name.
    pub volume: String,
    /// To delete: a volume that nobody defined, a directory of that name on the dynamic backend.
    #[serde(default)]
    pub dynamic: bool,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeReply {
    /// The volume's name.
    pub volume: String,
    /// What became of its definition.
    pub outcome: Outcome,
    /// To create: whether its directory was made now (`true`) or was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<bool>,
    /// Its directory on this host, while its source is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// To delete: where its data lies now, on this host while its source is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// What the operator should know of it besides.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What became of a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is new.
    Registered,
    /// It says something else than before.
    Changed,
    /// It was there already, in the same words.
    Unchanged,
    /// It is gone; the volume's data is where it was.
    Deregistered,
    /// It is gone, and the volume's data was taken out of the way.
    Deleted,
    /// There was none.
    Absent,
}

/// Every volume that this node knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeList {
    /// By their names.
    pub volumes: Vec<VolumeStatus>,
}

/// One volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Its name.
    pub name: String,
    /// The backend that it is on; empty where its definition cannot be read.
    pub backend: String,
    /// Its directory, below the backend's own; empty for that one itself.
    pub path: String,
    /// Its access mode.
    pub access_mode: String,
    /// Nobody may write.
    pub read_only: bool,
    /// The most that it is to hold, in bytes.
    pub size: Option<u64>,
    /// Whether anything keeps it to that.
    pub size_enforced: Enforcement,
    /// Why it is not enforced although its backend enforces sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_reason: Option<String>,
    /// Who defined it.
    pub defined: DefinedBy,
    /// Where: `FILE:LINE:COLUMN` of a configuration file, or the file that keeps what was registered.
    pub place: String,
    /// Why it cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The tasks that it is mounted for, or may be.
    pub used_by: Vec<UsedBy>,
}

/// Who defined a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DefinedBy {
    /// The agent's configuration.
    Configuration,
    /// `saddlebag volume register` or `create`.
    Registered,
    /// Nobody: a directory of the dynamic backend that a job has named.
    Dynamic,
}

/// A task that has a volume, or may have it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UsedBy {
    /// The job's namespace.
    pub namespace: String,
    /// The job's id.
    pub job: String,
    /// The allocation's id.
    pub alloc: String,
    /// The task.
    pub task: String,
    /// Whether it may only read.
    pub read_only: bool,
}
