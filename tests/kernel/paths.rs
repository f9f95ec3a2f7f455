//! Walks beneath a directory in which someone else plants what he likes.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::{MntFlags, MsFlags};
use rustix::fs::{Mode, RenameFlags};
use saddlebag::sys::inode::{self, InodeError};
use saddlebag::sys::resolve::{self, ResolveError};

use crate::scene::in_private_namespace;

struct Place {
    directory: tempfile::TempDir,
    root: OwnedFd,
}

fn place() -> Place {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::create_dir_all(directory.path().join("root/a/b/c")).unwrap();
    std::fs::create_dir_all(directory.path().join("outside/b/c")).unwrap();
    let root = resolve::open_root(&directory.path().join("root")).unwrap();
    Place { directory, root }
}

impl Place {
    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn open(&self, path: &str) -> Result<OwnedFd, ResolveError> {
        resolve::open_beneath(self.root.as_fd(), Path::new(path))
    }

    fn make(&self, path: &str) -> Result<resolve::Made, ResolveError> {
        resolve::make_beneath(self.root.as_fd(), Path::new(path), 0o755)
    }

    fn remove(&self, path: &str) -> Result<bool, ResolveError> {
        resolve::remove_empty(self.root.as_fd(), Path::new(path))
    }
}

#[test]
fn a_symlink_at_any_component_is_refused_and_named() {
    for (planted, named) in [("a", "a"), ("a/b", "a/b"), ("a/b/c", "a/b/c")] {
        let place = place();
        std::fs::rename(place.path("root").join(planted), place.path("moved")).unwrap();
        symlink(place.path("outside"), place.path("root").join(planted)).unwrap();
        for result in [place.open("a/b/c").map(drop), place.make("a/b/c/d").map(drop), place.remove("a/b/c").map(drop)]
        {
            assert!(matches!(&result, Err(ResolveError::Symlink(path)) if path == Path::new(named)), "{result:?}");
        }
        assert!(place.path("outside/b/c").exists() && !place.path("outside/b/c/d").exists());
    }
}

#[test]
fn paths_that_lead_out_are_refused() {
    let place = place();
    for path in ["..", "a/../../outside", "a/..", "/etc", "a/b/../../../outside"] {
        assert!(matches!(place.open(path), Err(ResolveError::LeavesRoot(_))), "{path}");
        assert!(matches!(place.make(path), Err(ResolveError::LeavesRoot(_))), "{path}");
        assert!(matches!(place.remove(path), Err(ResolveError::LeavesRoot(_))), "{path}");
    }
    assert!(matches!(place.remove(""), Err(ResolveError::LeavesRoot(_))));
    assert!(place.open("").is_ok());
}

#[test]
fn a_file_in_place_of_a_directory_is_named() {
    let place = place();
    std::fs::write(place.path("root/a/file"), "").unwrap();
    for result in [place.open("a/file/c").map(drop), place.make("a/file/c").map(drop), place.make("a/file").map(drop)] {
        assert!(matches!(&result, Err(ResolveError::NotADirectory(path)) if path == Path::new("a/file")), "{result:?}");
    }
    assert!(matches!(place.remove("a/file"), Err(ResolveError::NotADirectory(_))));
    assert!(matches!(place.open("a/nothing/c"), Err(ResolveError::Missing(path)) if path == Path::new("a/nothing")));
}

