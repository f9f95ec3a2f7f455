//! Hook to answer, its growth with the number of bindings, and what a node full of them costs.

use crate::containers;
use crate::fake_nomad::Stage;
use crate::figures::{Report, median};
use crate::kernel_limit::{Limit, Samples};
use crate::rig::{Rig, context_switches, milliseconds, resident, wait_until};
use anyhow::Context as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BINDINGS: usize = 1000;
/// The bindings around the first, the 100th and the last whose medians are compared.
const WINDOW: usize = 40;

fn rig_with_a_disk() -> anyhow::Result<Rig> {
    let rig = Rig::new("")?;
    let volumes = rig.directory.join("volumes");
    std::fs::create_dir(volumes.join("data"))?;
    Ok(rig.with(&format!(
        "backend \"host\" \"disk\" {{\n  path = \"{}\"\n}}\nvolume \"data\" {{\n  backend = \"disk\"\n  path = \"/data\"\n}}\n",
        volumes.display()
    )))
}

/// A node with as many containers as bindings.
pub fn measure_containers(report: &mut Report) -> anyhow::Result<()> {
    let mut rig = rig_with_a_disk()?;
    rig.start_agent()?;
    (1..=BINDINGS).try_for_each(|number| rig.make_alloc_dir(number))?;
    rig.nomad.list((1..=BINDINGS).map(|number| (number, Stage::Prestart)), "data");
    rig.wait_for_sockets(1..=BINDINGS)?;
    (1..=BINDINGS).try_for_each(|number| rig.ask_for_mounts(number).map(drop))?;
    containers::measure_changes(&rig, report)?;
    containers::measure(&mut rig, report, BINDINGS)
}

/// Everything on a `host` backend: the largest part.
pub fn measure_host(report: &mut Report) -> anyhow::Result<()> {
    let mut rig = rig_with_a_disk()?;
    let volumes = rig.directory.join("volumes");
    rig.start_agent()?;
    std::thread::sleep(Duration::from_secs(1));
    read_memory(&rig, report, "no allocation")?;

    (1..=BINDINGS).try_for_each(|number| rig.make_alloc_dir(number))?;
    rig.nomad.list((1..=BINDINGS).map(|number| (number, Stage::Prestart)), "data");
    rig.wait_for_sockets(1..=BINDINGS)?;
    let limit = Limit::new(&volumes.join("data"), &rig.directory.join("limit"))?;
    let ledger = rig.state_dir().join("ledger");
    let (mut asked, mut processes, mut trivial, mut turns) = (Vec::new(), Vec::new(), Vec::new(), Samples::default());
    for number in 1..=BINDINGS {
        let is_windowed = [1, BINDINGS / 10 - WINDOW / 2, BINDINGS + 1 - WINDOW]
            .iter()
            .any(|first| (*first..first + WINDOW).contains(&number));
        if !is_windowed && number.is_multiple_of(20) {
            processes.push(rig.run_mount(number)?);
            let begun = Instant::now();
            anyhow::ensure!(Command::new("/bin/true").status()?.success(), "/bin/true failed");
            trivial.push(milliseconds(begun));
        } else {
            asked.push((number, rig.ask_for_mounts(number)?));
        }
        if is_windowed {
            limit.take_turn(&ledger, &mut turns)?;
        }
    }

    let window = |first: usize| -> Vec<f64> {
        let within = |(number, _): &&(usize, f64)| (first..first + WINDOW).contains(number);
        asked.iter().filter(within).map(|(_, took)| *took).collect()
    };
    let all: Vec<f64> = asked.iter().map(|(_, took)| *took).collect();
    write_beside_limit(report, "Hook to answer, host backend", &all, &turns);
    report.samples("Hook to answer, host backend", "the whole process `saddlebag mount`", "ms", &processes);
    report.samples("Hook to answer, host backend", "for comparison: the whole process `/bin/true`", "ms", &trivial);

    let section = "Hook to answer by the number of bindings";
    let early = report.samples(section, &format!("bindings 1 to {WINDOW}"), "ms", &window(1));
    let hundredth = BINDINGS / 10 - WINDOW / 2;
    report.samples(section, &format!("bindings {hundredth} to {}", hundredth + WINDOW - 1), "ms", &window(hundredth));
    let last = BINDINGS + 1 - WINDOW;
    let late = report.samples(section, &format!("bindings {last} to {BINDINGS}"), "ms", &window(last));
    let growth = late / early;
    report.target(
        "cost of a binding, the last ones to the first",
        "not growing",
        format!("{growth:.2}"),
        growth <= 1.25,
    );

    rig.nomad.list((1..=BINDINGS).map(|number| (number, Stage::Main)), "data");
    std::thread::sleep(Duration::from_secs(2));
    read_memory(&rig, report, "1,000 bindings made")?;
    let scrapes = (0..20).map(|_| rig.scrape()).collect::<anyhow::Result<Vec<_>>>()?;
    report.samples("Scrape of the metrics", "1,000 bindings", "ms", &scrapes);
    read_memory(&rig, report, "1,000 bindings, scraped 20 times")?;
    measure_restart(&mut rig, report)?;
    measure_idleness(&rig, report)
}

