//! What a mount program keeps on this host's disk has its limits, also where nobody has said any.

use crate::faults::scene::{Writer, logged, seaweedfs, source};
use crate::support::{Cluster, Plan, World, require};
use anyhow::Context as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// What the files of a folder take on its disk, in bytes.
fn size_of(folder: &Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(found) = entry.metadata() else { continue };
        let taken = std::os::unix::fs::MetadataExt::blocks(&found) * 512;
        sum += if found.is_dir() { size_of(&entry.path()) } else { taken };
    }
    sum
}

/// The most that a folder takes while something goes on, and what came of that.
fn most_of<T>(folder: &Path, during: impl FnOnce() -> T) -> (u64, T) {
    let (most, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                most.fetch_max(size_of(folder), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let done = during();
        is_over.store(true, Ordering::Relaxed);
        (most.load(Ordering::Relaxed), done)
    })
}

#[test]
fn a_cache_stays_within_its_default_capacity_whatever_is_read_and_written() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let cluster = Cluster::start(Plan::default())?;
    let world = World::new("limits")?;
    // What is written leaves it at once: there is room for the cache, and for little more.
    let disk = world.directory().join("cache-disk");
    std::fs::create_dir(&disk)?;
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=192m", "cache"]).arg(&disk).status()?;
    anyhow::ensure!(mounted.success(), "no file system for the cache");
    let backend = seaweedfs(&world, &cluster.filers(), "far", &format!("  cache_dir = \"{}\"", disk.display()))?;
    world.start_agent(&backend)?;
    let writer = Writer::launch(&world, "exec", "far-0")?.wait(&world)?;
    let place = writer.place(&world);

    let (most, done) = most_of(&disk, || -> anyhow::Result<()> {
        for number in 0..6_u8 {
            let mut file = std::fs::File::create(place.join(number.to_string()))?;
            for _ in 0..8 {
                file.write_all(&super::piece().repeat(8))?;
                file.sync_all()?;
            }
        }
        for number in 0..6_u8 {
            let read = std::fs::read(place.join(number.to_string()))?;
            anyhow::ensure!(read == super::piece().repeat(64), "what was read is not what was written");
        }
        Ok(())
    });
    done?;
    assert!(
        (64 * MIB..=160 * MIB).contains(&most),
        "384 MiB were read, and a cache of 128 MiB took {} MiB",
        most / MIB
    );
    assert_eq!(source(&world, "far")?["state"], "attached");
    assert_eq!(logged(&world, "some of what is asked of the source fails")?, 0);
    writer.assert_whole(&world)
}

#[test]
fn what_waits_for_a_volume_server_stays_within_the_write_buffer_and_goes_on_when_it_is_back() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let cluster = Cluster::start(Plan::default())?;
    let world = World::new("buffer")?;
    let cache = world.directory().join("cache");
    std::fs::create_dir(&cache)?;
    let options = format!("  write_buffer_size = \"64MiB\"\n  cache_dir = \"{}\"", cache.display());
    world.start_agent(&seaweedfs(&world, &cluster.filers(), "far", &options)?)?;
    let writer = Writer::launch_patient(&world, "exec", "far-0")?.wait(&world)?;
    let large = writer.place(&world).join("large");

    cluster.end("volume0", "KILL")?;
    // Nothing of it is synced: it goes where there is room for it, and then it waits. A process of its own, since whatever
    // this one starts has its files too, and closes them.
    let mut dd = Command::new("dd");
    dd.args(["if=/dev/zero", "bs=1M", "count=192"]).arg(format!("of={}", large.display()));
    let filling = dd.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let waits = |pid: u32| -> anyhow::Result<u64> {
        let io = std::fs::read_to_string(format!("/proc/{pid}/io"))?;
        let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
        Ok(line.context("what it has written")?.parse::<u64>()? / MIB)
    };
    let (most, written) = most_of(&cache, || {
        std::thread::sleep(Duration::from_secs(6));
        waits(filling.id())
    });
    let written = written?;
    assert!((32..=80).contains(&written), "{written} MiB were taken for a buffer of 64 MiB");
    assert!(most <= (128 + 64 + 16) * MIB, "{} MiB in a cache of 128 MiB and a buffer of 64 MiB", most / MIB);
    cluster.start_server("volume0")?;
    cluster.wait_until_it_stores()?;
    let said = filling.wait_with_output()?;
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(std::fs::metadata(&large)?.len(), 192 * MIB);
    let before = writer.records(&world)?.len();
    writer.wait_for_more(&world, before)?;
    writer.assert_kept(&world)
}
