//! What a source that hangs costs the hooks of another one.

use crate::fake_nomad::Stage;
use crate::figures::Report;
use crate::rig::{Rig, wait_until};
use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;

const SAMPLES: usize = 100;

/// Hooks on one SeaweedFS before, and while the mount program of another is stopped and a hook waits for it.
pub fn measure(report: &mut Report, filer: &str, weed: &Path) -> anyhow::Result<()> {
    let backend = |name: &str, limit: &str| {
        format!(
            "backend \"seaweedfs\" \"{name}\" {{\n  filer = \"{filer}\"\n  program = \"{}\"\n  memory_limit = \"{limit}\"\n}}\n\
             volume \"{name}\" {{\n  backend = \"{name}\"\n  path = \"/bench-{name}\"\n  create = true\n}}\n",
            weed.display()
        )
    };
    let (waits, last) = (2 * SAMPLES + 1, 2 * SAMPLES + 1);
    let mut rig = Rig::new(&[backend("sound", "1GiB"), backend("stops", "900MiB")].concat())?;
    rig.start_agent()?;
    let source = |name: &str| -> anyhow::Result<_> {
        rig.status()?.sources.into_iter().find(|source| source.name == name).context("both sources")
    };
    wait_until("both sources", || Ok(source("sound")?.state == "attached" && source("stops")?.state == "attached"))?;
    (0..=last).try_for_each(|number| rig.make_alloc_dir(number))?;
    let volume = |number| if number == waits { "stops" } else { "sound" };
    rig.nomad.list_each((0..=last).map(|number| (number, Stage::Prestart, volume(number))));
    rig.wait_for_sockets(0..=last)?;
    // The first makes the directory.
    rig.ask_for_mounts(0)?;
    let before = (1..=SAMPLES).map(|number| rig.ask_for_mounts(number)).collect::<anyhow::Result<Vec<_>>>()?;

    let weed = Pid::from_raw(i32::try_from(source("stops")?.pid.context("its program")?)?);
    kill(weed, Signal::SIGSTOP)?;
    let meanwhile = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| rig.ask_patiently(waits));
        let meanwhile = wait_until("a source that hangs", || Ok(source("stops")?.state == "hung")).and_then(|()| {
            (SAMPLES + 1..=2 * SAMPLES).map(|number| rig.ask_for_mounts(number)).collect::<anyhow::Result<Vec<_>>>()
        });
        let is_waiting = !waiting.is_finished();
        kill(weed, Signal::SIGCONT)?;
        let waited = waiting.join().map_err(|_| anyhow::anyhow!("the hook that waits panicked"))?;
        anyhow::ensure!(is_waiting, "the hook of the source that hangs did not wait");
        waited.context("the hook that waited")?;
        meanwhile
    })?;

    let section = "Hook to answer, SeaweedFS that is mounted, while another one hangs";
    let first = report.samples(section, "before", "ms", &before);
    let second = report.samples(section, "while another one hangs", "ms", &meanwhile);
    let ratio = second / first;
    report.target("a hook while another source hangs, to before", "not slower", format!("{ratio:.2}"), ratio <= 1.25);
    Ok(())
}
