//! Nomad's agent is away for long, refuses the token, comes back as another node, or has lost all that it knew.

use super::*;
use crate::support::{Options, require};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

fn nomad_pid(world: &World) -> anyhow::Result<Pid> {
    let text = std::fs::read_to_string(world.directory().join("nomad.pid"))?;
    Ok(Pid::from_raw(text.split(' ').next().context("a pid")?.parse()?))
}

fn wait_connected(world: &World, wanted: bool) -> anyhow::Result<()> {
    world.wait_until("what the agent says of Nomad", PATIENCE, || {
        Ok((status(world)?["nomad"]["connected"] == wanted).then_some(()))
    })
}

/// A new agent finds Nomad as it is now, and touches nothing.
fn restart_agent(world: &World, configuration: &str) -> anyhow::Result<()> {
    world.kill_agent()?;
    world.start_agent(configuration)
}

fn assert_a_guest_gets_its_volume(world: &World, name: &str) -> anyhow::Result<()> {
    world.run_job(&guest(name, &format!("{name}-volume"), "exec"), &[])?;
    world.wait_running(name)?;
    world.stop_purge(name)
}

#[test]
fn a_nomad_that_hangs_dies_or_refuses_the_token_costs_no_task_its_mount() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut world = World::with("away", options()?.acl())?;
    let token = world.directory().join("token");
    std::fs::write(&token, world.variable("NOMAD_TOKEN")?)?;
    let configuration = format!("{}\nnomad {{\n  token_file = \"{}\"\n}}\n", configuration(&world)?, token.display());
    world.start_agent(&configuration)?;
    let load = Load::start(&world, &DRIVERS, &BACKENDS)?;

    // It accepts and never answers.
    let nomad = nomad_pid(&world)?;
    kill(nomad, Signal::SIGSTOP)?;
    let outcome = restart_agent(&world, &configuration).and_then(|()| {
        std::thread::sleep(Duration::from_secs(3));
        load.assert_untouched(&world)
    });
    kill(nomad, Signal::SIGCONT)?;
    outcome?;
    wait_connected(&world, true)?;

    // Nobody accepts.
    world.kill_nomad()?;
    wait_connected(&world, false)?;
    load.assert_untouched(&world)?;
    restart_agent(&world, &configuration)?;
    load.assert_untouched(&world)?;
    world.start_nomad_again()?;
    wait_connected(&world, true)?;
    load.assert_untouched(&world)?;

    // It answers, and not to this token.
    std::fs::write(&token, "00000000-1111-2222-3333-444444444444\n")?;
    restart_agent(&world, &configuration)?;
    wait_connected(&world, false)?;
    load.assert_untouched(&world)?;
    // It answers to this one, and names no allocation: what the token may not read is left out in silence.
    let policy = world.directory().join("blind.hcl");
    std::fs::write(&policy, "agent {\n  policy = \"read\"\n}\nnode {\n  policy = \"read\"\n}\n")?;
    world.nomad(&["acl", "policy", "apply", "blind", policy.to_str().context("UTF-8")?])?;
    let made = world.nomad(&["acl", "token", "create", "-type=client", "-policy=blind", "-json"])?;
    let made: serde_json::Value = serde_json::from_str(&made)?;
    std::fs::write(&token, made["SecretID"].as_str().context("a secret")?)?;
    wait_connected(&world, true)?;
    world.wait_until("allocations that are not named", PATIENCE, || {
        Ok(world.saddlebag(&["explain", &load.tasks[0].alloc])?.contains("no longer names it").then_some(()))
    })?;
    restart_agent(&world, &configuration)?;
    wait_connected(&world, true)?;
    load.assert_untouched(&world)?;

    // By itself.
    std::fs::write(&token, world.variable("NOMAD_TOKEN")?)?;
    restart_agent(&world, &configuration)?;
    assert_a_guest_gets_its_volume(&world, "guest")?;
    load.assert_untouched(&world)?;
    load.assert_running(&world)?;
    load.end(&world)
}

/// Removes what is below a directory, and nothing that is mounted there: not what a person should do by `rm -r`, which
/// walks into every mount.
fn wipe(directory: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            match std::fs::remove_file(entry.path()) {
                // Tasks and the agent live on, and remove what is theirs.
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        } else if host_mount(&entry.path())?.is_none() {
            wipe(&entry.path())?;
            // What holds a mount stays.
            let _ = std::fs::remove_dir(entry.path());
        }
    }
    Ok(())
}

