//! Image volumes on real loop devices: made, attached, found again, grown, lost and attached anew, and never twice.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use saddlebag::backend::prober::Prober;
use saddlebag::backend::{self, AttachError, Attached, Backend, DetachError, Place};
use saddlebag::config::{self, Config};
use saddlebag::sys::identity;
use saddlebag::volume::Registry;

use crate::scene::{in_private_namespace, wait_until};

/// A backend of kind host with one image volume, and what a reconciler knows of both.
struct Images {
    root: PathBuf,
    name: String,
    _directory: Option<tempfile::TempDir>,
}

impl Images {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::create_dir(directory.path().join("volumes")).unwrap();
        let images = Self::at(directory.path());
        Self { _directory: Some(directory), ..images }
    }

    fn at(root: &Path) -> Self {
        // The devices of a machine are looked for by the names of their files.
        let name = format!("db{}", root.file_name().unwrap().to_str().unwrap().replace('.', "-"));
        Self { root: root.to_owned(), name, _directory: None }
    }

    fn image(&self) -> PathBuf {
        self.root.join("volumes").join(format!("{}.img", self.name))
    }

    fn note(&self) -> PathBuf {
        self.root.join("volumes").join(format!(".{}.img.owner", self.name))
    }

    fn definition(&self, size: &str, more: &str) -> config::Backend {
        let text = format!(
            "backend \"host\" \"disk\" {{\n  path = \"{}\"\n}}\nvolume \"{}\" {{\n  backend = \"disk\"\n  create = true\n  \
             size = \"{size}\"\n  access_mode = \"single-node-writer\"\n  {more}\n}}\n",
            self.root.join("volumes").display(),
            self.name,
        );
        let config = Config::parse(&text, "agent.hcl").unwrap();
        Registry::new(&config).images().remove(0)
    }

    fn place(&self, definition: &config::Backend) -> Place {
        let key = backend::key_of(definition);
        let beneath = backend::beneath(definition).unwrap();
        let parent = backend::of(beneath).attach(&self.place_at(beneath, "parent")).unwrap();
        Place { beneath: Some(parent), ..self.place_at(definition, &key.0) }
    }

    fn place_at(&self, definition: &config::Backend, name: &str) -> Place {
        let key = backend::key_of(definition);
        let at = |kind: &str| self.root.join(kind).join(name);
        Place {
            mount_point: at("sources"),
            log: at("logs"),
            cache: at("cache"),
            socket: at("socket"),
            prober: Prober::new(key.clone(), |_| ()),
            beneath: None,
            may_create: true,
            is_trial: false,
            key,
        }
    }

    fn attach(&self, size: &str, more: &str) -> Result<Mounted, AttachError> {
        let definition = self.definition(size, more);
        let place = self.place(&definition);
        let backend = backend::of(&definition);
        let attached = backend.attach(&place)?;
        Ok(Mounted { backend, place, attached })
    }

    fn ext4(&self, size: &str) -> Mounted {
        self.attach(size, "format = \"ext4\"").unwrap()
    }

    /// The loop devices of this image.
    fn devices(&self) -> Vec<u32> {
        saddlebag::sys::loop_device::find_by_name(self.image().file_name().unwrap()).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("volumes")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

struct Mounted {
    backend: Box<dyn Backend>,
    place: Place,
    attached: Attached,
}

impl Mounted {
    fn path(&self, name: &str) -> PathBuf {
        self.attached.root.join(name)
    }

    /// As a reconciler does: again, while something of a process that is just being started still has it.
    fn detach(&self) {
        wait_until("an image that nobody uses", || match self.backend.detach(&self.place) {
            Err(DetachError::Busy) => false,
            detached => {
                detached.unwrap();
                true
            }
        });
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.place.mount_point, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn write_synced(path: &Path, text: &str) {
    let mut file = File::create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.sync_all().unwrap();
}

fn refusal(attached: Result<Mounted, AttachError>) -> String {
    let refusal = attached.map(|_| ()).unwrap_err().refusal("disk");
    format!("{} ({})", refusal.message, refusal.hint.unwrap_or_default())
}

#[test]
fn an_image_is_made_used_let_go_and_found_with_all_that_was_written() {
    in_private_namespace(|| {
        for (format, size) in [("ext4", "64MiB"), ("xfs", "300MiB")] {
            let images = Images::new();
            let more = format!("format = \"{format}\"\n  owner = \"1234:4321\"\n  mode = \"0750\"");
            let first = images.attach(size, &more).unwrap();
            assert!(!first.attached.found);
            assert_eq!(fs::read_dir(&first.attached.root).unwrap().count(), 0, "a new volume is empty");
            let root = fs::metadata(&first.attached.root).unwrap();
            assert_eq!((root.uid(), root.gid(), root.mode() & 0o7777), (1234, 4321, 0o750));
            write_synced(&first.path("file"), "kept");
            assert_eq!(images.devices().len(), 1);
            assert!(images.note().exists());
            let image = fs::metadata(images.image()).unwrap();
            assert_eq!(image.mode() & 0o7777, 0o600);
            assert!(image.blocks() * 512 < image.len() / 2, "{format}: the image is sparse");
            first.detach();
            assert_eq!(images.devices(), [0; 0]);
            assert_eq!(images.files(), [images.image().file_name().unwrap().to_str().unwrap()], "nothing else is left");
            let second = images.attach(size, &more).unwrap();
            assert_eq!(fs::read_to_string(second.path("file")).unwrap(), "kept");
            second.detach();
        }
    });
}

/// What another thread starts has copies of this process's descriptors for a moment.
#[test]
fn an_image_is_not_attached_while_the_device_that_made_it_is_still_open_somewhere() {
    use std::sync::atomic::{AtomicBool, Ordering};
    in_private_namespace(|| {
        let images = Images::new();
        let (was_held, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        let draft = format!("/.{}.img.", images.name);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    for number in 0..64 {
                        let file = format!("/sys/block/loop{number}/loop/backing_file");
                        if !fs::read_to_string(file).is_ok_and(|name| name.contains(&draft)) {
                            continue;
                        }
                        let Ok(held) = File::open(format!("/dev/loop{number}")) else { continue };
                        was_held.store(true, Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_secs(1));
                        drop(held);
                        return;
                    }
                }
            });
            let mounted = images.ext4("64MiB");
            is_over.store(true, Ordering::SeqCst);
            let devices = images.devices();
            assert!(was_held.load(Ordering::SeqCst), "the device of the draft was not seen");
            assert_eq!(devices.len(), 1, "one device: {devices:?}");
            write_synced(&mounted.path("file"), "kept");
            mounted.detach();
        });
    });
}

