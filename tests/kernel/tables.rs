//! Mount tables that are watched.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::mount::MsFlags;
use saddlebag::sys::namespace::{Namespace, NamespaceError};
use saddlebag::sys::table_watch::{TableEvent, TableWatch};

use crate::containers::{Container, Task};
use crate::scene::{PATIENCE, in_private_namespace, wait_until};

fn start() -> (TableWatch, Receiver<TableEvent>) {
    let (sender, told) = channel();
    (TableWatch::start(move |event| sender.send(event).is_ok()).unwrap(), told)
}

fn next(told: &Receiver<TableEvent>) -> TableEvent {
    told.recv_timeout(PATIENCE).unwrap()
}

fn drain(told: &Receiver<TableEvent>) -> Vec<TableEvent> {
    std::iter::from_fn(|| told.recv_timeout(Duration::from_secs(1)).ok()).collect()
}

fn namespace(container: &Container) -> Namespace {
    Namespace::of(container.pid(), container.namespace()).unwrap().unwrap()
}

fn mount_and_unmount(point: &Path) {
    nix::mount::mount(Some("tmpfs"), point, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    nix::mount::umount(point).unwrap();
}

/// This process's descriptors of these processes' tables, and of the processes themselves, each with its inode. Those
/// by which another test goes through all processes' tables are among them for a moment.
fn held(pids: &[i32]) -> Vec<(i32, Option<String>)> {
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let numbers = numbers.filter_map(|descriptor| descriptor.file_name().to_str()?.parse().ok());
    let is_of_them = |number: &i32| {
        let link = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_default();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
        let is_table = |pid: &i32| link == Path::new(&format!("/proc/{pid}/mountinfo"));
        let is_process = |pid: &i32| {
            info.lines().any(|line| line.strip_prefix("Pid:").is_some_and(|id| id.trim() == pid.to_string()))
        };
        pids.iter().any(|pid| is_table(pid) || is_process(pid))
    };
    numbers.filter(is_of_them).map(|number| (number, inode_of(number))).collect()
}

/// By proc_pid_fdinfo(5). Another test may have the same number a moment later, of another inode.
fn inode_of(number: i32) -> Option<String> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    info.lines().find_map(|line| Some(line.strip_prefix("ino:")?.trim().to_owned()))
}

/// Whether a descriptor is of a table or process that has ended.
fn is_of_the_dead(number: i32) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_default();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let is_table = link.to_str().and_then(|link| link.strip_prefix("/proc/")?.strip_suffix("/mountinfo"));
    is_table.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) || info.lines().any(|line| line == "Pid:\t-1")
}

