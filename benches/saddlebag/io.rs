//! I/O through a binding beside the same storage mounted by hand, in turns; and the memory of the one mount program by the
//! number of volumes.
//!
//! A task's mount is a clone of the binding in a namespace of its own, so what is measured here is such a clone. What is
//! noise is measured too: a second directory of the mount by hand has its turn like the two others.

use crate::fake_nomad::Stage;
use crate::figures::{Report, median};
use crate::rig::{Rig, resident, wait_until};
use crate::support::{Gluster, tool};
use anyhow::Context as _;
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const ROUNDS: usize = 7;
/// Files of one round of the metadata loop.
const FILES: usize = 200;
const VOLUMES: [usize; 3] = [1, 10, 100];
/// What is written and read before memory is looked at, in MiB; the same of however many volumes.
const WRITTEN: usize = 100;

/// What fio does, by the field of its report that counts.
const FIO: [(&str, &str, &[&str]); 4] = [
    ("sequential write, 1 MiB", "write", &["--rw=write", "--bs=1m", "--size=64m", "--end_fsync=1"]),
    ("sequential read, 1 MiB", "read", &["--rw=read", "--bs=1m", "--size=64m"]),
    ("random read, 4 KiB", "read", &["--rw=randread", "--bs=4k", "--size=64m", "--time_based", "--runtime=2"]),
    (
        "random write, 4 KiB, fsync of every 16th",
        "write",
        &["--rw=randwrite", "--bs=4k", "--size=64m", "--time_based", "--runtime=2", "--fsync=16"],
    ),
];

/// The volume that is compared.
const VOLUME: &str = "volume \"data\" {\n  backend = \"main\"\n  path = \"/bench-io\"\n  create = true\n}\n";

/// Everything, on a directory of the host, on a SeaweedFS and on a GlusterFS.
pub fn measure(report: &mut Report, filer: &str, weed: &Path) -> anyhow::Result<()> {
    let rig = Rig::new("")?;
    let disk = rig.directory.join("volumes");
    let host = format!("backend \"host\" \"main\" {{\n  path = \"{}\"\n}}\n{VOLUME}", disk.display());
    compare(report, "host", &mut rig.with(&host), &disk)?;

    let backend =
        format!("backend \"seaweedfs\" \"main\" {{\n  filer = \"{filer}\"\n  program = \"{}\"\n}}\n", weed.display());
    let mut rig = Rig::new(&format!("{backend}{VOLUME}"))?;
    let by_hand = ByHand::mount(&rig.directory, |place| {
        let cache = rig.directory.join("by-hand-cache");
        std::fs::create_dir(&cache)?;
        let mut command = Command::new(weed);
        command.arg("mount").arg(format!("-filer={filer}")).arg(format!("-dir={}", place.display()));
        command.arg(format!("-cacheDir={}", cache.display()));
        command.arg(format!("-localSocket={}", rig.directory.join("by-hand.sock").display()));
        Ok(command)
    })?;
    compare(report, "SeaweedFS", &mut rig, &by_hand.place)?;
    drop((by_hand, rig));
    measure_memory(report, "weed mount", &|_| Ok(backend.clone()))?;

    let rig = Rig::new("")?;
    let gluster = start_gluster(&rig)?;
    let backend = gluster.backend("main", "gv0", "");
    let mut rig = rig.with(&format!("{backend}{VOLUME}"));
    let by_hand = ByHand::mount(&rig.directory, |place| {
        let mut command = Command::new(tool("glusterfs").context("no glusterfs")?);
        command.arg("--no-daemon").arg(format!("--volfile-server={}", gluster.address)).arg("--volfile-id=gv0");
        command.arg(place);
        Ok(command)
    })?;
    compare(report, "GlusterFS", &mut rig, &by_hand.place)?;
    drop((by_hand, rig));
    measure_memory(report, "glusterfs", &|rig| Ok(start_gluster(rig)?.backend("main", "gv0", "")))
}