#[test]
fn a_mount_on_the_way_is_crossed_only_where_it_may_be() {
    in_private_namespace(|| {
        let place = place();
        let flags = MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &place.path("root/a/b"), Some("tmpfs"), flags, None::<&str>).unwrap();
        assert!(place.open("a/b").is_ok());
        let one_mount = resolve::open_beneath_on_one_mount(place.root.as_fd(), Path::new("a/b"));
        assert!(matches!(one_mount, Err(ResolveError::CrossesMount(path)) if path == Path::new("a/b")));
        assert!(matches!(place.make("a/b/x"), Err(ResolveError::CrossesMount(path)) if path == Path::new("a/b")));
        assert!(matches!(place.remove("a/b"), Err(ResolveError::Busy(_))));
        // A program that another test is just starting may have a copy of a descriptor of it.
        nix::mount::umount2(&place.path("root/a/b"), MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn making_says_what_it_made_and_making_twice_makes_nothing() {
    let place = place();
    let made = place.make("a/x/y").unwrap();
    assert_eq!(made.created, [PathBuf::from("a/x"), PathBuf::from("a/x/y")]);
    assert!(place.make("a/x/y").unwrap().created.is_empty());
    assert!(matches!(place.remove("a/x"), Err(ResolveError::NotEmpty(_))));
    assert!(place.remove("a/x/y").unwrap() && place.remove("a/x").unwrap());
    assert!(!place.remove("a/x").unwrap() && !place.remove("a/x/y").unwrap());
}

#[test]
fn a_make_that_fails_leaves_nothing_behind() {
    let place = place();
    assert!(place.make(&format!("a/x/y/{}", "n".repeat(300))).is_err());
    assert!(!place.path("root/a/x").exists());
}

#[test]
fn a_walk_that_races_with_swaps_never_leaves_the_root() {
    let place = place();
    let (real, link) = (place.path("root/a/b"), place.path("root/a/swap"));
    symlink(place.path("outside/b"), &link).unwrap();
    let inside = std::fs::metadata(place.path("root/a/b/c")).unwrap().ino();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(rustix::fs::CWD, &real, rustix::fs::CWD, &link, RenameFlags::EXCHANGE)
                    .unwrap();
            }
        });
        let mut opened = 0;
        for _ in 0..3000 {
            if let Ok(directory) = place.open("a/b/c") {
                assert_eq!(rustix::fs::fstat(&directory).unwrap().st_ino, inside);
                opened += 1;
            }
            let _ = place.make("a/b/made");
            let _ = place.remove("a/b/made");
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(opened > 0);
    });
    assert!(!place.path("outside/b/made").exists());
}

#[test]
fn what_lies_beneath_a_missing_mount_refuses_even_root() {
    let place = place();
    let beneath = place.open("a/b/c").unwrap();
    inode::set_mode(beneath.as_fd(), 0).unwrap();
    inode::set_immutable(beneath.as_fd(), true).unwrap();
    inode::set_immutable(beneath.as_fd(), true).unwrap();
    assert!(inode::is_immutable(beneath.as_fd()).unwrap() && inode::is_empty_directory(beneath.as_fd()).unwrap());
    let created = std::fs::write(place.path("root/a/b/c/file"), "x");
    assert_eq!(created.unwrap_err().raw_os_error(), Some(libc::EPERM));
    assert!(place.remove("a/b/c").is_err());
    inode::set_immutable(beneath.as_fd(), false).unwrap();
    assert!(!inode::is_immutable(beneath.as_fd()).unwrap());
    assert!(place.remove("a/b/c").unwrap());
}

#[test]
fn owner_and_mode_are_set_by_descriptor() {
    let place = place();
    let directory = place.open("a/b").unwrap();
    inode::set_mode(directory.as_fd(), 0o2751).unwrap();
    inode::set_owner(directory.as_fd(), 70, 71).unwrap();
    let metadata = std::fs::metadata(place.path("root/a/b")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (70, 71));
    assert!(inode::set_owner(directory.as_fd(), u32::MAX, 0).is_err());
    assert!(!inode::is_empty_directory(directory.as_fd()).unwrap());
    assert_eq!(Mode::from_raw_mode(metadata.mode()).as_raw_mode() & 0o777, 0o751);
    let proc = resolve::open_root(Path::new("/proc/self")).unwrap();
    assert!(matches!(inode::set_immutable(proc.as_fd(), true), Err(InodeError::Unsupported)));
}
