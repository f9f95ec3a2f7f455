//! Who waits for a source's probes. At most one of a source is outstanding, whoever asks.
//!
//! A probe that is silent for [`DEADLINE`] is reported so, and stays: its answer, whenever it comes, is the news that the
//! source answers again, for which nobody needs to poll. One that is silent for [`GIVE_UP`] is killed, for its question
//! may have been lost where later ones are not; where the kernel does not let it end, it remains the only one.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::SourceKey;
use super::probe::{Question, Verdict, Word};

/// A source that has not answered for so long is hung.
pub const DEADLINE: Duration = Duration::from_secs(2);
/// How long a probe that nobody answers is left waiting.
const GIVE_UP: Duration = Duration::from_secs(30);
/// How long the machine may take to start a probe.
const START: Duration = Duration::from_secs(15);
/// The most that is read of a probe's words, in bytes.
const LONGEST: usize = 64 << 10;
/// The stack of the thread that waits, in bytes.
const STACK: usize = 128 << 10;

/// What a probe found so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The mount that was asked.
    pub mount_id: u64,
    /// Since when it has been asked.
    pub asked: Instant,
    /// What the mount says; none where the probe ended without having asked it.
    pub mount: Option<Verdict>,
    /// What is wrong with it although it answers.
    pub ails: Option<String>,
    /// What the storage system's servers say.
    pub servers: Option<Verdict>,
    /// Whether the probe has ended: no other report follows.
    pub is_over: bool,
}

/// Asks one source.
#[derive(Clone)]
pub struct Prober(Arc<Shared>);

struct Shared {
    key: SourceKey,
    tell: Box<dyn Fn(Report) + Send + Sync>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The question of the one that is outstanding.
    outstanding: Option<Question>,
    /// What the last one, or the outstanding one, has reported.
    report: Option<Report>,
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Prober").field(&self.0.key).finish()
    }
}

impl Prober {
    /// Probes of one source; every report goes to `tell`, from a thread of the probe's own.
    pub fn new(key: SourceKey, tell: impl Fn(Report) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared { key, tell: Box::new(tell), state: Mutex::default(), changed: Condvar::new() }))
    }

    /// Begins a probe, unless one is outstanding. Does not wait.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn begin(&self, question: Question) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.outstanding.is_none() { self.start(&mut state, question) } else { Ok(()) }
    }

    /// What is known of the probe that is outstanding: its report, where it has made one.
    pub fn outstanding(&self) -> Option<Option<Report>> {
        let state = self.0.lock();
        state.outstanding.as_ref().map(|_| state.report.clone())
    }

    /// Asks and waits for the mount's answer, about [`DEADLINE`] at most. Never waits in the kernel for the source.
    ///
    /// # Errors
    /// The probe could not be made.
    pub fn ask(&self, question: &Question) -> io::Result<Verdict> {
        let patience = Instant::now() + START + 2 * DEADLINE;
        let mut state = self.0.lock();
        let mut is_ours = false;
        loop {
            if !is_ours && state.outstanding.is_none() {
                self.start(&mut state, question.clone())?;
                is_ours = true;
            }
            // Another's answer to the same question is as good; one to an older question only where it is none.
            let is_same = is_ours || state.outstanding.as_ref() == Some(question);
            if let Some(report) = &state.report
                && (state.outstanding.is_some() || is_ours)
            {
                match &report.mount {
                    Some(verdict) if is_same || matches!(verdict, Verdict::Silent { .. }) => return Ok(verdict.clone()),
                    None if is_ours && report.is_over => {
                        return Err(io::Error::other("the probe ended without an answer"));
                    }
                    _ => {}
                }
            }
            let left = patience.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Verdict::Silent { reason: "the probe was not answered".into() });
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn start(&self, state: &mut State, question: Question) -> io::Result<()> {
        let shared = Arc::clone(&self.0);
        let asked = question.clone();
        let attend = move || {
            let over = attend(&shared, &asked);
            let mut state = shared.lock();
            state.outstanding = None;
            state.report = Some(over.clone());
            drop(state);
            shared.changed.notify_all();
            (shared.tell)(over);
        };
        std::thread::Builder::new().name("probe".into()).stack_size(STACK).spawn(attend)?;
        // The thread needs the lock, which the caller holds, for anything that it reports.
        state.outstanding = Some(question);
        state.report = None;
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is half done in it at a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, report: &Report) {
        self.lock().report = Some(report.clone());
        self.changed.notify_all();
        (self.tell)(report.clone());
    }
}

