//! A Nomad with TLS, one with ACLs, and an agent without any configuration.

use crate::support::{Options, PATIENCE, World, require};
use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::{Path, PathBuf};

const JOB: &str = r#"
variable "saddlebag" {}
variable "socket" {}

job "JOB" {
  group "app" {
    meta {
      storage_volume = "kept"
    }
    PRESTART
    task "main" {
      driver       = "raw_exec"
      kill_timeout = "1s"
      config {
        command = "/bin/sh"
        args    = ["-ec", "echo $NOMAD_ALLOC_ID >> $NOMAD_TASK_DIR/kept/starts; exec sleep 1000"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
"#;

/// Runs a job until it has written to the volume below `volumes`, ends it, and sees that the volume has kept it.
fn assert_a_job_gets_its_volume(world: &World, name: &str, volumes: &Path, socket: &Path) -> anyhow::Result<()> {
    let socket = socket.to_str().context("a path in UTF-8")?;
    world.run_job(&JOB.replace("JOB", name), &[("socket", socket)])?;
    let alloc = world.wait_running(name)?;
    let starts = volumes.join("kept/starts");
    let has_started = || std::fs::read_to_string(&starts).unwrap_or_default().contains(&alloc);
    world.wait_until("what the task writes", PATIENCE, || Ok(has_started().then_some(())))?;
    world.stop_purge(name)?;
    world.wait_dead(name)?;
    world.system_gc()?;
    world.wait_alloc_dir_gone(&alloc)?;
    assert!(has_started(), "the volume has kept what was written");
    Ok(())
}

fn configuration(world: &World, more: &str) -> anyhow::Result<(String, PathBuf)> {
    let volumes = world.directory().join("volumes");
    std::fs::create_dir(&volumes)?;
    let text =
        format!("backend \"host\" \"local\" {{\n  path = \"{}\"\n  dynamic = true\n}}\n{more}", volumes.display());
    Ok((text, volumes))
}

fn host_socket(world: &World) -> PathBuf {
    world.run_dir().join("saddlebag.sock")
}

fn nomad_of(world: &World) -> anyhow::Result<Value> {
    let status: Value = serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?;
    Ok(status["nomad"].clone())
}

fn wait_connected(world: &World) -> anyhow::Result<()> {
    world.wait_until("an agent that Nomad answers", PATIENCE, || {
        Ok((nomad_of(world)?["connected"] == true).then_some(()))
    })
}

#[test]
fn a_nomad_that_wants_a_certificate_gets_one() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed");
    let world = World::with("tls", Options::default().tls())?;
    // What `nomad` itself takes from the environment is taken from there; here it is all in the configuration.
    let nomad = format!(
        "nomad {{\n  ca_file = \"{}\"\n  cert_file = \"{}\"\n  key_file = \"{}\"\n}}\n",
        world.variable("NOMAD_CACERT")?,
        world.variable("NOMAD_CLIENT_CERT")?,
        world.variable("NOMAD_CLIENT_KEY")?
    );
    let (text, volumes) = configuration(&world, &nomad)?;
    world.start_agent(&text)?;
    assert_a_job_gets_its_volume(&world, "tls", &volumes, &host_socket(&world))
}

#[test]
fn the_policy_that_is_shipped_is_enough_and_a_token_is_read_anew() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed");
    let world = World::with("acl", Options::default().acl())?;
    let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/nomad/saddlebag-policy.hcl");
    world.nomad(&["acl", "policy", "apply", "saddlebag", policy])?;
    let token = || -> anyhow::Result<Value> {
        let made = world.nomad(&[
            "acl",
            "token",
            "create",
            "-name=saddlebag",
            "-type=client",
            "-policy=saddlebag",
            "-json",
        ])?;
        Ok(serde_json::from_str(&made)?)
    };
    let text_of = |token: &Value, key: &str| token[key].as_str().map(str::to_owned).context("a token has it");
    let file = world.directory().join("token");
    let first = token()?;
    std::fs::write(&file, format!("{}\n", text_of(&first, "SecretID")?))?;
    let (text, volumes) = configuration(&world, &format!("nomad {{\n  token_file = \"{}\"\n}}\n", file.display()))?;
    world.start_agent(&text)?;
    wait_connected(&world)?;
    assert_a_job_gets_its_volume(&world, "first", &volumes, &host_socket(&world))?;

    world.nomad(&["acl", "token", "delete", &text_of(&first, "AccessorID")?])?;
    // The query that Nomad holds back goes on; what asks anew is refused. A job's start does.
    world.run_job(&JOB.replace("JOB", "second"), &[])?;
    let reason = world.wait_until("a reason in status", PATIENCE, || {
        let nomad = nomad_of(&world)?;
        Ok((nomad["connected"] == false).then(|| nomad["reason"].as_str().map(str::to_owned)).flatten())
    })?;
    assert!(reason.contains("token"), "{reason}");

    std::fs::write(&file, format!("{}\n", text_of(&token()?, "SecretID")?))?;
    wait_connected(&world)?;
    let second = world.wait_running("second")?;
    world.stop_purge("second")?;
    world.wait_dead("second")?;
    world.system_gc()?;
    world.wait_alloc_dir_gone(&second)?;

    std::fs::remove_file(&file)?;
    world.kill_agent()?;
    world.start_agent(&text)?;
    let reason = world
        .wait_until("a reason in status", PATIENCE, || Ok(nomad_of(&world)?["reason"].as_str().map(str::to_owned)))?;
    assert!(reason.contains(file.to_str().context("a path in UTF-8")?), "{reason}");
    Ok(())
}

/// The agent's own directories, where nothing is configured.
const DEFAULTS: [&str; 2] = ["/var/lib/saddlebag", "/run/saddlebag"];

#[test]
fn an_agent_without_any_configuration_creates_a_volume_at_its_first_use() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed");
    let taken = DEFAULTS.iter().chain(&["/etc/saddlebag"]).find(|path| Path::new(path).exists());
    if let Some(path) = taken {
        crate::support::skip(&format!("{path} is there: this machine has a saddlebag of its own"));
        return Ok(());
    }
    let world = World::new("plain")?;
    // The harness knows its agent and guard by the directories that they are given; these are given none.
    world.run("plain-agent", &world.saddlebag_path(), &["agent"])?;
    let job = assert_a_job_gets_its_volume(
        &world,
        "plain",
        Path::new("/var/lib/saddlebag/volumes"),
        Path::new("/run/saddlebag/saddlebag.sock"),
    );
    // What a purge leaves to the agent outside the allocation's directory comes with Nomad's next news.
    let outcome = job.and(world.wait_until("nothing that is mounted", PATIENCE, || {
        let is_empty = std::fs::read_dir("/var/lib/saddlebag/ledger")?.next().is_none();
        Ok((is_empty && crate::support::mounts_below(Path::new(DEFAULTS[0]))?.is_empty()).then_some(()))
    }));
    world.end("plain-agent", "TERM")?;
    // Only after a failure is anything left, and of a link's binding nobody removes the files.
    for place in crate::support::mounts_below(Path::new(DEFAULTS[0]))? {
        nix::mount::umount2(&place, nix::mount::MntFlags::MNT_DETACH)?;
    }
    let mut guards = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let is_guard = line.split(|byte| *byte == 0).skip(1).any(|word| word == b"guard");
        if is_guard && line.windows(14).any(|part| part == b"/run/saddlebag") {
            guards.extend(entry.file_name().to_str().and_then(|name| name.parse().ok()).map(Pid::from_raw));
        }
    }
    // Stopped first: the guard and its keeper start each other again.
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in &guards {
            // One that was only about to find another one there has gone by itself.
            let _ = kill(*pid, signal);
        }
    }
    for place in DEFAULTS {
        remove_what_is_ours(Path::new(place))?;
    }
    outcome
}

/// Removes files and empty directories one by one, and never what is mounted or linked.
fn remove_what_is_ours(place: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(crate::support::mounts_below(place)?.is_empty(), "something is mounted below {}", place.display());
    for entry in std::fs::read_dir(place)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_what_is_ours(&entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::remove_dir(place).with_context(|| format!("removing {}", place.display()))
}
