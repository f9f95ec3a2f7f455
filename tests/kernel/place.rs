//! The guard's files in the run directory, when somebody removes them.

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use crate::scene::{Scene, in_private_namespace, signal, stop, wait_until};

#[test]
fn a_guard_whose_place_is_taken_for_a_moment_has_it_again() {
    in_private_namespace(|| {
        let scene = Scene::new();
        let guard = scene.start_guard();
        stop(guard.pid);
        for entry in std::fs::read_dir(&scene.run_dir).unwrap() {
            let _ = std::fs::remove_file(entry.unwrap().path());
        }
        // As a guard has it that has just begun, and is about to find that there is another.
        let lock = scene.run_dir.join("guard.lock");
        let held = std::fs::File::create(&lock).unwrap();
        let held = Flock::lock(held, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno).unwrap();
        signal(guard.pid, Signal::SIGCONT);
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!scene.run_dir.join("guard.sock").exists(), "whoever has the lock has the place");
        drop(held);
        wait_until("a socket of the guard", || scene.run_dir.join("guard.sock").exists());
        assert_eq!(scene.hello().pid, guard.pid, "the same guard");
        let other = std::fs::File::open(&lock).unwrap();
        assert!(Flock::lock(other, FlockArg::LockExclusiveNonblock).is_err(), "it has its lock");
    });
}