#[test]
fn tasks_that_a_wiped_nomad_has_forgotten_keep_their_mounts_for_as_long_as_they_live() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut world = World::with("wiped", options()?)?;
    let configuration = configuration(&world)?;
    world.start_agent(&configuration)?;
    // The link of a raw_exec task is wiped with its directory; what it leads to is not.
    let load = Load::start_at(&world, &DRIVERS, &BACKENDS, "$(readlink -f $NOMAD_TASK_DIR/x)")?;
    wait_recorded(&world, &load)?;

    world.kill_nomad()?;
    wipe(&world.directory().join("nomad"))?;
    let node = world.node().to_owned();
    world.start_nomad_again()?;
    assert_ne!(world.node(), node, "another node");
    world.wait_until("an agent that knows the other node", PATIENCE, || {
        Ok((status(&world)?["nomad"]["node_id"] == world.node()).then_some(()))
    })?;
    world.wait_until("bindings that are kept for living tasks", PATIENCE, || {
        let text = world.saddlebag(&["status"])?;
        Ok((text.matches("Nomad has forgotten its allocation, and process").count() == load.tasks.len()).then_some(()))
    })?;
    load.assert_untouched(&world)?;
    restart_agent(&world, &configuration)?;
    // Work goes on beside them.
    assert_a_guest_gets_its_volume(&world, "guest")?;
    load.assert_untouched(&world)?;

    // Nobody but a person ends them now, and then everything comes right.
    for task in &load.tasks {
        let processes = processes(&task.alloc, task.driver)?;
        kill(Pid::from_raw(*processes.first().context("a process")?), Signal::SIGTERM)?;
        world.wait_until(&format!("the end of {}", task.name()), PATIENCE, || {
            Ok((task.said()? == "started\nended\n").then_some(()))
        })?;
        task.assert_whole()?;
    }
    world.wait_until("no binding and no page", PATIENCE, || {
        let left = status(&world)?["bindings"].as_array().map(Vec::len);
        Ok((left == Some(0) && pages(&world)?.is_empty()).then_some(()))
    })?;
    assert!(crate::support::mounts_below(&world.state_dir().join("bindings"))?.is_empty());
    for task in &load.tasks {
        assert_eq!(host_mount(&place(&world, task.driver, &task.alloc))?, None, "{}", task.name());
    }
    drop(load);
    // The next jobs find every record.
    let again = Load::start(&world, &["docker", "raw_exec"], &BACKENDS)?;
    again.end(&world)
}

#[test]
fn a_node_that_registers_under_another_id_loses_no_volume() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let options: Options = options()?;
    let mut world = World::with("renamed", options)?;
    let configuration = configuration(&world)?;
    world.start_agent(&configuration)?;
    let load = Load::start(&world, &["docker", "raw_exec"], &BACKENDS)?;
    let node = world.node().to_owned();
    // A service with mounts of its own has a copy of all of them, and is no task of anybody's.
    let unshare = tool("unshare").context("no unshare")?;
    world.run("service", &unshare, &["--mount", "--propagation", "private", "sleep", "100000"])?;

    world.stop_nomad()?;
    for name in ["client-id", "secret-id"] {
        std::fs::remove_file(world.directory().join("nomad/client").join(name))?;
    }
    load.assert_untouched(&world)?;
    world.start_nomad_as_another_node()?;
    world.wait_until("an agent that knows the other node", PATIENCE, || {
        let id = status(&world)?["nomad"]["node_id"].as_str().map(str::to_owned);
        Ok(id.filter(|id| *id != node))
    })?;
    // Nomad's client ends tasks that its servers do not name for this node. Until then each keeps its mount, and no
    // record of it is lost.
    for task in &load.tasks {
        world.wait_until(&format!("the end of {}, or its life", task.name()), PATIENCE, || {
            let said = task.said()?;
            anyhow::ensure!(!said.contains("error"), "{} says: {said}", task.name());
            let is_over = said == "started\nended\n" && processes(&task.alloc, task.driver)?.is_empty();
            Ok(is_over.then_some(()))
        })?;
        task.assert_whole()?;
    }
    world.wait_until("no binding of theirs", PATIENCE, || {
        let status = status(&world)?;
        let bindings = status["bindings"].as_array().context("bindings")?;
        let old = |binding: &serde_json::Value| load.tasks.iter().any(|task| binding["alloc"] == task.alloc.as_str());
        Ok((!bindings.iter().any(old)).then_some(()))
    })?;
    Ok(())
}
