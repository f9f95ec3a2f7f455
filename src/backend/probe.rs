//! A probe: asks a source whether it answers, in a process of its own.
//!
//! Who asks a file system whose server hangs waits in the kernel, where often nobody can end it. A thread that waits there
//! keeps its whole process half alive, even after SIGKILL. So the one who asks is a child that does nothing else
//! ([`answer`], the hidden verb `saddlebag probe`), and who waits for its words is
//! [`Prober`](super::prober::Prober). It is told what to ask on its standard input, says each answer in a line as soon
//! as it has it, and ends when it has said all.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::{AttachError, Place};
use crate::config;
use crate::sys::namespace::{is_deaths, is_unattended};
use crate::sys::{identity, resolve};

/// How long a storage system's servers may take. Less than a probe may take in all, so that what they say of themselves
/// is heard beside a mount that says nothing.
const SERVERS: Duration = Duration::from_millis(1800);
/// The most that a child reads: a backend's definition is far smaller.
const LARGEST_QUESTION: u64 = 256 << 10;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// How the source is attached, and so which servers are asked.
    pub definition: config::Backend,
    /// The directory that volumes are directories of.
    pub root: PathBuf,
    /// The mount that is expected there.
    pub mount_id: u64,
    /// The log of its mount program.
    pub log: PathBuf,
    /// The folder of its cache.
    pub cache: PathBuf,
    /// Directory and mount of the source that it lies on, where it lies on one.
    #[serde(default)]
    pub beneath: Option<(PathBuf, u64)>,
}

impl Question {
    /// Asks the source of that definition at a place, where `root` is mounted.
    pub fn new(definition: &config::Backend, place: &Place, root: &Path, mount_id: u64) -> Self {
        let (log, cache) = (place.log.clone(), super::of(definition).cache(place));
        let beneath = place.beneath.as_ref().map(|beneath| (beneath.root.clone(), beneath.identity.mount_id));
        Self { definition: definition.clone(), root: root.to_owned(), mount_id, log, cache, beneath }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It answers.
    Answers,
    /// It answers with an error, or nobody is there.
    Refuses {
        /// The kernel's error number, where it is the mount that refuses.
        errno: Option<i32>,
        /// What it says.
        reason: String,
    },
    /// Its mount program answers, and says that none of what it stands on can be reached.
    Cut {
        /// What it says.
        reason: String,
    },
    /// It does not answer.
    Silent {
        /// What does not, for people.
        reason: String,
    },
}

/// One line of the child's.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// From now on it is the source that is waited for, and not this machine.
    Begun,
    /// What is wrong with it although it answers; said before [`Word::Mount`], if at all.
    Ails(String),
    /// What the mount says.
    Mount(Verdict),
    /// What the storage system's servers say.
    Servers(Verdict),
}

/// Reads a question from `input`, asks, and says what is answered on standard output. May hang for as long as the source
/// does.
///
/// # Errors
/// The input is no question, or nobody reads the answer.
pub fn answer(input: impl Read) -> io::Result<()> {
    // Who asks may be killed; what waits in the kernel then ends with it if it can be ended at all.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut text = Vec::new();
    input.take(LARGEST_QUESTION).read_to_end(&mut text)?;
    let question: Question = serde_json::from_slice(&text)?;
    let (root, definition) = (question.root.clone(), question.definition.clone());
    say(&Word::Begun)?;
    let servers = std::thread::Builder::new().name("servers".into()).spawn(move || {
        let verdict =
            super::of(&definition).probe(SERVERS).map_or_else(|error| of_servers(&error), |()| Verdict::Answers);
        say(&Word::Servers(verdict))
    })?;
    // What it lies on is asked first: what has all in memory answers also when that is gone.
    let beneath = question.beneath.as_ref().map(|(root, mount_id)| ask_mount(root, *mount_id));
    let mount = match beneath {
        Some(verdict) if verdict != Verdict::Answers => verdict,
        _ => ask_mount(&root, question.mount_id),
    };
    let mount = match (mount, super::of(&question.definition).find_damage(&question)) {
        (Verdict::Answers, Some(reason)) => Verdict::Refuses { errno: None, reason },
        (mount, _) => mount,
    };
    if let (Verdict::Answers, Some(ailment)) = (&mount, super::of(&question.definition).find_ailment(&question)) {
        say(&Word::Ails(ailment))?;
    }
    say(&Word::Mount(mount))?;
    servers.join().unwrap_or(Ok(()))
}

fn of_servers(error: &AttachError) -> Verdict {
    let reason = error.sentence();
    if error.is_silence() { Verdict::Silent { reason } } else { Verdict::Refuses { errno: None, reason } }
}

fn ask_mount(root: &Path, mount_id: u64) -> Verdict {
    let ask = || -> io::Result<Verdict> {
        let root = resolve::open_root(root).map_err(|error| {
            let errno = error.is_missing().then_some(io::ErrorKind::NotFound);
            io::Error::new(errno.unwrap_or(io::ErrorKind::Other), error)
        })?;
        if identity::identify(root.as_fd())?.mount_id != mount_id {
            return Err(io::Error::other("another mount is there than the one that was attached"));
        }
        match identity::answers(root.as_fd()) {
            Ok(()) => Ok(Verdict::Answers),
            Err(error) if error.raw_os_error().is_some_and(is_deaths) && !is_unattended(root.as_fd()) => {
                let reason = format!("its mount program runs, and none of the servers that it needs answers ({error})");
                Ok(Verdict::Cut { reason })
            }
            Err(error) => Err(error),
        }
    };
    ask().unwrap_or_else(|error| Verdict::Refuses { errno: error.raw_os_error(), reason: error.to_string() })
}

fn say(word: &Word) -> io::Result<()> {
    let mut line = serde_json::to_vec(word)?;
    line.push(b'\n');
    // Locked, so that two threads' lines do not mix.
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}
