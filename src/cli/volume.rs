//! `saddlebag volume`: attaching a volume to tasks that run, and taking it away.
//!
//! Both may be asked twice: an agent that is killed or restarted in the middle is asked again until the time is over.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::types::{AttachRequest, DetachReply, DetachRequest, Detached, MountReply};
use crate::cli::args::{AttachArgs, DetachArgs, SocketArgs, WhenLost};
use crate::cli::client::{self, AskError, Question};
use crate::cli::exit::{Failure, UNAVAILABLE, USAGE};
use crate::cli::text::one_line;
use crate::cli::{Ended, exit, explain, mount, status};
use crate::job::OnFailure;

/// Between two tries while no agent answers.
const PAUSE: Duration = Duration::from_millis(200);

/// Has a volume attached.
///
/// # Errors
/// A [`Failure`] that says why it is not; nothing is attached then.
pub fn attach(args: AttachArgs) -> Ended {
    let request = AttachRequest {
        alloc: explain::alloc_prefix(&args.order.alloc)?,
        volume: args.volume,
        label: args.name,
        destination: args.destination,
        tasks: args.order.task.clone(),
        read_only: args.read_only,
        on_failure: match args.on_failure {
            WhenLost::Reattach => OnFailure::Reattach,
            WhenLost::Restart => OnFailure::Restart,
            WhenLost::Fail => OnFailure::Fail,
        },
    };
    let reply: MountReply = order("/v1/attach", &request, &args.order.socket, args.order.timeout)?;
    if args.order.json { status::print_json(&reply) } else { exit::print(&mount::lines(&reply)) }
}

/// Has an attached volume taken away.
///
/// # Errors
/// A [`Failure`] that says why it stays.
pub fn detach(args: DetachArgs) -> Ended {
    let request = DetachRequest {
        alloc: explain::alloc_prefix(&args.order.alloc)?,
        volume: args.volume,
        tasks: args.order.task.clone(),
        force: args.force,
    };
    let reply: DetachReply = order("/v1/detach", &request, &args.order.socket, args.order.timeout)?;
    if args.order.json { status::print_json(&reply) } else { exit::print(&lines(&reply)) }
}

/// Asks for a change until it is answered: every one of them can be asked for twice.
pub(super) fn order<T: DeserializeOwned>(
    path: &str,
    request: &impl Serialize,
    socket: &SocketArgs,
    timeout: Duration,
) -> Result<T, Failure> {
    let question = Question::post(path, request)
        .map_err(|error| Failure::new(USAGE, format!("the request cannot be written: {error}")))?;
    let socket = socket.path();
    // Ten years are as good as for ever, and an Instant can hold them.
    let deadline = Instant::now() + timeout.min(Duration::from_secs(315_360_000));
    let asks = async {
        loop {
            match client::ask(&socket, question.clone(), deadline).await {
                // It was there and is being replaced, or was killed while it was at it.
                Err(AskError::Cut(_)) => {}
                Err(error) if error.is_nobody_there() && !error.is_not_permitted() => {
                    if Instant::now() + PAUSE >= deadline {
                        return Err(Failure::from(error));
                    }
                }
                answer => return answer.map_err(Failure::from),
            }
            tokio::time::sleep_until(deadline.min(Instant::now() + PAUSE).into()).await;
        }
    };
    client::block_on(asks)
        .map_err(|error| Failure::new(UNAVAILABLE, format!("no event queue from the kernel: {error}")))?
}

fn lines(reply: &DetachReply) -> String {
    let line = |detached: &Detached| {
        let Detached { volume, task, destination } = detached;
        one_line(&format!("{volume} detached from {destination} of task {task}")).into_owned()
    };
    reply.detached.iter().map(line).collect::<Vec<_>>().join("\n")
}