#[test]
fn a_next_agent_finds_the_same_mount_on_the_same_device() {
    in_private_namespace(|| {
        let images = Images::new();
        let first = images.ext4("64MiB");
        let devices = images.devices();
        let again = images.ext4("64MiB");
        assert!(again.attached.found);
        assert_eq!((again.attached.identity, images.devices()), (first.attached.identity, devices.clone()));
        // Somebody unmounts the source, while a task has a file open: the file system is the same one still.
        let open = File::create(first.path("open")).unwrap();
        let clone = saddlebag::sys::mount::clone_detached(std::os::fd::AsFd::as_fd(
            &saddlebag::sys::resolve::open_root(&first.attached.root).unwrap(),
        ))
        .unwrap();
        drop(open);
        nix::mount::umount2(&first.place.mount_point, nix::mount::MntFlags::MNT_DETACH).unwrap();
        let again = images.ext4("64MiB");
        assert_eq!(images.devices(), devices);
        assert_eq!(again.attached.identity.device, first.attached.identity.device);
        drop(clone);
        again.detach();
        assert_eq!(images.devices(), [0; 0]);
    });
}

#[test]
fn a_file_that_is_no_image_of_that_kind_is_never_formatted() {
    in_private_namespace(|| {
        // Not even an empty one, or one of zeroes: it was there before.
        for content in [&b""[..], &[0; 1 << 20], b"somebody's precious text"] {
            let images = Images::new();
            fs::write(images.image(), content).unwrap();
            let said = refusal(images.attach("64MiB", "format = \"ext4\""));
            assert!(said.contains("holds no file system that is known"), "{said}");
            assert_eq!(fs::read(images.image()).unwrap(), content);
            assert_eq!((images.files().len(), images.devices()), (1, vec![]));
        }
        let images = Images::new();
        images.attach("300MiB", "format = \"xfs\"").unwrap().detach();
        let before = fs::read(images.image()).unwrap();
        let said = refusal(images.attach("300MiB", "format = \"ext4\""));
        assert!(said.contains("holds xfs, and its definition says ext4"), "{said}");
        assert!(fs::read(images.image()).unwrap() == before);
        // Over no symbolic link, and no directory.
        let images = Images::new();
        std::os::unix::fs::symlink("/etc/passwd", images.image()).unwrap();
        assert!(refusal(images.attach("64MiB", "format = \"ext4\"")).contains("is not a plain file"));
        fs::remove_file(images.image()).unwrap();
        fs::create_dir(images.image()).unwrap();
        assert!(refusal(images.attach("64MiB", "format = \"ext4\"")).contains("is not a plain file"));
    });
}

