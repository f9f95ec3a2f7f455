//! Nomad's JSON, exactly as far as it is used.
//!
//! Fields that are not named here are skipped without being kept. A listing is read allocation by allocation, and one
//! that does not ask for storage leaves nothing but its id: a node's listing holds each allocation's whole job, about
//! 8 KiB of it. Lists and maps may be null everywhere, as Go writes empty ones.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, de};

use super::model::{AllocId, Allocation, ClientStatus, Desired, Hook, Node, Task, TaskState};

/// What one listing of a node's allocations says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Where the next blocking query goes on from (`X-Nomad-Index`).
    pub index: u64,
    /// The allocations that ask for storage, or that somebody wants to hear of.
    pub allocations: Vec<Allocation>,
    /// How many others there are.
    pub others: usize,
    /// The ids of all of them, in Nomad's order.
    pub ids: Vec<AllocId>,
}

/// What Nomad's agent says of itself (`/v1/agent/self`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentSelf {
    /// The id of the node that this agent is; none where it is a server only.
    pub node_id: Option<String>,
    /// Where it keeps allocations: `client.alloc_dir` of its configuration, else `alloc` below `data_dir`. None where
    /// it has neither, as in Nomad's development mode, which makes a temporary directory and tells nobody.
    pub alloc_dir: Option<PathBuf>,
    /// Nomad's version, for example `1.10.5`.
    pub version: String,
    /// Its region.
    pub region: String,
    /// Whether it runs tasks.
    pub is_client: bool,
    /// How many allocations its client holds, ended ones included. More than a listing has means that the token may
    /// not read the others.
    pub allocations: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireAllocation {
    #[serde(rename = "ID")]
    id: AllocId,
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    namespace: String,
    #[serde(default, deserialize_with = "or_default", rename = "JobID")]
    job_id: String,
    #[serde(default, deserialize_with = "or_default")]
    task_group: String,
    #[serde(default, deserialize_with = "or_default")]
    desired_status: String,
    #[serde(default, deserialize_with = "or_default")]
    client_status: String,
    #[serde(default, deserialize_with = "or_default")]
    job: WireJob,
    #[serde(default, deserialize_with = "or_default")]
    allocated_resources: WireAllocated,
    #[serde(default, deserialize_with = "or_default")]
    task_states: HashMap<String, Option<WireState>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct WireJob {
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default", rename = "ParentID")]
    parent_id: String,
    #[serde(deserialize_with = "or_default")]
    region: String,
    #[serde(deserialize_with = "or_default")]
    meta: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    task_groups: Vec<WireGroup>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct WireGroup {
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    meta: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    ephemeral_disk: WireDisk,
    #[serde(deserialize_with = "or_default")]
    tasks: Vec<WireTask>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct WireDisk {
    #[serde(deserialize_with = "or_default")]
    sticky: bool,
    #[serde(deserialize_with = "or_default")]
    migrate: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct WireTask {
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    driver: String,
    lifecycle: Option<WireLifecycle>,
    #[serde(deserialize_with = "or_default")]
    meta: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    resources: WireResources,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct WireLifecycle {
    #[serde(deserialize_with = "or_default")]
    hook: String,
    #[serde(deserialize_with = "or_default")]
    sidecar: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireResources {
    #[serde(rename = "CPU", deserialize_with = "or_default")]
    cpu: i64,
    #[serde(rename = "MemoryMB", deserialize_with = "or_default")]
    memory_mb: i64,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct WireAllocated {
    #[serde(deserialize_with = "or_default")]
    tasks: HashMap<String, Option<WireAllocatedTask>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct WireAllocatedTask {
    #[serde(deserialize_with = "or_default")]
    cpu: WireCpu,
    #[serde(deserialize_with = "or_default")]
    memory: WireMemory,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct WireCpu {
    #[serde(deserialize_with = "or_default")]
    cpu_shares: i64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireMemory {
    #[serde(rename = "MemoryMB", deserialize_with = "or_default")]
    memory_mb: i64,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct WireState {
    #[serde(deserialize_with = "or_default")]
    state: String,
    #[serde(deserialize_with = "or_default")]
    started_at: String,
    #[serde(deserialize_with = "or_default")]
    restarts: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireNode {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    datacenter: String,
    #[serde(default, deserialize_with = "or_default")]
    node_pool: String,
    #[serde(default, deserialize_with = "or_default")]
    node_class: String,
    #[serde(default, deserialize_with = "or_default")]
    attributes: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    meta: BTreeMap<String, String>,
}

#[derive(Deserialize)]
pub(super) struct WireSelf {
    config: WireConfig,
    #[serde(default, deserialize_with = "or_default")]
    stats: WireStats,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireConfig {
    #[serde(default, deserialize_with = "or_default")]
    data_dir: String,
    #[serde(default, deserialize_with = "or_default")]
    region: String,
    #[serde(default, deserialize_with = "or_default")]
    client: WireClient,
    #[serde(default, deserialize_with = "or_default")]
    version: WireVersion,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct WireClient {
    #[serde(deserialize_with = "or_default")]
    enabled: bool,
    #[serde(deserialize_with = "or_default")]
    alloc_dir: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct WireVersion {
    #[serde(deserialize_with = "or_default")]
    version: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireStats {
    client: Option<WireClientStats>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireClientStats {
    #[serde(deserialize_with = "or_default")]
    node_id: String,
    #[serde(deserialize_with = "or_default")]
    num_allocations: String,
}

/// Reads null as the type's default.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

impl WireAllocation {
    /// Whether any meta that reaches its tasks speaks of storage.
    fn asks_for_storage(&self) -> bool {
        let asks = |meta: &BTreeMap<String, String>| meta.keys().any(|key| key.starts_with("storage_"));
        asks(&self.job.meta)
            || self
                .job
                .task_groups
                .iter()
                .filter(|group| group.name == self.task_group)
                .any(|group| asks(&group.meta) || group.tasks.iter().any(|task| asks(&task.meta)))
    }
}

impl From<WireAllocation> for Allocation {
    fn from(wire: WireAllocation) -> Self {
        let WireAllocation { job, mut task_states, mut allocated_resources, .. } = wire;
        let group = job.task_groups.into_iter().find(|group| group.name == wire.task_group).unwrap_or_default();
        let tasks = group
            .tasks
            .into_iter()
            .map(|task| {
                let state = task_states.remove(&task.name).flatten();
                let allocated = allocated_resources.tasks.remove(&task.name).flatten();
                task.into_model(state, allocated)
            })
            .collect();
        Self {
            id: wire.id,
            index: index_of(&wire.name),
            name: wire.name,
            namespace: wire.namespace,
            region: job.region,
            job_id: wire.job_id,
            job_name: job.name,
            job_parent_id: Some(job.parent_id).filter(|id| !id.is_empty()),
            group: wire.task_group,
            desired: match wire.desired_status.as_str() {
                "stop" | "evict" => Desired::Stop,
                _ => Desired::Run,
            },
            status: match wire.client_status.as_str() {
                "pending" => ClientStatus::Pending,
                "running" => ClientStatus::Running,
                "complete" => ClientStatus::Complete,
                "failed" => ClientStatus::Failed,
                "lost" => ClientStatus::Lost,
                _ => ClientStatus::Unknown,
            },
            sticky_disk: group.ephemeral_disk.sticky,
            migrate_disk: group.ephemeral_disk.migrate,
            job_meta: job.meta,
            group_meta: group.meta,
            tasks,
        }
    }
}

impl WireTask {
    fn into_model(self, state: Option<WireState>, allocated: Option<WireAllocatedTask>) -> Task {
        // What was allocated is what Nomad puts into the task's environment: with `cores` the job's own figure is 0.
        let (cpu, memory) = match allocated {
            Some(allocated) => (allocated.cpu.cpu_shares, allocated.memory.memory_mb),
            None => (self.resources.cpu, self.resources.memory_mb),
        };
        let lifecycle = self.lifecycle.unwrap_or_default();
        let state = state.unwrap_or_default();
        Task {
            name: self.name,
            driver: self.driver,
            hook: match lifecycle.hook.as_str() {
                "prestart" => Hook::Prestart,
                "poststart" => Hook::Poststart,
                "poststop" => Hook::Poststop,
                _ => Hook::Main,
            },
            sidecar: lifecycle.sidecar,
            meta: self.meta,
            cpu_mhz: u64::try_from(cpu).unwrap_or(0),
            memory_mb: u64::try_from(memory).unwrap_or(0),
            state: match state.state.as_str() {
                "running" => TaskState::Running,
                "dead" => TaskState::Dead,
                _ => TaskState::Pending,
            },
            // Go writes a time that was never set as the year 1.
            started: !state.started_at.is_empty() && !state.started_at.starts_with("0001-"),
            restarts: state.restarts,
        }
    }
}

/// The number in `job.group[number]`.
fn index_of(name: &str) -> u64 {
    name.strip_suffix(']')
        .and_then(|name| name.rsplit_once('['))
        .and_then(|(_, number)| number.parse().ok())
        .unwrap_or(0)
}

impl From<WireNode> for Node {
    fn from(wire: WireNode) -> Self {
        Self {
            id: wire.id,
            name: wire.name,
            datacenter: wire.datacenter,
            pool: wire.node_pool,
            class: wire.node_class,
            attributes: wire.attributes,
            meta: wire.meta,
        }
    }
}

impl From<WireSelf> for AgentSelf {
    fn from(wire: WireSelf) -> Self {
        let WireSelf { config, stats } = wire;
        let data_dir = PathBuf::from(config.data_dir);
        let alloc_dir = match PathBuf::from(config.client.alloc_dir) {
            path if path.is_absolute() => Some(path),
            _ if data_dir.is_absolute() => Some(data_dir.join("alloc")),
            _ => None,
        };
        let is_client = config.client.enabled || stats.client.is_some();
        let client = stats.client.unwrap_or_default();
        Self {
            node_id: Some(client.node_id).filter(|id| !id.is_empty()),
            alloc_dir: alloc_dir.filter(|_| is_client),
            version: config.version.version,
            region: config.region,
            is_client,
            allocations: client.num_allocations.parse().ok(),
        }
    }
}

/// Reads a list of allocations. The index is not part of the body.
#[derive(Debug, Clone, Default)]
pub(super) struct ListingSeed {
    /// Those that are kept although they ask for no storage.
    pub(super) kept: Arc<HashSet<AllocId>>,
}

impl<'de> DeserializeSeed<'de> for ListingSeed {
    type Value = Listing;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Listing, D::Error> {
        struct ListVisitor(Arc<HashSet<AllocId>>);
        impl<'de> Visitor<'de> for ListVisitor {
            type Value = Listing;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of allocations")
            }
            fn visit_unit<E: de::Error>(self) -> Result<Listing, E> {
                Ok(Listing::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Listing, A::Error> {
                let mut listing = Listing::default();
                while seq.next_element_seed(Into(&mut listing, &self.0))?.is_some() {}
                Ok(listing)
            }
        }

        /// Reads one allocation into a listing.
        struct Into<'a>(&'a mut Listing, &'a HashSet<AllocId>);
        impl<'de> DeserializeSeed<'de> for Into<'_> {
            type Value = ();
            fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
                let wire = WireAllocation::deserialize(from)?;
                self.0.ids.push(wire.id.clone());
                if wire.asks_for_storage() || self.1.contains(&wire.id) {
                    self.0.allocations.push(wire.into());
                } else {
                    self.0.others += 1;
                }
                Ok(())
            }
        }
        from.deserialize_any(ListVisitor(self.kept))
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
