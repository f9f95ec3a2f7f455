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

/// How long something may take that needs a busy machine's attention, or its disk's.
pub const PATIENCE: Duration = Duration::from_secs(60);

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
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether something that can be done again and again takes less than `limit` at least once: what waits for somebody
/// does so each time, and a busy machine does not.
pub fn is_ever_faster(limit: Duration, mut what: impl FnMut()) -> bool {
    (0..5).any(|_| {
        let began = Instant::now();
        what();
        began.elapsed() < limit
    })
}

pub fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Stops a process, and waits until none of its threads runs any more: until its first one has heard of the signal, the
/// others go on.
pub fn stop(pid: u32) {
    signal(pid, Signal::SIGSTOP);
    let stands_still = |thread: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // One that has ended meanwhile has none.
        stat.is_empty() || stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
    };
    wait_until("a process that stands still", || {
        std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().all(stands_still)
    });
}

/// A process's command line; empty where it has ended, and for a moment while it is being executed.
fn command_line(pid: i32) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

fn has_word(command: &[u8], word: &[u8]) -> bool {
    command.split(|byte| *byte == 0).any(|found| found == word)
}

/// Ends the guard of a run directory and its keeper, and whoever is about to become one: `starter` is a path among the
/// arguments of a process that starts guards, and has ended.
///
/// Saying it once is not enough. A guard that was just started hears nobody before its record is on the disk. One that
/// was killed is followed by the keeper's. Of several that were started at once, one that comes late takes the place of
/// the one that was ended. And a guard may see its keeper end, and start another, in the moment before it ends itself:
/// that keeper starts a guard. Any of these would live for ever.
pub fn end_guards(run_dir: &Path, starter: Option<&Path>) {
    let client = GuardClient::of_run_dir(run_dir);
    let log = run_dir.canonicalize().unwrap_or_else(|_| run_dir.to_owned()).join("guard.log");
    let is_one = |pid: &i32| {
        let command = command_line(*pid);
        if command.is_empty() {
            // It may be one that is being executed: its output goes to the log already.
            return std::fs::read_link(format!("/proc/{pid}/fd/1")).is_ok_and(|output| output == log);
        }
        let words = [Some(run_dir), starter];
        words.iter().flatten().any(|word| has_word(&command, word.as_os_str().as_encoded_bytes()))
    };
    let began = Instant::now();
    // A process that starts another and ends while they are gone through is not seen, and nor is the other.
    let mut looks_in_vain = 0;
    while looks_in_vain < 3 && began.elapsed() < PATIENCE {
        let mut pids = process::find_processes().unwrap();
        pids.retain(is_one);
        looks_in_vain = if pids.is_empty() { looks_in_vain + 1 } else { 0 };
        for pid in &pids {
            // A test that failed may have left it stopped.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGCONT);
            if began.elapsed() > PATIENCE / 2 {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
        }
        if !pids.is_empty() {
            let _ = client.stop();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
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
        // A hard link where that is possible: a copy is many megabytes, and all that is written here the next guard's
        // record waits for on its way to the disk.
        let named = |name: &str| {
            let named = path.join(name);
            if std::fs::hard_link(&own, &named).is_err() {
                std::fs::copy(&own, &named).unwrap();
            }
            named
        };
        let (nomad, other) = (named("nomad"), named("somebody"));
        let client = GuardClient::of_run_dir(&run_dir);
        Self { run_dir, volume, nomad, other, client, bindings: Mutex::default(), mounted: Mutex::default(), directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn start_guard(&self) -> Hello {
        let until = Instant::now() + PATIENCE;
        loop {
            match ensure_running(&self.run_dir, Path::new(env!("CARGO_BIN_EXE_saddlebag")), &[]) {
                Ok(hello) => return hello,
                // As an agent does: a guard answers once its record is on the disk, which takes as long as it takes.
                Err(error) if error.is_worth_another_try() && Instant::now() < until => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub fn hello(&self) -> Hello {
        self.client.hello(PATIENCE).unwrap()
    }

    /// Waits for a guard other than `dead`.
    pub fn next_guard(&self, dead: &Hello) -> Hello {
        let mut next = None;
        wait_until("another guard", || {
            next = self.client.hello(PATIENCE).ok().filter(|hello| hello.pid != dead.pid);
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
            self.client.mark(group, detached.as_fd(), PATIENCE).unwrap();
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
        let is_ours = |pid: &i32| {
            let command = command_line(*pid);
            has_word(&command, self.run_dir.as_os_str().as_encoded_bytes()) && has_word(&command, b"--keeper")
        };
        let keeper = process::find_processes().unwrap().into_iter().find(is_ours);
        keeper.map(|pid| u32::try_from(pid).unwrap())
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
        end_guards(&self.run_dir, None);
        for binding in self.bindings.lock().unwrap().iter() {
            let _ = mount::detach(binding.parent.as_fd(), binding.point.file_name().unwrap());
            let _ = inode::set_immutable(binding.beneath.as_fd(), false);
        }
        for mounted in self.mounted.lock().unwrap().iter() {
            let _ = nix::mount::umount2(mounted, MntFlags::MNT_DETACH);
        }
    }
}
