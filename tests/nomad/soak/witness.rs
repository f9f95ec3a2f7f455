//! Who hears what every task of a soak has written and seen, and remembers it when the task is long gone.

use anyhow::Context as _;
use rustix::time::{ClockId, clock_gettime};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The clock of tasks and test, in milliseconds.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or_default() * 1000 + u64::try_from(time.tv_nsec).unwrap_or_default() / 1_000_000
}

/// One file of one task in one volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct File {
    pub volume: String,
    /// `ALLOC.TASK`.
    pub name: String,
}

/// What is known of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept {
    /// Records that are on the storage: a completed fsync has said so.
    pub count: u64,
    /// When the last of them was begun.
    pub began: u64,
}

/// A call that did not succeed.
#[derive(Debug, Clone)]
pub struct Call {
    pub file: File,
    pub job: String,
    pub began: u64,
    pub ended: u64,
    pub call: String,
    /// When its task has started, if it has never yet succeeded in that volume.
    pub never_since: Option<u64>,
}

#[derive(Default)]
pub struct Seen {
    pub files: BTreeMap<File, Kept>,
    /// Not judged yet.
    pub faults: Vec<Call>,
    /// What may not be at any time.
    pub wrongs: Vec<String>,
    /// Allocations and tasks that have started, by their job.
    pub starts: BTreeMap<String, BTreeSet<(String, String)>>,
    /// Tasks that run.
    pub connected: BTreeMap<(String, String), Connection>,
    /// How often a task was told to go, since Nomad may not know of it.
    pub disowned: BTreeMap<(String, String), u64>,
    is_nomad_away: bool,
}

/// A task that runs.
pub struct Connection {
    stream: TcpStream,
    since: u64,
}

/// A Nomad that is killed has noted a task that it had started so long before, and its executor.
pub const NOTED_WITHIN: u64 = 5_000;

/// Listens for as long as this process lives.
pub struct Witness {
    pub port: u16,
    seen: Arc<Mutex<Seen>>,
}

impl Witness {
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listening for tasks")?;
        let port = listener.local_addr()?.port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || hear(&stream, &shared));
            }
        });
        Ok(Self { port, seen })
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that one task says, to its end.
fn hear(stream: &TcpStream, seen: &Mutex<Seen>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(hello) = lines.next() else { return };
    let words: Vec<&str> = hello.split(' ').collect();
    let ["hello", job, alloc, task] = words[..] else {
        lock(seen).wrongs.push(format!("somebody says {hello:?}"));
        return;
    };
    let who = (alloc.to_owned(), task.to_owned());
    let since = now();
    {
        let Ok(stream) = stream.try_clone() else { return };
        let mut seen = lock(seen);
        seen.starts.entry(job.to_owned()).or_default().insert(who.clone());
        if seen.is_nomad_away {
            seen.disown(&who, &stream);
        } else if seen.connected.insert(who.clone(), Connection { stream, since }).is_some() {
            seen.wrongs.push(format!("{task} of {alloc} of {job} runs twice"));
        }
    }
    let mut reached = BTreeSet::new();
    for line in lines {
        let mut seen = lock(seen);
        if seen.take(job, &who, &line, since, &mut reached).is_none() {
            seen.wrongs.push(format!("{task} of {alloc} of {job} says {line:?}"));
        }
    }
    let mut seen = lock(seen);
    if seen.connected.get(&who).is_some_and(|connection| connection.since == since) {
        seen.connected.remove(&who);
    }
}

impl Seen {
    /// Nomad was killed. What it has started just before it may not have noted: that runs on without anybody, and Nomad
    /// starts another one beside it, or calls the task dead. So such a task goes after the record that it is at, as
    /// does one that comes before Nomad is back.
    pub fn lose_nomad(&mut self) {
        self.is_nomad_away = true;
        let since = now().saturating_sub(NOTED_WITHIN);
        let (young, noted) = std::mem::take(&mut self.connected).into_iter().partition(|(_, one)| one.since >= since);
        self.connected = noted;
        let young: BTreeMap<_, Connection> = young;
        for (who, connection) in young {
            self.disown(&who, &connection.stream);
        }
    }

    pub fn find_nomad(&mut self) {
        self.is_nomad_away = false;
    }

    fn disown(&mut self, who: &(String, String), stream: &TcpStream) {
        // It may have ended by itself. What it says of the call that it is in is heard.
        let _ = stream.shutdown(Shutdown::Write);
        *self.disowned.entry(who.clone()).or_default() += 1;
    }

    /// `None` for what nobody understands.
    /// `reached` are the volumes in which the task has succeeded since its start.
    fn take(
        &mut self,
        job: &str,
        who: &(String, String),
        line: &str,
        since: u64,
        reached: &mut BTreeSet<String>,
    ) -> Option<()> {
        let mut words = line.splitn(6, ' ');
        let verb = words.next()?;
        if matches!(line, "ended" | "told to end") {
            return Some(());
        }
        let file = File { volume: words.next()?.to_owned(), name: format!("{}.{}", who.0, who.1) };
        let number: u64 = words.next()?.parse().ok()?;
        let may_be_two = self.disowned.contains_key(who);
        if verb == "found" {
            let kept = self.files.entry(file.clone()).or_default().count;
            // The last record may have become durable without the word of it, or by one that has been told to go.
            if number != kept && number != kept + 1 && !(may_be_two && number + 1 == kept) {
                self.wrongs.push(format!("{job}: {number} records are found in {file:?} of {kept}"));
            }
            self.files.entry(file).or_default().count = number.max(kept);
            return Some(());
        }
        let (began, ended) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        match verb {
            "kept" => {
                reached.insert(file.volume.clone());
                let kept = self.files.entry(file.clone()).or_default();
                // The one that has been told to go, and its successor, have written the same record.
                if may_be_two && number + 1 == kept.count {
                    return Some(());
                }
                if kept.count != number {
                    let text = format!("{job}: record {number} of {file:?} is kept after {}", kept.count);
                    self.wrongs.push(text);
                }
                *self.files.entry(file).or_default() = Kept { count: number + 1, began };
            }
            "fault" => {
                let call = format!("{} (record {number})", words.next()?);
                let never_since = Some(since).filter(|_| !reached.contains(&file.volume));
                self.faults.push(Call { file, job: job.to_owned(), began, ended, call, never_since });
            }
            "wrong" => {
                let text = format!("{job}: {file:?}, record {number}, {began} to {ended}: {}", words.next()?);
                self.wrongs.push(text);
            }
            _ => return None,
        }
        Some(())
    }
}
