//! A binding's clones in running containers: mended, and touching nothing else.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use saddlebag::reconcile::execute::inside::{Cause, Found, InsideError, SwapBy, release_inside};
use saddlebag::sys::namespace::{Namespace, NamespaceError};
use saddlebag::sys::tree::Tree;
use saddlebag::sys::{identity, mount, resolve, table};

use crate::containers::{Container, Task};
use crate::scene::{in_private_namespace, is_ever_faster, wait_until};

const ALL: [&str; 4] = ["/data", "/local/x", "/ro", "/sub"];

fn causes(found: &Found) -> Vec<(&str, Cause)> {
    let mut causes: Vec<(&str, Cause)> =
        found.mended.iter().map(|mended| (mended.place.mount_point.to_str().unwrap(), mended.cause)).collect();
    causes.sort_by_key(|(place, _)| *place);
    causes
}

fn places(found: &Found) -> Vec<&str> {
    let mut places: Vec<&str> = found.places.iter().map(|place| place.mount_point.to_str().unwrap()).collect();
    places.sort_unstable();
    places
}

fn all(cause: Cause) -> Vec<(&'static str, Cause)> {
    ALL.iter().map(|place| (*place, cause)).collect()
}

fn assert_serves(container: &mut Container) {
    for file in ["/data/one", "/local/x/one", "/ro/one", "/sub/two"] {
        assert_eq!(container.sh(&format!("!cat {file}")), "acknowledged", "{file}");
    }
    container.sh("!touch /data/w /local/x/w /sub/w");
    assert!(!container.can("!touch /ro/w"), "a read-only clone is writable");
}

#[test]
fn dead_clones_are_swapped_in_every_container_and_none_stays() {
    in_private_namespace(|| {
        let mut task = Task::bound();
        let mut containers = [Container::start(&task), Container::start(&task)];
        let found = task.mend(&[]);
        assert!(found.mended.is_empty(), "{:?}", found.mended);
        assert_eq!((found.places.len(), found.namespaces.len()), (8, 2));
        for _ in 0..3 {
            task.renew();
            assert!(!containers[0].can("!cat /data/one") && !containers[1].can("!cat /sub/two"));
            let found = task.mend(&[]);
            assert_eq!(found.mended.len(), 8, "{:?}", found.mended);
            assert!(found.mended.iter().all(|mended| mended.cause == Cause::Dead));
            for container in &mut containers {
                assert_serves(container);
                for place in ALL {
                    assert_eq!(container.mounts_at(place), 1, "{place}");
                }
            }
        }
        assert!(task.mend(&[]).mended.is_empty());
    });
}

#[test]
fn dead_clones_are_healed_where_the_kernel_mounts_only_on_top() {
    in_private_namespace(|| {
        let mut task = Task::bound();
        let mut container = Container::start(&task);
        for _ in 0..3 {
            task.renew();
            let found = task.try_mend(SwapBy::Over, &[]).unwrap();
            assert!(found.failures.is_empty(), "{:?}", found.failures);
            assert_eq!(causes(&found), all(Cause::Dead));
            assert_eq!(places(&found), ALL);
            assert_serves(&mut container);
            // The dead ones beneath do not become more with each death.
            assert!(ALL.iter().all(|place| container.mounts_at(place) == 2));
            let again = task.try_mend(SwapBy::Over, &found.places).unwrap();
            assert!(again.mended.is_empty() && again.failures.is_empty(), "{again:?}");
        }
    });
}

#[test]
fn an_open_file_stays_dead_and_the_same_process_goes_on_by_opening_it_again() {
    in_private_namespace(|| {
        let mut task = Task::bound();
        let mut container = Container::start(&task);
        container.sh("exec 3>>/data/log; echo before >&3; cd /");
        task.renew();
        task.mend(&[]);
        assert!(!container.can("echo lost >&3"), "a file of a dead mount is written");
        container.sh("exec 3>>/data/log; echo after >&3");
        assert_eq!(container.sh("!cat /local/x/log"), "before\nafter\n");
    });
}

#[test]
fn what_lies_beneath_is_never_visible_while_a_clone_is_swapped() {
    in_private_namespace(|| {
        for by in [SwapBy::Beneath, SwapBy::Over] {
            let mut task = Task::bound();
            let mut container = Container::start(&task);
            // A writer that never looks: what it writes beneath the mount would be found there afterwards.
            let writer = "(while /bin/busybox true; do echo x > /data/written; done) 2>/dev/null & writer=$!";
            assert_eq!(container.run(writer), (0, String::new()));
            for _ in 0..5 {
                task.renew();
                assert_eq!(task.try_mend(by, &[]).unwrap().mended.len(), 4);
            }
            container.sh("kill $writer && { wait $writer; test $? -gt 128; }");
            while container.mounts_at("/data") > 0 {
                container.sh("!umount -l /data");
            }
            assert_eq!(container.sh("!ls /data"), "", "{by:?}");
        }
    });
}

