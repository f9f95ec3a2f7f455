//! A client node in small: a volume, an allocation with the volume bound into it, a guard, and a Nomad.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use saddlebag::guard::question::{Answer, AnswerLine, Question};
use saddlebag::guard::{GuardClient, Hello, ensure_running};
use saddlebag::sys::{inode, mount, process, resolve};

use crate::purge;

pub const SOON: Duration = Duration::from_secs(5);

/// Runs a test on a thread in a private mount namespace.
pub fn in_private_namespace(test: impl FnOnce() + Send + 'static) {
    assert!(nix::unistd::geteuid().is_root(), "the kernel tests need root");
    let thread = std::thread::spawn(|| {
        enter_private_namespace();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Puts the calling thread into a mount namespace of its own.
pub fn enter_private_namespace() {
    nix::sched::unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < until, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// A binding of one allocation.
pub struct Binding {
    pub allocation: PathBuf,
    pub point: PathBuf,
    parent: OwnedFd,
    beneath: OwnedFd,
}

impl Binding {
    /// What the agent does when nothing uses the binding any more.
    pub fn take_away(&self) {
        mount::detach(self.parent.as_fd(), self.point.file_name().unwrap()).unwrap();
        inode::set_immutable(self.beneath.as_fd(), false).unwrap();
    }
}

pub struct Scene {
    pub directory: tempfile::TempDir,
    pub run_dir: PathBuf,
    pub volume: PathBuf,
    pub nomad: PathBuf,
    pub other: PathBuf,
    pub client: GuardClient,
    bindings: Mutex<Vec<Arc<Binding>>>,
    mounted: Mutex<Vec<PathBuf>>,
}

impl Scene {
    pub fn new() -> Self {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path();
        let run_dir = path.join("run");
        let volume = path.join("volume");
        std::fs::create_dir_all(volume.join("base/deep")).unwrap();
        std::fs::create_dir(&run_dir).unwrap();
        for file in ["one", "base/two", "base/deep/three"] {
            std::fs::write(volume.join(file), format!("acknowledged {file}")).unwrap();
        }
        let own = std::env::current_exe().unwrap();
        let copy = |name: &str| {
            let copy = path.join(name);
            std::fs::copy(&own, &copy).unwrap();
            copy
        };
        let (nomad, other) = (copy("nomad"), copy("somebody"));
        let client = GuardClient::of_run_dir(&run_dir);
        Self { run_dir, volume, nomad, other, client, bindings: Mutex::default(), mounted: Mutex::default(), directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn start_guard(&self) -> Hello {
        ensure_running(&self.run_dir, Path::new(env!("CARGO_BIN_EXE_saddlebag")), &[]).unwrap()
    }

    pub fn hello(&self) -> Hello {
        self.client.hello(SOON).unwrap()
    }

    /// Waits for a guard other than `dead`.
    pub fn next_guard(&self, dead: &Hello) -> Hello {
        let mut next = None;
        wait_until("another guard", || {
            next = self.client.hello(SOON).ok().filter(|hello| hello.pid != dead.pid);
            next.is_some()
        });
        next.unwrap()
    }

    /// Binds a volume into an allocation as the agent does: marked before it is visible, on a directory beneath
    /// that nobody can write to.
    pub fn bind(&self, source: &Path, allocation: &str, group: Option<&str>) -> Arc<Binding> {
        let allocations = self.path().join("alloc");
        std::fs::create_dir_all(&allocations).unwrap();
        let root = resolve::open_root(&allocations).unwrap();
        let relative = PathBuf::from(allocation).join("task/local/data");
        let made = resolve::make_beneath(root.as_fd(), &relative, 0o755).unwrap();
        inode::set_mode(made.directory.as_fd(), 0).unwrap();
        inode::set_immutable(made.directory.as_fd(), true).unwrap();
        let source = resolve::open_root(source).unwrap();
        let detached = mount::clone_detached(source.as_fd()).unwrap();
        mount::set_flags(detached.as_fd(), mount::Flags { nosuid: true, nodev: true, ..Default::default() }).unwrap();
        if let Some(group) = group {
            self.client.mark(group, detached.as_fd(), SOON).unwrap();
        }
        mount::place(detached.as_fd(), made.directory.as_fd()).unwrap();
        let point = allocations.join(&relative);
        let binding = Arc::new(Binding {
            allocation: allocations.join(allocation),
            parent: resolve::open_root(point.parent().unwrap()).unwrap(),
            beneath: made.directory,
            point,
        });
        self.bindings.lock().unwrap().push(Arc::clone(&binding));
        binding
    }

    /// Nomad's garbage collection of an allocation: the errno that its removal ends with.
    pub fn collect(&self, binding: &Binding) -> i32 {
        purge::run(&self.nomad, "remove-all", &binding.allocation)
    }

    pub fn contents(&self) -> BTreeMap<PathBuf, String> {
        ["one", "base/two", "base/deep/three"]
            .iter()
            .filter_map(|file| Some((PathBuf::from(file), std::fs::read_to_string(self.volume.join(file)).ok()?)))
            .collect()
    }

    pub fn assert_whole(&self) {
        let contents = self.contents();
        assert_eq!(contents.len(), 3, "{contents:?}");
        assert!(contents.iter().all(|(file, text)| *text == format!("acknowledged {}", file.display())));
    }

    /// Has something unmounted in the end.
    pub fn mounted(&self, path: &Path) {
        self.mounted.lock().unwrap().push(path.to_owned());
    }

    /// The keeper of this scene's guard.
    pub fn keeper(&self) -> Option<u32> {
        self.processes(Some("--keeper")).first().copied()
    }

    /// The processes of this scene's guard that have `word` among their arguments.
    fn processes(&self, word: Option<&str>) -> Vec<u32> {
        let is_ours = |pid: &i32| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
            words.contains(&self.run_dir.as_os_str().as_encoded_bytes())
                && word.is_none_or(|word| words.contains(&word.as_bytes()))
        };
        let pids = process::find_processes().unwrap().into_iter().filter(is_ours);
        pids.map(|pid| u32::try_from(pid).unwrap()).collect()
    }

    /// An agent that answers each question with what `decide` says, in a thread of its own. Returns the questions.
    pub fn answer_questions(
        &self,
        decide: impl Fn(&Question) -> Option<Answer> + Send + 'static,
    ) -> Arc<Mutex<Vec<Question>>> {
        let listener = UnixListener::bind(self.run_dir.join("questions.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let questions = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut unanswered = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut line = String::new();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
                let question: Question = serde_json::from_str(&line).unwrap();
                questions.lock().unwrap().push(question.clone());
                match decide(&question) {
                    Some(answer) => {
                        let line = serde_json::to_string(&AnswerLine { answer }).unwrap() + "\n";
                        // The guard may be dead by now.
                        let _ = stream.write_all(line.as_bytes());
                    }
                    None => unanswered.push(stream),
                }
            }
        });
        asked
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A guard that is just being started or replaced does not hear the first time.
        let until = Instant::now() + SOON;
        while !self.processes(None).is_empty() && Instant::now() < until {
            let _ = self.client.stop();
            std::thread::sleep(Duration::from_millis(5));
        }
        for binding in self.bindings.lock().unwrap().iter() {
            let _ = mount::detach(binding.parent.as_fd(), binding.point.file_name().unwrap());
            let _ = inode::set_immutable(binding.beneath.as_fd(), false);
        }
        for mounted in self.mounted.lock().unwrap().iter() {
            let _ = nix::mount::umount2(mounted, MntFlags::MNT_DETACH);
        }
    }
}