/// A GlusterFS of the rig's own, with one volume of one brick.
fn start_gluster(rig: &Rig) -> anyhow::Result<Gluster> {
    let gluster = Gluster::start(Command::new(crate::rig::LAB), &rig.directory)?;
    gluster.create("gv0", 1, &[])?;
    Ok(gluster)
}

fn compare(report: &mut Report, kind: &str, rig: &mut Rig, mounted: &Path) -> anyhow::Result<()> {
    rig.start_agent()?;
    rig.wait_for_source("attached")?;
    rig.make_alloc_dir(1)?;
    rig.nomad.list(std::iter::once((1, Stage::Prestart)), "data");
    rig.wait_for_sockets(std::iter::once(1))?;
    rig.ask_for_mounts(1)?;
    let clone = rig.directory.join("clone");
    std::fs::create_dir(&clone)?;
    let binding = rig.alloc_dir(1).join("main/local/data");
    anyhow::ensure!(Command::new("mount").arg("--bind").arg(binding).arg(&clone).status()?.success(), "mount --bind");

    let [first, second] = ["bench-io-by-hand", "bench-io-by-hand-again"].map(|name| mounted.join(name));
    for place in [&first, &second] {
        std::fs::create_dir_all(place)?;
    }
    let places = [("by hand", first), ("by hand, once more", second), ("through saddlebag", clone.clone())];
    let mut took = vec![[Vec::new(), Vec::new(), Vec::new()]; FIO.len() + 1];
    for round in 0..=ROUNDS {
        // Who is first changes: what the one has warmed is the other's as well.
        for turn in 0..places.len() {
            let which = (round + turn) % places.len();
            let place = &places[which].1;
            let mut found = Vec::new();
            for (_, field, arguments) in FIO {
                found.push(run_fio(place, field, arguments)?);
            }
            found.push(loop_over_files(place)?);
            if round > 0 {
                took.iter_mut().zip(found).for_each(|(samples, value)| samples[which].push(value));
            }
        }
        eprintln!("I/O on {kind}: round {round} of {ROUNDS}");
    }
    let names = FIO
        .iter()
        .map(|(name, ..)| (*name, "MiB/s"))
        .chain(std::iter::once(("create, stat, rename, unlink", "files/s")));
    for ((name, unit), samples) in names.zip(&took) {
        let section = format!("{kind}: {name}");
        for (which, (place, _)) in places.iter().enumerate() {
            report.samples(&section, place, unit, &samples[which]);
        }
        // Of two turns of one round: what the machine did else was much the same.
        let ratios =
            |which: usize| -> Vec<f64> { samples[which].iter().zip(&samples[0]).map(|(a, b)| a / b).collect() };
        let (noise, found) = (ratios(1), median(&ratios(2)));
        let least = noise.iter().copied().fold(f64::INFINITY, f64::min);
        let most = noise.iter().copied().fold(0.0, f64::max);
        report.target(
            &section,
            &format!("within noise, {least:.2} to {most:.2} of it by hand, or no less than by hand"),
            format!("{found:.2}"),
            found >= least.min(1.0),
        );
    }
    Command::new("umount").arg(&clone).status()?;
    Ok(())
}

/// MiB a second.
fn run_fio(place: &Path, field: &str, arguments: &[&str]) -> anyhow::Result<f64> {
    let done = Command::new("fio")
        .args(["--name=bench", "--ioengine=psync", "--output-format=json", "--fallocate=none"])
        .arg(format!("--filename={}", place.join("fio").display()))
        .args(arguments)
        .output()
        .context("starting fio")?;
    anyhow::ensure!(done.status.success(), "fio: {}", String::from_utf8_lossy(&done.stderr));
    let said: Value = serde_json::from_slice(&done.stdout)?;
    let bytes = said["jobs"][0][field]["bw_bytes"].as_f64().context("fio's bandwidth")?;
    Ok(bytes / f64::from(1 << 20))
}

