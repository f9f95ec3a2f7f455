//! Nomad's garbage collection against a bound volume.

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use saddlebag::guard::NomadExe;
use saddlebag::guard::question::{ANSWER_WITHIN, Answer};
use saddlebag::sys::identity;
use saddlebag::sys::process::ExeIdentity;

use crate::purge;
use crate::scene::{Scene, in_private_namespace, is_ever_faster};

const DENIED: i32 = Errno::PERM.raw_os_error();

#[test]
fn without_a_guard_a_collection_empties_the_volume() {
    in_private_namespace(|| {
        let scene = Scene::new();
        let binding = scene.bind(&scene.volume, "a1", None);
        // Only the last step fails: removing the immutable directory beneath.
        assert_eq!(scene.collect(&binding), DENIED);
        assert!(scene.contents().is_empty(), "the loss that the guard is for has gone: has Nomad's way changed?");
    });
}

#[test]
fn a_collection_without_an_agent_leaves_the_volume_whole() {
    in_private_namespace(|| {
        let scene = Scene::new();
        scene.start_guard();
        let binding = scene.bind(&scene.volume, "a1", Some("disk"));
        let is_at_once = is_ever_faster(Duration::from_secs(1), || assert_eq!(scene.collect(&binding), DENIED));
        assert!(is_at_once, "nobody to ask, nothing to wait for");
        scene.assert_whole();
        assert!(binding.point.join("one").exists(), "still bound");
    });
}

#[test]
fn a_collection_ends_clean_when_the_agent_takes_the_binding_away() {
    in_private_namespace(|| {
        let scene = Scene::new();
        scene.start_guard();
        let binding = scene.bind(&scene.volume, "a1", Some("disk"));
        let mount = identity::identify(std::fs::File::open(&binding.point).unwrap().as_fd()).unwrap();
        let taken = Arc::clone(&binding);
        let questions = scene.answer_questions(move |_| {
            taken.take_away();
            Some(Answer::Detached)
        });
        assert_eq!(scene.collect(&binding), 0);
        assert!(!binding.allocation.exists());
        scene.assert_whole();
        let questions = questions.lock().unwrap();
        assert_eq!(questions.len(), 1);
        assert_eq!((questions[0].mount_id, questions[0].device), (mount.mount_id, mount.device));
        assert_eq!(questions[0].path, binding.point);
    });
}

#[test]
fn a_collection_of_a_used_binding_is_denied_whatever_the_agent_says() {
    in_private_namespace(|| {
        let scene = Scene::new();
        scene.start_guard();
        let binding = scene.bind(&scene.volume, "a1", Some("disk"));
        let _questions = scene.answer_questions(|_| Some(Answer::InUse));
        assert_eq!(scene.collect(&binding), DENIED);
        scene.assert_whole();
    });
}

#[test]
fn an_agent_that_hangs_does_not_open_the_volume() {
    in_private_namespace(|| {
        let scene = Scene::new();
        scene.start_guard();
        let binding = scene.bind(&scene.volume, "a1", Some("disk"));
        // Listens and never accepts, as a stopped process does.
        let listener = UnixListener::bind(scene.run_dir.join("questions.sock")).unwrap();
        let began = Instant::now();
        assert_eq!(scene.collect(&binding), DENIED);
        assert!(began.elapsed() >= ANSWER_WITHIN && began.elapsed() < Duration::from_secs(30));
        scene.assert_whole();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(std::iter::from_fn(|| listener.accept().ok()).count(), 1, "it is waited for once");
    });
}

#[test]
fn many_bindings_of_one_source_are_collected_at_once_and_others_are_not_held_up() {
    in_private_namespace(|| {
        let scene = Scene::new();
        scene.start_guard();
        let bindings: Vec<_> =
            (0..40).map(|number| scene.bind(&scene.volume, &format!("a{number}"), Some("disk"))).collect();
        let _listener = UnixListener::bind(scene.run_dir.join("questions.sock")).unwrap();
        // On a machine that stands still for a while the questions may be over before anybody else has come to open.
        let is_one_ahead = (0..3).any(|_| {
            let began = Instant::now();
            let mut collections: Vec<_> =
                bindings.iter().map(|binding| purge::start(&scene.nomad, "remove-all", &binding.allocation)).collect();
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(purge::run(&scene.other, "open-directory", &bindings[0].point), 0);
            // Whoever had waited for the questions would be back when they are all over, or about to be.
            std::thread::sleep(Duration::from_millis(500));
            let is_ahead = collections.iter_mut().any(|collection| collection.try_wait().unwrap().is_none());
            assert!(collections.into_iter().all(|collection| purge::errno_of(collection) == DENIED));
            // One after another the 40 of them would take 80 s.
            assert!(began.elapsed() < Duration::from_secs(40), "questions wait one after another");
            is_ahead
        });
        assert!(is_one_ahead, "an open of somebody else waited behind questions");
        scene.assert_whole();
    });
}

