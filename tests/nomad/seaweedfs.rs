//! SeaweedFS, whole: what is said of a volume is so on a real cluster, and what its tasks see while parts of that are away.

use crate::faults::scene::{Writer, bindings, pid_of, seaweedfs, source, wait_mounted, wait_source};
use crate::support::{Cluster, PATIENCE, Plan, World, require, tool};
use anyhow::Context as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A backend with options, and volumes of which a collection, a bucket and a size are said.
fn configuration(filer: &str, size: &str) -> anyhow::Result<String> {
    let weed = tool("weed").context("no weed")?;
    Ok(format!(
        r#"
backend "seaweedfs" "main" {{
  filer                 = "{filer}"
  program               = "{}"
  collection_per_volume = true
  async_dio             = true
  cache_meta_ttl        = "2s"
  chunk_size_limit      = "1MiB"
  concurrent_readers    = 32
  concurrent_writers    = 32
  disable_xattr         = true
  map_uid               = "4242:0"
  read_retry_time       = "8s"
  volume_server_access  = "publicUrl"
}}
backend "seaweedfs" "also" {{
  filer   = "{filer}"
  program = "{}"
  attach  = "demand"
}}
volume "shop" {{
  backend = "main"
  path    = "/volumes/shop"
  create  = true
}}
volume "stall" {{
  backend = "main"
  path    = "/buckets/stall"
  create  = true
}}
volume "small" {{
  backend = "main"
  path    = "/volumes/small"
  create  = true
  size    = "{size}"
}}
"#,
        weed.display(),
        weed.display()
    ))
}

/// Writes so many MiB into a new file, each on the storage before the next; the number that was.
fn write(file: &Path, mib: usize) -> (usize, Option<std::io::Error>) {
    let piece: Vec<u8> = (0..1_u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let opened = std::fs::File::options().create(true).append(true).mode(0o644).open(file);
    let mut open = match opened {
        Ok(open) => open,
        Err(error) => return (0, Some(error)),
    };
    for done in 0..mib {
        if let Err(error) = open.write_all(&piece).and_then(|()| open.sync_all()) {
            return (done, Some(error));
        }
    }
    (mib, None)
}

#[test]
fn collections_buckets_sizes_and_options_are_what_a_real_cluster_makes_of_them() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let cluster = Cluster::start(Plan::default())?;
    let world = World::new("whole")?;
    world.start_agent(&configuration(&cluster.filer(0), "16MiB")?)?;
    let shop = Writer::launch(&world, "exec", "shop")?.wait(&world)?;
    let stall = Writer::launch(&world, "exec", "stall")?.wait(&world)?;
    let small = Writer::launch_patient(&world, "exec", "small")?.wait(&world)?;

    // Which share a mount is said; what only concerns a volume makes no other.
    let main = wait_source(&world, "main", &["attached"])?;
    assert_eq!(main["volumes"], serde_json::json!(["shop", "stall"]), "{main:#}");
    let own = wait_source(&world, "main~small", &["attached"])?;
    assert_ne!(pid_of(&main)?, pid_of(&own)?);
    assert!(world.saddlebag(&["status"])?.contains("One mount serves: shop, stall"));
    let line = std::fs::read(format!("/proc/{}/cmdline", pid_of(&main)?))?;
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    for flag in ["-chunkSizeLimitMB=1 ", "-map.uid=4242:0 ", "-writeBufferSizeMB=512 ", "-cacheCapacityMB=128 "] {
        assert!(line.contains(flag), "{flag}: {line}");
    }
    // The filer's root is this host's 4242.
    let made = shop.place(&world).join("made");
    std::fs::write(&made, "x")?;
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(shop.place(&world).join("log"))?), 4242);

    // Small files lie with the filer; what is larger shows where it is kept.
    for writer in [&shop, &stall] {
        assert_eq!(write(&writer.place(&world).join("large"), 2).0, 2);
    }
    let (done, error) = write(&small.place(&world).join("large"), 64);
    let errno = error.as_ref().and_then(std::io::Error::raw_os_error);
    assert_eq!(errno, Some(nix::libc::ENOSPC), "after {done} MiB: {error:?}");
    assert!((8..=24).contains(&done), "{done} MiB of 16");
    let shown = nix::sys::statvfs::statvfs(&small.place(&world))?;
    let total = shown.blocks() * shown.fragment_size();
    assert!((8 << 20..=32 << 20).contains(&total), "df shows {total} bytes");
    world.wait_until("the collections", PATIENCE, || {
        let said = cluster.shell("collection.list", 0)?;
        let has = |name: &&str| said.contains(&format!("collection:\"{name}\""));
        Ok(["shop", "stall", "small"].iter().all(has).then_some(()))
    })?;
    let bucket = cluster.shell("fs.meta.cat /buckets/stall", 0)?;
    assert!(bucket.contains("Allow-Empty-Folders"), "{bucket}");
    let said = bindings(&world, &small.alloc)?;
    assert!(said.iter().all(|binding| binding["size_enforced"] == "enforced"), "{said:#?}");
    for writer in [&shop, &stall] {
        assert!(bindings(&world, &writer.alloc)?.iter().all(|binding| binding["size_enforced"] == "unlimited"));
        writer.assert_whole(&world)?;
    }

    // More room comes to the task that runs, in the mount that it has.
    world.kill_agent()?;
    world.start_agent(&configuration(&cluster.filer(0), "96MiB")?)?;
    wait_mounted(&world, &small)?;
    world.wait_until("room", PATIENCE, || Ok((write(&small.place(&world).join("more"), 8).0 == 8).then_some(())))?;
    assert_eq!(pid_of(&wait_source(&world, "main~small", &["attached"])?)?, pid_of(&own)?);
    small.assert_kept(&world)
}

