//! What saddlebag costs, beside the kernel's own limits and in the same run. docs/performance.md explains the figures.
//!
//! `BENCH_QUICK=1` watches an idle agent for ten seconds in place of sixty. `BENCH_PARTS` names the parts to run, of
//! `host`, `containers`, `seaweedfs`, `io` and `jobs`.

#[path = "../../tests/support/mod.rs"]
mod support;

mod containers;
mod fake_nomad;
mod figures;
mod hang;
mod hooks;
mod io;
mod jobs;
mod kernel_limit;
mod rig;

use anyhow::Context as _;
use figures::Report;
use std::path::Path;
use std::process::{Command, Stdio};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("part") {
        let mut report = Report::default();
        match arguments.next().as_deref() {
            Some("container") => {
                let mut next = || arguments.next().context("a root and a task's directory");
                let (root, task) = (next()?, next()?);
                return containers::be_a_container(Path::new(&root), Path::new(&task));
            }
            Some("host") => hooks::measure_host(&mut report)?,
            Some("containers") => hooks::measure_containers(&mut report)?,
            Some("seaweedfs") => {
                let mut next = || arguments.next().context("a filer and the path of weed");
                let (filer, weed) = (next()?, next()?);
                hooks::measure_seaweedfs(&mut report, &filer, Path::new(&weed))?;
                hang::measure(&mut report, &filer, Path::new(&weed))?;
            }
            Some("io") => {
                let mut next = || arguments.next().context("a filer and the path of weed");
                let (filer, weed) = (next()?, next()?);
                io::measure(&mut report, &filer, Path::new(&weed))?;
            }
            other => anyhow::bail!("no such part: {other:?}"),
        }
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    if let Some(why) =
        support::missing(&["root", "unshare", "mount", "weed", "nomad", "dockerd", "fio", "glusterd", "glusterfs"])
    {
        println!("not measured: {why}");
        return Ok(());
    }
    let parts = std::env::var("BENCH_PARTS").unwrap_or_else(|_| "host containers seaweedfs io jobs".to_owned());
    let mut report = Report::default();
    for part in parts.split_whitespace() {
        eprintln!("measuring {part} …");
        match part {
            "host" | "containers" => merge(&mut report, measure_apart(&[part])?),
            "seaweedfs" | "io" => {
                let weed = support::tool("weed").context("no weed")?;
                let weed = weed.to_str().context("a path in UTF-8")?;
                merge(&mut report, measure_apart(&[part, &support::Lab::shared()?.filer, weed])?);
            }
            "jobs" => jobs::measure(&mut report)?,
            other => anyhow::bail!("no such part: {other}"),
        }
    }
    report.print();
    Ok(())
}

/// Runs a part in a process with a mount namespace of its own: whatever happens there, the host's mounts stay as they
/// are. The fake Nomad is in that process, so the agent finds its Nomad in its own namespace.
fn measure_apart(part: &[&str]) -> anyhow::Result<Report> {
    let own = std::env::current_exe()?;
    let done = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(own)
        .arg("part")
        .args(part)
        .stderr(Stdio::inherit())
        .output()?;
    anyhow::ensure!(done.status.success(), "{part:?}: {}", done.status);
    let last = String::from_utf8(done.stdout)?;
    Ok(serde_json::from_str(last.trim())?)
}

fn merge(into: &mut Report, from: Report) {
    into.rows.extend(from.rows);
    into.targets.extend(from.targets);
}
