//! What travels over the agent's sockets, as JSON over HTTP.
//!
//! | request | socket | body | answer |
//! | --- | --- | --- | --- |
//! | `POST /v1/mount` | both | [`MountRequest`] | [`MountReply`] |
//! | `POST /v1/attach` | the host's | [`AttachRequest`] | [`MountReply`] |
//! | `POST /v1/detach` | the host's | [`DetachRequest`] | [`DetachReply`] |
//! | `GET /v1/status` | both (an allocation's own shows that allocation only) | | [`Status`] |
//! | `GET /v1/status?index=N&wait=30s` | the host's | | [`Status`], once its index is another than N, or after that time (`30s` where none is given, at most 5 minutes) |
//! | `GET /v1/allocation/{id or prefix}` | both (an allocation's own answers for itself only) | | [`Explanation`] |
//! | about volumes as such, see [`super::volumes`] | the host's | | |
//! | `GET /metrics` | the host's | | text for Prometheus |
//!
//! A request that fails is answered with an [`ErrorReply`] and a status of 400 (usage), 403 (not permitted),
//! 422 (configuration), 503 (unavailable) or 504 (try again).

use serde::{Deserialize, Serialize};

use crate::backend::Enforcement;
use crate::job::{OnFailure, Refusal};

/// Ends when every volume of the allocation is mounted and proved, or with the reason why not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountRequest {
    /// The allocation's id; needed on the host's socket, given by the socket itself on an allocation's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alloc: Option<String>,
    /// The task that asks (`NOMAD_TASK_NAME`): it is the one that does not get the volumes. Where it is not given, the
    /// group's only prestart task is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
}

/// Attaches a volume to running tasks. Ends when it is mounted on the host and in each of their containers, and proved;
/// or with the reason why not, and nothing attached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// The allocation's id, or at least four characters of its beginning.
    pub alloc: String,
    /// A volume's name or URL, by the rules that a job's words have.
    pub volume: String,
    /// Its label, where the volume's name is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The path below the tasks' directories; `local/<label>` where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The tasks; where none is given the only one that runs.
    #[serde(default)]
    pub tasks: Vec<String>,
    /// Whether read-only.
    #[serde(default)]
    pub read_only: bool,
    /// `reattach`, `restart` or `fail`.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// Takes an attached volume away from running tasks. Ends when no container and no place of the host has it any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetachRequest {
    /// The allocation's id, or at least four characters of its beginning.
    pub alloc: String,
    /// Its label, or the path below the tasks' directories.
    pub volume: String,
    /// The tasks; where none is given all that have it.
    #[serde(default)]
    pub tasks: Vec<String>,
    /// Also while processes have it open; these keep what they have open, and nothing else.
    #[serde(default)]
    pub force: bool,
}

/// What was taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachReply {
    /// The allocation's id.
    pub alloc: String,
    /// One for each task.
    pub detached: Vec<Detached>,
}

/// One volume that is no longer in one task's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detached {
    /// The volume's name.
    pub volume: String,
    /// The task.
    pub task: String,
    /// The path below the task's directory.
    pub destination: String,
}

/// Everything that was asked for is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountReply {
    /// The allocation's id.
    pub alloc: String,
    /// One for each volume and task.
    pub bindings: Vec<Mounted>,
}

/// One volume in one task's directory, proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// The volume's name.
    pub volume: String,
    /// The task.
    pub task: String,
    /// The path below the task's directory.
    pub destination: String,
    /// Whether it is read-only there.
    pub read_only: bool,
    /// Whether it was there already when it was asked for.
    pub already: bool,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// What went wrong and what to do.
    pub error: Refusal,
    /// The exit code that `saddlebag mount` ends with (sysexits.h).
    pub exit_code: u8,
}

/// What the agent knows, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of an answer to a question with an index: what to ask with for the next change. It moves with each change of
    /// anything but times and memory; another agent's is another.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub index: u64,
    /// The agent's version.
    pub version: String,
    /// The agent's process id.
    pub pid: u32,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// Nomad, as seen from here.
    pub nomad: NomadStatus,
    /// The guard.
    pub guard: GuardStatus,
    /// The sources of this node.
    pub sources: Vec<SourceStatus>,
    /// The bindings of this node.
    pub bindings: Vec<BindingStatus>,
    /// What the ledger does not tell.
    #[serde(default)]
    pub recovery: RecoveryStatus,
}

/// What is known beside the ledger, or in spite of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryStatus {
    /// Mounts where bindings are that no page and no job explains. They are left alone, and guarded.
    pub unexplained: Vec<UnexplainedMount>,
    /// Pages that cannot be read. They are left as they are.
    pub unreadable_pages: Vec<UnreadablePage>,
    /// How many mounts this agent has found in place and put on a page.
    pub adopted: usize,
    /// Why the ledger could not be written when that was last tried: nothing new is mounted meanwhile.
    pub ledger_error: Option<String>,
}

