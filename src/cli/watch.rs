//! `saddlebag status --watch`: shows each change. The agent holds the question back until there is one, so nobody polls.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant, SystemTime};

use tokio::signal::unix::{SignalKind, signal};

use crate::api::types::{BindingStatus, Status};
use crate::cli::Ended;
use crate::cli::args::StatusArgs;
use crate::cli::client::{self, AskError, Question};
use crate::cli::exit::{self, Failure, TRY_AGAIN, UNAVAILABLE};
use crate::cli::status::{page, retain_wanted};
use crate::cli::text::{one_line, sentence, short};

/// How long the agent holds an answer back while nothing changes.
const WAIT: Duration = Duration::from_secs(30);
/// How long past that an agent that hangs is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// The first pause before an agent that does not answer is asked again; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Clears the terminal and goes to its first line (ECMA-48, ED and CUP).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Shows the status and each change of it until SIGINT, SIGTERM or the end of whoever reads.
///
/// # Errors
/// A [`Failure`] where the agent does not answer at first, or never will. An agent that ends later is waited for.
pub fn run(args: &StatusArgs) -> Ended {
    let failed = |error: io::Error| Failure::new(UNAVAILABLE, format!("no event queue from the kernel: {error}"));
    client::block_on(follow(args)).map_err(failed)?
}

