//! What who comes from Kadalu's guide does, with the files of `examples/walkthroughs/gluster`.

use crate::support::{PATIENCE, World, require};
use anyhow::Context as _;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/walkthroughs/gluster");

fn file(name: &str) -> String {
    format!("{FOLDER}/{name}")
}

/// What the job's task printed at a start, once it has come to its end.
fn printed(world: &World) -> anyhow::Result<String> {
    world.run_job(&file("sample-pv-check.nomad.hcl"), &[("network_mode", "host")])?;
    let alloc = world.wait_running("sample-pv-check")?;
    world.wait_until("a task that has printed all", PATIENCE, || {
        let text = world.nomad(&["alloc", "logs", &alloc, "main"])?;
        Ok(text.ends_with("done\n").then_some(text))
    })
}

fn stop(world: &World) -> anyhow::Result<()> {
    world.stop_purge("sample-pv-check")?;
    world.wait_dead("sample-pv-check")
}

#[test]
fn the_walk_through_of_a_gluster_volume_with_sizes_runs_as_it_stands() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "glusterd", "gluster", "glusterfs");
    let world = World::new("walk")?;
    let gluster = world.start_gluster()?;
    gluster.create("pool1", 1, &[])?;
    gluster.gluster(&["volume", "quota", "pool1", "enable"])?;
    // This GlusterFS is in a network namespace, with its own command line: the only words that are another host's.
    let text = std::fs::read_to_string(file("agent.hcl"))?;
    let local = format!(
        "quota \"local\" {{\n  program = \"{}\"\n  socket = \"{}\"",
        gluster.program().display(),
        gluster.socket().display()
    );
    let configuration = text.replace("198.51.100.2", &gluster.address).replace("quota \"local\" {", &local);
    assert!(configuration.contains(&local) && configuration.contains(&gluster.address));
    world.start_agent(&configuration)?;

    let made = world.saddlebag(&["volume", "create", &file("pv1.hcl")])?;
    assert!(made.contains("pv1"), "{made}");
    assert!(gluster.brick("pool1", 0).join("pv1").is_dir());
    let listed = gluster.gluster(&["volume", "quota", "pool1", "list"]);
    assert!(listed.as_ref().is_ok_and(|listed| listed.contains("/pv1") && listed.contains("200.0MB")), "{listed:?}");

    let first = printed(&world)?;
    assert!(first.lines().any(|line| line.contains(":pool1") && line.contains("200.0M")), "df says the size: {first}");
    let sums: Vec<&str> = first.lines().filter(|line| line.contains("file-")).collect();
    assert_eq!(sums.len(), 10, "{first}");
    let listed = world.saddlebag(&["volume", "list"])?;
    assert!(listed.contains("200MiB enforced"), "{listed}");
    // In use it is not deleted.
    let refused = world.try_saddlebag(&["volume", "delete", "pv1"])?;
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("sample-pv-check"));

    stop(&world)?;
    let second = printed(&world)?;
    assert_eq!(second.lines().filter(|line| line.ends_with(": OK")).count(), 10, "{second}");
    stop(&world)?;

    let deleted = world.wait_until("a volume that nobody uses any more", PATIENCE, || {
        let done = world.try_saddlebag(&["volume", "delete", "pv1"])?;
        Ok(done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned()))
    })?;
    assert!(deleted.contains(".saddlebag-deleted"), "{deleted}");
    assert!(!gluster.brick("pool1", 0).join("pv1").exists());
    // Nothing of it is removed.
    let aside = std::fs::read_dir(gluster.brick("pool1", 0).join(".saddlebag-deleted"))?;
    let kept =
        aside.flatten().find(|entry| entry.file_name().to_string_lossy().contains("pv1")).context("set aside")?;
    assert!(kept.path().join("file-10").exists());
    Ok(())
}
