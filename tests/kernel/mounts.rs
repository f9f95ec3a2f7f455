//! Mounts, their identities and their clones.

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc;

use saddlebag::sys::mount::{self, Flags, MountError};
use saddlebag::sys::{identity, process, resolve, table};

use crate::scene::{enter_private_namespace, in_private_namespace, wait_until};

struct Place {
    directory: tempfile::TempDir,
    parent: OwnedFd,
}

fn bound(name: &str, flags: Flags) -> Place {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    for path in ["source/inner", "parent"] {
        std::fs::create_dir_all(directory.path().join(path)).unwrap();
    }
    let parent = resolve::open_root(&directory.path().join("parent")).unwrap();
    let target = resolve::make_beneath(parent.as_fd(), name.as_ref(), 0o755).unwrap();
    let source = resolve::open_root(&directory.path().join("source")).unwrap();
    let clone = mount::clone_detached(source.as_fd()).unwrap();
    mount::set_flags(clone.as_fd(), flags).unwrap();
    mount::place(clone.as_fd(), target.directory.as_fd()).unwrap();
    Place { directory, parent }
}

impl Place {
    fn point(&self, name: &str) -> PathBuf {
        self.directory.path().join("parent").join(name)
    }

    /// Unmounts what nobody uses. A program that another test is just starting has copies of all descriptors for a
    /// moment, also of those of the mount.
    fn unmount(&self, name: &str) {
        wait_until("a mount that nobody uses", || match mount::unmount(self.parent.as_fd(), OsStr::new(name)) {
            Err(MountError::Busy) => false,
            unmounted => {
                unmounted.unwrap();
                true
            }
        });
    }
}

#[test]
fn a_used_mount_is_busy_and_can_only_be_detached() {
    in_private_namespace(|| {
        let place = bound("data", Flags::default());
        let name = OsStr::new("data");
        let mut open = std::fs::File::create(place.point("data").join("file")).unwrap();
        assert!(matches!(mount::unmount(place.parent.as_fd(), name), Err(MountError::Busy)));
        mount::detach(place.parent.as_fd(), name).unwrap();
        open.write_all(b"still there").unwrap();
        assert_eq!(std::fs::read(place.directory.path().join("source/file")).unwrap(), b"still there");
        assert!(matches!(mount::unmount(place.parent.as_fd(), name), Err(MountError::NotAMountPoint)));
        assert!(matches!(mount::detach(place.parent.as_fd(), name), Err(MountError::NotAMountPoint)));
        assert!(matches!(mount::unmount(place.parent.as_fd(), OsStr::new("no")), Err(MountError::Missing)));
        for name in ["", ".", "..", "a/b"] {
            assert!(matches!(mount::detach(place.parent.as_fd(), OsStr::new(name)), Err(MountError::Name(_))));
        }
    });
}

#[test]
fn an_unused_mount_is_unmounted() {
    in_private_namespace(|| {
        let place = bound("data", Flags::default());
        place.unmount("data");
        assert!(!place.point("data").join("inner").exists());
    });
}

#[test]
fn a_mount_at_a_symlinks_end_is_not_unmounted_through_it() {
    in_private_namespace(|| {
        let place = bound("data", Flags::default());
        std::os::unix::fs::symlink("data", place.point("link")).unwrap();
        assert!(mount::detach(place.parent.as_fd(), OsStr::new("link")).is_err());
        assert!(place.point("data").join("inner").exists());
        mount::detach(place.parent.as_fd(), OsStr::new("data")).unwrap();
    });
}

#[test]
fn flags_and_table_and_identity_agree() {
    in_private_namespace(|| {
        let name = "a b\\\n\u{e4}";
        let place = bound(name, Flags { read_only: true, nosuid: true, nodev: true, noexec: true });
        let written = std::fs::write(place.point(name).join("file"), "x").unwrap_err();
        assert_eq!(written.raw_os_error(), Some(libc::EROFS));
        let table = table::read_own().unwrap();
        let entry = table.iter().find(|entry| entry.mount_point == place.point(name)).expect("is in the table");
        assert!(entry.read_only && entry.root.ends_with("source"));
        let opened = resolve::open_root(&place.point(name)).unwrap();
        let identity = identity::identify(opened.as_fd()).unwrap();
        assert!(identity.is_mount_root && identity.is_directory && identity.device == entry.device);
        identity::answers(opened.as_fd()).unwrap();
        let below = resolve::open_root(&place.point(name).join("inner")).unwrap();
        let inner = identity::identify(below.as_fd()).unwrap();
        assert!(!inner.is_mount_root && inner.mount_id == identity.mount_id && inner.inode != identity.inode);
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(table::read_of(pid).unwrap().iter().all(|entry| entry.mount_point != place.point(name)));
        drop((opened, below));
        place.unmount(name);
    });
}

#[test]
fn a_clone_in_another_namespace_is_found_until_it_is_gone() {
    in_private_namespace(|| {
        let place = bound("data", Flags::default());
        let table = table::read_own().unwrap();
        let entry = table.iter().find(|entry| entry.mount_point == place.point("data")).unwrap().clone();
        let find = || process::find_clones(entry.device, &entry.root).unwrap();
        assert!(find().is_empty());
        // A process of its own, since a namespace is found by processes; with the mount's clone in it.
        let (ready, is_ready) = mpsc::channel();
        let container = std::thread::spawn(move || {
            enter_private_namespace();
            ready.send(std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap()).unwrap();
        });
        let mut sleeper = is_ready.recv().unwrap();
        container.join().unwrap();
        let clones = find();
        assert_eq!(clones.len(), 1, "{clones:?}");
        assert_eq!(u32::try_from(clones[0].pid).unwrap(), sleeper.id());
        assert_eq!(clones[0].mount_namespace, process::mount_namespace(clones[0].pid).unwrap());
        mount::detach(place.parent.as_fd(), OsStr::new("data")).unwrap();
        assert_eq!(find().len(), 1, "detaching here leaves the container's own");
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(find().is_empty());
    });
}
