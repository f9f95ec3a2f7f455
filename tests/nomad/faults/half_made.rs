//! A mount program and the agent that die while the disk still works at the page of the ledger that says what is meant: none
//! calls the mount made yet, and no hook has been answered.

use super::scene::{pid_of, seaweedfs, source, wait_source};
use crate::support::{PATIENCE, World, require};
use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use std::process::{Child, Command};

/// How long each fsync of the agent takes, in microseconds.
const SLOW: u32 = 4_000_000;

const JOB: &str = r#"
variable "saddlebag" {}
variable "socket" {}

job "half" {
  group "app" {
    reschedule {
      attempts  = 0
      unlimited = false
    }
    meta {
      storage_volume = "dies-0"
    }
    PRESTART
    task "main" {
      driver       = "exec"
      kill_timeout = "1s"
      config {
        command = "/bin/sh"
        args    = ["-ec", "echo here > /local/dies-0/main; exec sleep 1000"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
"#;

/// Makes each fsync of the agent slow, as on a disk with much to do.
struct SlowDisk(Child);

impl SlowDisk {
    fn begin(world: &World) -> anyhow::Result<Self> {
        let pid = world.agent_pid().context("an agent runs")?.to_string();
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o"]).arg(world.log("strace"));
        command.args(["-e", "trace=fsync", "-e", &format!("inject=fsync:delay_enter={SLOW}"), "-p", &pid]);
        let tracer = Self(command.spawn().context("starting strace")?);
        world.wait_until("a traced agent", PATIENCE, || {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
            let is_traced = threads.map(|thread| std::fs::read_to_string(thread.path().join("status"))).all(|status| {
                // One that has ended meanwhile has none.
                status.is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
            });
            Ok(is_traced.then_some(()))
        })?;
        Ok(tracer)
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // Both fail where it has ended with the agent.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_mount_that_died_with_its_agent_before_its_page_called_it_made_is_made_anew() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3", "strace");
    let world = World::new("half-made")?;
    // Less than the task waits for.
    let configuration = format!("hook_timeout = \"55s\"\n{}", seaweedfs(&world, &world.lab().filer, "dies", "")?);
    world.start_agent(&configuration)?;
    let first = pid_of(&wait_source(&world, "dies", &["attached"])?)?;
    let slow = SlowDisk::begin(&world)?;
    world.run_job(JOB, &[])?;
    world.wait_until("a mount", PATIENCE, || {
        let log = std::fs::read_to_string(world.log("agent"))?;
        Ok(log.lines().any(|line| line.contains(" mounted ") && line.contains("dies-0")).then_some(()))
    })?;
    world.kill_agent()?;
    kill(first, Signal::SIGKILL)?;
    drop(slow);
    world.start_agent(&configuration)?;
    world.wait_until("another mount program", PATIENCE, || {
        let said = source(&world, "dies")?;
        Ok((said["state"] == "attached" && pid_of(&said)? != first).then_some(()))
    })?;

    let alloc = world.wait_running("half")?;
    let events = world.events(&alloc)?;
    assert_eq!(events.matches("storage: Started").count(), 1, "its prestart task was refused: {events}");
    let place = world.alloc_dir(&alloc).join("main/local/dies-0");
    world.wait_until("what the task writes", PATIENCE, || {
        Ok(std::fs::read_to_string(place.join("main")).is_ok_and(|text| text == "here\n").then_some(()))
    })?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("the mount table")?;
    assert_eq!(table.lines().filter(|line| line.split(' ').nth(4) == place.to_str()).count(), 1, "mounted once");
    world.stop_purge("half")?;
    world.wait_dead("half")?;
    world.system_gc()?;
    world.wait_alloc_dir_gone(&alloc)
}
