//! The agent, the guard or both are dead or away while Nomad removes allocations.

use super::fleet::{Fleet, Plan};
use super::scene::{SOON, Scene, calm, rough};
use crate::support::require;
use saddlebag::sys::inode;
use std::os::fd::AsFd as _;

/// Purges and collects, and waits until Nomad has removed all that it could.
fn purge_without_agent(scene: &Scene, fleet: &Fleet) -> anyhow::Result<()> {
    fleet.purge(scene)?;
    scene.world.system_gc()?;
    for ship in &fleet.0 {
        let directory = scene.world.alloc_dir(&ship.alloc);
        scene.world.wait_until(&format!("Nomad's removal of {}", ship.job), SOON, || {
            Ok((!directory.join("alloc").exists() && ship.main_processes()?.is_empty()).then_some(()))
        })?;
        if ship.driver == "raw_exec" {
            // A link is no way into a volume, so it does not stop the removal.
            scene.world.wait_alloc_dir_gone(&ship.alloc)?;
        } else {
            assert!(ship.mount_id(scene)?.is_some(), "{}: nobody was there to unmount it", ship.job);
            assert!(directory.exists(), "{}: nobody was there to sweep it", ship.job);
        }
    }
    fleet.assert_whole()
}

#[test]
fn a_purge_while_the_agent_is_killed_loses_nothing_and_the_next_agent_sweeps() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = rough()?;
    let fleet = Fleet::start(&mut scene, &Plan::default())?;
    scene.world.kill_agent()?;
    purge_without_agent(&scene, &fleet)?;
    scene.start_agent()?;
    fleet.assert_swept(&scene)
}

#[test]
fn a_purge_while_agent_and_guard_are_killed_loses_nothing_and_the_next_agent_sweeps() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = rough()?;
    let fleet = Fleet::start(&mut scene, &Plan::default())?;
    scene.world.kill_agent()?;
    scene.kill_guard()?;
    purge_without_agent(&scene, &fleet)?;
    scene.start_agent()?;
    fleet.assert_swept(&scene)
}

#[test]
fn a_purge_after_the_agent_was_stopped_for_good_loses_nothing() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = rough()?;
    let fleet = Fleet::start(&mut scene, &Plan::default())?;
    scene.world.stop_agent()?;
    for ship in &fleet.0 {
        assert!(ship.mount_id(&scene)?.is_some(), "{}: an agent's end takes nothing away", ship.job);
    }
    purge_without_agent(&scene, &fleet)?;
    // It is never too late.
    scene.start_agent()?;
    fleet.assert_swept(&scene)
}

#[test]
fn what_an_agent_that_was_killed_had_not_swept_yet_the_next_one_sweeps() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = rough()?;
    let fleet = Fleet::start(&mut scene, &Plan::default())?;
    scene.world.kill_agent()?;
    purge_without_agent(&scene, &fleet)?;
    // As it is where an agent dies that has just unmounted the last one, and forgotten the page: nothing says any more
    // what was there.
    for ship in fleet.0.iter().filter(|ship| ship.driver != "raw_exec") {
        let place = scene.place(ship.driver, &ship.alloc);
        nix::mount::umount2(&place, nix::mount::MntFlags::MNT_DETACH)?;
        inode::set_immutable(std::fs::File::open(&place)?.as_fd(), false)?;
        for page in std::fs::read_dir(scene.world.state_dir().join("ledger"))? {
            let page = page?;
            if page.file_name().to_string_lossy().starts_with(&ship.alloc) {
                std::fs::remove_file(page.path())?;
            }
        }
    }
    scene.start_agent()?;
    fleet.assert_swept(&scene)
}

#[test]
fn a_purge_after_the_guard_was_killed_loses_nothing() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    let fleet = Fleet::start(&mut scene, &Plan::default())?;
    let mounts: Vec<_> = fleet.0.iter().map(|ship| ship.mount_id(&scene)).collect::<Result<_, _>>()?;
    scene.kill_guard()?;
    // Nobody waits for its successor: what Nomad opens meanwhile does.
    fleet.purge(&scene)?;
    scene.world.system_gc()?;
    assert!(mounts.iter().all(Option::is_some));
    fleet.assert_clean(&scene)
}

#[test]
fn marks_that_died_with_guard_and_keeper_are_set_again_by_a_running_agent() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    let fleet = Fleet::start(&mut scene, &Plan::default())?;
    scene.kill_guard_and_keeper()?;
    wait_for_marks(&scene, &fleet)?;
    fleet.end(&scene)
}

#[test]
fn an_agent_that_starts_after_all_were_killed_marks_what_is_mounted() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    let fleet = Fleet::start(&mut scene, &Plan::default())?;
    let mounts: Vec<_> = fleet.0.iter().map(|ship| ship.mount_id(&scene)).collect::<Result<_, _>>()?;
    scene.world.kill_agent()?;
    scene.kill_guard_and_keeper()?;
    scene.start_agent()?;
    wait_for_marks(&scene, &fleet)?;
    for (ship, before) in fleet.0.iter().zip(mounts) {
        assert!(before.is_some());
        assert_eq!(ship.mount_id(&scene)?, before, "{}: the same mount, marked once more", ship.job);
    }
    fleet.end(&scene)
}

/// Waits until each mount in an allocation's directory is marked, as fdinfo of the guard's groups lists them.
fn wait_for_marks(scene: &Scene, fleet: &Fleet) -> anyhow::Result<()> {
    scene.world.wait_until("the marks of a new guard", SOON, || {
        let Some(guard) = scene.find_guard(false) else { return Ok(None) };
        let mut marked = Vec::new();
        // A guard that has only begun has no such folder, or less in it.
        for entry in std::fs::read_dir(format!("/proc/{guard}/fdinfo")).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let ids = text.lines().filter_map(|line| line.strip_prefix("fanotify mnt_id:")?.split(' ').next());
            marked.extend(ids.filter_map(|id| i64::from_str_radix(id, 16).ok()));
        }
        for ship in fleet.0.iter().filter(|ship| ship.driver != "raw_exec") {
            let Some(id) = ship.mount_id(scene)? else { anyhow::bail!("{} has lost its mount", ship.job) };
            if !marked.contains(&id.parse()?) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}