#[test]
fn a_change_of_the_own_table_is_told_and_a_burst_of_them_is_told_a_few_times() {
    in_private_namespace(|| {
        let point = tempfile::tempdir().unwrap();
        let (_watch, told) = start();
        assert_eq!(told.recv_timeout(Duration::from_millis(300)), Err(RecvTimeoutError::Timeout));
        nix::mount::mount(Some("tmpfs"), point.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        assert_eq!(next(&told), TableEvent::Own);
        nix::mount::umount(point.path()).unwrap();
        assert_eq!(next(&told), TableEvent::Own);
        drain(&told);
        for _ in 0..2000 {
            mount_and_unmount(point.path());
        }
        let events = drain(&told);
        // At its beginning, at its end, and every fifth of a second: not once for each of 4,000 changes.
        assert!((2..1000).contains(&events.len()), "{}", events.len());
        assert_eq!(told.recv_timeout(Duration::from_millis(300)), Err(RecvTimeoutError::Timeout));
    });
}

#[test]
fn changes_one_after_the_other_are_told_ten_times_a_second_and_none_of_them_is_forgotten() {
    in_private_namespace(|| {
        let point = tempfile::tempdir().unwrap();
        let (_watch, told) = start();
        drain(&told);
        let begun = Instant::now();
        for _ in 0..30 {
            // Each would be a burst of its own.
            mount_and_unmount(point.path());
            std::thread::sleep(Duration::from_millis(30));
        }
        nix::mount::mount(Some("tmpfs"), point.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let last = Instant::now();
        let mut events = vec![];
        while events.last().is_none_or(|at| *at < last) {
            next(&told);
            events.push(Instant::now());
        }
        let most = 2 + (begun.elapsed().as_millis() / 100) as usize;
        assert!(events.len() <= most, "{} in {:?}", events.len(), begun.elapsed());
        nix::mount::umount(point.path()).unwrap();
        assert_eq!(next(&told), TableEvent::Own);
    });
}

/// Whether nothing else was told. A directory that somebody else on this machine removes takes the mounts on it along in
/// every namespace that has them, this one and the containers': of those nothing is said.
fn are_only(wanted: &TableEvent, events: &[TableEvent]) -> bool {
    events.contains(&TableEvent::Own) || events.iter().all(|event| event == wanted)
}

#[test]
fn a_change_in_a_container_is_told_of_that_container_alone() {
    in_private_namespace(|| {
        let task = Task::bound();
        let mut containers = [Container::start(&task), Container::start(&task)];
        let (watch, told) = start();
        for container in &containers {
            assert!(watch.watch(&namespace(container)).unwrap() && watch.watch(&namespace(container)).unwrap());
        }
        drain(&told);
        containers[1].sh("!mount -t tmpfs cover /data");
        assert_eq!(next(&told), TableEvent::Changed(containers[1].namespace()));
        let seen = task.mend(&[]);
        assert_eq!(seen.mended.len(), 1);
        let changed = TableEvent::Changed(containers[1].namespace());
        assert!(are_only(&changed, &drain(&told)));
        watch.forget(containers[1].namespace());
        containers[1].sh("!umount /data");
        // What had happened before that may still be on its way; nothing is after the next news of the other one.
        assert!(are_only(&changed, &drain(&told)));
        containers[1].sh("!mount -t tmpfs cover /data; !umount /data");
        let late = drain(&told);
        assert!(!late.contains(&changed) && are_only(&changed, &late), "{late:?}");
    });
}

#[test]
fn a_container_that_ends_is_told_and_let_go_at_once() {
    in_private_namespace(|| {
        let task = Task::bound();
        let (watch, told) = start();
        drain(&told);
        let mut containers: Vec<Container> = (0..3).map(|_| Container::start(&task)).collect();
        drain(&told);
        let mut namespaces: Vec<Namespace> = containers.iter().map(namespace).collect();
        for namespace in &namespaces {
            assert!(watch.watch(namespace).unwrap());
        }
        let ids: Vec<u64> = namespaces.iter().map(Namespace::id).collect();
        let last = namespaces.pop().unwrap();
        drop(namespaces);
        let pids: Vec<i32> = containers.iter().map(Container::pid).collect();
        let mut before = vec![];
        wait_until("a table and a process for each, and the process of the one that is held here", || {
            before = held(&pids);
            before.len() == 7
        });
        for (container, id) in containers.iter_mut().zip(&ids) {
            container.end();
            let ended = std::iter::from_fn(|| Some(next(&told))).find(|event| matches!(event, TableEvent::Ended(_)));
            assert_eq!(ended, Some(TableEvent::Ended(*id)));
        }
        let is_left = |(number, inode): &&(i32, Option<String>)| is_of_the_dead(*number) && inode_of(*number) == *inode;
        let left: Vec<_> = before.iter().filter(is_left).collect();
        assert_eq!(left.len(), 1, "more than the one that is held here: {left:?}");
        assert!(!watch.watch(&last).unwrap());
        assert!(matches!(last.read_table(), Err(NamespaceError::Ended)));
        // Nothing keeps the namespaces' mounts: the source can be unmounted once the host's binding is gone.
        task.unbind();
        wait_until("an unused source", || nix::mount::umount(task.source.point()).is_ok());
    });
}

#[test]
fn a_dropped_watch_leaves_neither_thread_nor_descriptor() {
    in_private_namespace(|| {
        let task = Task::bound();
        let container = Container::start(&task);
        let (watch, told) = start();
        watch.watch(&namespace(&container)).unwrap();
        drop(watch);
        let ended = std::iter::from_fn(|| Some(told.recv_timeout(PATIENCE)));
        assert_eq!(ended.filter_map(Result::err).next(), Some(RecvTimeoutError::Disconnected));
    });
}
