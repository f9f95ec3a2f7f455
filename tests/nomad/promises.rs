//! What was promised to a task holds, whatever the task does to its own directories, whoever calls again, and whatever
//! answers in its storage's place.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::support::{PATIENCE, World, checksums, mounts_below, require};

fn start(name: &str) -> anyhow::Result<(World, PathBuf)> {
    let world = World::new(name)?;
    let volumes = world.directory().join("volumes");
    world.start_agent(&format!(
        "backend \"host\" \"local\" {{\n  path = \"{}\"\n  dynamic = true\n}}\n",
        volumes.display()
    ))?;
    Ok((world, volumes))
}

/// A docker job whose main task runs `script`, with one volume.
fn job(name: &str, destination: &str, script: &str) -> String {
    format!(
        r#"
variable "saddlebag" {{ type = string }}
variable "image" {{ type = string }}
job "{name}" {{
  group "app" {{
    meta {{
      storage_volume      = "{name}"
      storage_destination = "{destination}"
    }}
    restart {{
      attempts = 50
      interval = "1h"
      delay    = "3s"
      mode     = "delay"
    }}
    task "storage" {{
      driver = "raw_exec"
      lifecycle {{ hook = "prestart" }}
      config {{
        command = var.saddlebag
        args    = ["mount"]
      }}
      logs {{ disabled = true }}
      resources {{
        cpu    = 20
        memory = 32
      }}
    }}
    task "main" {{
      driver       = "docker"
      kill_timeout = "1s"
      config {{
        image        = var.image
        network_mode = "host"
        command      = "sh"
        args         = ["-c", "{script}"]
      }}
      resources {{
        cpu    = 20
        memory = 32
      }}
    }}
  }}
}}
"#
    )
}

fn lines(file: &Path) -> usize {
    std::fs::read_to_string(file).unwrap_or_default().lines().count()
}

fn has_no_page(world: &World) -> anyhow::Result<()> {
    world.wait_until("an empty ledger", PATIENCE, || {
        Ok(std::fs::read_dir(world.state_dir().join("ledger"))?.next().is_none().then_some(()))
    })
}

#[test]
fn a_task_that_moves_its_mount_loses_nothing_to_a_collection() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed");
    let (world, volumes) = start("mover")?;
    let script = "mkdir -p /local/a/x/deep; echo kept > /local/a/x/deep/file; mv /local/a /local/b && touch /alloc/moved; sleep 1000";
    world.run_job(&job("mover", "local/a/x", script), &[])?;
    let alloc = world.wait_running("mover")?;
    let directory = world.alloc_dir(&alloc);
    world.wait_until("the task's move", PATIENCE, || Ok(directory.join("alloc/moved").exists().then_some(())))?;
    // With its directory; or back to its place already, where the agent has been told of any change of the mount table.
    let places = ["main/local/b/x", "main/local/a/x"].map(|place| directory.join(place));
    let mounts = mounts_below(&directory)?;
    assert!(places.iter().any(|place| mounts.contains(place)), "{mounts:?}");
    let before = checksums(&volumes)?;

    world.stop_purge("mover")?;
    world.system_gc()?;
    world.wait_alloc_dir_gone(&alloc)?;
    has_no_page(&world)?;
    assert_eq!(checksums(&volumes)?, before, "the volume is whole");
    assert_eq!(mounts_below(&directory)?, Vec::<PathBuf>::new());
    world.assert_no_destroy_errors()
}

#[test]
fn a_task_that_moves_its_mount_and_ends_leaves_none_behind() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed");
    let (world, volumes) = start("mover")?;
    // A link in its old place leads nobody astray either.
    let script =
        "echo kept > /local/a/x/file; mv /local/a /local/b && ln -s b /local/a && touch /alloc/moved; sleep 1000";
    world.run_job(&job("mover", "local/a/x", script), &[])?;
    let alloc = world.wait_running("mover")?;
    let directory = world.alloc_dir(&alloc);
    world.wait_until("the task's move", PATIENCE, || Ok(directory.join("alloc/moved").exists().then_some(())))?;
    let before = checksums(&volumes)?;

    world.stop("mover")?;
    has_no_page(&world)?;
    assert!(!mounts_below(&directory)?.iter().any(|place| place.ends_with("x")), "no mount stays");
    world.stop_purge("mover")?;
    world.system_gc()?;
    world.wait_alloc_dir_gone(&alloc)?;
    assert_eq!(checksums(&volumes)?, before, "the volume is whole");
    world.assert_no_destroy_errors()
}