/// A mount that nothing explains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnexplainedMount {
    /// Where it is on this host.
    pub path: String,
    /// The allocation that it is in.
    pub alloc: String,
    /// The task.
    pub task: String,
    /// Its file system's type.
    pub fs_type: String,
    /// Why it is not taken for what the job asks for.
    pub reason: String,
}

/// A page of the ledger that this version cannot read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadablePage {
    /// The file.
    pub path: String,
    /// Why.
    pub reason: String,
}

fn is_zero(index: &u64) -> bool {
    *index == 0
}

/// How the agent stands with Nomad.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NomadStatus {
    /// The address that the agent asks.
    pub address: String,
    /// Whether its last question was answered.
    pub connected: bool,
    /// Nomad's version, once known.
    pub version: Option<String>,
    /// The node's id, once known.
    pub node_id: Option<String>,
    /// The node's name, once known.
    pub node_name: Option<String>,
    /// Why it is not connected.
    pub reason: Option<String>,
}

/// How the agent stands with the guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardStatus {
    /// Whether it answers.
    pub running: bool,
    /// Its process id.
    pub pid: Option<i32>,
    /// Why it does not answer.
    pub reason: Option<String>,
}

/// One source: a file system that this node has mounted for its volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// The backend's name; the names of all that share it, separated by commas.
    pub name: String,
    /// The backends that share it: nothing that decides of a mount is said differently for them.
    #[serde(default)]
    pub backends: Vec<String>,
    /// The volumes of it that are bound now, each once.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// The kind of backend: `host`, `seaweedfs`.
    pub kind: String,
    /// `attached`, `attaching`, `detached`, `failed`, `hung` (it does not answer), `unreachable` (its servers), `degraded`
    /// (some of what is asked of it fails).
    pub state: String,
    /// Where it is mounted on this host.
    pub mount_point: Option<String>,
    /// The mount program's process id, where there is one.
    pub pid: Option<u32>,
    /// Where the mount program writes, where there is one.
    #[serde(default)]
    pub log: Option<String>,
    /// Bytes of memory that the mount program uses now.
    pub memory_bytes: Option<u64>,
    /// How many bindings use it.
    pub bindings: usize,
    /// Seconds in this state.
    pub age_seconds: u64,
    /// Why it is not attached or not well, or why it was lost not long ago.
    pub reason: Option<String>,
}

/// One binding: one volume in one task's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingStatus {
    /// The volume's name.
    pub volume: String,
    /// The allocation's id.
    pub alloc: String,
    /// The job's namespace.
    pub namespace: String,
    /// The job's id.
    pub job: String,
    /// The task group.
    pub group: String,
    /// The task.
    pub task: String,
    /// The path below the task's directory.
    pub destination: String,
    /// The source's name.
    pub source: String,
    /// Whether it is read-only there.
    pub read_only: bool,
    /// The most that the volume is to hold, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Whether anything keeps it to that: `enforced`, `advisory`, or `unlimited` where it has no size.
    #[serde(default = "unlimited")]
    pub size_enforced: Enforcement,
    /// Why it is not enforced although its backend enforces sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_reason: Option<String>,
    /// Whether an operator attached it while the task ran; the job says nothing of it.
    #[serde(default)]
    pub by_hand: bool,
    /// `waiting`, `mounting`, `mounted`, `checking`, `mending`, `failed`, `leaving`, or its source's `hung`, `unreachable`,
    /// `degraded`.
    pub state: String,
    /// Seconds in this state.
    pub age_seconds: u64,
    /// Why it is not mounted.
    pub reason: Option<String>,
    /// What last went wrong with it under its task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_fault: Option<Happened>,
    /// What was last mended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_repair: Option<Happened>,
}

fn unlimited() -> Enforcement {
    Enforcement::Unlimited
}

/// Something that happened to a binding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// What, in a few words.
    pub cause: String,
    /// When, in UTC as RFC 3339 writes it.
    pub at: String,
}

/// The way of an allocation's volumes, step by step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The allocation's id.
    pub alloc: String,
    /// The job's namespace.
    pub namespace: String,
    /// The job's id.
    pub job: String,
    /// The task group.
    pub group: String,
    /// One sentence: how it stands.
    pub summary: String,
    /// From the job's words to the mount.
    pub steps: Vec<Step>,
}

/// One step of an [`Explanation`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it does: `read the job`, `find volume pgdata`, `attach source main`, …
    pub name: String,
    /// How it went.
    pub state: StepState,
    /// What was found or done, or what went wrong.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The last lines of a program's own log, where there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// Done and proved.
    Done,
    /// Failed; the detail says why.
    Failed,
    /// Not done yet.
    Waiting,
}
