//! A size that `weed mount` keeps a volume to, and that it is told anew while it runs.

use crate::support::{Cluster, PATIENCE, Plan, require, wait_until};
use anyhow::Context as _;
use saddlebag::backend::{self, Attached, Enforcement, Place, SourceKey, prober::Prober};
use saddlebag::config::Config;
use saddlebag::job::SourceName;
use saddlebag::sys::identity;
use saddlebag::volume::Registry;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;

/// Appends so many MiB, each on the storage before the next; how many were, and why no more.
fn write(file: &Path, mib: usize) -> (usize, Option<std::io::Error>) {
    let piece: Vec<u8> = (0..1_u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let mut open = match std::fs::File::options().create(true).append(true).open(file) {
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
fn a_size_is_kept_by_the_volumes_own_mount_and_more_room_comes_while_it_runs() -> anyhow::Result<()> {
    require!("root", "weed", "fusermount3");
    let cluster = Cluster::start(Plan::default())?;
    let text = format!(
        "backend \"seaweedfs\" \"s\" {{\n  filer = \"{}\"\n}}\nvolume \"small\" {{\n  backend = \"s\"\n  path = \"/volumes/small\"\n  collection = \"small\"\n  size = \"16MiB\"\n}}\n",
        cluster.filer(0)
    );
    let config = Config::parse(&text, "agent.hcl").map_err(|error| anyhow::anyhow!("{error}"))?;
    let named = SourceName::Named("small".into());
    let placed = Registry::new(&config).resolve(&named).map_err(|error| anyhow::anyhow!("{error}"))?;
    let backend = backend::of(&placed.backend);
    assert_eq!(backend.enforcement(&placed.volume), Enforcement::Enforced);

    // Mounted as the backend mounts it: by its own arguments, of which those of the place are the test's.
    let socket = cluster.directory().join("small.sock");
    let listen = format!("-localSocket={}", socket.display());
    let options = ["-collection=small", "-collectionQuotaMB=16", "-df.logical=true", &listen];
    let mount = cluster.mount("m", &cluster.filers(), &options)?;
    let beside = cluster.mount("beside", &cluster.filers(), &[])?;
    std::fs::create_dir_all(mount.join("volumes/small"))?;

    let (done, error) = write(&mount.join("volumes/small/large"), 64);
    let errno = error.as_ref().and_then(std::io::Error::raw_os_error);
    assert_eq!(errno, Some(nix::libc::ENOSPC), "after {done} MiB: {error:?}");
    assert!((8..=24).contains(&done), "{done} MiB of 16");
    let shown = nix::sys::statvfs::statvfs(&mount.join("volumes/small"))?;
    let total = shown.blocks() * shown.fragment_size();
    assert!((8 << 20..=32 << 20).contains(&total), "df shows {total} bytes");
    std::fs::create_dir_all(beside.join("volumes/other"))?;
    assert_eq!(write(&beside.join("volumes/other/large"), 24).0, 24, "nobody else has a limit");

    let root = std::fs::File::open(&mount)?;
    let key = SourceKey("small".into());
    let place = Place {
        prober: Prober::new(key.clone(), |_| ()),
        key,
        mount_point: mount.clone(),
        log: cluster.directory().join("small.log"),
        cache: cluster.directory().join("small.cache"),
        socket,
        is_trial: false,
        beneath: None,
        may_create: true,
    };
    let identity = identity::identify(root.as_fd()).context("the mount")?;
    let attached = Attached { root: mount.clone(), identity, pid: None, found: true, may_cross: false };
    backend
        .set_size(&place, &attached, &placed.volume.path, Some(96 << 20))
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    wait_until("more room", PATIENCE, &[], || Ok((write(&mount.join("volumes/small/more"), 8).0 == 8).then_some(())))?;
    let gone = Place { socket: cluster.directory().join("nobody.sock"), ..place };
    assert!(backend.set_size(&gone, &attached, &placed.volume.path, Some(1 << 20)).is_err(), "nobody was told");
    Ok(())
}
