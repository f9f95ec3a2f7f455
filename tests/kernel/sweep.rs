//! What Nomad has left of an allocation's directory, and what is not for us to remove.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use saddlebag::guard::GuardClient;
use saddlebag::nomad::model::AllocId;
use saddlebag::reconcile::execute::{Host, sweep_forgotten};

use crate::scene::in_private_namespace;

struct Root {
    directory: tempfile::TempDir,
    host: Host,
}

impl Root {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let host = Host {
            alloc_root: directory.path().join("alloc"),
            links: directory.path().join("links"),
            guard: GuardClient::of_run_dir(&directory.path().join("run")),
        };
        Self { directory, host }
    }

    /// An allocation's directory with these directories in it, in which nothing has changed for a while.
    fn make(&self, number: u8, inside: &[&str]) -> (AllocId, PathBuf) {
        let id = AllocId::parse(&format!("{number:08x}-1111-2222-3333-444444444444")).unwrap();
        let path = self.host.alloc_root.join(id.as_str());
        for directory in inside {
            std::fs::create_dir_all(path.join(directory)).unwrap();
        }
        age(&path, 60);
        (id, path)
    }

    /// Whether it is to be done again.
    fn sweep(&self, known: &[&AllocId]) -> bool {
        sweep_forgotten(&self.host, &known.iter().map(|id| (*id).clone()).collect::<BTreeSet<_>>())
    }
}

fn age(path: &Path, seconds: u64) {
    let then = SystemTime::now() - Duration::from_secs(seconds);
    std::fs::File::open(path).unwrap().set_modified(then).unwrap();
}

#[test]
fn empty_directories_of_a_collected_allocation_that_nobody_knows_are_removed() {
    let root = Root::new();
    let (_, left) = root.make(1, &["main/local/a/b", "main/secrets", "other"]);
    assert!(!root.sweep(&[]), "nothing is left to come back for");
    assert!(!left.exists());
}

#[test]
fn what_is_not_a_remnant_of_a_collection_stays() {
    let root = Root::new();
    let (_, living) = root.make(1, &["alloc/data", "main/local/a"]);
    let (known, ours) = root.make(2, &["main/local/a"]);
    let (_, begun) = root.make(3, &["main"]);
    let stranger = root.host.alloc_root.join("lost+found");
    std::fs::create_dir(&stranger).unwrap();
    age(&stranger, 60);
    // The last of all: it is at rest in a few seconds.
    age(&begun, 0);
    assert!(root.sweep(&[&known]), "what somebody has just been at is looked at again");
    for path in [living.join("main/local/a"), ours.join("main/local/a"), begun.join("main"), stranger] {
        assert!(path.is_dir(), "{} is gone", path.display());
    }
}

#[test]
fn files_links_and_mounts_stay_with_all_that_leads_to_them() {
    in_private_namespace(|| {
        let root = Root::new();
        let outside = root.directory.path().join("outside");
        std::fs::create_dir_all(outside.join("empty")).unwrap();
        let (_, path) = root.make(1, &["full/a", "hollow/b/c", "linked", "mounted/point"]);
        std::fs::write(path.join("full/a/file"), "x").unwrap();
        symlink(&outside, path.join("linked/out")).unwrap();
        let point = path.join("mounted/point");
        let bind = nix::mount::MsFlags::MS_BIND;
        nix::mount::mount(Some(&outside), &point, None::<&str>, bind, None::<&str>).unwrap();
        age(&path, 60);
        assert!(!root.sweep(&[]));
        assert!(path.join("full/a/file").is_file() && path.join("linked/out").is_symlink());
        assert!(outside.join("empty").is_dir() && point.join("empty").is_dir());
        assert!(!path.join("hollow").exists(), "what is empty goes");
    });
}
