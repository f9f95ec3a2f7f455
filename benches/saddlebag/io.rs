//! I/O through a binding beside the same storage mounted by hand, in turns; and the memory of the one mount program by the
//! number of volumes.
//!
//! A task's mount is a clone of the binding in a namespace of its own, so what is measured here is such a clone.

use crate::fake_nomad::Stage;
use crate::figures::{Report, median};
use crate::rig::{Rig, resident, wait_until};
use anyhow::Context as _;
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const ROUNDS: usize = 5;
/// Files of one round of the metadata loop.
const FILES: usize = 200;
const VOLUMES: [usize; 3] = [1, 10, 100];

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

/// Everything, on a directory of the host and on a SeaweedFS.
pub fn measure(report: &mut Report, filer: &str, weed: &Path) -> anyhow::Result<()> {
    let rig = Rig::new("")?;
    let disk = rig.directory.join("volumes");
    let volume = "volume \"data\" {\n  backend = \"main\"\n  path = \"/bench-io\"\n  create = true\n}\n";
    let host = format!("backend \"host\" \"main\" {{\n  path = \"{}\"\n}}\n{volume}", disk.display());
    let by_hand = disk.join("by-hand");
    std::fs::create_dir(&by_hand)?;
    compare(report, "host", &mut rig.with(&host), &by_hand)?;

    let backend =
        format!("backend \"seaweedfs\" \"main\" {{\n  filer = \"{filer}\"\n  program = \"{}\"\n}}\n", weed.display());
    let mut rig = Rig::new(&format!("{backend}{volume}"))?;
    let (mut mounted, place) = mount_by_hand(weed, filer, &rig.directory)?;
    let by_hand = place.join("bench-io-by-hand");
    std::fs::create_dir_all(&by_hand)?;
    let compared = compare(report, "SeaweedFS", &mut rig, &by_hand);
    Command::new("umount").arg("-l").arg(&place).status()?;
    mounted.kill()?;
    mounted.wait()?;
    drop(rig);
    compared?;
    measure_memory(report, &backend)
}

fn compare(report: &mut Report, kind: &str, rig: &mut Rig, by_hand: &Path) -> anyhow::Result<()> {
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

    let places = [("by hand", by_hand), ("through saddlebag", clone.as_path())];
    let mut took = vec![[Vec::new(), Vec::new()]; FIO.len() + 1];
    for round in 0..=ROUNDS {
        // Who is first changes: what the one has warmed is the other's as well.
        for turn in 0..2 {
            let which = (round + turn) % 2;
            let place = places[which].1;
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
        let ratio = median(&samples[1]) / median(&samples[0]);
        // Two runs of the very same differ by as much as this on a machine with other things to do.
        report.target(&section, "0.85 of it by hand, or more", format!("{ratio:.2}"), ratio >= 0.85);
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

/// As an operator would, with the defaults of `weed mount`.
fn mount_by_hand(weed: &Path, filer: &str, directory: &Path) -> anyhow::Result<(Child, PathBuf)> {
    use std::os::unix::fs::MetadataExt as _;
    let (place, cache) = (directory.join("by-hand"), directory.join("by-hand-cache"));
    std::fs::create_dir(&place)?;
    std::fs::create_dir(&cache)?;
    let before = std::fs::metadata(&place)?.dev();
    let program = Command::new(weed)
        .arg("mount")
        .arg(format!("-filer={filer}"))
        .arg(format!("-dir={}", place.display()))
        .arg(format!("-cacheDir={}", cache.display()))
        .arg(format!("-localSocket={}", directory.join("by-hand.sock").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    wait_until("a mounted filer", || Ok(std::fs::metadata(&place).is_ok_and(|found| found.dev() != before)))?;
    Ok((program, place))
}

/// Of the mount program, with so many volumes in which a MiB was written and read.
fn measure_memory(report: &mut Report, backend: &str) -> anyhow::Result<()> {
    let most = VOLUMES[VOLUMES.len() - 1];
    let names: Vec<String> = (0..most).map(|number| format!("v{number}")).collect();
    let volumes: String = names
        .iter()
        .map(|name| format!("volume \"{name}\" {{\n  backend = \"main\"\n  path = \"/bench-io-memory/{name}\"\n  create = true\n}}\n"))
        .collect();
    let mut rig = Rig::new(&format!("{backend}{volumes}"))?;
    rig.start_agent()?;
    rig.wait_for_source("attached")?;
    (0..most).try_for_each(|number| rig.make_alloc_dir(number))?;
    let bytes = vec![7; 1 << 20];
    let mut bound = 0;
    let mut found = Vec::new();
    for count in VOLUMES {
        rig.nomad.list_each((0..count).map(|number| (number, Stage::Prestart, names[number].as_str())));
        rig.wait_for_sockets(bound..count)?;
        for (number, name) in names.iter().enumerate().take(count).skip(bound) {
            rig.ask_for_mounts(number)?;
            let file = rig.alloc_dir(number).join("main/local").join(name).join("file");
            std::fs::write(&file, &bytes)?;
            std::fs::File::open(&file)?.sync_all()?;
            anyhow::ensure!(std::fs::read(&file)? == bytes, "other bytes");
        }
        bound = count;
        let status = rig.status()?;
        let programs: Vec<u32> = status.sources.iter().filter_map(|source| source.pid).collect();
        anyhow::ensure!(programs.len() == 1, "mount programs: {programs:?}");
        let word = if count == 1 { "volume" } else { "volumes" };
        let memory = resident(programs[0])?;
        report.samples("Resident memory of `weed mount`", &format!("{count} {word}, a MiB in each"), "MiB", &[memory]);
        found.push(memory);
    }
    let more = found[found.len() - 1] - found[0];
    report.target(
        "memory of `weed mount`, 100 volumes",
        "one process, as with one",
        format!("{more:+.0} MiB"),
        more < 100.0,
    );
    Ok(())
}
