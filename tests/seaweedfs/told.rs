//! What a filer is told of a volume, and what it makes of it: buckets that keep their empty directories, and collections.

use crate::support::{Cluster, PATIENCE, Plan, require, wait_until};
use anyhow::Context as _;
use saddlebag::backend;
use saddlebag::config::{Backend, Config};
use saddlebag::volume::Resolved;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A backend on that cluster.
pub fn seaweedfs(filers: &str, more: &str) -> anyhow::Result<Backend> {
    let text = format!("backend \"seaweedfs\" \"main\" {{\n  filer = \"{filers}\"\n{more}\n}}\n");
    let config = Config::parse(&text, "agent.hcl").map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(config.backends["main"].clone())
}

/// A volume as the reconciler hands it to its backend.
pub fn volume(path: &str, collection: Option<&str>) -> anyhow::Result<Resolved> {
    let text = "backend \"seaweedfs\" \"main\" {\n  filer = \"f:8888\"\n}\nvolume \"v\" {\n  backend = \"main\"\n}\n";
    let config = Config::parse(text, "agent.hcl").map_err(|error| anyhow::anyhow!("{error}"))?;
    let registry = saddlebag::volume::Registry::new(&config);
    let placed =
        registry.resolve(&saddlebag::job::SourceName::Named("v".into())).map_err(|e| anyhow::anyhow!("{e}"))?;
    let name = Path::new(path).file_name().context("a name")?.to_string_lossy().into_owned();
    Ok(Resolved { name, path: PathBuf::from(path), collection: collection.map(str::to_owned), ..placed.volume })
}

pub fn prepare(backend: &Backend, volume: &Resolved) -> anyhow::Result<()> {
    backend::of(backend).prepare(volume).map_err(|error| anyhow::anyhow!("{error} ({:?})", error.hint))
}

/// As an agent does, which tries again what may pass by itself for as long as a hook waits.
fn prepare_patiently(backend: &Backend, volume: &Resolved) -> anyhow::Result<()> {
    wait_until("what passes by itself", PATIENCE, &[], || match backend::of(backend).prepare(volume) {
        Err(error) if error.is_temporary => Ok(None),
        prepared => prepared.map(Some).map_err(|error| anyhow::anyhow!("{error} ({:?})", error.hint)),
    })
}

/// How long the filer's own rounds take: it looks every 30 s for what is to be removed.
const ROUNDS: Duration = Duration::from_secs(100);

#[test]
fn an_empty_directory_of_a_bucket_that_has_a_volume_stays() -> anyhow::Result<()> {
    require!("root", "weed", "fusermount3");
    // Two minutes otherwise.
    let soon = [("WEED_FILER_OPTIONS_S3_EMPTY_FOLDER_CLEANUP_DELAY", "1s")];
    let cluster = Cluster::start_with(Plan::default(), &soon, |_| Ok(()))?;
    let mount = cluster.mount("m", &cluster.filers(), &[])?;
    let backend = seaweedfs(&cluster.filers(), "")?;
    for bucket in ["plain", "kept"] {
        std::fs::create_dir_all(mount.join("buckets").join(bucket))?;
    }
    prepare(&backend, &volume("buckets/kept/volume", None)?)?;
    let empty = |bucket: &str| mount.join("buckets").join(bucket).join("volume/spool");
    for bucket in ["plain", "kept"] {
        std::fs::create_dir_all(empty(bucket))?;
        std::fs::write(empty(bucket).join("one"), "x")?;
        std::fs::remove_file(empty(bucket).join("one"))?;
    }
    wait_until("the end of an empty directory of which nothing was said", ROUNDS, &[], || {
        let said = cluster.shell("fs.ls /buckets/plain", 0)?;
        Ok((!said.contains("volume")).then_some(()))
    })?;
    // They were emptied at the same moment, and are looked at in the same round.
    let said = cluster.shell("fs.ls /buckets/kept/volume", 0)?;
    assert!(said.contains("spool"), "{said}");
    std::fs::write(empty("kept").join("two"), "x")?;
    // Said again it changes nothing, and what else the bucket has is not touched.
    prepare(&backend, &volume("buckets/kept/other", None)?)
}