#[test]
fn what_was_unmounted_covered_or_moved_inside_is_put_right() {
    in_private_namespace(|| {
        let task = Task::bound();
        let mut container = Container::start(&task);
        let seen = task.mend(&[]).places;
        container
            .sh("!umount /sub && !mount -t tmpfs a /data && !mount -t tmpfs b /data && !mount -t tmpfs c /local/x");
        container.sh("!mkdir /tmp/away && !mount --move /ro /tmp/away");
        let found = task.mend(&seen);
        assert_eq!(
            causes(&found),
            [("/data", Cause::Covered), ("/local/x", Cause::Covered), ("/ro", Cause::Moved), ("/sub", Cause::Missing)]
        );
        assert_eq!(places(&found), ALL);
        assert_serves(&mut container);
        assert_eq!((container.mounts_at("/tmp/away"), container.mounts_at("/data")), (0, 1));
        assert!(task.mend(&found.places).mended.is_empty());
    });
}

#[test]
fn a_dead_clone_that_is_covered_is_uncovered_and_swapped() {
    in_private_namespace(|| {
        let mut task = Task::bound();
        let mut container = Container::start(&task);
        let seen = task.mend(&[]).places;
        container.sh("!mount -t tmpfs cover /data");
        task.renew();
        assert_eq!(task.mend(&seen).places.len(), 4);
        assert_serves(&mut container);
        assert_eq!(container.mounts_at("/data"), 1);
    });
}

#[test]
fn a_clone_of_a_directory_below_another_clone_is_there_again_after_both_died() {
    in_private_namespace(|| {
        for by in [SwapBy::Beneath, SwapBy::Over] {
            let mut task = Task::bound();
            let mut container = Container::start(&task);
            container.sh("!mkdir /data/inner && !mount --bind /sub /data/inner");
            task.renew();
            let found = task.try_mend(by, &[]).unwrap();
            assert!(found.failures.is_empty(), "{:?}", found.failures);
            assert_eq!(found.places.len(), 5, "{found:?}");
            assert_eq!(container.sh("!cat /data/inner/two"), "acknowledged");
        }
    });
}

#[test]
fn a_source_that_is_a_directory_beside_the_allocations_hinders_no_mending() {
    in_private_namespace(|| {
        let mut task = Task::bound();
        let mut container = Container::start(&task);
        task.renew();
        // The file system that both are on, as a rule that of the host's root.
        let shared = identity::identify(resolve::open_root(task.directory.path()).unwrap().as_fd()).unwrap().device;
        let found = task.try_mend_beside(&[shared]).unwrap();
        assert!(found.failures.is_empty(), "{:?}", found.failures);
        assert_eq!(causes(&found), all(Cause::Dead));
        assert_serves(&mut container);
    });
}

#[test]
fn a_directory_that_left_the_volume_fails_alone() {
    in_private_namespace(|| {
        let mut task = Task::bound();
        let mut container = Container::start(&task);
        container.sh("!rm -r /local/x/sub");
        task.renew();
        let found = task.try_mend(SwapBy::Beneath, &[]).unwrap();
        assert_eq!(places(&found), ["/data", "/local/x", "/ro"]);
        assert_eq!(found.failures.len(), 1, "{:?}", found.failures);
        assert!(matches!(&found.failures[0].error, InsideError::Below(path, _) if path == Path::new("sub")));
    });
}

/// Takes away what nobody has open. A program that another test is just starting has copies of all descriptors for a
/// moment, also of those by which the mounts are looked at.
fn release(task: &Task) {
    wait_until("mounts that nobody uses", || match release_inside(&task.host, &task.alloc, &task.binding, false) {
        Err(InsideError::Busy(_)) => false,
        released => {
            released.unwrap();
            true
        }
    });
}

