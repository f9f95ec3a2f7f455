//! What every kind goes through. Writers are tasks of each driver whose records are on the storage one by one.

use super::kinds::{Kind, unique};
use crate::faults::scene::{
    Stopped, Writer, bindings, local, logged, pid_of, source, wait_mounted, wait_source, writers,
};
use crate::guard::fleet::{self, Plan};
use crate::support::{PATIENCE, World, checksums};
use anyhow::Context as _;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The backend `main` with volumes `main-0` to `main-5`, and what `more` says.
fn configuration<K: Kind>(kind: &K, world: &World, more: &str) -> anyhow::Result<String> {
    let mut text =
        format!("hook_timeout = \"30s\"\nprobe_interval = \"2s\"\n{}{more}", kind.backend(world, "main", "")?);
    for number in 0..6 {
        text.push_str(&format!(
            "volume \"main-{number}\" {{\n  backend = \"main\"\n  path = \"main-{number}\"\n  create = true\n{}\n}}\n",
            K::VOLUME
        ));
    }
    Ok(text)
}

fn begin<K: Kind>(story: &str) -> anyhow::Result<(World, K)> {
    let world = World::new(&format!("{}-{story}", K::NAME))?;
    let kind = K::start(&world)?;
    Ok((world, kind))
}

fn mount_ids(world: &World, writing: &[Writer]) -> anyhow::Result<Vec<String>> {
    writing.iter().map(|writer| writer.mount_id(world)).collect()
}

/// The mount program's process; none where there is none.
fn program(world: &World) -> anyhow::Result<Option<Pid>> {
    let source = wait_source(world, "main", &["attached"])?;
    Ok(pid_of(&source).ok())
}

fn wait_whole(world: &World, writing: &[Writer]) -> anyhow::Result<()> {
    writing.iter().try_for_each(|writer| wait_mounted(world, writer))
}

pub fn agent_and_guard_are_killed_and_no_task_sees_it<K: Kind>() -> anyhow::Result<()> {
    let (world, kind) = begin::<K>("deaths")?;
    let configuration = configuration(&kind, &world, "")?;
    world.start_agent(&configuration)?;
    let writing = writers(&world, "main", Writer::launch)?;
    let (before, mount_program) = (mount_ids(&world, &writing)?, program(&world)?);
    for _ in 0..3 {
        world.kill_guard()?;
        world.kill_agent()?;
        world.start_agent(&configuration)?;
        wait_whole(&world, &writing)?;
    }
    assert_eq!(mount_ids(&world, &writing)?, before, "nothing was mounted anew");
    assert_eq!(program(&world)?, mount_program, "the same mount program");
    for writer in &writing {
        writer.assert_whole(&world)?;
    }
    Writer::launch(&world, "exec", "main-3")?.wait(&world)?.assert_whole(&world)
}

pub fn mounts_are_back_after_a_reboot_before_nomad_is<K: Kind>() -> anyhow::Result<()> {
    let (mut world, kind) = begin::<K>("reboot")?;
    let configuration = configuration(&kind, &world, "")?;
    world.start_agent(&configuration)?;
    let writing = [("exec", "main-0"), ("raw_exec", "main-1")]
        .map(|(driver, volume)| Writer::launch(&world, driver, volume).and_then(|writer| writer.wait(&world)));
    let writing = writing.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let places: Vec<PathBuf> = writing.iter().map(|writer| writer.place(&world)).collect();
    let written: Vec<Vec<usize>> = writing.iter().map(|writer| writer.records(&world)).collect::<Result<_, _>>()?;
    let attached = wait_source(&world, "main", &["attached"])?;

    // What a reboot leaves of all that: the disks.
    world.kill_nomad()?;
    for writer in &writing {
        end_processes_of(&writer.alloc)?;
    }
    world.kill_agent()?;
    world.kill_guard()?;
    for place in &places {
        umount2(place, MntFlags::MNT_DETACH).with_context(|| format!("unmounting {}", place.display()))?;
    }
    take_source_away(&world, &attached)?;

    world.start_agent_until_ready(&configuration)?;
    // At once, and without Nomad: the agent has said that all is there.
    for (writer, before) in writing.iter().zip(&written) {
        writer.mount_id(&world)?;
        let now = writer.records(&world)?;
        assert!(now.starts_with(before), "{}: {before:?} was written, {now:?} is there", writer.job);
    }
    world.start_nomad_again()?;
    // Their processes were killed: only tasks that were started again write more.
    for writer in &writing {
        let before = writer.records(&world)?.len();
        writer.wait_for_more(&world, before)?;
    }
    Ok(())
}

