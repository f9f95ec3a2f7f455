//! The guard, its keeper, or the agent die: nothing is lost.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::io::Errno;
use saddlebag::guard::question::Answer;

use crate::purge;
use crate::scene::{PATIENCE, Scene, in_private_namespace, signal, wait_until};

const DENIED: i32 = Errno::PERM.raw_os_error();

#[test]
fn what_is_opened_while_no_guard_lives_waits_and_is_then_denied() {
    in_private_namespace(|| {
        let scene = Scene::new();
        let first = scene.start_guard();
        let binding = scene.bind(&scene.volume, "a1", Some("disk"));
        wait_until("a keeper", || scene.keeper().is_some());
        let keeper = scene.keeper().unwrap();
        signal(keeper, Signal::SIGSTOP);
        signal(first.pid, Signal::SIGKILL);
        wait_until("the guard's death", || scene.client.hello(PATIENCE).is_err());
        let mut collection = purge::start(&scene.nomad, "remove-all", &binding.allocation);
        std::thread::sleep(Duration::from_millis(500));
        assert!(collection.try_wait().unwrap().is_none(), "the open did not wait");
        scene.assert_whole();
        signal(keeper, Signal::SIGCONT);
        assert_eq!(purge::errno_of(collection), DENIED);
        scene.assert_whole();
        let next = scene.next_guard(&first);
        assert_eq!((next.lineage(), next.groups.as_slice()), (first.lineage(), &["disk".to_owned()][..]));
        assert!(next.took_over && next.generation != first.generation);
    });
}

#[test]
fn an_event_that_the_dead_guard_had_read_is_denied_by_its_successor() {
    in_private_namespace(|| {
        let scene = Scene::new();
        let first = scene.start_guard();
        let binding = scene.bind(&scene.volume, "a1", Some("disk"));
        let questions = scene.answer_questions(|_| None);
        let began = Instant::now();
        let collection = purge::start(&scene.nomad, "open-directory", &binding.point);
        wait_until("a question", || !questions.lock().unwrap().is_empty());
        signal(first.pid, Signal::SIGKILL);
        assert_eq!(purge::errno_of(collection), DENIED);
        // The successor's record has to be on the disk before it answers.
        assert!(began.elapsed() < Duration::from_secs(30), "it is the successor's first thing to do");
        assert_eq!(questions.lock().unwrap().len(), 1, "the successor answers, it does not ask again");
        scene.assert_whole();
    });
}

#[test]
fn a_guard_killed_again_and_again_loses_nothing() {
    in_private_namespace(|| {
        let scene = Scene::new();
        let mut guard = scene.start_guard();
        let lineage = guard.lineage().to_owned();
        let binding = scene.bind(&scene.volume, "a1", Some("disk"));
        wait_until("a keeper", || scene.keeper().is_some());
        for round in 0..20 {
            let collection = purge::start(&scene.nomad, "remove-all", &binding.allocation);
            std::thread::sleep(Duration::from_micros(1500 * round));
            signal(guard.pid, Signal::SIGKILL);
            assert_eq!(purge::errno_of(collection), DENIED);
            scene.assert_whole();
            guard = scene.next_guard(&guard);
            assert_eq!(guard.lineage(), lineage);
        }
        assert_eq!(purge::run(&scene.other, "open-directory", &binding.point), 0);
    });
}

#[test]
fn a_killed_keeper_is_replaced_and_the_next_one_has_everything() {
    in_private_namespace(|| {
        let scene = Scene::new();
        let first = scene.start_guard();
        let binding = scene.bind(&scene.volume, "a1", Some("disk"));
        wait_until("a keeper", || scene.keeper().is_some());
        let keeper = scene.keeper().unwrap();
        signal(keeper, Signal::SIGKILL);
        wait_until("another keeper", || scene.keeper().is_some_and(|next| next != keeper));
        assert_eq!(scene.hello().pid, first.pid);
        let other = scene.bind(&scene.volume, "a2", Some("another disk"));
        signal(first.pid, Signal::SIGKILL);
        let next = scene.next_guard(&first);
        assert_eq!((next.lineage(), next.groups.len()), (first.lineage(), 2));
        assert_eq!((scene.collect(&binding), scene.collect(&other)), (DENIED, DENIED));
        scene.assert_whole();
    });
}

#[test]
fn guard_and_keeper_killed_together_are_known_by_another_lineage() {
    in_private_namespace(|| {
        let scene = Scene::new();
        let first = scene.start_guard();
        let binding = scene.bind(&scene.volume, "a1", Some("disk"));
        wait_until("a keeper", || scene.keeper().is_some());
        signal(scene.keeper().unwrap(), Signal::SIGSTOP);
        signal(first.pid, Signal::SIGKILL);
        signal(scene.keeper().unwrap(), Signal::SIGKILL);
        wait_until("the end of both", || scene.keeper().is_none() && scene.client.hello(PATIENCE).is_err());
        let next = scene.start_guard();
        assert_ne!(next.lineage(), first.lineage());
        assert!(next.groups.is_empty() && !next.took_over);
        let attached = saddlebag::sys::resolve::open_root(&binding.point).unwrap();
        scene.client.mark("disk", attached.as_fd(), PATIENCE).unwrap();
        assert_eq!(scene.collect(&binding), DENIED);
        scene.assert_whole();
    });
}

#[test]
fn a_guard_that_is_told_to_end_stays_while_it_guards_and_ends_when_told_to_stop() {
    in_private_namespace(|| {
        let scene = Scene::new();
        let guard = scene.start_guard();
        let binding = scene.bind(&scene.volume, "a1", Some("disk"));
        signal(guard.pid, Signal::SIGTERM);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(scene.hello().pid, guard.pid);
        assert_eq!(scene.collect(&binding), DENIED);
        wait_until("a keeper", || scene.keeper().is_some());
        scene.client.stop().unwrap();
        wait_until("the end of both", || scene.keeper().is_none() && scene.client.hello(PATIENCE).is_err());
        scene.assert_whole();
    });
}

#[test]
fn several_agents_start_one_guard() {
    in_private_namespace(|| {
        let scene = Scene::new();
        let mut pids: Vec<u32> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| scene.start_guard().pid)).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        pids.dedup();
        assert_eq!(pids.len(), 1, "{pids:?}");
    });
}

#[test]
fn an_agent_that_starts_a_guard_while_the_keeper_does_gets_the_keepers() {
    in_private_namespace(|| {
        let scene = Scene::new();
        let mut guard = scene.start_guard();
        let lineage = guard.lineage().to_owned();
        let binding = scene.bind(&scene.volume, "a1", Some("disk"));
        let _questions = scene.answer_questions(|_| Some(Answer::Unknown));
        wait_until("a keeper", || scene.keeper().is_some());
        for _ in 0..5 {
            signal(guard.pid, Signal::SIGKILL);
            let next = loop {
                let next = scene.start_guard();
                if next.pid != guard.pid {
                    break next;
                }
            };
            assert_eq!((next.lineage(), next.groups.len()), (lineage.as_str(), 1));
            guard = next;
        }
        assert_eq!(scene.collect(&binding), DENIED);
        scene.assert_whole();
    });
}