#[test]
fn data_of_a_volume_lies_in_its_collection_and_goes_with_it_alone() -> anyhow::Result<()> {
    require!("root", "weed", "fusermount3");
    let cluster = Cluster::start(Plan { filers: 2, ..Plan::default() })?;
    let backend = seaweedfs(&cluster.filers(), "")?;
    // What others have said stays.
    cluster.shell("fs.configure -locationPrefix=/other/ -replication=000 -fsync -apply", 0)?;
    let volumes = ["shop", "blog"].map(|name| volume(&format!("volumes/{name}"), Some(name)));
    let [shop, blog] = volumes;
    prepare(&backend, &shop?)?;
    prepare(&backend, &blog?)?;
    let rules = cluster.shell("fs.configure", 0)?;
    for word in ["/other/", "\"fsync\":  true", "/volumes/shop/", "/volumes/blog/"] {
        assert!(rules.replace("\": ", "\":  ").replace("   ", "  ").contains(word), "{word}: {rules}");
    }

    let mount = cluster.mount("m", &cluster.filers(), &[])?;
    let data: Vec<u8> = (0..3_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for name in ["volumes/shop", "volumes/blog", "volumes/shopping"] {
        std::fs::create_dir_all(mount.join(name))?;
        std::fs::write(mount.join(name).join("data"), &data)?;
    }
    let collections = |wanted: &[&str], gone: &[&str]| {
        wait_until("the collections", PATIENCE, &[], || {
            let said = cluster.shell("collection.list", 0)?;
            let has = |name: &&str| said.contains(&format!("collection:\"{name}\""));
            Ok((wanted.iter().all(has) && !gone.iter().any(has)).then_some(()))
        })
    };
    collections(&["shop", "blog"], &["shopping"])?;

    cluster.shell("lock; collection.delete -collection=shop -apply; unlock", 0)?;
    collections(&["blog"], &["shop"])?;
    // Another mount has nothing of it in its cache.
    let fresh = cluster.mount("fresh", &cluster.filer(1), &["-readRetryTime=2s"])?;
    assert_eq!(std::fs::read(fresh.join("volumes/blog/data"))?, data);
    assert_eq!(std::fs::read(fresh.join("volumes/shopping/data"))?, data);
    assert!(std::fs::read(fresh.join("volumes/shop/data")).is_err(), "its data is gone");

    let other = prepare(&backend, &volume("volumes/blog", Some("shop"))?).unwrap_err().to_string();
    assert!(other.contains("has a rule for /volumes/blog/ already") && other.contains("blog"), "{other}");
    let bucket = prepare(&backend, &volume("buckets/b/x", Some("shop"))?).unwrap_err().to_string();
    assert!(bucket.contains("lies in bucket b"), "{bucket}");
    let all = seaweedfs(&cluster.filers(), "  collection = \"all\"")?;
    assert!(prepare(&all, &volume("volumes/y", Some("y"))?).is_err(), "its mount would put it elsewhere");

    many_at_once(&cluster)
}

/// Many agents say something of many volumes at once, through both filers, while an operator does the same by hand:
/// nothing that an agent has said is lost.
fn many_at_once(cluster: &Cluster) -> anyhow::Result<()> {
    let names: Vec<String> = (0..12).map(|number| format!("many{number}")).collect();
    std::thread::scope(|scope| {
        let agents: Vec<_> = names
            .chunks(3)
            .enumerate()
            .map(|(number, names)| {
                let backend = seaweedfs(&cluster.filer(number % 2), "");
                scope.spawn(move || -> anyhow::Result<()> {
                    let backend = backend?;
                    names
                        .iter()
                        .try_for_each(|name| prepare_patiently(&backend, &volume(&format!("many/{name}"), Some(name))?))
                })
            })
            .collect();
        agents.into_iter().try_for_each(|agent| agent.join().map_err(|_| anyhow::anyhow!("an agent panicked"))?)
    })?;
    wait_until("rules that both filers have", PATIENCE, &[], || {
        let rules = [cluster.shell("fs.configure", 0)?, cluster.shell("fs.configure", 1)?];
        let has = |rules: &String| names.iter().all(|name| rules.contains(&format!("\"/many/{name}/\"")));
        Ok(rules.iter().all(has).then_some(()))
    })?;
    let rules = cluster.shell("fs.configure", 0)?;
    assert!(rules.contains("/other/") && rules.contains("/volumes/blog/"), "{rules}");
    Ok(())
}