/// Kills every process of an allocation's tasks.
fn end_processes_of(alloc: &str) -> anyhow::Result<()> {
    let is_its = |pid: i32| {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let has = |text: &[u8]| text.windows(alloc.len()).any(|part| part == alloc.as_bytes());
        has(&read("environ")) || has(&read("cgroup"))
    };
    loop {
        let mut found = 0;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let is_over = std::fs::read(entry.path().join("cmdline")).unwrap_or_default().is_empty();
            if !is_over && is_its(pid) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                found += 1;
            }
        }
        if found == 0 {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Takes away what is mounted for the source, and the program that serves it.
fn take_source_away(world: &World, attached: &Value) -> anyhow::Result<()> {
    if let Ok(pid) = pid_of(attached) {
        let _ = kill(pid, Signal::SIGKILL);
    }
    let sources = world.state_dir().join("sources");
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mounted = table.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    for place in mounted.filter(|place| place.starts_with(&sources)) {
        umount2(place, MntFlags::MNT_DETACH).with_context(|| format!("unmounting {}", place.display()))?;
    }
    Ok(())
}

pub fn nothing_is_unmounted_while_nomad_is_away<K: Kind>() -> anyhow::Result<()> {
    let (mut world, kind) = begin::<K>("alone")?;
    let configuration = configuration(&kind, &world, "")?;
    world.start_agent(&configuration)?;
    let writing = writers(&world, "main", Writer::launch)?;
    let before = mount_ids(&world, &writing)?;
    world.kill_nomad()?;
    // One that knows of no allocation but from its ledger.
    world.kill_agent()?;
    world.start_agent(&configuration)?;
    for writer in &writing {
        writer.assert_whole(&world)?;
    }
    assert_eq!(mount_ids(&world, &writing)?, before);
    world.start_nomad_again()?;
    wait_whole(&world, &writing)?;
    assert_eq!(mount_ids(&world, &writing)?, before);
    Writer::launch(&world, "docker", "main-3")?.wait(&world)?.assert_whole(&world)
}

pub fn a_purge_and_a_collection_leave_the_data_and_nothing_else<K: Kind>() -> anyhow::Result<()> {
    let (world, kind) = begin::<K>("purge")?;
    world.start_agent(&configuration(&kind, &world, "")?)?;
    let writing = writers(&world, "main", Writer::launch)?;
    for writer in &writing {
        std::fs::create_dir(writer.place(&world).join("deep"))?;
        std::fs::write(writer.place(&world).join("deep/letter"), format!("of {}", writer.job))?;
    }
    for writer in &writing {
        world.stop_purge(&writer.job)?;
    }
    for writer in &writing {
        world.wait_dead(&writer.job)?;
    }
    world.system_gc()?;
    for writer in &writing {
        world.wait_alloc_dir_gone(&writer.alloc)?;
        world.wait_until("a binding that is gone", PATIENCE, || {
            Ok((bindings(&world, &writer.alloc)?.is_empty() && writer.mount_id(&world).is_err()).then_some(()))
        })?;
    }
    world.assert_no_destroy_errors()?;
    // The next job finds what the last one left.
    for (writer, driver) in writing.iter().zip(["exec", "raw_exec", "docker"]) {
        let volume = writer.job.split_once('-').context("driver and volume")?.1;
        let next = Writer::launch(&world, driver, volume)?.wait(&world)?;
        let found = checksums(&next.place(&world).join("deep"))?;
        assert_eq!(found.len(), 1, "{found:?}");
        let letter = std::fs::read_to_string(next.place(&world).join("deep/letter"))?;
        assert_eq!(letter, format!("of {}", writer.job));
        let records = next.records(&world)?;
        assert!(records.iter().copied().eq(1..=records.len()), "{records:?}");
    }
    Ok(())
}

/// Runs a job that must be refused; returns what its prestart task was told.
fn refused(world: &World, volume: &str) -> anyhow::Result<String> {
    let plan = Plan { kind: "batch", ..Plan::default() };
    let job = format!("refused-{volume}");
    world.run_job(&fleet::text(&job, "exec", volume, &plan), &[])?;
    let alloc = world.wait_for_status(&job, &["failed"])?;
    let events = world.allocation(&alloc)?["TaskStates"]["main"]["Events"].to_string();
    assert!(!events.contains("\"Started\""), "the main task has started without its volume: {events}");
    assert!(bindings(world, &alloc)?.iter().all(|binding| binding["state"] != "mounted"));
    assert!(!world.alloc_dir(&alloc).join("main/local/x").try_exists()?, "nothing half done");
    let explained = world.saddlebag(&["explain", &alloc])?;
    Ok(format!("{}\n{explained}", world.events(&alloc)?))
}

pub fn a_volume_that_is_not_there_is_refused_with_nothing_half_done<K: Kind>() -> anyhow::Result<()> {
    let (world, kind) = begin::<K>("absent")?;
    let more = format!("volume \"nowhere\" {{\n  backend = \"main\"\n  path = \"no-where\"\n{}\n}}\n", K::VOLUME);
    world.start_agent(&configuration(&kind, &world, &more)?)?;
    // What its volumes are below is there.
    Writer::launch(&world, "exec", "main-0")?.wait(&world)?;
    let said = refused(&world, "nowhere")?;
    let reasons = ["volume nowhere has no directory", "does not exist"];
    assert!(said.contains("no-where") && reasons.iter().any(|reason| said.contains(reason)), "{said}");
    let beside = Writer::launch(&world, "exec", "main-1")?.wait(&world)?;
    let root = source(&world, "main")?["mount_point"].as_str().map(PathBuf::from).context("where it is mounted")?;
    let volumes = [root.join(unique(&world)?), root];
    let volumes = volumes.iter().find(|folder| folder.join("main-0").exists()).context("where its volumes are")?;
    for name in ["no-where", ".no-where.new"] {
        assert!(!volumes.join(name).try_exists()?, "{name} was made");
    }
    beside.assert_whole(&world)
}

pub fn a_killed_mount_program_is_mended_on_the_host_and_in_containers<K: Kind>() -> anyhow::Result<()> {
    let (world, kind) = begin::<K>("mended")?;
    world.start_agent(&configuration(&kind, &world, "")?)?;
    let writing = writers(&world, "main", Writer::launch_patient)?;
    for _ in 0..2 {
        let old = program(&world)?.context("a mount program")?;
        kill(old, Signal::SIGKILL)?;
        world.wait_until("another mount program", PATIENCE, || {
            Ok(pid_of(&source(&world, "main")?).ok().filter(|new| *new != old))
        })?;
        wait_whole(&world, &writing)?;
        // What is called mounted is so inside of every container: its task's records go on.
        for writer in &writing {
            writer.assert_kept(&world)?;
        }
    }
    let explained = world.saddlebag(&["explain", &writing[0].alloc])?;
    assert!(explained.contains("files that were open through it are lost"), "{explained}");
    Ok(())
}

pub fn a_server_that_hangs_or_is_gone_holds_up_its_own_volumes_only_and_loses_nothing<K: Kind>() -> anyhow::Result<()> {
    let world = World::new(&format!("{}-server", K::NAME))?;
    let kind = K::start_own(&world)?;
    let disk = local(&world)?;
    world.start_agent(&configuration(&kind, &world, &disk)?)?;
    let writing = writers(&world, "main", Writer::launch_patient)?;
    let (before, mount_program) = (mount_ids(&world, &writing)?, program(&world)?);

    let servers = kind.servers(&world)?;
    anyhow::ensure!(!servers.is_empty(), "no server to stop");
    let stopped = servers.into_iter().map(Stopped::stop).collect::<anyhow::Result<Vec<_>>>()?;
    let said = wait_source(&world, "main", &["hung", "unreachable"])?;
    assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("answer")), "{said:#}");
    let waits = Writer::launch(&world, "exec", "main-4")?;
    // Others go on beside it, of every driver.
    for (driver, volume) in [("docker", "disk-0"), ("exec", "disk-1"), ("raw_exec", "disk-2")] {
        Writer::launch(&world, driver, volume)?.wait(&world)?;
    }
    world.wait_until("a hook that ends at its deadline, and says why", PATIENCE, || {
        Ok((logged(&world, "the volumes were not there in time")? > 0).then_some(()))
    })?;
    world.stop_purge(&waits.job)?;
    drop(stopped);
    go_on(&world, &writing)?;

    kind.kill(&world)?;
    wait_source(&world, "main", &["hung", "unreachable"])?;
    Writer::launch(&world, "exec", "disk-3")?.wait(&world)?;
    kind.start_again(&world)?;
    go_on(&world, &writing)?;
    assert_eq!(program(&world)?, mount_program, "the same program");
    assert_eq!(mount_ids(&world, &writing)?, before, "the same mounts");
    Writer::launch(&world, "docker", "main-5")?.wait(&world).map(drop)
}

/// Every record that was acknowledged is there, and each task goes on in the container that it began in.
fn go_on(world: &World, writing: &[Writer]) -> anyhow::Result<()> {
    wait_source(world, "main", &["attached"])?;
    for writer in writing {
        wait_mounted(world, writer)?;
        writer.assert_kept(world)?;
    }
    Ok(())
}

pub fn a_mount_program_that_is_missing_is_named<K: Kind>() -> anyhow::Result<()> {
    let (world, kind) = begin::<K>("program")?;
    let backend = kind.backend(&world, "bare", "  program = \"/nowhere/mounts\"\n  attach = \"demand\"")?;
    let more = format!("{backend}volume \"bare\" {{\n  backend = \"bare\"\n  create = true\n{}\n}}\n", K::VOLUME);
    world.start_agent(&configuration(&kind, &world, &more)?)?;
    let said = refused(&world, "bare")?;
    assert!(said.contains("is not installed") && said.contains("/nowhere/mounts"), "{said}");
    Writer::launch(&world, "exec", "main-0")?.wait(&world).map(drop)
}