#[test]
fn an_image_that_was_promised_and_is_gone_is_not_made_anew() {
    in_private_namespace(|| {
        let images = Images::new();
        let definition = images.definition("64MiB", "format = \"ext4\"");
        let place = Place { may_create: false, ..images.place(&definition) };
        let error = backend::of(&definition).attach(&place).unwrap_err();
        assert!(error.to_string().contains("does not exist"), "{error}");
        assert_eq!(images.files(), [""; 0]);
    });
}

#[test]
fn what_is_attached_elsewhere_is_not_attached() {
    in_private_namespace(|| {
        let images = Images::new();
        images.ext4("64MiB").detach();
        // By hand, with another device.
        let by_hand = Command::new("losetup").args(["--find", "--show"]).arg(images.image()).output().unwrap();
        let device = String::from_utf8(by_hand.stdout).unwrap().trim().to_owned();
        let said = refusal(images.attach("64MiB", "format = \"ext4\""));
        assert!(said.contains(&format!("{device} on this machine has it")), "{said}");
        assert!(Command::new("losetup").args(["--detach", &device]).status().unwrap().success());
        // By another client of the backend, as far as its locks reach.
        let elsewhere = File::options().read(true).write(true).open(images.image()).unwrap();
        let fd = std::os::fd::AsFd::as_fd(&elsewhere);
        assert_eq!(saddlebag::sys::file_lock::lock(fd, 1 << 62, 1).unwrap(), saddlebag::sys::file_lock::Locked::Yes);
        let said = refusal(images.attach("64MiB", "format = \"ext4\""));
        assert!(said.contains("somebody else holds the lock"), "{said}");
        drop(elsewhere);
        // By another machine's word, until it is taken back.
        let attached = images.ext4("64MiB");
        let note = fs::read_to_string(images.note()).unwrap();
        attached.detach();
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
        let theirs = note.replace(&format!("{host:?}"), "\"beta\"").replace(&boot, "another boot");
        fs::write(images.note(), &theirs).unwrap();
        let said = refusal(images.attach("64MiB", "format = \"ext4\""));
        assert!(said.contains("is attached on beta") && said.contains(images.note().to_str().unwrap()), "{said}");
        assert_eq!(fs::read_to_string(images.note()).unwrap(), theirs);
        // What this machine had attached before it was booted again is attached no more.
        fs::write(images.note(), note.replace(&boot, "an earlier boot")).unwrap();
        images.ext4("64MiB").detach();
    });
}

