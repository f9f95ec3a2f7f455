//! The jobs of a soak, in Nomad's own form: its command line would cost more than the job.

use super::plan::{Fate, Group, Job};
use crate::support::{World, tool};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The folder of the writer, `tests/tools/soak.c`, which is `/opt/soak` in a chroot and in a container.
pub fn writer_folder() -> anyhow::Result<PathBuf> {
    let bin = tool("weed").context("no weed")?;
    let cache = bin.parent().and_then(Path::parent).context("the tools' cache")?;
    cache.join("soak").canonicalize().context("make tools installs the writer of the soak")
}

const SECOND: u64 = 1_000_000_000;

/// How the writers are told what to do.
pub struct Order {
    pub port: u16,
    /// Milliseconds between two records of a task.
    pub pause: u64,
}

pub fn register(world: &World, job: &Job, order: &Order) -> anyhow::Result<()> {
    world.api_with("PUT", "/v1/jobs", &json!({ "Job": text(world, job, order)? })).map(drop)
}

fn text(world: &World, job: &Job, order: &Order) -> anyhow::Result<Value> {
    let groups: Vec<Value> =
        (0..job.groups.len()).map(|number| group(world, job, number, order)).collect::<Result<_, _>>()?;
    let kind = if matches!(job.fate, Fate::Ends { .. }) { "batch" } else { "service" };
    Ok(json!({ "ID": job.name, "Name": job.name, "Type": kind, "Datacenters": ["*"], "TaskGroups": groups }))
}

fn group(world: &World, job: &Job, number: usize, order: &Order) -> anyhow::Result<Value> {
    let group = &job.groups[number];
    let name = |index: usize, driver: &str| json!({ "index": index, "driver": driver });
    let mut tasks = vec![storage(world)];
    for (index, driver) in group.tasks.iter().enumerate() {
        tasks.push(main(job, group, index, driver, order).with_context(|| name(index, driver).to_string())?);
    }
    Ok(json!({
        "Name": format!("group-{number}"),
        "Count": 1,
        "EphemeralDisk": { "SizeMB": 10 },
        "RestartPolicy": { "Attempts": 0, "Interval": 600 * SECOND, "Delay": SECOND / 10, "Mode": "fail" },
        "ReschedulePolicy": { "Attempts": 0, "Unlimited": false },
        "Meta": { "storage_volume": meta(job, group) },
        "Tasks": tasks,
    }))
}

fn meta(job: &Job, group: &Group) -> String {
    let mut text = String::new();
    for volume in &group.volumes {
        let word = if job.fate == Fate::Misspells { "destinaton" } else { "destination" };
        text.push_str(&format!("volume \"{volume}\" {{\n  {word} = \"local/{volume}\"\n}}\n"));
    }
    if job.fate == Fate::AsksForNothing {
        text.push_str("volume \"nowhere\" {\n  source = \"seaweedfs://nobody:1/nowhere\"\n}\n");
    }
    text
}

/// The prestart task: a failure that is the storage's may be tried again, and a refused job ends with the first.
fn storage(world: &World) -> Value {
    json!({
        "Name": "storage",
        "Driver": "raw_exec",
        "Lifecycle": { "Hook": "prestart" },
        "Config": { "command": world.saddlebag_path(), "args": ["mount"] },
        "LogConfig": { "Disabled": true, "MaxFiles": 1, "MaxFileSizeMB": 1 },
        "Resources": { "CPU": 20, "MemoryMB": 32 },
    })
}

fn main(job: &Job, group: &Group, index: usize, driver: &str, order: &Order) -> anyhow::Result<Value> {
    let (seconds, status, restarts) = match job.fate {
        // Only those that were told to go are started again.
        Fate::Ends { seconds } => (seconds, 0, 10),
        Fate::Fails { seconds } => (seconds, 1, 1),
        _ => (0, 0, 10),
    };
    let folder = writer_folder()?;
    let program = if driver == "raw_exec" { folder.join("soak") } else { "/opt/soak/soak".into() };
    let mut arguments = vec![order.port.to_string(), order.pause.to_string(), seconds.to_string(), status.to_string()];
    arguments.extend(group.volumes.iter().cloned());
    let mut config = json!({ "command": program, "args": arguments });
    if driver == "docker" {
        config["image"] = "saddlebag-test:1".into();
        config["network_mode"] = "host".into();
        config["volumes"] = json!([format!("{}:/opt/soak:ro", folder.display())]);
    }
    Ok(json!({
        "Name": format!("task-{index}"),
        "Driver": driver,
        "Config": config,
        "KillTimeout": 5 * SECOND,
        "RestartPolicy": { "Attempts": restarts, "Interval": 600 * SECOND, "Delay": SECOND, "Mode": "fail" },
        "LogConfig": { "Disabled": true, "MaxFiles": 1, "MaxFileSizeMB": 1 },
        "Resources": { "CPU": 20, "MemoryMB": 32 },
    }))
}
