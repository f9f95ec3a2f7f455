//! The loss that the guard exists for, against a real Nomad and without saddlebag.
//!
//! When Nomad collects an allocation it unmounts what it mounted itself and then deletes the allocation's directory
//! recursively. A mount that somebody else made below it is walked into and emptied; only the removal of the mount
//! point fails. Should one of these tests fail one day, Nomad has learnt to stop at foreign mounts.

mod support;

use anyhow::Context as _;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::path::{Path, PathBuf};
use support::{PATIENCE, World, checksums, mounts_below, require, tool, wait_until};

const JOB: &str = r#"
job "worker" {
  group "worker" {
    task "main" {
      driver       = "raw_exec"
      kill_timeout = "1s"
      config {
        command = "/bin/sleep"
        args    = ["600"]
      }
      resources {
        cpu    = 20
        memory = 16
      }
    }
  }
}
"#;

#[test]
fn garbage_collection_empties_a_plain_bind_mount() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed");
    let world = World::new("loss")?;
    let volume = world.directory().join("volume");
    std::fs::create_dir(&volume)?;
    assert_collected(&world, &volume)
}

#[test]
fn garbage_collection_empties_a_directory_of_seaweedfs() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("loss-seaweedfs")?;
    let source = mount_seaweedfs(&world)?;
    let volume = source.join("loss");
    std::fs::create_dir(&volume)?;
    assert_collected(&world, &volume)
}

/// Binds `volume` into a running allocation as a plain `mount --bind` does, purges the job, collects, and asserts that
/// the volume has lost all that was in it.
fn assert_collected(world: &World, volume: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(volume.join("deep"))?;
    std::fs::write(volume.join("ledger"), "what a year's work has earned")?;
    std::fs::write(volume.join("deep/copy"), "and its copy")?;
    assert_eq!(checksums(volume)?.len(), 3, "two files and a directory before the collection");

    world.run_job(JOB, &[])?;
    let allocation = world.wait_running("worker")?;
    let target = world.alloc_dir(&allocation).join("main/local/x");
    std::fs::create_dir(&target)?;
    mount(Some(volume), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("binding the volume")?;
    assert_eq!(mounts_below(&world.alloc_dir(&allocation))?.iter().filter(|point| **point == target).count(), 1);

    world.stop_purge("worker")?;
    world.wait_dead("worker")?;
    world.system_gc()?;

    world.wait_until("an emptied volume", PATIENCE, || {
        // Not by checksums: Nomad deletes the files while they would be read.
        Ok(std::fs::read_dir(volume)?.next().is_none().then_some(()))
    })?;
    world.wait_until("Nomad's complaint", PATIENCE, || Ok(world.assert_no_destroy_errors().is_err().then_some(())))?;
    assert!(target.exists(), "the mount point itself is busy, so it is all that Nomad leaves");
    umount2(&target, MntFlags::MNT_DETACH)?;
    assert!(volume.exists() && checksums(volume)?.is_empty(), "the volume is there, and empty");
    Ok(())
}

/// A `weed mount` of the lab's filer below the world's directory; it ends with the world.
fn mount_seaweedfs(world: &World) -> anyhow::Result<PathBuf> {
    let point = world.directory().join("weed");
    std::fs::create_dir(&point)?;
    world.run(
        "weed",
        &tool("weed").context("no weed")?,
        &[
            "mount",
            &format!("-filer={}", world.lab().filer),
            &format!("-dir={}", point.display()),
            &format!("-cacheDir={}", world.directory().join("weed-cache").display()),
            "-filer.path=/loss",
        ],
    )?;
    wait_until("the mount of SeaweedFS", PATIENCE, &[world.log("weed")], || {
        Ok(mounts_below(world.directory())?.contains(&point).then_some(()))
    })?;
    Ok(point)
}