/// Files a second.
fn loop_over_files(place: &Path) -> anyhow::Result<f64> {
    let begun = Instant::now();
    for number in 0..FILES {
        let (file, renamed) = (place.join(format!("file-{number}")), place.join(format!("renamed-{number}")));
        std::fs::File::create(&file)?.write_all(b"sixteen bytes ..")?;
        anyhow::ensure!(std::fs::metadata(&file)?.len() == 16, "another file");
        std::fs::rename(&file, &renamed)?;
        std::fs::remove_file(&renamed)?;
    }
    Ok(f64::from(u32::try_from(FILES)?) / begun.elapsed().as_secs_f64())
}

/// What an operator has mounted, with the defaults of its program. Ended and unmounted when this is dropped.
struct ByHand {
    place: PathBuf,
    program: Child,
}

impl ByHand {
    fn mount(directory: &Path, command: impl Fn(&Path) -> anyhow::Result<Command>) -> anyhow::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let place = directory.join("by-hand");
        std::fs::create_dir(&place)?;
        let before = std::fs::metadata(&place)?.dev();
        let mut command = command(&place)?;
        let program = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mounted = Self { place, program };
        wait_until("a mount by hand", || {
            Ok(std::fs::metadata(&mounted.place).is_ok_and(|found| found.dev() != before))
        })?;
        Ok(mounted)
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// Of a new mount program each time, with so many volumes among which the same files were written and read.
fn measure_memory(
    report: &mut Report,
    program: &str,
    backend: &dyn Fn(&Rig) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let bytes = vec![7; 1 << 20];
    let mut found = Vec::new();
    for count in VOLUMES {
        let names: Vec<String> = (0..count).map(|number| format!("v{number}")).collect();
        let rig = Rig::new("")?;
        let place = format!("/bench-io-memory-{count}");
        let volumes: String = names
            .iter()
            .map(|name| {
                format!(
                    "volume \"{name}\" {{\n  backend = \"main\"\n  path = \"{place}/{name}\"\n  create = true\n}}\n"
                )
            })
            .collect();
        let configuration = format!("{}{volumes}", backend(&rig)?);
        let mut rig = rig.with(&configuration);
        rig.start_agent()?;
        rig.wait_for_source("attached")?;
        (0..count).try_for_each(|number| rig.make_alloc_dir(number))?;
        rig.nomad.list_each((0..count).map(|number| (number, Stage::Prestart, names[number].as_str())));
        rig.wait_for_sockets(0..count)?;
        for (number, name) in names.iter().enumerate() {
            rig.ask_for_mounts(number)?;
            let volume = rig.alloc_dir(number).join("main/local").join(name);
            for file in 0..WRITTEN / count {
                let file = volume.join(format!("file-{file}"));
                std::fs::write(&file, &bytes)?;
                std::fs::File::open(&file)?.sync_all()?;
                anyhow::ensure!(std::fs::read(&file)? == bytes, "other bytes");
            }
        }
        let status = rig.status()?;
        let programs: Vec<u32> = status.sources.iter().filter_map(|source| source.pid).collect();
        anyhow::ensure!(programs.len() == 1, "mount programs: {programs:?}");
        let word = if count == 1 { "volume" } else { "volumes" };
        let memory = resident(programs[0])?;
        let section = format!("Resident memory of `{program}`, {WRITTEN} MiB in files of one");
        report.samples(&section, &format!("{count} {word}"), "MiB", &[memory]);
        eprintln!("memory of {program} with {count} {word}: {memory:.0} MiB");
        found.push(memory);
    }
    let ratio = found[found.len() - 1] / found[0];
    report.target(
        &format!("memory of `{program}` with 100 volumes"),
        "as with one: 0.8 to 1.25 of it",
        format!("{ratio:.2}"),
        (0.8..=1.25).contains(&ratio),
    );
    Ok(())
}