#[test]
fn an_image_grows_while_it_is_used_and_never_shrinks() {
    in_private_namespace(|| {
        for (format, small, large) in [("ext4", "64MiB", "256MiB"), ("xfs", "300MiB", "700MiB")] {
            let images = Images::new();
            let more = format!("format = \"{format}\"");
            let first = images.attach(small, &more).unwrap();
            let size = |mounted: &Mounted| {
                let found = rustix::fs::statvfs(&mounted.attached.root).unwrap();
                (found.f_blocks * found.f_frsize) >> 20
            };
            let mut open = File::create(first.path("open")).unwrap();
            open.write_all(b"before").unwrap();
            let (device, before) = (first.attached.identity.device, size(&first));
            let mut grown = images.attach(large, &more).unwrap();
            assert!(grown.attached.found && grown.attached.identity.device == device, "it is mounted still");
            if format == "ext4" && !has_capability(CAP_SYS_RESOURCE) {
                // The kernel lets nobody else grow a mounted ext4: it is done when it is attached the next time.
                assert_eq!(size(&grown), before);
                drop(open);
                grown.detach();
                drop(grown);
                grown = images.attach(large, &more).unwrap();
                open = File::options().append(true).open(grown.path("open")).unwrap();
            }
            assert!(size(&grown) > before * 2, "{} after {before}", size(&grown));
            open.write_all(b" after").unwrap();
            open.sync_all().unwrap();
            drop(open);
            assert_eq!(fs::read_to_string(grown.path("open")).unwrap(), "before after");
            grown.detach();
            let said = refusal(images.attach(small, &more));
            assert!(said.contains("cannot be shrunk"), "{said}");
            images.attach(large, &more).unwrap().detach();
        }
    });
}

/// linux/capability.h
const CAP_SYS_RESOURCE: u32 = 24;

fn has_capability(number: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    (u64::from_str_radix(effective.trim(), 16).unwrap() >> number) & 1 == 1
}

#[test]
fn what_is_deleted_in_an_image_takes_no_room_on_its_backend_any_more() {
    in_private_namespace(|| {
        let images = Images::new();
        let mounted = images.ext4("128MiB");
        let used = || (fs::metadata(images.image()).unwrap().blocks() * 512) >> 20;
        write_synced(&mounted.path("large"), &"x".repeat(64 << 20));
        assert!(used() >= 64, "{} MiB", used());
        fs::remove_file(mounted.path("large")).unwrap();
        wait_until("the image to shrink", || {
            rustix::fs::syncfs(File::open(&mounted.attached.root).unwrap()).unwrap();
            used() < 32
        });
        mounted.detach();
    });
}

#[test]
fn a_file_system_that_met_an_error_is_attached_anew_from_its_journal() {
    in_private_namespace(|| {
        for format in ["ext4", "xfs"] {
            let images = Images::new();
            let more = format!("format = \"{format}\"");
            let first = images.attach("300MiB", &more).unwrap();
            write_synced(&first.path("kept"), "acknowledged");
            let task = saddlebag::sys::resolve::open_root(&first.attached.root).unwrap();
            let clone = saddlebag::sys::mount::clone_detached(std::os::fd::AsFd::as_fd(&task)).unwrap();
            drop(task);
            let mut open = File::create(first.path("open")).unwrap();
            shut_down(&first.attached.root);
            let device = first.attached.identity.device;

            let again = images.attach("300MiB", &more).unwrap();
            assert!(!again.attached.found && again.attached.identity.device != device);
            assert_eq!(fs::read_to_string(again.path("kept")).unwrap(), "acknowledged");
            // The task's own mount is dead for good, by its device's word.
            assert!(open.write_all(b"late").and_then(|()| open.sync_all()).is_err());
            assert!(saddlebag::sys::loop_device::is_disarmed(device));
            assert_eq!(images.devices().len(), 2);
            // Its lock is no obstacle to another try, and goes with it.
            let third = images.attach("300MiB", &more).unwrap();
            assert!(third.attached.found);
            drop((open, clone));
            wait_until("the former device to go", || images.devices().len() == 1);
            third.detach();
            assert_eq!((images.devices(), images.files().len()), (vec![], 1));
        }
    });
}