#[test]
fn a_volume_comes_to_a_running_container_and_goes_again() {
    in_private_namespace(|| {
        let task = Task::unbound();
        let mut container = Container::start(&task);
        assert!(matches!(task.try_mend(SwapBy::Beneath, &[]), Err(InsideError::NotBound)));
        task.bind();
        let found = task.mend(&[]);
        assert_eq!(causes(&found), [("/local/x", Cause::Missing)]);
        assert_eq!(container.sh("!cat /local/x/one"), "acknowledged");

        container.sh("exec 3</local/x/one; !mkdir /tmp/twice; !mount --bind /local/x /tmp/twice");
        let refused = release_inside(&task.host, &task.alloc, &task.binding, false).unwrap_err();
        let InsideError::Busy(Some(holder)) = &refused else { panic!("{refused:?}") };
        assert_eq!((holder.pid, holder.command.as_str()), (container.pid(), "busybox"));
        assert!(refused.to_string().starts_with("busybox (pid "), "{refused}");
        assert_eq!((container.mounts_at("/local/x"), container.mounts_at("/tmp/twice")), (1, 1));

        container.sh("exec 3<&-");
        release(&task);
        assert_eq!((container.mounts_at("/local/x"), container.mounts_at("/tmp/twice")), (0, 0));
        assert!(task.local().join("x/one").exists(), "the host's own is not touched");
        release(&task);

        task.mend(&[]);
        container.sh("exec 3</local/x/one");
        release_inside(&task.host, &task.alloc, &task.binding, true).unwrap();
        assert_eq!(container.mounts_at("/local/x"), 0);
        assert_eq!(container.sh("!cat <&3"), "acknowledged");
    });
}

#[test]
fn a_path_that_became_a_symlink_is_refused_and_leads_nowhere() {
    in_private_namespace(|| {
        let mut task = Task::unbound();
        let mut container = Container::start(&task);
        std::fs::create_dir_all(task.local().join("deep/y")).unwrap();
        task.binding.key.destination = serde_json::from_value("local/deep/x".into()).unwrap();
        std::fs::create_dir_all(task.local().join("deep/x")).unwrap();
        task.bind_at("deep/x");
        assert_eq!(causes(&task.mend(&[])), [("/local/deep/x", Cause::Missing)]);
        let seen = task.mend(&[]).places;

        container.sh("!umount /local/deep/x && !mkdir -p /etc/x && !mount --bind /local /local");
        container.sh("!mount -t tmpfs shadow /local && !ln -s /etc /local/deep");
        let before = container.table().len();
        let found = task.try_mend(SwapBy::Beneath, &seen).unwrap();
        let error = &found.failures[0].error;
        assert!(
            matches!(error, InsideError::Namespace(NamespaceError::Reach(resolve::ResolveError::Symlink(_)))),
            "{error:?}"
        );
        assert_eq!((container.table().len(), container.mounts_at("/etc/x")), (before, 0));
        assert!(!Path::new("/etc/x").exists());
        task.unbind_at("deep/x");
    });
}

#[test]
fn a_step_is_refused_where_the_mounts_are_others_than_they_were() {
    in_private_namespace(|| {
        let task = Task::bound();
        let mut container = Container::start(&task);
        let namespace = Namespace::of(container.pid(), container.namespace()).unwrap().unwrap();
        let tree = Tree::new(namespace.read_table().unwrap());
        container.sh("!mount -t tmpfs other /data");
        let volume = resolve::open_root(&task.local().join("x")).unwrap();
        let clone = mount::clone_detached(volume.as_fd()).unwrap();
        for path in ["/data", "/data/sub"] {
            let path = Path::new(path);
            let attached = namespace.attach(&tree, path, clone.as_fd());
            assert!(matches!(attached, Err(NamespaceError::Changed(_))), "{attached:?}");
            let swapped = namespace.swap(&tree, path, clone.as_fd(), SwapBy::Beneath);
            assert!(matches!(swapped, Err(NamespaceError::Changed(_))), "{swapped:?}");
            let detached = namespace.detach(&tree, path);
            assert!(matches!(detached, Err(NamespaceError::Changed(_))), "{detached:?}");
        }
        assert_eq!(container.mounts_at("/data"), 2);
        assert!(matches!(namespace.detach(&tree, Path::new("/")), Err(NamespaceError::Root(_))));
    });
}

#[test]
fn a_foreign_mount_at_the_bindings_place_is_left_alone() {
    in_private_namespace(|| {
        let task = Task::unbound();
        let mut container = Container::start(&task);
        container.sh("!mount -t tmpfs foreign /local/x && !touch /local/x/foreign");
        task.bind();
        let found = task.try_mend(SwapBy::Beneath, &[]).unwrap();
        assert!(matches!(found.failures[..], [ref failure] if matches!(failure.error, InsideError::Foreign)));
        container.sh("!cat /local/x/foreign");
    });
}

