//! SeaweedFS as it is: shared mount programs, and every way in which a filer or its program can fail.

mod faults;
mod life;

use crate::support::{PATIENCE, World};
use anyhow::Context as _;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A group whose task appends to its volume at each start, and once more for each file `more` that it finds there.
const JOB: &str = r#"
variable "saddlebag" {}
variable "socket" {}

job "JOB" {
  group "app" {
    restart {
      attempts = 1
      delay    = "0s"
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    meta {
      storage_volume      = "VOLUME"
      storage_destination = "local/data"
    }
    task "storage" {
      driver = "raw_exec"
      lifecycle {
        hook = "prestart"
      }
      restart {
        attempts = 0
        mode     = "fail"
      }
      env {
        SADDLEBAG_SOCKET = var.socket
      }
      config {
        command = var.saddlebag
        args    = ["mount"]
      }
      logs {
        disabled = true
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
    task "main" {
      driver       = "exec"
      user         = "nobody"
      kill_timeout = "1s"
      config {
        command = "/bin/sh"
        args    = ["-ec", "echo $NOMAD_ALLOC_ID >> /local/data/starts; cd /; exec sleep 1000"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
"#;

fn run(world: &World, name: &str, volume: &str) -> anyhow::Result<()> {
    world.run_job(&JOB.replace("JOB", name).replace("VOLUME", volume), &[]).map(drop)
}

/// Runs a job until its task has written to its volume; returns its allocation.
fn run_until_written(world: &World, name: &str, volume: &str) -> anyhow::Result<String> {
    run(world, name, volume)?;
    let alloc = world.wait_running(name)?;
    wait_written(world, &alloc, 1)?;
    Ok(alloc)
}

/// Waits until the allocation has written as many lines as it has started, seen through the host's binding.
fn wait_written(world: &World, alloc: &str, starts: usize) -> anyhow::Result<()> {
    world.wait_until(&format!("{starts} lines of {alloc}"), PATIENCE, || {
        let text = std::fs::read_to_string(binding(world, alloc).join("starts")).unwrap_or_default();
        Ok((text.lines().filter(|line| *line == alloc).count() == starts).then_some(()))
    })
}

fn binding(world: &World, alloc: &str) -> PathBuf {
    world.alloc_dir(alloc).join("main/local/data")
}

/// Stops a job and waits until nothing of it is left.
fn end(world: &World, name: &str, alloc: &str) -> anyhow::Result<()> {
    world.stop_purge(name)?;
    world.wait_dead(name)?;
    world.system_gc()?;
    world.wait_alloc_dir_gone(alloc)
}

/// Runs a job whose volume is refused, and returns what its prestart task wrote, with the exit code, and `explain`.
fn run_refused(world: &World, name: &str, volume: &str) -> anyhow::Result<(String, String)> {
    run(world, name, volume)?;
    let alloc = world.wait_for_status(name, &["failed"])?;
    let said = world.events(&alloc)?;
    let explained = world.saddlebag(&["explain", &alloc])?;
    let events = world.allocation(&alloc)?["TaskStates"]["main"]["Events"].to_string();
    assert!(!events.contains("\"Started\""), "the main task has started without its volume: {events}");
    end(world, name, &alloc)?;
    Ok((said, explained))
}

fn status(world: &World) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?)
}

/// The source of that backend, as `status` has it.
fn source(world: &World, backend: &str) -> anyhow::Result<Value> {
    let status = status(world)?;
    let mut sources = status["sources"].as_array().context("status lists sources")?.iter();
    let found =
        sources.find(|source| source["name"].as_str().is_some_and(|name| name.split(',').any(|n| n == backend)));
    Ok(found.with_context(|| format!("no source {backend} in {status:#}"))?.clone())
}

fn wait_source(world: &World, backend: &str, state: &str) -> anyhow::Result<Value> {
    world.wait_until(&format!("source {backend} that is {state}"), PATIENCE, || {
        Ok(Some(source(world, backend)?).filter(|source| source["state"] == state))
    })
}

fn pid_of(source: &Value) -> anyhow::Result<u32> {
    Ok(u32::try_from(source["pid"].as_u64().with_context(|| format!("no program in {source:#}"))?)?)
}

/// The processes that mount something below the world's state directory.
fn mount_programs(world: &World) -> anyhow::Result<Vec<u32>> {
    let mark = format!("-dir={}/", world.state_dir().display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).any(|argument| argument.starts_with(mark.as_bytes())) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Writes an executable script.
fn script(world: &World, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = world.directory().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// A backend and a volume of it that is created at first use, for each name; `options` are the backends'.
fn seaweedfs(filer: &str, name: &str, options: &str) -> anyhow::Result<String> {
    let weed = crate::support::tool("weed").context("no weed")?;
    let program =
        if options.contains("program") { String::new() } else { format!("  program = \"{}\"\n", weed.display()) };
    Ok(format!(
        "backend \"seaweedfs\" \"{name}\" {{\n  filer = \"{filer}\"\n{program}{options}\n}}\n\
         volume \"{name}\" {{\n  backend = \"{name}\"\n  path = \"{name}-volume\"\n  create = true\n  owner = \"65534:65534\"\n  mode = \"0750\"\n}}\n"
    ))
}