#[test]
fn others_open_everything_and_nomad_opens_files() {
    in_private_namespace(|| {
        let scene = Scene::new();
        scene.start_guard();
        let binding = scene.bind(&scene.volume, "a1", Some("disk"));
        let (directory, file) = (binding.point.join("base"), binding.point.join("base/two"));
        assert_eq!(purge::run(&scene.other, "open-directory", &directory), 0);
        assert_eq!(purge::run(&scene.other, "open-file", &file), 0);
        assert_eq!(purge::run(&scene.nomad, "open-file", &file), 0);
        assert_eq!(purge::run(&scene.nomad, "open-directory", &directory), DENIED);
    });
}

#[test]
fn nomad_is_known_by_its_file_and_by_a_told_name_also_to_the_next_guard() {
    in_private_namespace(|| {
        let scene = Scene::new();
        scene.start_guard();
        let binding = scene.bind(&scene.volume, "a1", Some("disk"));
        assert_eq!(purge::run(&scene.other, "open-directory", &binding.point), 0);
        let stat = rustix::fs::stat(&scene.other).unwrap();
        let identity = ExeIdentity { device: stat.st_dev, inode: stat.st_ino };
        scene.client.tell_nomad(&[NomadExe { identity: Some(identity), name: None }]).unwrap();
        assert_eq!(purge::run(&scene.other, "open-directory", &binding.point), DENIED);
        let renamed = scene.path().join("renamed");
        std::fs::rename(&scene.other, &renamed).unwrap();
        assert_eq!(purge::run(&renamed, "open-directory", &binding.point), DENIED);
        let enterprise = scene.path().join("nomad-enterprise");
        std::fs::copy(&renamed, &enterprise).unwrap();
        assert_eq!(purge::run(&enterprise, "open-directory", &binding.point), 0);
        scene.client.tell_nomad(&[NomadExe { identity: None, name: Some("nomad-enterprise".into()) }]).unwrap();
        let dead = scene.hello();
        crate::scene::signal(dead.pid, nix::sys::signal::Signal::SIGKILL);
        scene.next_guard(&dead);
        assert_eq!(purge::run(&enterprise, "open-directory", &binding.point), DENIED);
        assert_eq!(purge::run(&renamed, "open-directory", &binding.point), DENIED);
    });
}

#[test]
fn marking_twice_is_harmless_and_a_released_group_asks_nobody() {
    in_private_namespace(|| {
        let scene = Scene::new();
        scene.start_guard();
        let binding = scene.bind(&scene.volume, "a1", Some("disk"));
        let attached = saddlebag::sys::resolve::open_root(&binding.point).unwrap();
        scene.client.mark("disk", attached.as_fd(), crate::scene::PATIENCE).unwrap();
        assert_eq!(scene.hello().groups, ["disk"]);
        assert_eq!(purge::run(&scene.nomad, "open-directory", &binding.point), DENIED);
        scene.client.release("disk").unwrap();
        assert!(scene.hello().groups.is_empty());
        crate::scene::wait_until("the group's end", || purge::run(&scene.nomad, "open-directory", &binding.point) == 0);
    });
}

#[test]
fn more_sources_than_the_kernel_has_groups_are_all_guarded() {
    in_private_namespace(|| {
        let scene = Scene::new();
        scene.start_guard();
        let bindings: Vec<_> = (0..130)
            .map(|number| scene.bind(&scene.volume, &format!("a{number}"), Some(&format!("source {number}"))))
            .collect();
        for binding in bindings.iter().rev().step_by(10) {
            assert_eq!(purge::run(&scene.nomad, "open-directory", &binding.point), DENIED);
        }
    });
}