#[test]
fn a_wrong_call_takes_nothing_from_a_task_that_waits_to_be_restarted() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "curl");
    let (world, volumes) = start("waiting")?;
    world.run_job(&job("waiting", "local/keep", "echo start >> /local/keep/starts; sleep 1; exit 1"), &[])?;
    let starts = volumes.join("waiting/starts");
    world.wait_until("a first start", PATIENCE, || Ok((lines(&starts) > 0).then_some(())))?;
    let alloc = world.allocations("waiting")?[0]["ID"].as_str().context("an id")?.to_owned();
    let between = |world: &World| -> anyhow::Result<bool> {
        Ok(world.allocation(&alloc)?["TaskStates"]["main"]["State"] == "pending")
    };
    world.wait_until("a task between two starts", PATIENCE, || Ok(between(&world)?.then_some(())))?;
    let socket = world.alloc_dir(&alloc).join("alloc/saddlebag.sock");
    let said = Command::new("curl")
        .args(["-sS", "--max-time", "60", "--unix-socket"])
        .arg(&socket)
        .args(["-d", "{\"task\": \"typo\"}", "http://saddlebag/v1/mount"])
        .output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("\"exit_code\""), "the call is refused: {said}");
    let before = lines(&starts);
    world.wait_until("two more starts in the volume", PATIENCE, || Ok((lines(&starts) >= before + 2).then_some(())))
}

#[test]
fn a_volume_whose_directory_is_missing_is_not_made_anew_under_a_task() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed");
    let (world, volumes) = start("strange")?;
    world.run_job(&job("strange", "local/data", "echo kept > /local/data/file; sleep 1000"), &[])?;
    let alloc = world.wait_running("strange")?;
    let place = world.alloc_dir(&alloc).join("main/local/data");
    let file = volumes.join("strange/file");
    world.wait_until("what the task writes", PATIENCE, || Ok((lines(&file) == 1).then_some(())))?;

    world.kill_agent()?;
    // What a disk that is not mounted yet, or another cluster at the same address, looks like.
    std::fs::rename(volumes.join("strange"), world.directory().join("aside"))?;
    let configuration =
        format!("backend \"host\" \"local\" {{\n  path = \"{}\"\n  dynamic = true\n}}\n", volumes.display());
    world.start_agent(&configuration)?;
    world.wait_until("a status that does not call it mounted", PATIENCE, || {
        let status: serde_json::Value = serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?;
        Ok((status["bindings"][0]["state"] == "failed").then_some(()))
    })?;
    assert!(!volumes.join("strange").exists(), "no empty directory in the volume's place");
    assert!(mounts_below(&world.alloc_dir(&alloc))?.contains(&place), "the mount of the running task stays");

    std::fs::rename(world.directory().join("aside"), volumes.join("strange"))?;
    world.wait_until("the volume found again", PATIENCE, || {
        let status: serde_json::Value = serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?;
        Ok((status["bindings"][0]["state"] == "mounted").then_some(()))
    })?;
    assert_eq!(std::fs::read_to_string(place.join("file"))?, "kept\n");
    Ok(())
}

#[test]
fn a_volume_whose_directory_is_replaced_stays_the_former_one_under_its_task() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed");
    let (world, volumes) = start("swapped")?;
    world.run_job(&job("swapped", "local/data", "while :; do echo on >> /local/data/file; sleep 0.1; done"), &[])?;
    let alloc = world.wait_running("swapped")?;
    let place = world.alloc_dir(&alloc).join("main/local/data");
    let (volume, aside) = (volumes.join("swapped"), world.directory().join("aside"));
    world.wait_until("what the task writes", PATIENCE, || Ok((lines(&volume.join("file")) > 0).then_some(())))?;
    let mounts = || -> anyhow::Result<Vec<String>> {
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        let at = |line: &&str| line.split(' ').nth(4) == place.to_str();
        Ok(table.lines().filter(at).map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect())
    };
    let before = mounts()?;

    world.kill_agent()?;
    std::fs::rename(&volume, &aside)?;
    std::fs::create_dir(&volume)?;
    let configuration =
        format!("backend \"host\" \"local\" {{\n  path = \"{}\"\n  dynamic = true\n}}\n", volumes.display());
    world.start_agent(&configuration)?;
    let status =
        || -> anyhow::Result<serde_json::Value> { Ok(serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?) };
    world.wait_until("a status that says what has happened", PATIENCE, || {
        let status = status()?;
        let reason = status["bindings"][0]["reason"].as_str().unwrap_or_default().to_owned();
        Ok((status["bindings"][0]["state"] == "failed" && reason.contains("was replaced by another")).then_some(()))
    })?;
    let written = lines(&aside.join("file"));
    world.wait_until("a task that goes on in the former directory", PATIENCE, || {
        Ok((lines(&aside.join("file")) > written + 5).then_some(()))
    })?;
    assert_eq!(mounts()?, before, "the mount of the running task stays");
    assert_eq!(std::fs::read_dir(&volume)?.count(), 0, "nothing is in the new directory");

    std::fs::remove_dir(&volume)?;
    std::fs::rename(&aside, &volume)?;
    world.wait_until("the volume found again", PATIENCE, || {
        Ok((status()?["bindings"][0]["state"] == "mounted").then_some(()))
    })?;
    assert_eq!(mounts()?, before, "and it was the same all the time");
    Ok(())
}