/// A backend that has less room than its images were promised.
#[test]
fn a_backend_without_room_fails_what_has_no_place_and_keeps_all_that_was_acknowledged() {
    in_private_namespace(|| {
        for format in ["ext4", "xfs"] {
            let images = Images::new();
            let disk = images.root.join("volumes");
            let mount = |options: &str| {
                let done = Command::new("mount").args(["-o", options, "none"]).arg(&disk).status().unwrap();
                assert!(done.success(), "{options}");
            };
            let done =
                Command::new("mount").args(["-t", "tmpfs", "-o", "size=96m", "none"]).arg(&disk).status().unwrap();
            assert!(done.success());
            let more = format!("format = \"{format}\"");
            let mounted = images.attach("400MiB", &more).unwrap();
            let piece = vec![7; 1 << 20];
            let mut acknowledged = 0;
            let error = loop {
                assert!(acknowledged < 400, "there is room for all of it");
                let written = File::create(mounted.path(&format!("piece-{acknowledged}")))
                    .and_then(|mut file| file.write_all(&piece).and_then(|()| file.sync_all()));
                match written {
                    Ok(()) => acknowledged += 1,
                    Err(error) => break error,
                }
            };
            assert!(acknowledged > 8, "{format}: {acknowledged} pieces, then {error}");
            // What cannot be written is damage, and is told; with room it is mended like any other.
            mount("remount,size=600m");
            // Ext4 finds out what of it was lost when it changes something the next time, and refuses from there on.
            let meanwhile = images.attach("400MiB", &more).unwrap();
            let _ = File::create(meanwhile.path("any")).and_then(|file| file.sync_all());
            let again = images.attach("400MiB", &more).unwrap();
            for number in 0..acknowledged {
                assert_eq!(fs::read(again.path(&format!("piece-{number}"))).unwrap(), piece, "{format}: {number}");
            }
            write_synced(&again.path("after"), "there is room");
            again.detach();
            let check = match format {
                "ext4" => Command::new("/sbin/e2fsck").args(["-f", "-n"]).arg(images.image()).output(),
                _ => Command::new("xfs_repair").args(["-n", "-f"]).arg(images.image()).output(),
            };
            let check = check.unwrap();
            assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
            drop((mounted, meanwhile));
            nix::mount::umount(&disk).unwrap();
        }
    });
}

fn shut_down(root: &Path) {
    let root = saddlebag::sys::resolve::open_root(root).unwrap();
    saddlebag::sys::block_fs::shut_down(std::os::fd::AsFd::as_fd(&root)).unwrap();
}

#[test]
fn an_ext4_that_is_marked_as_damaged_is_mended_and_one_beyond_that_is_refused_with_the_command() {
    in_private_namespace(|| {
        let images = Images::new();
        let mounted = images.ext4("64MiB");
        write_synced(&mounted.path("kept"), "acknowledged");
        mounted.detach();
        drop(mounted);
        mark_as_damaged(&images.image());
        let mounted = images.ext4("64MiB");
        assert_eq!(fs::read_to_string(mounted.path("kept")).unwrap(), "acknowledged");
        mounted.detach();
        drop(mounted);
        // The root directory's inode, and all others of the first table, are gone.
        mark_as_damaged(&images.image());
        let mut image = File::options().read(true).write(true).open(images.image()).unwrap();
        let mut block = vec![0; 4096];
        let zeroes = vec![0xff; 4096];
        // After superblock and descriptors: 64 KiB of whatever is there.
        for at in 1..200 {
            image.seek(SeekFrom::Start(at * 4096)).unwrap();
            image.read_exact(&mut block).unwrap();
            if at > 1 {
                image.write_all_at(&zeroes, at * 4096).unwrap();
            }
        }
        drop(image);
        let said = refusal(images.attach("64MiB", "format = \"ext4\""));
        assert!(
            said.contains("is damaged") && said.contains(&format!("e2fsck -f {}", images.image().display())),
            "{said}"
        );
        assert_eq!(images.devices(), [0; 0]);
    });
}

