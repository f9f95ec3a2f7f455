//! The run directory is emptied under a running agent and guard.

use super::*;
use crate::guard::scene;
use crate::support::require;
use nix::sys::signal::{Signal, kill};

/// What somebody does who takes everything in it for rubbish.
fn empty(world: &World) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(world.run_dir())? {
        match std::fs::remove_file(entry?.path()) {
            // Whoever made it has renamed or removed it meanwhile.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn wait_restored(world: &World) -> anyhow::Result<()> {
    world.wait_until("sockets and locks in the run directory", PATIENCE, || {
        let names = ["saddlebag.sock", "questions.sock", "guard.sock", "guard.lock", "keeper.lock", "guard.json"];
        Ok(names.iter().all(|name| world.run_dir().join(name).exists()).then_some(()))
    })?;
    world.wait_until("an agent that answers and knows its guard", PATIENCE, || {
        let said = world.try_saddlebag(&["status", "--json"])?;
        let status: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
        Ok((status["guard"]["running"] == true).then_some(()))
    })
}

fn one_of_each(world: &World) -> anyhow::Result<()> {
    one_guard(world)?;
    world.wait_until("one keeper", PATIENCE, || {
        Ok((scene::find_guards(&world.run_dir(), true).len() == 1).then_some(()))
    })
}

#[test]
fn what_is_removed_from_the_run_directory_is_made_anew_and_there_is_one_guard() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::with("runtime", options()?)?;
    let configuration = configuration(&world)?;
    world.start_agent(&configuration)?;
    let load = Load::start(&world, &["docker", "raw_exec"], &BACKENDS)?;
    let guard = scene::find_guard(&world.run_dir(), false);

    // Files alone, and with the directory itself.
    empty(&world)?;
    wait_restored(&world)?;
    one_of_each(&world)?;
    assert_eq!(scene::find_guard(&world.run_dir(), false), guard, "the same guard");
    empty(&world)?;
    // Whoever was quicker has put something into it again.
    let _ = std::fs::remove_dir(world.run_dir());
    wait_restored(&world)?;
    one_of_each(&world)?;
    assert_eq!(scene::find_guard(&world.run_dir(), false), guard, "the same guard");

    // A prestart task finds the agent, the agent the guard, and the guard the agent.
    world.run_job(&guest("guest", "guest-disk", "exec"), &[])?;
    let alloc = world.wait_running("guest")?;
    let place = world.alloc_dir(&alloc).join("main/local/x");
    assert!(is_marked(&world, &place)?, "the guest's mount is guarded");
    world.stop_purge("guest")?;
    world.system_gc()?;
    world.wait_alloc_dir_gone(&alloc)?;
    world.assert_no_destroy_errors()?;

    // An agent that begins while nobody has made anything anew starts no second guard.
    world.kill_agent()?;
    let stopped = guard.context("a guard")?;
    kill(stopped, Signal::SIGSTOP)?;
    empty(&world)?;
    let started = world.configure_agent(&configuration).and_then(|path| {
        let path = path.to_str().context("UTF-8")?;
        world.run("early-agent", &world.saddlebag_path(), &["agent", "--config", path])?;
        world.wait_until("an agent that looks for a guard", PATIENCE, || {
            Ok(world.try_saddlebag(&["status", "--json"])?.status.success().then_some(()))
        })?;
        // It tries again and again, four times in a second.
        std::thread::sleep(std::time::Duration::from_secs(1));
        one_guard(&world)
    });
    kill(stopped, Signal::SIGCONT)?;
    started?;
    wait_restored(&world)?;
    one_of_each(&world)?;
    assert_eq!(scene::find_guard(&world.run_dir(), false), guard, "the same guard");

    // Its successor has everything, under the lineage that the agent knows.
    kill(stopped, Signal::SIGKILL)?;
    world.wait_until("the next guard", PATIENCE, || {
        Ok(scene::find_guard(&world.run_dir(), false).filter(|found| Some(*found) != guard))
    })?;
    for task in load.tasks.iter().filter(|task| task.driver == "docker") {
        let place = place_of(&world, task);
        world.wait_until("the marks with the next guard", PATIENCE, || Ok(is_marked(&world, &place)?.then_some(())))?;
    }
    load.assert_untouched(&world)?;
    load.end(&world)?;
    world.end("early-agent", "TERM")
}

fn place_of(world: &World, task: &Loaded) -> PathBuf {
    place(world, task.driver, &task.alloc)
}

fn one_guard(world: &World) -> anyhow::Result<()> {
    // Those that are about to find that they are not needed may be there for a moment: four begin in a second.
    world.wait_until("one guard", PATIENCE, || {
        Ok((scene::find_guards(&world.run_dir(), false).len() == 1).then_some(()))
    })
}