fn write_beside_limit(report: &mut Report, section: &str, asked: &[f64], turns: &Samples) -> f64 {
    report.samples(section, "the kernel: open_tree, fanotify_mark, move_mount", "ms", &turns.bare);
    report.samples(section, "the kernel, and one fsync of a new file", "ms", &turns.with_fsync);
    let fsync = report.samples(section, "the fsync alone", "ms", &turns.fsync);
    report.samples(section, "util-linux `mount --bind`, unguarded", "ms", &turns.util_linux);
    let hook = report.samples(section, "hook to answer", "ms", asked);
    let rest = hook - fsync;
    report.target(
        &section.replace("Hook", "hook"),
        "1 ms + one fsync",
        format!("{rest:.2} ms + one fsync ({fsync:.2} ms)"),
        rest <= 1.0,
    );
    hook
}

fn read_memory(rig: &Rig, report: &mut Report, when: &str) -> anyhow::Result<()> {
    let section = "Resident memory";
    report.samples(section, &format!("agent, {when}"), "MiB", &[resident(rig.agent_pid()?)?]);
    for (name, pid) in rig.guard_processes()? {
        report.samples(section, &format!("{name}, {when}"), "MiB", &[resident(pid)?]);
    }
    Ok(())
}

fn measure_restart(rig: &mut Rig, report: &mut Report) -> anyhow::Result<()> {
    let mut took = Vec::new();
    for _ in 0..5 {
        rig.stop_agent()?;
        took.push(rig.start_agent()?);
        let mounted = rig.status()?.bindings.iter().filter(|binding| binding.state == "mounted").count();
        anyhow::ensure!(mounted == BINDINGS, "ready with {mounted} of {BINDINGS} bindings");
    }
    let middle = report.samples("Restart of the agent", "until READY=1, 1,000 bindings", "ms", &took);
    report.target("restart with 1,000 bindings", "under 500 ms", format!("{middle:.0} ms"), middle < 500.0);
    std::thread::sleep(Duration::from_secs(2));
    read_memory(rig, report, "1,000 bindings, restarted")?;
    let most = report
        .rows
        .iter()
        .filter(|row| row.unit == "MiB" && row.what.contains("1,000"))
        .map(|row| row.median)
        .fold(0.0, f64::max);
    let word = format!("{most:.1} MiB for the largest of agent, guard, keeper");
    report.target("resident memory with 1,000 bindings", "at most 15 MiB", word, most <= 15.0);
    Ok(())
}

fn measure_idleness(rig: &Rig, report: &mut Report) -> anyhow::Result<()> {
    let quick = std::env::var("BENCH_QUICK").is_ok_and(|value| value == "1");
    let seconds = if quick { 10 } else { 60 };
    let mut watched = rig.guard_processes()?;
    watched.insert(0, ("agent", rig.agent_pid()?));
    // The runtime's threads for name look-ups end after ten idle seconds. The tasks here have no containers, which are
    // looked for six times after a restart, the last time after sixteen seconds.
    std::thread::sleep(Duration::from_secs(30));
    let before = watched.iter().map(|(_, pid)| context_switches(*pid)).collect::<anyhow::Result<Vec<_>>>()?;
    std::thread::sleep(Duration::from_secs(seconds));
    let mut sum = 0;
    for ((name, pid), before) in watched.into_iter().zip(before) {
        // Of the threads that are there at the end; one that is new has all of its own in this time.
        let after = context_switches(pid)?;
        let switches = after.iter().map(|(thread, count)| count - before.get(thread).unwrap_or(&0)).sum::<u64>();
        sum += switches;
        let section = format!("Context switches in {seconds} idle seconds, 1,000 bindings");
        report.samples(&section, name, "switches", &[u32::try_from(switches)?.into()]);
    }
    report.target("periodic wake-ups", "none", format!("{sum} in {seconds} s"), sum == 0);
    Ok(())
}