/// Starts the child and hears it to its end; gives the last report.
fn attend(shared: &Shared, question: &Question) -> Report {
    let mut report = Report {
        mount_id: question.mount_id,
        asked: Instant::now(),
        mount: None,
        ails: None,
        servers: None,
        is_over: false,
    };
    match start(question) {
        Ok((mut child, output)) => {
            hear(shared, &mut report, &mut child, output);
            // Reaped, however long the kernel keeps it.
            let _ = child.wait();
        }
        Err(error) => tracing::error!(source = %shared.key, %error, "a probe cannot be started"),
    }
    report.is_over = true;
    report
}

fn start(question: &Question) -> io::Result<(Child, ChildStdout)> {
    // Not by its path: an upgrade may have put another program there.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("saddlebag").arg("probe").arg(&question.root).env_clear().current_dir("/");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let input = child.stdin.take().map(|mut input| input.write_all(&serde_json::to_vec(question)?));
    match (input, child.stdout.take()) {
        (Some(Ok(())), Some(output)) => Ok((child, output)),
        (input, _) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(input.and_then(Result::err).unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()))
        }
    }
}

fn hear(shared: &Shared, report: &mut Report, child: &mut Child, mut output: ChildStdout) {
    let mut deadline = Some(Instant::now() + START);
    let (mut is_begun, mut is_silent) = (false, false);
    let mut heard = Vec::new();
    let mut buffer = [0_u8; 4096];
    loop {
        if deadline.is_some_and(|at| at <= Instant::now()) {
            if is_silent {
                // It ends now, or when the kernel lets it.
                let _ = child.kill();
                deadline = None;
                continue;
            }
            is_silent = true;
            deadline = Some(report.asked + GIVE_UP);
            let silent = |what: &str| Verdict::Silent {
                reason: format!("{what} has not answered for {}", humantime::format_duration(DEADLINE)),
            };
            report.mount.get_or_insert_with(|| silent("its mount"));
            report.servers.get_or_insert_with(|| silent("its server"));
            shared.report(report);
        }
        if !is_readable(&output, deadline) {
            continue;
        }
        let length = match output.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        heard.extend_from_slice(&buffer[..length]);
        while let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = heard.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(Word::Begun) if !is_begun => {
                    is_begun = true;
                    report.asked = Instant::now();
                    if !is_silent {
                        deadline = Some(report.asked + DEADLINE);
                    }
                }
                Ok(Word::Ails(ailment)) => report.ails = Some(ailment),
                Ok(Word::Mount(verdict)) => report.mount = Some(verdict),
                Ok(Word::Servers(verdict)) => report.servers = Some(verdict),
                Ok(Word::Begun) | Err(_) => {}
            }
        }
        if heard.len() > LONGEST {
            let _ = child.kill();
            return;
        }
        if report.mount.is_some() && report.servers.is_some() {
            shared.report(report);
        }
    }
}

/// Waits until there is something to read, or the deadline.
fn is_readable(output: &ChildStdout, deadline: Option<Instant>) -> bool {
    let mut poll = [rustix::event::PollFd::new(output, rustix::event::PollFlags::IN)];
    let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
    let timeout = left.and_then(|left| rustix::event::Timespec::try_from(left).ok());
    matches!(rustix::event::poll(&mut poll, timeout.as_ref()), Ok(1))
}
