//! The life of mount programs: shared, outside the agent, found again, replaced, kept apart, and ended when unused.

use super::*;
use crate::support::require;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};
use std::os::unix::fs::MetadataExt;

fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
}

fn cgroups(pid: u32) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?)
}

#[test]
fn one_program_serves_a_filer_and_outlives_the_agent() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("shared")?;
    let filer = world.lab().filer.clone();
    let configuration = [
        seaweedfs(&filer, "one", "  memory_limit = \"512MiB\"")?,
        "volume \"two\" {\n  backend = \"one\"\n  path = \"two-volume\"\n  create = true\n  owner = \"65534:65534\"\n  mode = \"0700\"\n}".to_owned(),
        seaweedfs(&filer, "brief", "  attach = \"demand\"\n  linger = \"2s\"\n  collection = \"brief\"")?,
    ]
    .join("\n");
    world.start_agent(&configuration)?;
    let first = run_until_written(&world, "first", "one")?;
    let second = run_until_written(&world, "second", "two")?;
    for (alloc, mode) in [(&first, 0o750), (&second, 0o700)] {
        let made = std::fs::metadata(binding(&world, alloc))?;
        assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (65534, 65534, mode));
    }
    let pid = pid_of(&source(&world, "one")?)?;
    assert_eq!(mount_programs(&world)?, [pid], "one program for two volumes, and none for what nobody asked for");

    // Another set of options is another mount, which goes after its last binding.
    let brief = run_until_written(&world, "brief", "brief")?;
    let other = pid_of(&source(&world, "brief")?)?;
    assert_eq!(mount_programs(&world)?.len(), 2);
    end(&world, "brief", &brief)?;
    wait_source(&world, "brief", "detached")?;
    world.wait_until("the end of an unused program", PATIENCE, || {
        Ok((!mount_programs(&world)?.contains(&other)).then_some(()))
    })?;

    let agent = world.agent_pid().context("an agent")?;
    let id = |pid: u32| i32::try_from(pid).map(Pid::from_raw);
    assert_ne!(getsid(Some(id(pid)?))?, getsid(Some(id(agent)?))?, "a session of its own");
    let own = cgroups(pid)?;
    assert!(own.contains("saddlebag") && own != cgroups(agent)?, "a cgroup of its own: {own}");
    assert_eq!(memory_limit(pid)?, 512 << 20);

    world.kill_agent()?;
    assert_eq!(mount_programs(&world)?, [pid]);
    let starts = binding(&world, &first).join("starts");
    assert_eq!(std::fs::read_to_string(&starts)?.lines().count(), 1, "the volume is there without an agent");
    world.start_agent(&configuration)?;
    let found = wait_source(&world, "one", "attached")?;
    assert_eq!((pid_of(&found)?, mount_programs(&world)?), (pid, vec![pid]), "the same program, and no second one");
    end(&world, "first", &first)?;
    end(&world, "second", &second)?;
    assert_eq!(mount_programs(&world)?, [pid], "a source that is attached at the start stays");
    Ok(())
}

/// The limit of the cgroup that a process is in, in bytes, in either version's file.
fn memory_limit(pid: u32) -> anyhow::Result<u64> {
    let own = cgroups(pid)?;
    let path = |controller: &str| own.lines().find_map(|line| Some(line.split_once(controller)?.1.to_owned()));
    let candidates = [
        path(":memory:").map(|path| format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes")),
        path("0::").map(|path| format!("/sys/fs/cgroup{path}/memory.max")),
        path("0::").map(|path| format!("/sys/fs/cgroup/unified{path}/memory.max")),
    ];
    let text = candidates.into_iter().flatten().find_map(|path| std::fs::read_to_string(path).ok());
    Ok(text.with_context(|| format!("no memory limit in {own}"))?.trim().parse()?)
}

#[test]
fn a_dead_program_is_replaced_as_often_as_it_dies() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("dead")?;
    world.start_agent(&seaweedfs(&world.lab().filer, "dying", "")?)?;
    let old = run_until_written(&world, "old", "dying")?;
    for death in 1..=3 {
        let pid = pid_of(&wait_source(&world, "dying", "attached")?)?;
        signal(pid, Signal::SIGKILL)?;
        world.wait_until("another program", PATIENCE, || {
            let source = source(&world, "dying")?;
            Ok((source["state"] == "attached" && source["pid"].as_u64() != Some(pid.into())).then_some(()))
        })?;
        world.wait_until("a binding that is whole again", PATIENCE, || {
            let is_mounted = status(&world)?["bindings"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one["alloc"] == old.as_str() && one["state"] == "mounted"));
            if !is_mounted {
                return Ok(None);
            }
            // What status calls mounted can be read.
            std::fs::read_dir(binding(&world, &old)).context("status calls a dead mount mounted")?;
            Ok(Some(()))
        })?;
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        let here = binding(&world, &old).display().to_string();
        assert_eq!(table.lines().filter(|line| line.split(' ').nth(4) == Some(&here)).count(), 1, "mounted once");
        world.nomad(&["alloc", "restart", &old, "main"])?;
        wait_written(&world, &old, 1 + death)?;
        world.wait_restarted(&old, "main", u64::try_from(death)?)?;
        let name = format!("new{death}");
        let new = run_until_written(&world, &name, "dying")?;
        end(&world, &name, &new)?;
    }
    assert_eq!(mount_programs(&world)?.len(), 1);
    end(&world, "old", &old)
}

