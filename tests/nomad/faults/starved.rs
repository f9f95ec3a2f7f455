//! A mount program that has too little memory, and one whose cache is full.

use super::scene::{Writer, bindings, local, logged, pid_of, seaweedfs, source, wait_mounted, wait_source};
use crate::support::{PATIENCE, World, require, tool};
use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use std::path::PathBuf;
use std::process::{Command, Stdio};

#[test]
fn a_mount_program_that_is_out_of_memory_takes_nobody_with_it_and_is_not_started_for_ever() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("starved")?;
    // SeaweedFS 4.48's filer may end by itself where a client is killed in the middle of a write. It is started again,
    // but those that are nobody's business here are not to see it.
    anyhow::ensure!(world.start_own_seaweedfs()?.wait()?.success(), "no SeaweedFS");
    let configuration = [
        seaweedfs(&world, &world.own_filer()?, "tiny", "  memory_limit = \"128MiB\"")?,
        seaweedfs(&world, &world.lab().filer, "sound", "")?,
        local(&world)?,
    ]
    .concat();
    world.start_agent(&configuration)?;
    let suffers = Writer::launch_patient(&world, "raw_exec", "tiny-0")?.wait(&world)?;
    let beside = Writer::launch(&world, "exec", "sound-0")?.wait(&world)?;
    let other = pid_of(&source(&world, "sound")?)?;

    // It may be out of memory by what its task writes alone.
    let first = pid_of(&wait_source(&world, "tiny", &["attached"])?)?;
    let mut starved = 0;
    // Until it is no longer started at once.
    while logged(&world, "started again after a wait")? == 0 {
        starved += 1;
        anyhow::ensure!(starved <= 6, "started at once, however often it ends");
        overload(&world)?;
    }
    let said = std::fs::read_to_string(world.log("agent"))?;
    let deaths = said.lines().filter(|line| line.contains("the mount program has ended: files"));
    let causes: Vec<_> = deaths.map(|line| line.contains("out of memory") && line.contains("128 MiB")).collect();
    assert!(causes.len() >= 2 && causes.iter().all(|named| *named), "{causes:?}");
    // While it is being asked whether it answers, that is what is said of it.
    let again = world.wait_until("a source that is there again, and why it was not", PATIENCE, || {
        let said = wait_source(&world, "tiny", &["attached"])?;
        let is_named = said["reason"].as_str().is_some_and(|reason| reason.contains("out of memory"));
        Ok(is_named.then_some(said))
    })?;
    assert_ne!(pid_of(&again)?, first);
    let explained = world.saddlebag(&["explain", &suffers.alloc])?;
    assert!(explained.contains("out of memory"), "{explained}");

    wait_mounted(&world, &suffers)?;
    // It may be on its way to the next end.
    let records = world.wait_until("records that can be read", PATIENCE, || Ok(suffers.records(&world).ok()))?;
    suffers.wait_for_more(&world, records.len())?;
    assert_eq!(pid_of(&source(&world, "sound")?)?, other, "nobody else's program ended");
    beside.assert_whole(&world)
}

/// Writes more at once than the mount program of `tiny` has room for, until it ends.
fn overload(world: &World) -> anyhow::Result<()> {
    let said = wait_source(world, "tiny", &["attached"])?;
    let before = pid_of(&said)?;
    let mount = PathBuf::from(said["mount_point"].as_str().with_context(|| format!("no mount in {said:#}"))?);
    let folder = mount.join(world.directory().file_name().context("a name")?).join("tiny-5");
    let has_ended = || std::fs::read(format!("/proc/{before}/cmdline")).unwrap_or_default().is_empty();
    // Where it ends before it is given anything, that is an end too.
    let made = std::fs::create_dir_all(&folder);
    anyhow::ensure!(made.is_ok() || has_ended(), "{}: {made:?}", folder.display());
    // What is in memory already: where each byte has to be made first, a busy machine sends it off as fast as it comes.
    let from = format!("if={}", tool("weed").context("no weed")?.display());
    world.wait_until("a mount program that is out of memory", PATIENCE * 2, || {
        let mut writing = Vec::new();
        for number in 0..8 {
            let file = format!("of={}/{number}", folder.display());
            let mut dd = Command::new("dd");
            dd.args([&from, &file, "bs=1M", "count=48"]);
            writing.push(dd.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        }
        for mut dd in writing {
            // Most of them fail: that is what they are for.
            dd.wait()?;
        }
        Ok(has_ended().then_some(()))
    })
}

#[test]
fn a_full_cache_is_named_and_keeps_no_file_from_being_read_or_written() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("full")?;
    let filer = world.lab().filer.clone();
    let disk = world.directory().join("cache-disk");
    std::fs::create_dir(&disk)?;
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "cache"]).arg(&disk).status()?;
    anyhow::ensure!(mounted.success(), "no file system for the cache");
    let configuration = [
        "probe_interval = \"1s\"\n".to_owned(),
        seaweedfs(&world, &filer, "full", &format!("  cache_dir = \"{}\"", disk.display()))?,
        seaweedfs(&world, &filer, "sound", "")?,
    ]
    .concat();
    world.start_agent(&configuration)?;
    let suffers = Writer::launch(&world, "exec", "full-0")?.wait(&world)?;
    let beside = Writer::launch(&world, "exec", "sound-0")?.wait(&world)?;
    let weed = pid_of(&source(&world, "full")?)?;
    let place = suffers.place(&world);

    let filling = disk.join("filling");
    // It ends with an error, when nothing more fits in.
    Command::new("dd").args(["if=/dev/zero", "bs=1M"]).arg(format!("of={}", filling.display())).output()?;
    world.wait_until("a full cache that is said", PATIENCE, || {
        Ok((logged(&world, "some of what is asked of the source fails")? > 0).then_some(()))
    })?;
    let said = wait_source(&world, "full", &["degraded"])?;
    assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("cache-disk")), "{said:#}");
    assert!(bindings(&world, &suffers.alloc)?.iter().all(|one| one["state"] == "degraded"));
    wait_source(&world, "sound", &["attached"])?;
    std::fs::write(place.join("by-name"), "x".repeat(100_000))?;
    assert_eq!(std::fs::read(place.join("by-name"))?.len(), 100_000);
    suffers.assert_whole(&world)?;
    beside.assert_whole(&world)?;

    // What it costs: this version of `weed mount` lists no directory any more, also when there is space again.
    let listed = std::fs::read_dir(&place).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    assert_eq!(listed.err().and_then(|error| error.raw_os_error()), Some(nix::libc::EIO));
    std::fs::remove_file(&filling)?;
    // Now and then it dies of it all the same, and the operator has nothing left to do.
    let goes_on = world.wait_until("space that is not enough, or another program", PATIENCE, || {
        let said = source(&world, "full")?;
        let is_other = said["state"] == "attached" && pid_of(&said)? != weed;
        let is_lasting = said["reason"].as_str().is_some_and(|reason| reason.contains("started anew"));
        Ok((is_other || is_lasting).then_some(!is_other))
    })?;
    if goes_on {
        suffers.assert_whole(&world)?;
        // What the operator is told to do.
        kill(weed, Signal::SIGTERM)?;
    }
    world.wait_until("another program", PATIENCE, || {
        let said = source(&world, "full")?;
        Ok((said["state"] == "attached" && pid_of(&said)? != weed).then_some(()))
    })?;
    wait_mounted(&world, &suffers)?;
    assert!(std::fs::read_dir(&place)?.count() >= 2);
    suffers.wait_for_more(&world, suffers.records(&world)?.len())?;
    beside.assert_whole(&world)
}