#[test]
fn a_process_below_a_root_of_its_own_is_served_by_its_namespace() {
    in_private_namespace(|| {
        let mut task = Task::bound();
        let mut container = Container::start(&task);
        // All that lives in the namespace is a process that sees a part of it only.
        container.sh("!mkdir -p /tmp/jail/bin /tmp/jail/v && !cp /bin/busybox /tmp/jail/bin/");
        container.sh("!mount --bind /data /tmp/jail/v && !mkdir /tmp/jail/l && !mount --rbind /local /tmp/jail/l");
        container.change_root("/tmp/jail");
        task.renew();
        assert!(!container.can("!cat /v/one"));
        let found = task.mend(&[]);
        assert_eq!(container.sh("!cat /v/one /l/x/one"), "acknowledgedacknowledged");
        let expected: Vec<PathBuf> =
            ["/data", "/local/x", "/ro", "/sub", "/tmp/jail/l/x", "/tmp/jail/v"].iter().map(PathBuf::from).collect();
        let mut places: Vec<PathBuf> = found.places.into_iter().map(|place| place.mount_point).collect();
        places.sort();
        assert_eq!(places, expected);
    });
}

#[test]
fn a_namespace_that_ends_in_mid_work_is_no_failure() {
    in_private_namespace(|| {
        let mut task = Task::bound();
        let mut ending = Container::start(&task);
        let mut staying = Container::start(&task);
        let gone = Namespace::of(ending.pid(), ending.namespace()).unwrap().unwrap();
        task.renew();
        ending.end();
        assert!(gone.has_ended() && matches!(gone.read_table(), Err(NamespaceError::Ended)));
        assert_eq!(task.mend(&[]).places.len(), 4);
        assert_serves(&mut staying);

        // Containers that end at any moment of it.
        for _ in 0..5 {
            let mut ending: Vec<Container> = (0..3).map(|_| Container::start(&task)).collect();
            task.renew();
            std::thread::scope(|scope| {
                scope.spawn(|| ending.iter_mut().for_each(Container::end));
                assert!(task.mend(&[]).places.iter().any(|place| place.namespace == staying.namespace()));
            });
            assert_serves(&mut staying);
        }
    });
}

#[test]
fn what_comes_from_the_host_by_itself_is_not_mounted_twice() {
    in_private_namespace(|| {
        for (propagation, causes_inside) in [("slave", 3), ("unchanged", 3)] {
            let mut task = Task::unbound();
            // As systemd has it: what is mounted on the host comes to all who did not decline it.
            let root = task.host.alloc_root.clone();
            let none = None::<&str>;
            nix::mount::mount(Some(&root), &root, none, MsFlags::MS_BIND, none).unwrap();
            nix::mount::mount(none, &root, none, MsFlags::MS_SHARED, none).unwrap();
            task.bind();
            let mut container = Container::start_with(propagation, &task);
            let place = task.local().join("x");
            let on_host = || table::read_own().unwrap().iter().filter(|entry| entry.mount_point == place).count();
            assert_eq!((on_host(), container.mounts_at("/local/x")), (1, 1), "{propagation}");
            let seen = task.mend(&[]).places;
            task.renew();
            let found = task.mend(&seen);
            assert_eq!(found.mended.len(), causes_inside, "{propagation}: {:?}", found.mended);
            assert_serves(&mut container);
            assert_eq!((on_host(), container.mounts_at("/local/x")), (1, 1), "{propagation}");
            drop(container);
            nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
    });
}

/// Ends the looks, also where a container does not start.
struct End<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn a_look_at_a_container_that_is_being_started_disturbs_it_in_nothing() {
    in_private_namespace(|| {
        let mut task = Task::bound();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let started = std::sync::Barrier::new(2);
        let mut containers: Vec<Container> = std::thread::scope(|scope| {
            let looks = scope.spawn(|| {
                let mut seen = Vec::new();
                started.wait();
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    let found = task.try_mend(SwapBy::Beneath, &seen).unwrap();
                    assert!(found.mended.is_empty() && found.failures.is_empty(), "{found:?}");
                    seen = found.places;
                }
            });
            started.wait();
            let end = End(&is_over);
            let containers = (0..6).map(|_| Container::start_by_runc(&task)).collect();
            drop(end);
            looks.join().unwrap();
            containers
        });
        let found = task.mend(&[]);
        assert_eq!((found.places.len(), found.mended.len()), (4 * containers.len(), 0));
        task.renew();
        assert_eq!(task.mend(&found.places).mended.len(), 4 * containers.len());
        containers.iter_mut().for_each(assert_serves);
    });
}