#[test]
fn a_filer_that_goes_while_a_task_asks_for_a_volume_is_waited_for() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("goes")?;
    anyhow::ensure!(world.start_own_seaweedfs()?.wait()?.success(), "no SeaweedFS");
    // Whoever asks finds out first. A SeaweedFS that comes back takes half a minute until it serves.
    let backend = seaweedfs(&world.own_filer()?, "going", "")?;
    world.start_agent(&format!("hook_timeout = \"4m\"\nprobe_interval = \"0s\"\n{backend}"))?;
    wait_source(&world, "going", "attached")?;
    world.end("seaweedfs", "KILL")?;
    let patient = JOB.replace("[\"mount\"]", "[\"mount\", \"--timeout\", \"5m\"]");
    world.run_job(&patient.replace("JOB", "waits").replace("VOLUME", "going"), &[])?;
    world.wait_until("a volume that cannot be mounted", PATIENCE, || {
        let log = std::fs::read_to_string(world.log("agent"))?;
        Ok(log.lines().any(|line| line.contains("not mounted") && line.contains("going")).then_some(()))
    })?;
    anyhow::ensure!(world.start_own_seaweedfs()?.wait()?.success(), "no SeaweedFS any more");
    let alloc = world.wait_running("waits")?;
    wait_written(&world, &alloc, 1)?;
    let said = world.events(&alloc)?;
    assert_eq!(said.matches("storage: Started").count(), 1, "its prestart task has failed: {said}");
    end(&world, "waits", &alloc)
}

#[test]
fn a_hung_filer_delays_no_other_volume() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("hung")?;
    let filer = world.lab().filer.clone();
    let host = world.directory().join("volumes");
    std::fs::create_dir(&host)?;
    let configuration = [
        // Two jobs are to be there within that, on a machine that has much else to do.
        "hook_timeout = \"25s\"".to_owned(),
        seaweedfs(&filer, "hung", "")?,
        seaweedfs(&filer, "sound", "  memory_limit = \"600MiB\"")?,
        format!("backend \"host\" \"local\" {{\n  path = \"{}\"\n}}", host.display()),
        "volume \"local\" {\n  backend = \"local\"\n  create = true\n  mode = \"0777\"\n}".to_owned(),
    ];
    world.start_agent(&configuration.join("\n"))?;
    let pid = pid_of(&wait_source(&world, "hung", "attached")?)?;
    wait_source(&world, "sound", "attached")?;
    signal(pid, Signal::SIGSTOP)?;
    let outcome = others_go_on(&world);
    // Whatever came of it: what is stopped cannot be unmounted when the world ends.
    signal(pid, Signal::SIGCONT)?;
    outcome?;
    // By itself.
    let alloc = run_until_written(&world, "after", "hung")?;
    assert_eq!(pid_of(&wait_source(&world, "hung", "attached")?)?, pid);
    end(&world, "after", &alloc)
}

fn others_go_on(world: &World) -> anyhow::Result<()> {
    run(world, "waits", "hung")?;
    let waiting = world.wait_until("a prestart task that waits", PATIENCE, || {
        let log = std::fs::read_to_string(world.log("agent"))?;
        let asked = log.lines().filter(|line| line.contains("a task asks for its volumes")).count();
        let Some(newest) = world.allocations("waits")?.into_iter().next() else { return Ok(None) };
        Ok((asked == 1).then(|| newest["ID"].as_str().map(str::to_owned)).flatten())
    })?;
    run(world, "local", "local")?;
    let sound = run_until_written(world, "sound", "sound")?;
    let local = world.wait_running("local")?;
    wait_written(world, &local, 1)?;
    let state = &world.allocation(&waiting)?["TaskStates"]["storage"]["State"];
    assert_eq!(state, "running", "the others were there while the hung one's prestart task still waited");
    world.wait_for_status("waits", &["failed"])?;
    let said = world.events(&waiting)?;
    assert!(said.contains("Exit Code: 75") && said.contains("backend hung did not answer within 25s"), "{said}");
    end(world, "local", &local)?;
    end(world, "sound", &sound)?;
    world.stop_purge("waits")?;
    world.wait_dead("waits")
}
