//! The start after a reboot: the ledger's pages are there, and no mount is.

use super::*;
use crate::support::{PATIENCE, require};
use nix::mount::{MntFlags, umount2};

#[test]
fn what_was_mounted_before_a_reboot_is_mounted_again_before_the_agent_is_ready() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed");
    let mut world = World::new("restore")?;
    let configuration = configuration(&world, 1)?;
    let volume = world.directory().join("volumes/v0");
    world.start_agent(&configuration)?;
    world.run_job(&job("kept", "v0", "exec sleep 1000"), &[])?;
    let alloc = world.wait_running("kept")?;
    world.wait_until("a complete page", PATIENCE, || Ok(is_recorded(&world, &alloc)?.then_some(())))?;
    // Nomad calls a task running before its shell has come to its first line.
    world.wait_until("what the tasks write at their start", PATIENCE, || {
        Ok(["linked", "mounted"].iter().all(|task| has_lines(&volume.join(task), 1)).then_some(()))
    })?;
    let before = pages(&world)?;

    unmount_as_a_reboot_does(&world, &alloc)?;
    world.start_agent_until_ready(&configuration)?;
    assert_restored(&world, &volume, &alloc)?;
    // Ready means mounted and proved; that the new mounts are noted is not waited for.
    world.wait_until("a ledger that knows the new mounts", PATIENCE, || {
        Ok((is_recorded(&world, &alloc)? && pages(&world)? != before).then_some(()))
    })?;

    // Nomad comes up after the agent, and starts tasks at once that find their mounts by then.
    world.kill_nomad()?;
    unmount_as_a_reboot_does(&world, &alloc)?;
    world.start_agent_until_ready(&configuration)?;
    assert_restored(&world, &volume, &alloc)?;

    world.start_nomad_again()?;
    world.nomad(&["alloc", "restart", &alloc, "linked"])?;
    world.nomad(&["alloc", "restart", &alloc, "mounted"])?;
    for task in ["linked", "mounted"] {
        world.wait_until(&format!("another start of {task}"), PATIENCE, || {
            Ok(has_lines(&volume.join(task), 2).then_some(()))
        })?;
    }
    world.stop_purge("kept")?;
    world.wait_dead("kept")?;
    world.system_gc()?;
    world.wait_alloc_dir_gone(&alloc)?;
    wait_nothing_left(&world, &volume)?;
    assert_eq!(std::fs::read_to_string(volume.join("mounted"))?, format!("{alloc}\n{alloc}\n"));
    Ok(())
}

fn unmount_as_a_reboot_does(world: &World, alloc: &str) -> anyhow::Result<()> {
    world.stop_agent()?;
    world.kill_guard()?;
    for place in places(world, alloc) {
        umount2(&place, MntFlags::MNT_DETACH).with_context(|| format!("unmounting {}", place.display()))?;
    }
    Ok(())
}

/// At once: the agent has said that all is there.
fn assert_restored(world: &World, volume: &Path, alloc: &str) -> anyhow::Result<()> {
    let mut points: Vec<PathBuf> = host_mounts_of(volume)?.into_iter().map(|(_, point)| point).collect();
    points.sort();
    let mut expected = places(world, alloc);
    expected.sort();
    assert_eq!(points, expected);
    Ok(())
}
