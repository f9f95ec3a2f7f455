//! A node full of containers: what a restart costs until each has been looked into, and what each change of the host's
//! mount table costs.

use crate::fake_nomad::Stage;
use crate::figures::Report;
use crate::rig::{Rig, milliseconds, processor_times, watched_tables};
use anyhow::Context as _;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

const NONE: Option<&str> = None;
/// Changes of the host's table, each by itself, and at once.
const SINGLE: usize = 20;
const BURST: usize = 1000;

/// Processes in mount namespaces of their own, each with a clone of an allocation's task directory and little else.
struct Containers {
    processes: Vec<Child>,
    /// Their standard input, which they all wait on.
    _alive: ChildStdin,
}

impl Containers {
    fn start(rig: &Rig, numbers: impl Iterator<Item = usize>) -> anyhow::Result<Self> {
        let mut holder = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let alive = holder.stdin.take().context("a pipe")?;
        let root = rig.directory.join("container");
        std::fs::create_dir(&root)?;
        let mut processes = vec![holder];
        for number in numbers {
            // Through /proc: a pipe that is opened so is the same pipe.
            let input = std::fs::File::open(format!("/proc/{}/fd/0", processes[0].id()))?;
            let mut child = Command::new(std::env::current_exe()?)
                .args(["part", "container"])
                .arg(&root)
                .arg(rig.alloc_dir(number).join("main"))
                .stdin(input)
                .stdout(Stdio::piped())
                .spawn()?;
            let mut said = child.stdout.take().context("a pipe")?;
            // Its only word; while it copies the namespace the next one need not wait, but two at once gain nothing.
            said.read_exact(&mut [0])?;
            processes.push(child);
        }
        Ok(Self { processes, _alive: alive })
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// What such a process does.
pub fn be_a_container(root: &Path, task: &Path) -> anyhow::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    nix::mount::mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    nix::mount::mount(Some("container"), root, Some("tmpfs"), MsFlags::empty(), NONE)?;
    let (old, inside) = (root.join("old"), root.join("task"));
    std::fs::create_dir(&old)?;
    std::fs::create_dir(&inside)?;
    nix::mount::mount(Some(task), &inside, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    nix::unistd::pivot_root(root, &old)?;
    std::env::set_current_dir("/")?;
    nix::mount::umount2("/old", MntFlags::MNT_DETACH)?;
    print!("r");
    std::io::Write::flush(&mut std::io::stdout())?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

/// With an agent that runs, and as many bindings of task `main`.
pub fn measure(rig: &mut Rig, report: &mut Report, count: usize) -> anyhow::Result<()> {
    let begun = Instant::now();
    let containers = Containers::start(rig, 1..=count)?;
    eprintln!("{count} containers in {:.0} ms", milliseconds(begun));
    rig.nomad.list((1..=count).map(|number| (number, Stage::Main)), "data");
    let section = format!("Restart of the agent, {count} bindings and as many containers");
    let (mut ready, mut looked, mut spent) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        rig.stop_agent()?;
        let begun = Instant::now();
        ready.push(rig.start_agent()?);
        wait_for_tables(rig, count)?;
        looked.push(milliseconds(begun));
        spent.push(processor_times(rig.agent_pid()?)?.values().sum::<f64>());
    }
    report.samples(&section, "until READY=1", "ms", &ready);
    report.samples(&section, "until every container was looked into, and its mounts are watched", "ms", &looked);
    report.samples(&section, "the processor's time of the agent until then", "ms", &spent);
    drop(containers);
    Ok(())
}

/// Each container that was found is watched.
fn wait_for_tables(rig: &Rig, count: usize) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut told = 0;
    loop {
        let watched = watched_tables(rig.agent_pid()?)?;
        // The host's own is one of them.
        if watched > count {
            return Ok(());
        }
        if begun.elapsed().as_secs() / 10 > told {
            told = begun.elapsed().as_secs() / 10;
            eprintln!("{watched} of {count} after {told}0 s");
        }
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(600), "{watched} of {count} tables are watched");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What changes of the host's mount table cost an agent with bindings, by thread.
pub fn measure_changes(rig: &Rig, report: &mut Report) -> anyhow::Result<()> {
    let place = rig.directory.join("limit/changes");
    std::fs::create_dir_all(&place)?;
    let pid = rig.agent_pid()?;
    std::thread::sleep(Duration::from_secs(1));
    let section = "Changes of the host's mount table, 1,000 bindings";
    let mut alone = ByThread::default();
    for _ in 0..SINGLE {
        alone.add(pid, 1, || change(&place, 1))?;
    }
    let mut burst = ByThread::default();
    let begun = Instant::now();
    burst.add(pid, BURST, || change(&place, BURST))?;
    let took = milliseconds(begun);
    for (name, times) in [("one change", &alone), ("1,000 changes in a row", &burst)] {
        report.samples(section, &format!("{name}: the reconciler's thread"), "ms", &times.reconciler);
        report.samples(section, &format!("{name}: all threads"), "ms", &times.all);
    }
    eprintln!("{BURST} changes and what they cause took {took:.0} ms");
    Ok(())
}

#[derive(Default)]
struct ByThread {
    reconciler: Vec<f64>,
    all: Vec<f64>,
}

impl ByThread {
    /// Takes the processor's time from before `work` until the agent has been at rest for half a second.
    fn add(&mut self, pid: u32, _changes: usize, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let before = processor_times(pid)?;
        work()?;
        let mut last = 0.0;
        let after = loop {
            std::thread::sleep(Duration::from_millis(500));
            let after = processor_times(pid)?;
            let sum: f64 = after.values().sum();
            if sum == last {
                break after;
            }
            last = sum;
        };
        // The main thread is the reconciler's.
        let main = i32::try_from(pid)?;
        let of = |times: &std::collections::BTreeMap<i32, f64>| times.get(&main).copied().unwrap_or_default();
        self.reconciler.push(of(&after) - of(&before));
        self.all.push(after.values().sum::<f64>() - before.values().sum::<f64>());
        Ok(())
    }
}

fn change(place: &PathBuf, times: usize) -> anyhow::Result<()> {
    for number in 0..times {
        if number % 2 == 0 && !is_mounted(place)? {
            nix::mount::mount(Some("change"), place, Some("tmpfs"), MsFlags::empty(), NONE)?;
        } else {
            nix::mount::umount(place)?;
        }
    }
    Ok(())
}

fn is_mounted(place: &Path) -> anyhow::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(std::fs::metadata(place)?.dev() != std::fs::metadata(place.parent().context("a parent")?)?.dev())
}
