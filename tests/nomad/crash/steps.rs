//! Killed right before one system call, on the way in and on the way out.

use super::*;
use crate::support::{PATIENCE, require};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command};

/// The calls on the way of two bindings into place, each with how often it comes before in its thread.
///
/// By thread: a worker makes the volume's directory (the first mkdirat), its owner, mode and name, and then for each binding its
/// directories, their mode and flag, the clone, the mark, the mount and the link; another writes the ledger.
const IN: [(&str, u32); 26] = [
    ("rename", 1),
    ("fsync", 1),
    ("fsync", 2),
    ("openat2", 2),
    ("mkdirat", 1),
    ("fchownat", 1),
    ("fchmodat", 1),
    ("renameat2", 1),
    ("openat2", 8),
    ("open_tree", 1),
    ("mount_setattr", 1),
    ("sendmsg", 1),
    ("mkdirat", 2),
    ("mkdirat", 4),
    ("fchmodat", 2),
    ("ioctl", 3),
    ("move_mount", 1),
    ("openat2", 18),
    ("rename", 2),
    ("fsync", 3),
    ("mkdirat", 6),
    ("open_tree", 2),
    ("ioctl", 6),
    ("move_mount", 2),
    ("symlinkat", 1),
    ("rename", 3),
];

/// The last of them. Two bindings that are made while the disk still works at their intent are noted together, and then
/// this is never reached.
const LAST_NOTE: (&str, u32) = ("rename", 3);

/// The calls on the way out. Each is met both by a job that is stopped and by one that is purged at once.
const OUT: [(&str, u32); 12] = [
    ("umount2", 1),
    ("umount2", 2),
    ("umount2", 3),
    ("ioctl", 1),
    ("ioctl", 2),
    ("unlinkat", 1),
    ("unlinkat", 2),
    ("openat2", 4),
    ("rename", 1),
    ("fsync", 2),
    ("fsync", 1),
    ("unlink", 1),
];

#[test]
fn an_agent_killed_before_any_step_is_followed_by_one_that_converges() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "strace");
    let world = World::new("steps")?;
    let configuration = configuration(&world, IN.len())?;
    world.start_agent(&configuration)?;
    for (number, step) in IN.iter().enumerate() {
        let name = format!("v{number}");
        let volume = world.directory().join("volumes").join(&name);
        let out = OUT[number % OUT.len()];
        // The second time round the same calls, by the other way out.
        let purge = number >= OUT.len();
        println!("{name}: killed before {step:?} of a start and {out:?} of a {}", if purge { "purge" } else { "stop" });
        come_in(&world, &configuration, &name, &volume, *step)
            .with_context(|| format!("{name}: before {step:?} on the way in"))?;
        go_out(&world, &configuration, &name, &volume, out, purge)
            .with_context(|| format!("{name}: before {out:?} on the way out, purged: {purge}"))?;
    }
    Ok(())
}

fn come_in(world: &World, configuration: &str, name: &str, volume: &Path, step: (&str, u32)) -> anyhow::Result<()> {
    let killer = Killer::attach(world, step)?;
    world.run_job(&job(name, name, "exec sleep 1000"), &[])?;
    // A page that names both bindings as made is written no more.
    killer.wait(world, || Ok(step == LAST_NOTE && is_noted(world, name)?))?;
    if step == ("move_mount", 1) {
        // It dies at the call's entry: the call does not happen.
        assert_eq!(host_mounts_of(volume)?, []);
    }
    world.start_agent(configuration)?;
    let alloc = world.wait_running(name)?;
    world.wait_until("a complete page of the ledger", PATIENCE, || Ok(is_recorded(world, &alloc)?.then_some(())))?;
    let both = ["mounted", "linked"];
    world.wait_until("what the tasks write at their start", PATIENCE, || {
        Ok(both.iter().all(|task| has_lines(&volume.join(task), 1)).then_some(()))
    })?;

    let mut points: Vec<PathBuf> = host_mounts_of(volume)?.into_iter().map(|(_, point)| point).collect();
    points.sort();
    let mut expected = places(world, &alloc);
    expected.sort();
    assert_eq!(points, expected, "each binding is mounted exactly once");
    // The page and the tasks may be the former agent's, which died when all was done.
    world.wait_until("two bindings that are called mounted", PATIENCE, || {
        let status: Value = serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?;
        let bindings = status["bindings"].as_array().context("status lists bindings")?;
        let is_whole = bindings.len() == 2 && bindings.iter().all(|binding| binding["state"] == "mounted");
        Ok(is_whole.then_some(()))
    })?;
    for task in both {
        assert_eq!(std::fs::read_to_string(volume.join(task))?, format!("{alloc}\n"), "{task} has started once");
    }
    let made = std::fs::metadata(volume)?;
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (65534, 65534, 0o2770), "as its definition says");
    let restarts = &world.allocation(&alloc)?["TaskStates"]["storage"]["Restarts"];
    assert_eq!(restarts, 0, "the prestart task waits for the next agent and does not fail");
    Ok(())
}

