//! What is to be mounted where, and what the ledger says of it.

use serde::{Deserialize, Serialize};

use crate::backend::SourceKey;

use crate::job::{Destination, OnFailure, Placement};
use crate::nomad::model::AllocId;
use crate::sys::identity::Identity;
use crate::volume::Resolved;

/// Names a binding within its allocation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BindingKey {
    /// The task.
    pub task: String,
    /// The path below the task's directory.
    pub destination: Destination,
}

/// One volume in one task's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Task and destination.
    #[serde(flatten)]
    pub key: BindingKey,
    /// The job's label for the volume.
    pub label: String,
    /// The volume.
    pub volume: Resolved,
    /// The source that the volume is a directory of.
    pub source: SourceKey,
    /// Mounted at the destination, or linked from there.
    pub placement: Placement,
    /// Read-only, by the job's wish or the volume's definition.
    pub read_only: bool,
    /// What to do when the mount is lost under a running task.
    pub on_failure: OnFailure,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Origin::is_job")]
    pub origin: Origin,
}

/// Who asked for a binding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The job's words.
    #[default]
    Job,
    /// An operator, while the task ran; nothing but the ledger knows of it.
    Operator,
}

impl Origin {
    fn is_job(&self) -> bool {
        *self == Self::Job
    }
}

/// How far the ledger knows a binding to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It was about to be made: it may be there, or not, or its directory only.
    Intended,
    /// It was made and proved; this was its identity.
    Mounted(Identity),
}

/// A binding as the ledger holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// What was asked for.
    pub binding: Binding,
    /// How far it got.
    pub stage: Stage,
    /// Seconds since the epoch when it was first intended.
    pub since: u64,
}

/// The ledger's page for one allocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The form of this page; [`Record::VERSION`].
    pub version: u32,
    /// The allocation.
    pub alloc: AllocId,
    /// The job's namespace.
    pub namespace: String,
    /// The job's id.
    pub job: String,
    /// The task group.
    pub group: String,
    /// The task that asked.
    pub hook_task: String,
    /// The bindings that may exist. A binding leaves the page only when its mount and its directory are gone.
    pub bindings: Vec<Recorded>,
}

impl Record {
    /// The form that this version writes.
    pub const VERSION: u32 = 1;

    /// The entry of that binding.
    pub fn find(&self, key: &BindingKey) -> Option<&Recorded> {
        self.bindings.iter().find(|recorded| recorded.binding.key == *key)
    }

    /// The same, to change it.
    pub fn find_mut(&mut self, key: &BindingKey) -> Option<&mut Recorded> {
        self.bindings.iter_mut().find(|recorded| recorded.binding.key == *key)
    }
}
