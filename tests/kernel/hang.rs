//! A file system whose server hangs: needs bindfs (a FUSE program) and fusermount3.

use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::io::Errno;
use saddlebag::sys::{identity, resolve};

use crate::purge;
use crate::scene::{Scene, in_private_namespace, is_ever_faster, signal, stop, wait_until};

const DENIED: i32 = Errno::PERM.raw_os_error();

/// The server of a FUSE mount that can be stopped; goes on and ends with the test, whatever happens.
struct Server(Child);

impl Server {
    fn start(scene: &Scene) -> (Self, std::path::PathBuf) {
        let point = scene.path().join("fuse");
        std::fs::create_dir(&point).unwrap();
        let child = Command::new("bindfs")
            .args(["-f", "-o", "attr_timeout=0,entry_timeout=0"])
            .args([&scene.volume, &point])
            .spawn()
            .expect("bindfs is installed");
        let server = Self(child);
        scene.mounted(&point);
        wait_until("the FUSE mount", || point.join("one").exists());
        (server, point)
    }

    fn signal(&self, which: Signal) {
        signal(self.0.id(), which);
    }

    fn stop(&self) {
        stop(self.0.id());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
        self.signal(Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

#[test]
fn a_hung_server_holds_up_no_other_source_and_loses_nothing_when_the_guard_dies() {
    in_private_namespace(|| {
        let scene = Scene::new();
        let first = scene.start_guard();
        let (server, fuse) = Server::start(&scene);
        let hung = scene.bind(&fuse, "hung", Some("fuse"));
        let healthy = scene.bind(&scene.volume, "healthy", Some("disk"));
        server.stop();
        let mut collection = purge::start(&scene.nomad, "remove-all", &hung.allocation);
        std::thread::sleep(Duration::from_millis(300));
        assert!(collection.try_wait().unwrap().is_none(), "the server does not hang");

        let is_at_once = is_ever_faster(Duration::from_secs(2), || {
            assert_eq!(purge::run(&scene.other, "open-directory", &healthy.point), 0);
            assert_eq!(purge::run(&scene.nomad, "open-directory", &healthy.point), DENIED);
        });
        assert!(is_at_once, "a healthy source is held up");
        // The server hangs for as long as this lasts: whoever waited for it would never come back.
        let another = scene.bind(&scene.volume, "another", Some("a third"));
        assert_eq!(scene.collect(&another), DENIED);

        // Its hung reader cannot die, and must not keep anyone from seeing that the guard has.
        wait_until("a keeper", || scene.keeper().is_some());
        signal(first.pid, Signal::SIGKILL);
        let next = scene.next_guard(&first);
        assert_eq!((next.lineage(), next.groups.len()), (first.lineage(), 3));
        assert_eq!(purge::run(&scene.nomad, "open-directory", &healthy.point), DENIED);
        assert!(collection.try_wait().unwrap().is_none());

        // What the dead guard's reader gets in the end nobody would answer, but for the sweep after its death.
        server.signal(Signal::SIGCONT);
        assert_eq!(purge::errno_of(collection), DENIED);
        assert_eq!(purge::run(&scene.other, "open-directory", &hung.point), 0);
        scene.assert_whole();
    });
}

#[test]
fn a_descriptor_of_a_hung_server_is_identified_at_once() {
    in_private_namespace(|| {
        let scene = Scene::new();
        let (server, fuse) = Server::start(&scene);
        let root = resolve::open_root(&fuse).unwrap();
        server.stop();
        let began = Instant::now();
        let identity = identity::identify(root.as_fd()).unwrap();
        assert!(identity.is_mount_root && identity.is_directory);
        let clone = saddlebag::sys::mount::clone_detached(root.as_fd()).unwrap();
        saddlebag::sys::mount::set_flags(clone.as_fd(), saddlebag::sys::mount::Flags::default()).unwrap();
        assert!(began.elapsed() < Duration::from_secs(30));
    });
}
