//! What is said of a backend and its volumes is so on a real cluster.

use crate::faults::scene::{Writer, bindings, pid_of, wait_mounted, wait_source};
use crate::support::{Cluster, PATIENCE, Plan, World, require, tool};
use anyhow::Context as _;

use super::write;

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
  map_uid               = "65534:4242"
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
    for flag in ["-chunkSizeLimitMB=1 ", "-map.uid=65534:4242 ", "-writeBufferSizeMB=512 ", "-cacheCapacityMB=128 "] {
        assert!(line.contains(flag), "{flag}: {line}");
    }
    // The task runs as this host's 65534, which the filer has as its 4242.
    let starts = shop.place(&world).join("starts");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(starts)?), 65534);
    let kept = cluster.shell("fs.meta.cat /volumes/shop/starts", 0)?;
    assert!(kept.split_whitespace().collect::<String>().contains("\"uid\":4242,"), "{kept}");

    // Where it is kept, and how much of it at the most.
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
    small.assert_kept(&world)?;

    // A program that knows no attributes is known for dead all the same, and mounted anew.
    let former = pid_of(&wait_source(&world, "main", &["attached"])?)?;
    let before = shop.records(&world)?.len();
    nix::sys::signal::kill(former, nix::sys::signal::Signal::SIGKILL)?;
    world.wait_until("another mount program", PATIENCE, || {
        let now = pid_of(&wait_source(&world, "main", &["attached"])?)?;
        Ok((now != former).then_some(()))
    })?;
    wait_mounted(&world, &shop)?;
    shop.wait_for_more(&world, before)
}
