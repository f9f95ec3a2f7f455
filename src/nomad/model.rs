//! The parts of Nomad's objects that the agent keeps, in the agent's own words.
//!
//! Pure data: how they are read from Nomad's JSON is the business of the client beside it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The id of an allocation: a UUID in Nomad's spelling (36 lower-case characters).
///
/// It becomes a path component below the allocation root, so nothing else can be one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AllocId(String);

/// Why a text is no allocation id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an allocation id (36 characters of 0-9, a-f and -)")]
pub struct NotAnAllocId(String);

impl AllocId {
    /// Checks the form and takes the text as an id.
    ///
    /// # Errors
    /// [`NotAnAllocId`] where it is not 8-4-4-4-12 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, NotAnAllocId> {
        let lengths = text.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
        let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        if lengths && digits {
            Ok(Self(text.to_owned()))
        } else {
            let shown: String = text.chars().take(64).collect();
            Err(NotAnAllocId(shown))
        }
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first eight characters, as Nomad's own tables show it.
    pub fn short(&self) -> &str {
        self.0.get(..8).unwrap_or(&self.0)
    }
}

impl TryFrom<String> for AllocId {
    type Error = NotAnAllocId;
    fn try_from(text: String) -> Result<Self, NotAnAllocId> {
        Self::parse(&text)
    }
}

impl From<AllocId> for String {
    fn from(id: AllocId) -> Self {
        id.0
    }
}

impl fmt::Display for AllocId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the servers want of an allocation (`DesiredStatus`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desired {
    /// It is to run.
    Run,
    /// It is to stop, or was evicted: none of its main tasks will start again.
    Stop,
}

/// What the client last reported of an allocation (`ClientStatus`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientStatus {
    /// Not started yet.
    Pending,
    /// At least one task runs.
    Running,
    /// Ended well.
    Complete,
    /// Failed; tasks may still be running (Nomad's documentation of `ClientStatus`).
    Failed,
    /// The node was lost; tasks may still run there.
    Lost,
    /// The node is disconnected, its state not known.
    Unknown,
}

impl ClientStatus {
    /// Whether the client will start no more tasks of it.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Complete | Self::Failed)
    }
}

/// When a task runs in relation to the main tasks (`lifecycle`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// A main task: it has no lifecycle block.
    Main,
    /// Before the main tasks.
    Prestart,
    /// With the main tasks, once these run.
    Poststart,
    /// After the main tasks.
    Poststop,
}

/// The state of one task (`TaskStates[…].State`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Not started, or waiting to be started again. Also what is assumed of a task that Nomad says nothing of.
    Pending,
    /// Running.
    Running,
    /// Over; Nomad starts it again only by `alloc restart -all-tasks`.
    Dead,
}

/// One task of an allocation's group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The task's name.
    pub name: String,
    /// The driver's name: `docker`, `exec`, `raw_exec`, …
    pub driver: String,
    /// When it runs.
    pub hook: Hook,
    /// Whether a lifecycle task runs as long as the main tasks.
    pub sidecar: bool,
    /// The task's own meta, not merged.
    pub meta: BTreeMap<String, String>,
    /// CPU in MHz (`NOMAD_CPU_LIMIT`).
    pub cpu_mhz: u64,
    /// Memory in MB (`NOMAD_MEMORY_LIMIT`).
    pub memory_mb: u64,
    /// Its state on the client.
    pub state: TaskState,
    /// Whether it has ever been started.
    pub started: bool,
    /// How often it was started again, by its policy or by hand.
    pub restarts: u64,
}

/// An allocation with the parts of its job that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// Its id.
    pub id: AllocId,
    /// Nomad's name for it: `job.group[index]`.
    pub name: String,
    /// The index in its name (`NOMAD_ALLOC_INDEX`).
    pub index: u64,
    /// The job's namespace.
    pub namespace: String,
    /// The job's region.
    pub region: String,
    /// The job's id.
    pub job_id: String,
    /// The job's name.
    pub job_name: String,
    /// The id of the parameterized or periodic job that this one came from.
    pub job_parent_id: Option<String>,
    /// The task group's name.
    pub group: String,
    /// What the servers want.
    pub desired: Desired,
    /// What the client reported.
    pub status: ClientStatus,
    /// `ephemeral_disk { sticky = true }`.
    pub sticky_disk: bool,
    /// `ephemeral_disk { migrate = true }`.
    pub migrate_disk: bool,
    /// The job's meta, not merged.
    pub job_meta: BTreeMap<String, String>,
    /// The group's meta, not merged.
    pub group_meta: BTreeMap<String, String>,
    /// The group's tasks, in the job's order.
    pub tasks: Vec<Task>,
}

impl Allocation {
    /// The task of that name.
    pub fn task(&self, name: &str) -> Option<&Task> {
        self.tasks.iter().find(|task| task.name == name)
    }

    /// Whether any meta that reaches its tasks speaks of storage.
    pub fn asks_for_storage(&self) -> bool {
        let asks = |meta: &BTreeMap<String, String>| meta.keys().any(|key| key.starts_with("storage_"));
        asks(&self.job_meta) || asks(&self.group_meta) || self.tasks.iter().any(|task| asks(&task.meta))
    }
}

/// This node, as interpolation needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// The node's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its datacenter.
    pub datacenter: String,
    /// Its node pool.
    pub pool: String,
    /// Its class.
    pub class: String,
    /// Its fingerprinted attributes (`attr.*`).
    pub attributes: BTreeMap<String, String>,
    /// Its meta (`meta.*`).
    pub meta: BTreeMap<String, String>,
}