/// Whether the page of the job's allocation names both bindings as made.
fn is_noted(world: &World, job: &str) -> anyhow::Result<bool> {
    let all = world.allocations(job)?;
    match all.first().and_then(|newest| newest["ID"].as_str()) {
        Some(alloc) => is_recorded(world, alloc),
        None => Ok(false),
    }
}

fn go_out(
    world: &World,
    configuration: &str,
    name: &str,
    volume: &Path,
    step: (&str, u32),
    purge: bool,
) -> anyhow::Result<()> {
    let before = crate::support::checksums(volume)?;
    let alloc = world.wait_running(name)?;
    let killer = Killer::attach(world, step)?;
    if purge {
        world.stop_purge(name)?
    } else {
        world.stop(name)?
    }
    killer.wait(world, || Ok(false))?;
    world.start_agent(configuration)?;
    if !purge {
        world.stop_purge(name)?;
    }
    world.wait_dead(name)?;
    world.system_gc()?;
    world.wait_alloc_dir_gone(&alloc)?;
    wait_nothing_left(world, volume)?;
    assert_eq!(crate::support::checksums(volume)?, before);
    Ok(())
}

/// A tracer that kills the agent at the entry of one of its system calls.
struct Killer {
    tracer: Child,
    step: (String, u32),
}

impl Killer {
    fn attach(world: &World, (call, count): (&str, u32)) -> anyhow::Result<Self> {
        let pid = world.agent_pid().context("an agent runs")?;
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o"]).arg(world.log("strace"));
        command.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:signal=SIGKILL:when={count}")]);
        let tracer = command.args(["-p", &pid.to_string()]).spawn().context("starting strace")?;
        let killer = Self { tracer, step: (call.to_owned(), count) };
        world.wait_until("a traced agent", PATIENCE, || {
            // It may have come to its step, and its end, before it was traced whole.
            let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Ok(Some(())) };
            let mut threads = threads.flatten();
            let is_traced = threads.all(|thread| {
                let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
                !status.contains("TracerPid:\t0\n")
            });
            Ok(is_traced.then_some(()))
        })?;
        Ok(killer)
    }

    /// Waits for the agent's death. Where `is_passed` says that its step does not come any more it is killed all the same.
    fn wait(mut self, world: &World, mut is_passed: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let what = format!("the agent's death before {:?}", self.step);
        world.wait_until(&what, PATIENCE, || {
            if world.agent_pid().is_some() && is_passed()? {
                world.kill_agent()?;
            }
            Ok(world.agent_pid().is_none().then_some(()))
        })?;
        self.tracer.wait()?;
        let traced = std::fs::read_to_string(world.log("strace"))?;
        anyhow::ensure!(traced.contains(&self.step.0), "it died of something else than {:?}: {traced}", self.step);
        Ok(())
    }
}

impl Drop for Killer {
    fn drop(&mut self) {
        // Where the step was never reached it still traces; both fail where it has ended.
        let _ = self.tracer.kill();
        let _ = self.tracer.wait();
    }
}
