//! Looks into containers that are asked for at the same time: what they share, and what none of them may miss.

use std::sync::Arc;

use nix::sys::signal::Signal;
use saddlebag::reconcile::execute::inside::{Asked, Cause, Found, mend_inside};
use saddlebag::sys::process;

use crate::containers::{Container, Task};
use crate::scene::{in_private_namespace, signal, wait_until};

const BINDINGS: usize = 30;

fn look(task: &Task, asked: &Asked) -> Found {
    let found = mend_inside(&task.host, &task.alloc, &task.binding, &[], &[], asked).unwrap();
    assert!(found.failures.is_empty(), "{:?}", found.failures);
    found
}

fn namespaces(found: &Found) -> Vec<u64> {
    let mut ids: Vec<u64> = found.namespaces.iter().map(saddlebag::sys::namespace::Namespace::id).collect();
    ids.sort_unstable();
    ids
}

/// Whether somebody else changes this namespace's mounts: a directory that is removed elsewhere takes the mounts on it
/// along in every namespace, and other tests remove theirs.
struct Disturbance(std::fs::File);

impl Disturbance {
    fn watch() -> Self {
        let watch = Self(std::fs::File::open("/proc/thread-self/mountinfo").unwrap());
        watch.has_come();
        watch
    }

    fn has_come(&self) -> bool {
        let mut polled = [rustix::event::PollFd::new(&self.0, rustix::event::PollFlags::PRI)];
        rustix::event::poll(&mut polled, Some(&rustix::event::Timespec::default())).unwrap() > 0
    }
}

#[test]
fn one_pass_over_processes_and_mounts_serves_all_looks_that_were_asked_for_by_then() {
    in_private_namespace(|| {
        let mut task = Task::bound();
        let mut containers = [Container::start(&task), Container::start(&task)];
        task.renew();
        let disturbance = Disturbance::watch();
        let all_asked: Vec<Asked> = (0..BINDINGS).map(|_| task.cache.ask()).collect();
        let (first, rest) = all_asked.split_at(BINDINGS / 2);
        let mended: Vec<usize> = first.iter().map(|asked| look(&task, asked).mended.len()).collect();
        assert_eq!((mended[0], mended.iter().sum::<usize>()), (8, 8));
        for container in &mut containers {
            assert_eq!(container.sh("!cat /data/one /sub/two"), "acknowledgedacknowledged");
        }
        // Several workers at once.
        std::thread::scope(|scope| {
            for asked in rest {
                let task = &task;
                scope.spawn(move || assert_eq!(look(task, asked).places.len(), 8));
            }
        });
        let (passes, reads) = task.cache.passes();
        assert_eq!(passes, 1, "each look has gone through all processes");
        assert!(reads == 1 || disturbance.has_come(), "each look has read the host's mount table: {reads} times");

        // What is asked for later needs another one, also while others wait.
        look(&task, &task.cache.ask());
        let (passes, reads) = task.cache.passes();
        assert!(passes == 2 && reads >= 2, "{passes}, {reads}");
        drop(all_asked);
        look(&task, &task.cache.ask());
        let (passes, reads) = task.cache.passes();
        assert!(passes == 3 && reads >= 3, "{passes}, {reads}");
    });
}

#[test]
fn what_was_there_when_a_look_was_asked_for_is_found_whoever_else_has_looked() {
    in_private_namespace(|| {
        let task = Task::bound();
        let early = task.cache.ask();
        let first = Container::start(&task);
        // The pass that this one makes is older than the second container.
        assert_eq!(namespaces(&look(&task, &early)), [first.namespace()]);
        let second = Container::start(&task);
        let late = task.cache.ask();
        let mut both = [first.namespace(), second.namespace()];
        both.sort_unstable();
        assert_eq!(namespaces(&look(&task, &late)), both);
        // It serves the early one, too.
        assert_eq!(namespaces(&look(&task, &early)), both);
        assert_eq!(task.cache.passes().0, 2);
    });
}

#[test]
fn a_change_of_the_hosts_mounts_between_two_looks_of_one_pass_is_seen() {
    in_private_namespace(|| {
        let mut task = Task::bound();
        let mut container = Container::start(&task);
        let (early, late) = (task.cache.ask(), task.cache.ask());
        assert!(look(&task, &early).mended.is_empty());
        task.renew();
        // Asked for before the mount died, looked after it: what is compared with is the present mount.
        let found = look(&task, &late);
        assert_eq!(found.mended.len(), 4);
        assert!(found.mended.iter().all(|mended| mended.cause == Cause::Dead));
        assert_eq!(container.sh("!cat /local/x/one"), "acknowledged");
        assert_eq!(task.cache.passes(), (1, 2));
    });
}

#[test]
fn a_namespace_whose_known_processes_have_ended_is_found_by_those_that_came_later() {
    in_private_namespace(|| {
        let mut task = Task::bound();
        let mut container = Container::start(&task);
        let namespace = container.namespace();
        let (early, late) = (task.cache.ask(), task.cache.ask());
        assert_eq!(namespaces(&look(&task, &early)), [namespace]);
        // In no pass yet, and soon the only one.
        container.sh("!sleep 600 &");
        container.end();
        let heir = || -> Option<i32> {
            let mut pids = process::find_processes().unwrap();
            pids.retain(|pid| process::mount_namespace(*pid).is_ok_and(|found| found == namespace));
            pids.first().copied()
        };
        let pid = heir().expect("the process in the background lives on");
        task.renew();
        let found = look(&task, &late);
        signal(u32::try_from(pid).unwrap(), Signal::SIGKILL);
        assert_eq!((namespaces(&found), found.mended.len()), (vec![namespace], 4));
        wait_until("its end", || heir().is_none());
    });
}

#[test]
fn what_was_found_is_let_go_with_the_last_look_that_was_asked_for() {
    in_private_namespace(|| {
        let task = Task::bound();
        let _container = Container::start(&task);
        let tables = || {
            let links = std::fs::read_dir("/proc/thread-self/fd").unwrap().flatten();
            let links = links.filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok());
            let own = format!("/proc/{}/task/{}/mountinfo", std::process::id(), nix::unistd::gettid());
            links.filter(|link| link.to_str() == Some(&own)).count()
        };
        let (early, late) = (task.cache.ask(), task.cache.ask());
        look(&task, &early);
        drop(early);
        assert_eq!(tables(), 1);
        drop(late);
        assert_eq!((tables(), Arc::strong_count(&task.cache)), (0, 1));
    });
}
