//! The agent may be killed with SIGKILL at any moment. The next one converges: nothing leaks, nothing is mounted twice,
//! no running task loses its mount.

mod restore;
mod steps;

use crate::support::World;
use anyhow::Context as _;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A group with a task that sees a mount and one that sees a link. Both add their allocation's id to a file of their
/// name when they start, and then write what `LOOP` says.
const JOB: &str = r#"
variable "saddlebag" {}
variable "socket" {}

job "JOB" {
  group "app" {
    meta {
      storage_volume      = "VOLUME"
      storage_destination = "local/data"
    }
    PRESTART
    task "mounted" {
      driver       = "exec"
      kill_timeout = "1s"
      config {
        command = "/bin/sh"
        args    = ["-ec", "echo $NOMAD_ALLOC_ID >> /local/data/mounted; cd /; LOOP"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
    task "linked" {
      driver       = "raw_exec"
      kill_timeout = "1s"
      config {
        command = "/bin/sh"
        args    = ["-ec", "echo $NOMAD_ALLOC_ID >> $NOMAD_TASK_DIR/data/linked; LOOP"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
"#;

/// The job's text. What `run` says runs in both tasks, `$data` is the volume there.
fn job(name: &str, volume: &str, run: &str) -> String {
    let whole = "data=$NOMAD_TASK_DIR/data; [ $NOMAD_TASK_NAME = linked ] || data=/local/data; RUN";
    JOB.replace("LOOP", whole).replace("RUN", run).replace("JOB", name).replace("VOLUME", volume)
}

/// A host backend below the world's directory, with that many volumes `v0`, `v1`, … which are created at first use.
fn configuration(world: &World, volumes: usize) -> anyhow::Result<String> {
    let path = world.directory().join("volumes");
    std::fs::create_dir_all(&path)?;
    let mut text = format!("backend \"host\" \"local\" {{\n  path = \"{}\"\n}}\n", path.display());
    for number in 0..volumes {
        text.push_str(&format!(
            "volume \"v{number}\" {{\n  backend = \"local\"\n  create = true\n  owner = \"65534:65534\"\n  mode = \"2770\"\n}}\n"
        ));
    }
    Ok(text)
}

/// Where an allocation's two bindings are mounted on the host.
fn places(world: &World, alloc: &str) -> [PathBuf; 2] {
    [
        world.alloc_dir(alloc).join("mounted/local/data"),
        world.state_dir().join("bindings").join(alloc).join("linked/local/data"),
    ]
}

/// The ids and mount points of a mount table's entries whose root is that directory of a file system.
fn mounts_of(table: &str, volume: &Path) -> Vec<(u64, PathBuf)> {
    // The root is relative to the file system, which may itself be mounted anywhere on the way.
    let end = volume.iter().rev().take(3).collect::<Vec<_>>().into_iter().rev().collect::<PathBuf>();
    table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let id = fields.next()?.parse().ok()?;
            let (root, point) = (fields.nth(2)?, fields.next()?);
            Path::new(root).ends_with(&end).then(|| (id, PathBuf::from(point)))
        })
        .collect()
}

fn host_mounts_of(volume: &Path) -> anyhow::Result<Vec<(u64, PathBuf)>> {
    Ok(mounts_of(&std::fs::read_to_string("/proc/self/mountinfo").context("reading mountinfo")?, volume))
}

/// The pages of the ledger.
fn pages(world: &World) -> anyhow::Result<Vec<Value>> {
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(world.state_dir().join("ledger"))? {
        let path = entry?.path();
        // What has another ending is a page that is being written, which no agent takes for one.
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match std::fs::read(&path) {
            Ok(text) => pages.push(serde_json::from_slice(&text).context("a page is JSON")?),
            // It was forgotten between the listing and the look.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(pages)
}

/// Whether the allocation's page names both bindings as made.
fn is_recorded(world: &World, alloc: &str) -> anyhow::Result<bool> {
    let pages = pages(world)?;
    let Some(page) = pages.iter().find(|page| page["alloc"] == alloc) else { return Ok(false) };
    let bindings = page["bindings"].as_array().context("a page has bindings")?;
    Ok(bindings.len() == 2 && bindings.iter().all(|binding| binding["stage"]["mounted"].is_object()))
}

/// Waits until nothing on this host speaks of the world's allocations any more.
fn wait_nothing_left(world: &World, volume: &Path) -> anyhow::Result<()> {
    world.wait_until("nothing that is left", crate::support::PATIENCE, || {
        let links = std::fs::read_dir(world.state_dir().join("bindings"))?.count();
        Ok((host_mounts_of(volume)?.is_empty() && links == 0 && pages(world)?.is_empty()).then_some(()))
    })
}

/// Whether that many lines are in the file, each of them whole.
fn has_lines(path: &Path, count: usize) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.matches('\n').count() == count)
}