/// Sets the error flag of an ext4's superblock, as the kernel does when it meets an error.
fn mark_as_damaged(image: &Path) {
    let done = Command::new("debugfs").args(["-w", "-R", "ssv state 2"]).arg(image).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn a_draft_of_an_agent_that_was_killed_is_thrown_away_and_no_other_file_is() {
    in_private_namespace(|| {
        let images = Images::new();
        let mounted = images.ext4("64MiB");
        let note = fs::read_to_string(images.note()).unwrap();
        mounted.detach();
        drop(mounted);
        fs::remove_file(images.image()).unwrap();
        let draft = format!(".{}.img.0123abcd.new", images.name);
        let strangers = format!(".{}.img.4567abcd.new", images.name);
        let volumes = images.root.join("volumes");
        for name in [&draft, &strangers] {
            fs::write(volumes.join(name), "half an image").unwrap();
        }
        let creating = note.replace("\"attached\"", &format!("{{\"creating\":\"{draft}\"}}"));
        assert_ne!(creating, note);
        fs::write(images.note(), creating).unwrap();
        images.ext4("64MiB").detach();
        assert!(!volumes.join(&draft).exists() && volumes.join(&strangers).exists());
        // A note is data: it has nothing removed that is no draft.
        fs::remove_file(images.image()).unwrap();
        fs::write(volumes.join("precious"), "kept").unwrap();
        fs::write(images.note(), note.replace("\"attached\"", "{\"creating\":\"precious\"}")).unwrap();
        assert!(images.attach("64MiB", "format = \"ext4\"").is_err());
        assert_eq!(fs::read_to_string(volumes.join("precious")).unwrap(), "kept");
    });
}

#[test]
fn an_xfs_that_was_shut_down_is_still_known_for_what_it_is() {
    in_private_namespace(|| {
        let images = Images::new();
        let mounted = images.attach("300MiB", "format = \"xfs\"").unwrap();
        let root = saddlebag::sys::resolve::open_root(&mounted.attached.root).unwrap();
        let fd = std::os::fd::AsFd::as_fd(&root);
        let before = identity::reusable_mount_id(fd).unwrap();
        shut_down(&mounted.attached.root);
        assert!(fs::metadata(&mounted.attached.root).is_err(), "it says nothing of its files any more");
        assert_eq!(identity::identify(fd).unwrap(), mounted.attached.identity);
        assert_eq!(identity::reusable_mount_id(fd).unwrap(), before);
        let is_dead = saddlebag::sys::namespace::is_dead_within(fd, std::time::Duration::from_secs(10), || ());
        assert_eq!(is_dead.unwrap(), Some(true));
        drop(root);
        mounted.detach();
    });
}

/// Where [`an_agent_of_another_process`] finds what it is told to do.
const TOLD: &str = "SADDLEBAG_TEST_IMAGE";

/// What is done in another process, for tests that kill it: nothing where it is told nothing.
#[test]
fn an_agent_of_another_process() {
    let Some(told) = std::env::var_os(TOLD) else { return };
    let told = told.into_string().unwrap();
    let (what, directory) = told.split_once(' ').unwrap();
    let directory = Path::new(directory);
    let images = Images::at(directory);
    let attached = images.attach("64MiB", "format = \"ext4\"\n  owner = \"1:2\"").unwrap();
    if what == "detach" {
        attached.backend.detach(&attached.place).unwrap();
    }
    // As an agent that ends: it leaves all as it is.
    std::mem::forget(attached);
}

/// Runs the other process in this thread's mount namespace, killed before the `number`th `call` of a thread of its.
fn run_killed(images: &Images, what: &str, (call, number): (&str, u32)) -> bool {
    let status = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null"])
        .arg(format!("--inject={call}:signal=KILL:when={number}"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "images::an_agent_of_another_process", "--test-threads", "1"])
        .env(TOLD, format!("{what} {}", images.root.display()))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .expect("strace is installed");
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(9)
}

/// The calls by which an image is made and then attached, in about their order: each changes something that a next agent
/// has to find its way with. (Those of which mkfs itself makes as many are not among them: it would be killed instead.)
const STEPS_MAKING: [(&str, u32); 17] = [
    // The note on making it: written, synced, linked.
    ("fsync", 1),
    ("linkat", 1),
    ("unlinkat", 2),
    // The draft, its length and its device.
    ("fsync", 2),
    ("ftruncate", 1),
    ("lseek", 2),
    ("ioctl", 2),
    // blkid and mkfs.
    ("memfd_create", 1),
    ("memfd_create", 2),
    // The root directory's owner, and the name.
    ("fsopen", 1),
    ("fsconfig", 2),
    ("fsmount", 1),
    ("fchownat", 1),
    ("syncfs", 1),
    ("renameat2", 1),
    // The note on having it, and the mount.
    ("renameat", 1),
    ("move_mount", 1),
];

/// The same of an image that is there.
const STEPS_ATTACHING: [(&str, u32); 8] = [
    ("linkat", 1),
    ("unlinkat", 2),
    ("fsync", 2),
    // The device: a number is asked for, and it is bound.
    ("ioctl", 1),
    ("ioctl", 2),
    ("fsopen", 1),
    ("fsmount", 1),
    ("move_mount", 1),
];

#[test]
fn an_agent_killed_before_any_step_of_an_attachment_leaks_nothing_and_is_followed_by_one_that_converges() {
    in_private_namespace(|| {
        let attach = |images: &Images| images.attach("64MiB", "format = \"ext4\"\n  owner = \"1:2\"");
        let making = STEPS_MAKING.iter().map(|step| (true, *step));
        for (is_made, step) in making.chain(STEPS_ATTACHING.iter().map(|step| (false, *step))) {
            let images = Images::new();
            if !is_made {
                attach(&images).unwrap().detach();
            }
            assert!(run_killed(&images, "attach", step), "{step:?} is not on the way in");
            // A device without a mount goes with who had it open, a program that makes a file system included.
            wait_until("no device but a mounted one", || {
                let mounted = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
                let is_mounted = mounted.contains(images.root.to_str().unwrap());
                images.devices().len() == usize::from(is_mounted)
            });
            let next = attach(&images).unwrap_or_else(|error| panic!("after {step:?}: {error}"));
            let root = fs::metadata(&next.attached.root).unwrap();
            assert_eq!((root.uid(), root.gid()), (1, 2), "after {step:?}");
            write_synced(&next.path("file"), "kept");
            next.detach();
            drop(next);
            assert_eq!(images.devices(), [0; 0], "after {step:?}");
            assert_eq!(images.files(), [format!("{}.img", images.name)], "after {step:?}");
            let again = attach(&images).unwrap();
            assert_eq!(fs::read_to_string(again.path("file")).unwrap(), "kept", "after {step:?}");
            again.detach();
        }
    });
}

#[test]
fn an_agent_killed_on_the_way_out_is_followed_by_one_that_lets_the_image_go() {
    in_private_namespace(|| {
        for step in [("umount2", 1), ("rmdir", 1), ("unlinkat", 1)] {
            let images = Images::new();
            let first = images.attach("64MiB", "format = \"ext4\"\n  owner = \"1:2\"").unwrap();
            write_synced(&first.path("file"), "kept");
            assert!(run_killed(&images, "detach", step), "{step:?} is not on the way out");
            let next = images.attach("64MiB", "format = \"ext4\"\n  owner = \"1:2\"").unwrap();
            assert_eq!(fs::read_to_string(next.path("file")).unwrap(), "kept", "after {step:?}");
            next.detach();
            assert_eq!((images.devices(), images.files().len()), (vec![], 1), "after {step:?}");
        }
    });
}