/// Hooks on a SeaweedFS that is mounted, and on one that is not.
pub fn measure_seaweedfs(report: &mut Report, filer: &str, weed: &Path) -> anyhow::Result<()> {
    const WARM: usize = 100;
    let backend = |more: &str| {
        format!(
            "backend \"seaweedfs\" \"main\" {{\n  filer = \"{filer}\"\n  program = \"{}\"\n{more}}}\n\
             volume \"data\" {{\n  backend = \"main\"\n  path = \"/bench\"\n  create = true\n}}\n",
            weed.display()
        )
    };
    let mut rig = Rig::new(&backend(""))?;
    rig.start_agent()?;
    let mounted = rig.wait_for_source("attached")?.context("a mount point")?;
    (0..=WARM).try_for_each(|number| rig.make_alloc_dir(number))?;
    rig.nomad.list((0..=WARM).map(|number| (number, Stage::Prestart)), "data");
    rig.wait_for_sockets(0..=WARM)?;
    // The first makes the directory.
    rig.ask_for_mounts(0)?;
    let limit = Limit::new(&Path::new(&mounted).join("bench"), &rig.directory.join("limit"))?;
    let (mut asked, mut answers, mut turns) = (Vec::new(), Vec::new(), Samples::default());
    for number in 1..=WARM {
        asked.push(rig.ask_for_mounts(number)?);
        limit.take_turn(&rig.state_dir().join("ledger"), &mut turns)?;
        answers.push(limit.time_an_answer()?);
    }
    let section = "Hook to answer, SeaweedFS that is mounted";
    write_beside_limit(report, section, &asked, &turns);
    report.samples(section, "of it `weed mount` itself: whether the volume's directory answers", "ms", &answers);
    drop(rig);

    let mut rig = Rig::new(&backend("  attach = \"demand\"\n  linger = \"50ms\"\n"))?;
    rig.start_agent()?;
    let (mut asked, mut bare) = (Vec::new(), Vec::new());
    for number in 1..=7 {
        bare.push(mount_by_hand(weed, filer, &rig.directory.join(format!("limit/{number}")))?);
        rig.make_alloc_dir(number)?;
        // A listing that names a job with a volume mounts its source at once. Only one that has lingered in vain
        // since is cold.
        rig.nomad.list(std::iter::once((number, Stage::Prestart)), "data");
        rig.wait_for_sockets(std::iter::once(number))?;
        wait_until("a source to linger", || Ok(!rig.status()?.sources.is_empty()))?;
        std::thread::sleep(Duration::from_millis(1000));
        rig.wait_for_source("detached")?;
        asked.push(rig.ask_for_mounts(number)?);
        rig.nomad.list(std::iter::once((number, Stage::Over)), "data");
        wait_until("an unmounted volume", || Ok(rig.status()?.bindings.is_empty()))?;
    }
    let section = "Hook to answer, SeaweedFS that is not mounted";
    report.samples(section, "`weed mount` by hand, until mounted", "ms", &bare);
    report.samples(section, "hook to answer", "ms", &asked);
    eprintln!("cold: {:.0} ms, by hand {:.0} ms", median(&asked), median(&bare));
    Ok(())
}

/// Starts `weed mount` and waits until the directory is another file system; milliseconds until then.
fn mount_by_hand(weed: &Path, filer: &str, place: &Path) -> anyhow::Result<f64> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::create_dir(place)?;
    let before = std::fs::metadata(place)?.dev();
    let begun = Instant::now();
    let mut weed = Command::new(weed)
        .arg("mount")
        .arg(format!("-filer={filer}"))
        .arg(format!("-dir={}", place.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    // One that is just being mounted may not answer yet.
    let mounted =
        wait_until("a mounted filer", || Ok(std::fs::metadata(place).is_ok_and(|found| found.dev() != before)));
    let took = milliseconds(begun);
    Command::new("umount").arg("-l").arg(place).status()?;
    weed.kill()?;
    weed.wait()?;
    mounted.map(|()| took)
}
