//! What tasks see while a part of their cluster is away, and that nothing is lost of what they had synced.

use crate::faults::scene::{Writer, pid_of, seaweedfs, source, wait_mounted, wait_source, writers};
use crate::support::{Cluster, Plan, World, require};
use anyhow::Context as _;

use super::write;

/// A world whose volumes `far-0` to `far-5` are on that cluster, with these options.
fn world_on(cluster: &Cluster, name: &str, options: &str) -> anyhow::Result<World> {
    let world = World::new(name)?;
    let far = seaweedfs(&world, &cluster.filers(), "far", options)?;
    world.start_agent(&format!("probe_interval = \"1s\"\n{far}"))?;
    Ok(world)
}

/// Every writer has some more of its records on the storage.
fn go_on(world: &World, writing: &[Writer], what: &str) -> anyhow::Result<()> {
    for writer in writing {
        let before = writer.records(world).unwrap_or_default().len();
        writer.wait_for_more(world, before).with_context(|| what.to_owned())?;
    }
    Ok(())
}

#[test]
fn a_filer_that_goes_is_replaced_by_another_of_the_list_and_comes_back_with_nothing_lost() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let cluster = Cluster::start(Plan { filers: 2, ..Plan::default() })?;
    let world = world_on(&cluster, "filers", "")?;
    let writing = writers(&world, "far", Writer::launch)?;
    let weed = pid_of(&wait_source(&world, "far", &["attached"])?)?;
    // Each is away in turn, so that each has taken the other's place.
    for filer in ["filer0", "filer1"] {
        cluster.end(filer, "KILL")?;
        go_on(&world, &writing, &format!("without {filer}"))?;
        assert_eq!(source(&world, "far")?["state"], "attached", "one of the list is enough");
        cluster.start_server(filer)?;
        cluster.wait_until_it_stores()?;
        go_on(&world, &writing, &format!("with {filer} again"))?;
    }
    for writer in &writing {
        writer.assert_whole(&world)?;
    }
    assert_eq!(pid_of(&source(&world, "far")?)?, weed, "the same program");
    Ok(())
}

#[test]
fn a_filer_that_is_away_when_the_mount_begins_keeps_it_from_nobody() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let cluster = Cluster::start(Plan { filers: 2, ..Plan::default() })?;
    cluster.end("filer0", "KILL")?;
    let world = world_on(&cluster, "away", "")?;
    let writing = writers(&world, "far", Writer::launch)?;
    let said = wait_source(&world, "far", &["degraded"])?;
    let filer = cluster.filers().split(',').next().context("a filer")?.to_owned();
    let reason = said["reason"].as_str().unwrap_or_default();
    assert!(reason.contains(&format!("started while {filer} refused connections")), "{said:#}");
    // An agent that was killed before it had noted that, or whose note is of another program, is followed by one that knows.
    for entry in std::fs::read_dir(world.state_dir().join("logs"))?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "untold-filers") {
            std::fs::remove_file(entry.path())?;
        }
    }
    world.kill_agent()?;
    let far = seaweedfs(&world, &cluster.filers(), "far", "")?;
    world.start_agent(&format!("probe_interval = \"1s\"\n{far}"))?;
    wait_source(&world, "far", &["degraded"])?;
    for writer in &writing {
        writer.assert_whole(&world)?;
    }
    Ok(())
}

#[test]
fn without_a_volume_server_what_has_a_copy_is_read_and_nothing_synced_is_lost() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let cluster = Cluster::start(Plan { volumes: 2, filers: 1, copies: 1 })?;
    let world = world_on(&cluster, "copies", "  read_retry_time = \"2s\"")?;
    let writing = writers(&world, "far", Writer::launch_patient)?;
    let weed = pid_of(&wait_source(&world, "far", &["attached"])?)?;
    let place = writing[0].place(&world);
    assert_eq!(write(&place.join("before"), 4).0, 4);

    cluster.end("volume1", "KILL")?;
    // Two copies are asked for, and there is room for one.
    let (done, error) = write(&place.join("meanwhile"), 1);
    let errno = error.as_ref().and_then(std::io::Error::raw_os_error);
    assert_eq!((done, errno), (0, Some(nix::libc::EIO)), "{error:?}");
    assert_eq!(std::fs::read(place.join("before"))?.len(), 4 << 20);

    cluster.start_server("volume1")?;
    cluster.wait_until_it_stores()?;
    go_on(&world, &writing, "with both volume servers again")?;
    for writer in &writing {
        writer.assert_kept(&world)?;
    }
    assert_eq!(std::fs::read(place.join("before"))?.len(), 4 << 20);
    assert_eq!(pid_of(&source(&world, "far")?)?, weed, "the same program");
    Ok(())
}

#[test]
fn a_cluster_that_is_killed_whole_under_load_comes_back_with_all_that_was_synced() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let cluster = Cluster::start(Plan::default())?;
    let world = world_on(&cluster, "power", "")?;
    let writing = writers(&world, "far", Writer::launch_patient)?;
    let weed = pid_of(&wait_source(&world, "far", &["attached"])?)?;
    let mounts = || writing.iter().map(|writer| writer.mount_id(&world)).collect::<anyhow::Result<Vec<_>>>();
    let before = mounts()?;
    let large = writing[0].place(&world).join("large");
    assert_eq!(write(&large, 4).0, 4);

    // As by a power cut: nobody had the time to write anything down.
    cluster.end_all("KILL")?;
    let said = wait_source(&world, "far", &["unreachable", "hung"])?;
    assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("127.0.0.1")), "{said:#}");
    cluster.start_all()?;
    cluster.wait_until_it_stores()?;
    wait_source(&world, "far", &["attached"])?;
    for writer in &writing {
        wait_mounted(&world, writer)?;
    }
    go_on(&world, &writing, "on a cluster that is back")?;
    for writer in &writing {
        writer.assert_kept(&world)?;
    }
    let piece = std::fs::read(&large)?;
    assert_eq!(piece, super::piece().repeat(4), "what was read is what was written");
    assert_eq!(mounts()?, before, "in the mounts that they had");
    assert_eq!(pid_of(&source(&world, "far")?)?, weed, "the same program");
    Ok(())
}
