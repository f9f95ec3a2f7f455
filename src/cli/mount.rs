//! `saddlebag mount`: what a prestart task runs.
//!
//! It waits where waiting can help (the agent is starting, or has not seen the allocation yet, or was killed in the
//! middle: mounting twice is harmless) and ends at once where it cannot (the agent said no).

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::api::types::{MountReply, MountRequest, Mounted};
use crate::cli::args::{HOST_SOCKET, MountArgs, SOCKET_VARIABLE};
use crate::cli::client::{self, AskError, Question};
use crate::cli::exit::{self, Failure, NOT_PERMITTED, TRY_AGAIN, UNAVAILABLE, USAGE};
use crate::cli::task_log::{Stream, TaskLog};
use crate::cli::text::one_line;

/// The name of an allocation's own socket in its shared directory.
const OWN_SOCKET: &str = "saddlebag.sock";

/// The first pause between two tries; each is twice the one before, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Mounts what the allocation asks for, says so, and gives the exit code.
pub fn run(args: MountArgs) -> ExitCode {
    let call = Call::new(args);
    // Of the task that this runs in, whatever --task says.
    let caller = variable("NOMAD_TASK_NAME");
    let log = call.alloc_dir.as_deref().zip(caller.as_deref()).and_then(|(dir, task)| TaskLog::find(dir, task));
    let (stream, text, code) = match call.mount() {
        Ok(reply) => (Stream::Stdout, lines(&reply), 0),
        Err(failure) => (Stream::Stderr, failure.to_string(), failure.code),
    };
    // The volumes are there, or are not: whether somebody reads this changes neither.
    match stream {
        Stream::Stdout => {
            let _ = exit::print(&text);
        }
        Stream::Stderr => exit::eprint(&text),
    }
    if let Some(log) = log {
        log.append(stream, &text);
    }
    ExitCode::from(code)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What is asked, and of whom.
#[derive(Debug)]
struct Call {
    alloc: Option<String>,
    task: Option<String>,
    alloc_dir: Option<PathBuf>,
    /// Tried in this order.
    sockets: Vec<PathBuf>,
    timeout: Duration,
}

impl Call {
    /// Takes what Nomad put into the environment; flags win.
    fn new(args: MountArgs) -> Self {
        let alloc_dir = std::env::var_os("NOMAD_ALLOC_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let named = crate::cli::args::SocketArgs { socket: args.socket }.named();
        let sockets = match named {
            Some(socket) => vec![socket],
            None => {
                let own = alloc_dir.as_ref().map(|dir| dir.join(OWN_SOCKET));
                own.into_iter().chain([PathBuf::from(HOST_SOCKET)]).collect()
            }
        };
        Self {
            alloc: args.alloc.or_else(|| variable("NOMAD_ALLOC_ID")),
            task: args.task.or_else(|| variable("NOMAD_TASK_NAME")),
            alloc_dir,
            sockets,
            timeout: args.timeout,
        }
    }

    fn mount(&self) -> Result<MountReply, Failure> {
        if self.alloc.is_none() && self.alloc_dir.is_none() {
            return Err(Failure::new(USAGE, "NOMAD_ALLOC_ID is not set, so it is not known whose volumes are meant")
                .hint("run it in a task of a Nomad job, or name the allocation with --alloc"));
        }
        let request = MountRequest { alloc: self.alloc.clone(), task: self.task.clone() };
        let question = Question::post("/v1/mount", &request)
            .map_err(|error| Failure::new(USAGE, format!("the request cannot be written: {error}")))?;
        client::block_on(self.ask_until_the_deadline(question))
            .map_err(|error| Failure::new(UNAVAILABLE, format!("no event queue from the kernel: {error}")))?
    }

    async fn ask_until_the_deadline(&self, question: Question) -> Result<MountReply, Failure> {
        let start = Instant::now();
        // Ten years are as good as for ever, and an Instant can hold them.
        let deadline = start + self.timeout.min(Duration::from_secs(315_360_000));
        let mut pause = FIRST_PAUSE;
        loop {
            let errors = match self.ask_each(&question, deadline).await {
                Ok(reply) => return Ok(reply),
                Err(errors) => errors,
            };
            if let Some(failure) = self.find_final(&errors) {
                return Err(failure);
            }
            tokio::time::sleep_until(deadline.min(Instant::now() + pause).into()).await;
            if Instant::now() >= deadline {
                return Err(self.gave_up(&errors));
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks the first socket where somebody listens; gives the errors of all that were tried.
    async fn ask_each(&self, question: &Question, deadline: Instant) -> Result<MountReply, Vec<AskError>> {
        let mut errors = Vec::new();
        for socket in &self.sockets {
            match client::ask(socket, question.clone(), deadline).await {
                Ok(reply) => return Ok(reply),
                Err(error) => {
                    let is_nobody_there = error.is_nobody_there();
                    errors.push(error);
                    if !is_nobody_there {
                        break;
                    }
                }
            }
        }
        Err(errors)
    }

    /// The failure that no waiting helps against.
    fn find_final(&self, errors: &[AskError]) -> Option<Failure> {
        match errors.last()? {
            AskError::Refused(reply) => Some(Failure::from(reply.clone())),
            AskError::Garbage { .. } | AskError::Status(_) => Some(self.answered_badly(errors)),
            AskError::Deadline => Some(
                Failure::new(TRY_AGAIN, format!("the agent did not answer within {}", self.patience()))
                    .hint(format!("`{}` on this client shows what it waits for", self.explain())),
            ),
            AskError::Connect { .. } if errors.iter().all(AskError::is_not_permitted) => {
                Some(Failure::new(NOT_PERMITTED, format!("this user may not talk to the agent at {}", self.places())))
            }
            AskError::Connect { .. } | AskError::Cut(_) => None,
        }
    }

    fn answered_badly(&self, errors: &[AskError]) -> Failure {
        let said = errors.last().map(|error| exit::with_causes(error)).unwrap_or_default();
        Failure::new(UNAVAILABLE, said).hint("is the agent on this client of another version than this program?")
    }

    /// The time is over, and the last try could not be answered.
    fn gave_up(&self, errors: &[AskError]) -> Failure {
        if let Some(AskError::Cut(_)) = errors.last() {
            return Failure::new(
                TRY_AGAIN,
                format!("the agent closed the connection before it answered, again and again for {}", self.patience()),
            )
            .hint("does the agent crash? `journalctl -u saddlebag` on this client shows its log");
        }
        let message = format!("no agent answers at {} (tried for {})", self.places(), self.patience());
        let mut hint = "is the agent running on this Nomad client (`systemctl status saddlebag`)?".to_owned();
        if self.sockets.len() > 1 {
            hint.push_str(
                " In a container or chroot only the first path can be reached: the agent makes that socket when \
                 it sees the allocation, so its log says why it did not",
            );
        } else if std::env::var_os(SOCKET_VARIABLE).is_some() {
            hint.push_str(" SADDLEBAG_SOCKET is set, so no other path was tried");
        }
        Failure::new(UNAVAILABLE, message).hint(hint)
    }

    fn places(&self) -> String {
        self.sockets
            .iter()
            .map(|socket| one_line(&socket.to_string_lossy()).into_owned())
            .collect::<Vec<_>>()
            .join(" or ")
    }

    fn patience(&self) -> humantime::FormattedDuration {
        humantime::format_duration(self.timeout)
    }

    fn explain(&self) -> String {
        let alloc = self.alloc.as_deref().map_or("ALLOC", crate::cli::text::short);
        format!("saddlebag explain {}", one_line(alloc))
    }
}

/// One line for each volume in each task.
/// A line for each volume in each task.
pub(super) fn lines(reply: &MountReply) -> String {
    if reply.bindings.is_empty() {
        return format!("allocation {} asks for no volume: nothing to mount", one_line(&reply.alloc));
    }
    reply.bindings.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn line(mounted: &Mounted) -> String {
    let Mounted { volume, task, destination, read_only, already } = mounted;
    let how = if *already { "was already mounted" } else { "mounted" };
    let access = if *read_only { "read-only" } else { "read-write" };
    one_line(&format!("{volume} {how} at {destination} for task {task} ({access})")).into_owned()
}
