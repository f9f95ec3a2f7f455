//! Nomad's agent, or a task, starts again.

use super::fleet::{Fleet, Plan};
use super::scene::{SOON, calm};
use crate::support::require;

#[test]
fn a_restart_of_nomads_agent_unmounts_nothing_and_a_later_purge_loses_nothing() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    let fleet = Fleet::start(&mut scene, &Plan::default())?;
    let look = |scene: &super::scene::Scene| -> anyhow::Result<Vec<_>> {
        fleet.0.iter().map(|ship| Ok((ship.mount_id(scene)?, ship.main_processes()?))).collect()
    };
    let before = look(&scene)?;
    assert!(before.iter().all(|(mount, processes)| mount.is_some() && !processes.is_empty()), "{before:?}");
    scene.world.restart_nomad()?;
    for ship in &fleet.0 {
        scene.world.wait_running(&ship.job)?;
    }
    assert_eq!(look(&scene)?, before, "the same mounts and the same processes");
    // While Nomad was away it was asked ever more slowly; until it is heard nobody knows of a purge, and it is kept out.
    scene.world.wait_until("an agent that hears Nomad again", SOON, || {
        Ok((scene.status()?["nomad"]["connected"] == true).then_some(()))
    })?;
    fleet.end(&scene)
}

#[test]
fn a_task_that_its_policy_restarts_finds_its_volume() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    let fleet = Fleet::start(&mut scene, &Plan::default())?;
    for round in 2..4 {
        for ship in &fleet.0 {
            let before = ship.mount_id(&scene)?;
            ship.kill_main()?;
            ship.wait_for_starts(&scene, round)?;
            assert_eq!(ship.mount_id(&scene)?, before, "{}: the same mount", ship.job);
        }
    }
    fleet.end(&scene)
}

#[test]
fn a_task_that_alloc_restart_restarts_finds_its_volume() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    let fleet = Fleet::start(&mut scene, &Plan::default())?;
    for ship in &fleet.0 {
        let before = ship.mount_id(&scene)?;
        scene.world.nomad(&["alloc", "restart", &ship.alloc, "main"])?;
        ship.wait_for_starts(&scene, 2)?;
        assert_eq!(ship.mount_id(&scene)?, before, "{}: the same mount", ship.job);
        scene.world.wait_restarted(&ship.alloc, "main", 1)?;
        // Prestart runs once more, so the volume may have been mounted once more too.
        scene.world.nomad(&["alloc", "restart", "-all-tasks", &ship.alloc])?;
        ship.wait_for_starts(&scene, 3)?;
        assert!(ship.mount_id(&scene)?.is_some(), "{}", ship.job);
    }
    fleet.end(&scene)
}

#[test]
fn a_drained_node_lets_go_of_its_volumes_and_gets_them_again() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    let mut fleet = Fleet::start(&mut scene, &Plan::default())?;
    scene.world.nomad(&["node", "drain", "-enable", "-self", "-yes", "-deadline", "60s"])?;
    for ship in &fleet.0 {
        scene.world.wait_until(&format!("{} without a mount or a task", ship.job), SOON * 2, || {
            Ok((ship.mount_id(&scene)?.is_none() && ship.main_processes()?.is_empty()).then_some(()))
        })?;
    }
    fleet.assert_whole()?;
    scene.world.nomad(&["node", "drain", "-disable", "-self", "-yes"])?;
    for ship in &mut fleet.0 {
        ship.wait_for_starts(&scene, 2)?;
        let drained = std::mem::replace(&mut ship.alloc, scene.world.wait_running(&ship.job)?);
        assert_ne!(ship.alloc, drained, "another allocation");
        assert!(ship.mount_id(&scene)?.is_some(), "{}", ship.job);
    }
    fleet.end(&scene)
}
