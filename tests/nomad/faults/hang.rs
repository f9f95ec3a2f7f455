//! A mount program that is stopped.

use super::scene::{
    Stopped, Writer, bindings, hangs, local, logged, pid_of, probes, seaweedfs, source, wait_mounted, wait_source,
    writers,
};
use crate::support::{PATIENCE, World, require};
use anyhow::Context as _;
use std::collections::BTreeSet;

#[test]
fn a_stopped_mount_program_holds_up_its_own_volumes_only_and_goes_on_where_it_was() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("stopped")?;
    let filer = world.lab().filer.clone();
    let configuration = [
        "hook_timeout = \"30s\"\nprobe_interval = \"2s\"\n".to_owned(),
        seaweedfs(&world, &filer, "stops", "")?,
        seaweedfs(&world, &filer, "sound", "  memory_limit = \"600MiB\"")?,
        local(&world)?,
    ]
    .concat();
    world.start_agent(&configuration)?;
    let writing = writers(&world, "stops", Writer::launch)?;
    let beside = Writer::launch(&world, "exec", "sound-0")?.wait(&world)?;
    let mounts = || writing.iter().map(|writer| writer.mount_id(&world)).collect::<anyhow::Result<Vec<_>>>();
    let (weed, before) = (pid_of(&wait_source(&world, "stops", &["attached"])?)?, mounts()?);
    // On a busy machine a server may have been silent for the two seconds that a probe waits.
    let known = hangs(&world, "stops")?;

    let stopped = Stopped::stop(weed)?;
    // Nobody looks: the agent finds it by itself.
    world.wait_until("a source that is known to hang", PATIENCE, || {
        Ok((hangs(&world, "stops")? == known + 1).then_some(()))
    })?;
    assert_is_said(&world, &writing[0])?;
    one_probe_for_many_looks(&world)?;
    others_go_on(&world)?;
    beside.assert_whole(&world)?;
    assert_eq!(hangs(&world, "stops")?, known + 1, "said once");
    // The next agent is ready although the source hangs, and knows that it does.
    world.kill_agent()?;
    let ready = logged(&world, "ready")?;
    world.start_agent(&configuration)?;
    world.wait_until("an agent that is ready", PATIENCE, || Ok((logged(&world, "ready")? > ready).then_some(())))?;
    wait_source(&world, "stops", &["hung"])?;
    Writer::launch(&world, "exec", "again")?.wait(&world)?;
    assert_eq!(source(&world, "stops")?["state"], "hung");

    drop(stopped);
    assert_eq!(pid_of(&wait_source(&world, "stops", &["attached"])?)?, weed, "the same program");
    for writer in &writing {
        wait_mounted(&world, writer)?;
        writer.assert_whole(&world)?;
    }
    assert_eq!(mounts()?, before, "the same mounts");
    Writer::launch(&world, "raw_exec", "stops-4")?.wait(&world)?;
    world.wait_until("no probe that is left", PATIENCE, || Ok(probes(&world)?.is_empty().then_some(())))
}

/// `status` and `explain` say what hangs, and why.
fn assert_is_said(world: &World, writer: &Writer) -> anyhow::Result<()> {
    let said = source(world, "stops")?;
    assert_eq!(said["state"], "hung", "{said:#}");
    assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("its mount has not answered")), "{said:#}");
    wait_source(world, "sound", &["attached"])?;
    let bindings = bindings(world, &writer.alloc)?;
    assert!(!bindings.is_empty() && bindings.iter().all(|one| one["state"] == "hung"), "{bindings:#?}");
    let explained = world.saddlebag(&["explain", &writer.alloc])?;
    assert!(explained.contains("hung") && explained.contains("its mount has not answered"), "{explained}");
    Ok(())
}

/// Many look at once, and the source is asked by one process all the time.
fn one_probe_for_many_looks(world: &World) -> anyhow::Result<()> {
    let said = source(world, "stops")?;
    let root = said["mount_point"].as_str().context("where it is mounted")?;
    let mut seen = BTreeSet::new();
    std::thread::scope(|scope| {
        let looks: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| (0..5).try_for_each(|_| world.saddlebag(&["status", "--json"]).map(drop))))
            .collect();
        while looks.iter().any(|look| !look.is_finished()) {
            let of_it = probes_of(world, root)?;
            assert!(of_it.len() <= 1, "{of_it:?}");
            seen.extend(of_it);
        }
        looks.into_iter().try_for_each(|look| look.join().unwrap_or_else(|_| anyhow::bail!("a look panicked")))
    })?;
    assert!((1..=2).contains(&seen.len()), "{seen:?}: one, and its successor where it was given up meanwhile");
    Ok(())
}

/// The probes of the source that is mounted there.
fn probes_of(world: &World, root: &str) -> anyhow::Result<Vec<u32>> {
    let asks = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == root.as_bytes())
    };
    Ok(probes(world)?.into_iter().filter(asks).collect())
}

/// Hooks for other volumes end while one for the hung source waits; that one ends at its deadline and says why.
fn others_go_on(world: &World) -> anyhow::Result<()> {
    let asked = logged(world, "a task asks for its volumes")?;
    let waits = Writer::launch(world, "exec", "stops-3")?;
    world.wait_until("a prestart task that waits", PATIENCE, || {
        Ok((logged(world, "a task asks for its volumes")? > asked).then_some(()))
    })?;
    let others = [Writer::launch(world, "docker", "disk-0")?, Writer::launch(world, "raw_exec", "sound-1")?];
    for other in others {
        other.wait(world)?;
    }
    let waiting = world.allocations(&waits.job)?.into_iter().next().unwrap_or_default();
    let storage = waiting["TaskStates"]["storage"].clone();
    assert_eq!(storage["Restarts"].as_u64(), Some(0), "the others came first: {storage:#}");
    assert_eq!(storage["State"], "running", "the others came first: {storage:#}");
    world.wait_until("a hook that ends at its deadline", PATIENCE, || {
        Ok((logged(world, "the volumes were not there in time")? > 0).then_some(()))
    })?;
    let text = std::fs::read_to_string(world.log("agent"))?;
    let said = text.lines().find(|line| line.contains("the volumes were not there in time")).unwrap_or_default();
    assert!(said.contains("did not answer within 30s: its mount has not answered"), "{said}");
    world.stop_purge(&waits.job)
}