async fn follow(args: &StatusArgs) -> Ended {
    let failed = |error: io::Error| Failure::new(UNAVAILABLE, format!("signals cannot be taken: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        ended = show_changes(args) => ended,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

async fn show_changes(args: &StatusArgs) -> Ended {
    let (socket, mut screen) = (args.socket.path(), Screen::new(args));
    let (mut index, mut pause, mut is_lost) = (0, FIRST_PAUSE, false);
    loop {
        let question = Question::get(format!("/v1/status?index={index}&wait={}s", WAIT.as_secs()));
        match client::ask::<Status>(&socket, question, Instant::now() + WAIT + PATIENCE).await {
            Ok(status) if status.index == 0 => {
                let failure = Failure::new(UNAVAILABLE, "this agent cannot be followed: it is of an older version");
                return Err(failure.hint("see `saddlebag version` and `saddlebag status --json`"));
            }
            Ok(mut status) => {
                if is_lost {
                    say(&format!("the agent answers again (pid {})", status.pid));
                }
                // The end of the wait brings the same once more, with new ages.
                let is_change = status.index != index;
                (index, pause, is_lost) = (status.index, FIRST_PAUSE, false);
                retain_wanted(args, &mut status);
                if !screen.show(&status, is_change)? {
                    return Ok(());
                }
            }
            Err(error) if screen.before.is_none() || !may_come_back(&error) => return Err(error.into()),
            Err(error) => {
                if !is_lost {
                    say(&format!("the agent does not answer ({}); it is waited for", exit::with_causes(&error)));
                }
                (index, is_lost) = (0, true);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Whether what went wrong is what an agent's restart looks like.
fn may_come_back(error: &AskError) -> bool {
    match error {
        AskError::Connect { .. } => !error.is_not_permitted(),
        AskError::Cut(_) | AskError::Deadline => true,
        AskError::Refused(reply) => reply.exit_code == TRY_AGAIN,
        AskError::Garbage { .. } | AskError::Status(_) => false,
    }
}

/// What is no part of the status goes to stderr.
fn say(text: &str) {
    exit::eprint(&format!("saddlebag: {}", one_line(text)));
}

/// What was shown last.
struct Screen {
    form: Form,
    is_filtered: bool,
    before: Option<BTreeMap<String, Said>>,
}

enum Form {
    /// One document for each change, one to a line.
    Json,
    /// The page, drawn anew.
    Terminal,
    /// One line for each thing that has changed.
    Lines,
}

impl Screen {
    fn new(args: &StatusArgs) -> Self {
        let form = match (args.json, io::stdout().is_terminal()) {
            (true, _) => Form::Json,
            (false, true) => Form::Terminal,
            (false, false) => Form::Lines,
        };
        Self { form, is_filtered: args.namespace.is_some() || args.job.is_some(), before: None }
    }

    /// Shows a status; says whether somebody reads still.
    fn show(&mut self, status: &Status, is_change: bool) -> Result<bool, Failure> {
        let time = humantime::format_rfc3339_seconds(SystemTime::now());
        let after = said(status);
        let text = match self.form {
            Form::Json if is_change => serde_json::to_string(status)
                .map(|json| json + "\n")
                .map_err(|error| Failure::new(UNAVAILABLE, format!("the answer cannot be written as JSON: {error}")))?,
            Form::Terminal => {
                format!("{CLEAR}{}\n\nAs of {time}; Ctrl-C ends this.\n", page(status, self.is_filtered))
            }
            Form::Lines => {
                let before = self.before.take().unwrap_or_default();
                changes(&before, &after).iter().map(|line| format!("{time} {line}\n")).collect()
            }
            Form::Json => String::new(),
        };
        self.before = Some(after);
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Failure::new(UNAVAILABLE, format!("the answer cannot be written to stdout: {error}"))),
        }
    }
}

/// What is said of one thing: its state, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    state: String,
    reason: Option<String>,
}

/// Everything that a status speaks of.
fn said(status: &Status) -> BTreeMap<String, Said> {
    let say = |state: String, reason: &Option<String>| Said { state, reason: reason.clone() };
    let of = |is_well: bool, well: &str, ill: &str| if is_well { well.to_owned() } else { ill.to_owned() };
    let guard = status.guard.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    let mut all = BTreeMap::from([
        ("Agent".to_owned(), say(format!("{} (pid {})", status.version, status.pid), &None)),
        ("Nomad".to_owned(), say(of(status.nomad.connected, "connected", "not connected"), &status.nomad.reason)),
        (
            "Guard".to_owned(),
            say(of(status.guard.running, &format!("running{guard}"), "not running"), &status.guard.reason),
        ),
    ]);
    let sources =
        status.sources.iter().map(|source| (format!("Source {}", source.name), &source.state, &source.reason));
    let volumes = status.bindings.iter().map(|binding| {
        let BindingStatus { volume, task, job, alloc, destination, state, reason, .. } = binding;
        (format!("Volume {volume} at {destination} for task {task} of job {job} ({})", short(alloc)), state, reason)
    });
    all.extend(sources.chain(volumes).map(|(name, state, reason)| (name, say(state.clone(), reason))));
    all
}

/// A line for each thing that is new, other or gone.
fn changes(before: &BTreeMap<String, Said>, after: &BTreeMap<String, Said>) -> Vec<String> {
    let changed = after.iter().filter_map(|(name, now)| {
        let state = match before.get(name) {
            Some(was) if was == now => return None,
            Some(was) if was.state != now.state => format!("{} -> {}", was.state, now.state),
            _ => now.state.clone(),
        };
        let reason = now.reason.as_deref().map(|reason| format!(": {}", sentence(reason))).unwrap_or_default();
        Some(format!("{}: {}{reason}", one_line(name), one_line(&state)))
    });
    let gone = before.iter().filter(|(name, _)| !after.contains_key(*name));
    changed.chain(gone.map(|(name, was)| format!("{}: {} -> gone", one_line(name), one_line(&was.state)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(things: &[(&str, &str, Option<&str>)]) -> BTreeMap<String, Said> {
        let said = |state: &str, reason: Option<&str>| Said { state: state.into(), reason: reason.map(Into::into) };
        things.iter().map(|(name, state, reason)| ((*name).to_owned(), said(state, *reason))).collect()
    }

    #[test]
    fn what_is_new_other_or_gone_has_a_line_and_nothing_else() {
        let before =
            all(&[("Nomad", "connected", None), ("Source a", "attached", None), ("Volume v", "mounted", None)]);
        let after = all(&[
            ("Nomad", "connected", None),
            ("Source a", "failed", Some("no\x1b answer")),
            ("Volume w", "waiting", None),
        ]);
        assert_eq!(
            changes(&before, &after),
            ["Source a: attached -> failed: no\u{fffd} answer.", "Volume w: waiting", "Volume v: mounted -> gone"]
        );
        assert_eq!(changes(&after, &after), [""; 0]);
        let other = all(&[
            ("Nomad", "connected", None),
            ("Source a", "failed", Some("refused")),
            ("Volume w", "waiting", None),
        ]);
        assert_eq!(changes(&after, &other), ["Source a: failed: refused."]);
    }
}
