//! Without its mount a task writes nowhere.

use super::fleet::{Fleet, Plan};
use super::scene::{SOON, Scene, calm, rough};
use crate::support::require;
use anyhow::Context as _;
use nix::mount::{MntFlags, umount2};
use std::path::Path;
use std::process::Command;

/// Runs a script with the place of a mount as `$1`, in a mount namespace of its own.
fn in_own_namespace(script: &str, place: &Path) -> anyhow::Result<String> {
    let done = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "/bin/sh", "-c", script, "sh"])
        .arg(place)
        .output()
        .context("starting unshare")?;
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    anyhow::ensure!(done.status.success(), "{script}: {text}");
    Ok(text)
}

#[test]
fn the_directory_beneath_a_mount_refuses_even_roots_writes() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3", "unshare", "lsattr");
    let mut scene = calm()?;
    let fleet = Fleet::start(&mut scene, &Plan::default())?;
    for ship in &fleet.0 {
        let place = scene.place(ship.driver, &ship.alloc);
        let script = "umount -l \"$1\" && stat -c 'mode %a' \"$1\" && lsattr -d \"$1\" && ls -A \"$1\" | wc -l\n\
                      touch \"$1/file\" && echo WRITTEN\nmkdir \"$1/directory\" && echo WRITTEN\n\
                      ln -s x \"$1/link\" && echo WRITTEN\nrmdir \"$1\" && echo REMOVED\nexit 0";
        let seen = in_own_namespace(script, &place)?;
        assert!(seen.starts_with("mode 0\n"), "{}: {seen}", ship.job);
        let flags = seen.lines().nth(1).and_then(|line| line.split(' ').next()).unwrap_or_default();
        assert!(flags.contains('i'), "{}: {seen}", ship.job);
        assert_eq!(seen.lines().nth(2), Some("0"), "{}: {seen}", ship.job);
        assert!(!seen.contains("WRITTEN") && !seen.contains("REMOVED"), "{}: {seen}", ship.job);
        assert_eq!(seen.matches("Operation not permitted").count(), 4, "{}: {seen}", ship.job);
    }
    fleet.end(&scene)
}

#[test]
fn a_task_that_restarts_without_its_mount_writes_nothing_to_the_local_disk() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = rough()?;
    let fleet = Fleet::start(&mut scene, &Plan::default())?;
    scene.world.stop_agent()?;
    let mut before = Vec::new();
    for ship in &fleet.0 {
        let place = scene.place(ship.driver, &ship.alloc);
        umount2(&place, MntFlags::MNT_DETACH).with_context(|| format!("unmounting {}", place.display()))?;
        before.push(starts(&scene, &ship.alloc)?);
        ship.kill_main()?;
    }
    for (ship, before) in fleet.0.iter().zip(before) {
        scene.world.wait_until(&format!("two vain starts of {}", ship.job), SOON, || {
            Ok((starts(&scene, &ship.alloc)? >= before + 2).then_some(()))
        })?;
        let place = scene.place(ship.driver, &ship.alloc);
        let left: Vec<_> = std::fs::read_dir(&place)?.flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "{}: written beneath the mount: {left:?}", ship.job);
        assert_eq!(ship.lines("starts")?.len(), 1, "{}: no volume, no write", ship.job);
    }
    // With the agent the mount is back, and so is the task.
    scene.start_agent()?;
    for ship in &fleet.0 {
        ship.wait_for_starts(&scene, 2)?;
    }
    fleet.purge(&scene)?;
    scene.world.system_gc()?;
    fleet.assert_swept(&scene)
}

/// How often Nomad has started the main task again.
fn starts(scene: &Scene, alloc: &str) -> anyhow::Result<u64> {
    scene.world.allocation(alloc)?["TaskStates"]["main"]["Restarts"].as_u64().context("a count of restarts")
}