/// All that lies in a folder, in bytes.
fn size_of(folder: &Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(found) = entry.metadata() else { continue };
        let taken = std::os::unix::fs::MetadataExt::blocks(&found) * 512;
        sum += if found.is_dir() { size_of(&entry.path()) } else { taken };
    }
    sum
}

#[test]
fn a_cluster_whose_parts_go_and_come_back_loses_nothing_that_was_synced() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let cluster = Cluster::start(Plan { volumes: 2, filers: 2, copies: 1 })?;
    let world = World::new("parts")?;
    let limits = "  cache_capacity = \"16MiB\"\n  write_buffer_size = \"16MiB\"";
    let text = [
        "probe_interval = \"1s\"\n".to_owned(),
        seaweedfs(&world, &cluster.filers(), "far", limits)?,
        seaweedfs(&world, &world.lab().filer, "sound", "")?,
    ];
    world.start_agent(&text.concat())?;
    let suffers = Writer::launch_patient(&world, "exec", "far-0")?.wait(&world)?;
    let beside = Writer::launch(&world, "exec", "sound-0")?.wait(&world)?;
    let weed = pid_of(&source(&world, "far")?)?;
    let goes_on = |what: &str| -> anyhow::Result<()> {
        let before = suffers.records(&world).unwrap_or_default().len();
        suffers.wait_for_more(&world, before).with_context(|| what.to_owned())
    };

    // Each filer of the list is away in turn; the other takes its place.
    for filer in ["filer0", "filer1"] {
        cluster.end(filer, "KILL")?;
        goes_on(filer)?;
        cluster.start_server(filer)?;
        cluster.wait_until_it_stores()?;
        goes_on(filer)?;
    }

    // Without one of two volume servers nothing more is stored twice. What waits has its limit, on the disk too.
    let place = suffers.place(&world);
    assert_eq!(write(&place.join("before"), 4).0, 4);
    let key = source(&world, "far")?["mount_point"].as_str().map(PathBuf::from).context("a mount")?;
    let cache = world.state_dir().join("cache").join(key.file_name().context("a key")?);
    cluster.end("volume1", "KILL")?;
    let large = place.join("large");
    // Nothing of it is synced: it goes where there is room for it, and then it waits.
    let filling = std::thread::spawn(move || {
        let piece = vec![0x5a_u8; 1 << 20];
        let file = std::fs::File::create(large);
        file.map(|mut file| (0..96).take_while(|_| file.write_all(&piece).is_ok()).count())
    });
    let (limit, mut most) = (64_u64 << 20, 0);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        most = most.max(size_of(&cache));
        std::thread::sleep(Duration::from_millis(100));
    }
    cluster.start_server("volume1")?;
    drop(filling.join());
    assert!(most <= limit, "{most} bytes in a cache of 16 MiB and a buffer of 16 MiB");
    cluster.wait_until_it_stores()?;
    goes_on("a volume server that is back")?;
    assert_eq!(std::fs::read(place.join("before"))?.len(), 4 << 20);
    beside.assert_whole(&world)?;

    // All of it at once, as by a power cut.
    cluster.end_all("KILL")?;
    let said = wait_source(&world, "far", &["unreachable", "hung"])?;
    assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("127.0.0.1")), "{said:#}");
    beside.assert_whole(&world)?;
    cluster.start_all()?;
    cluster.wait_until_it_stores()?;
    wait_source(&world, "far", &["attached"])?;
    wait_mounted(&world, &suffers)?;
    goes_on("a cluster that is back")?;
    suffers.assert_kept(&world)?;
    assert_eq!(pid_of(&source(&world, "far")?)?, weed, "the same program");
    beside.assert_whole(&world)
}
