//! The server of a volume answers no more while its allocation is removed.

use super::fleet::{Fleet, Plan};
use super::scene::{SOON, Scene, calm};
use crate::support::require;
use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A mount program that is stopped, until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn weed(scene: &Scene) -> anyhow::Result<Self> {
        let weed = scene.weed_pid()?;
        kill(weed, Signal::SIGSTOP)?;
        Ok(Self(weed))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

#[test]
fn a_stop_while_the_server_hangs_ends_at_once_and_loses_nothing() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    let fleet = Fleet::start(&mut scene, &Plan::default())?;
    let hanging = Stopped::weed(&scene)?;
    for ship in &fleet.0 {
        scene.world.stop(&ship.job)?;
    }
    for ship in &fleet.0 {
        scene.world.wait_dead(&ship.job)?;
        scene.world.wait_until(&format!("{} without its volume", ship.job), SOON, || {
            Ok(ship.mount_id(&scene)?.is_none().then_some(()))
        })?;
    }
    fleet.purge(&scene)?;
    scene.world.system_gc()?;
    for ship in &fleet.0 {
        ship.wait_for_no_remains(&scene)?;
    }
    drop(hanging);
    fleet.assert_clean(&scene)
}

#[test]
fn a_purge_while_the_server_hangs_loses_nothing_and_ends_when_it_answers() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    let mut fleet = Fleet::start(&mut scene, &Plan::default())?;
    // Nomad collects two allocations at a time: if both waited for the server, it would collect no other.
    let spare = fleet.0.iter().position(|ship| ship.job.starts_with("exec-weed")).context("an exec task's")?;
    let spared = Fleet(vec![fleet.0.remove(spare)]);
    let hanging = Stopped::weed(&scene)?;
    fleet.purge(&scene)?;
    scene.world.system_gc()?;
    let (waiting, others): (Vec<_>, Vec<_>) = fleet.0.iter().partition(|ship| ship.job.starts_with("docker-weed"));
    for ship in others {
        ship.wait_for_no_remains(&scene)?;
    }
    for ship in waiting {
        // Nomad stands at the door, and the kernel cannot tell the guard before the server has opened it.
        assert!(ship.mount_id(&scene)?.is_some(), "{}", ship.job);
    }
    drop(hanging);
    fleet.assert_clean(&scene)?;
    spared.end(&scene)
}