#[test]
fn nothing_of_the_work_is_left_behind() {
    in_private_namespace(|| {
        let mut task = Task::bound();
        let _container = Container::start(&task);
        task.mend(&[]);
        let inside = |name: &str| {
            std::fs::read_dir("/proc/self/task")
                .unwrap()
                .flatten()
                .filter(|thread| {
                    std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
                })
                .count()
        };
        task.renew();
        let own = std::fs::read_link("/proc/thread-self/ns/mnt").unwrap();
        let found = task.mend(&[]);
        assert_eq!(found.mended.len(), 4);
        // A namespace that is held keeps nothing alive but a process's number. The looks of other tests have one open
        // for a moment; what this one holds would stay.
        wait_until("no descriptor of a namespace", || {
            let held = std::fs::read_dir("/proc/thread-self/fd").unwrap().flatten().filter(|descriptor| {
                std::fs::read_link(descriptor.path())
                    .is_ok_and(|link| link.to_str().is_some_and(|link| link.starts_with("mnt:")))
            });
            held.count() == 0
        });
        assert_eq!(std::fs::read_link("/proc/thread-self/ns/mnt").unwrap(), own);
        wait_until("the threads' end", || inside("inside") == 0 && inside("is-dead") == 0);
    });
}

#[test]
fn a_server_that_hangs_holds_up_no_other_sources_clones() {
    in_private_namespace(|| {
        let other = Task::bound();
        let mut task = Task::bound();
        let mut container = Container::start(&task);
        // The other source's file system is in the container too, of the same kind and with the same root.
        let namespace = Namespace::of(container.pid(), container.namespace()).unwrap().unwrap();
        let tree = Tree::new(namespace.read_table().unwrap());
        let volume = resolve::open_root(&other.local().join("x")).unwrap();
        let clone = mount::clone_detached(volume.as_fd()).unwrap();
        container.sh("!mkdir /tmp/other");
        namespace.attach(&tree, Path::new("/tmp/other"), clone.as_fd()).unwrap();
        other.source.stop();
        task.renew();
        // Not even where nobody has said that it is another source's.
        let look = || {
            let found = task.try_mend(SwapBy::Beneath, &[]).unwrap();
            assert_eq!((places(&found), found.failures.len()), (ALL.to_vec(), 0), "{:?}", found.failures);
        };
        // The first one waits for a second whether it is dead.
        look();
        assert!(is_ever_faster(std::time::Duration::from_secs(1), look), "each look has waited");
        assert_serves(&mut container);
        other.source.signal(nix::sys::signal::Signal::SIGCONT);
    });
}

#[test]
fn nothing_read_only_is_put_into_a_user_namespace_that_could_make_it_writable() {
    in_private_namespace(|| {
        let mut task = Task::bound();
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let mut container = Container::start_in_user_namespace(&task, folder.path());
        let (read_only, own) = (folder.path().join("ro"), folder.path().join("local/x"));
        let at = |path: &Path| path.to_str().unwrap().to_owned();
        let seen = task.try_mend(SwapBy::Beneath, &[]).unwrap().places;
        let found = seen.iter().find(|place| place.mount_point == read_only).unwrap();
        assert!(found.flags.read_only);
        container.sh(&format!("!umount {}", at(&read_only)));
        let found = task.try_mend(SwapBy::Beneath, &seen).unwrap();
        let refused = found.failures.iter().find(|failure| failure.mount_point.as_ref() == Some(&read_only)).unwrap();
        assert!(matches!(refused.error, InsideError::Unlocked), "{:?}", refused.error);
        assert_eq!(container.mounts_at(&at(&read_only)), 0);
        // What it may write to in any case is mended there as anywhere.
        task.renew();
        let found = task.try_mend(SwapBy::Beneath, &seen).unwrap();
        assert!(found.mended.iter().any(|mended| mended.place.mount_point == own), "{found:?}");
        drop(container);
    });
}

#[test]
fn a_container_with_clones_without_number_is_told_of_and_left_alone() {
    in_private_namespace(|| {
        let task = Task::bound();
        let mut container = Container::start(&task);
        container.sh(
            "i=0; while [ $i -lt 1100 ]; do !mkdir /tmp/$i; !mount --bind /local/x /tmp/$i; i=$((i+1)); done; true",
        );
        let found = task.try_mend(SwapBy::Beneath, &[]).unwrap();
        assert!(matches!(found.failures[0].error, InsideError::TooMany(1100..)), "{:?}", found.failures);
        assert!(found.places.is_empty() && found.mended.is_empty());
    });
}
