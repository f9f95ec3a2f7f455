//! `saddlebag agent` and `saddlebag guard`: from flags to what runs.

use crate::backend::probe;
use crate::cli::args::{AgentArgs, GuardArgs, ProbeArgs};
use crate::cli::exit::{Failure, UNAVAILABLE, with_causes};
use crate::cli::{Ended, config, logging};
use crate::guard::{GuardClient, GuardOptions};
use crate::{agent, guard};

/// Runs the agent until it is told to end.
///
/// # Errors
/// A [`Failure`]: 78 where the configuration is wrong, 69 where the agent cannot start.
pub fn run_agent(args: AgentArgs) -> Ended {
    let loaded = config::load(&args.config)?;
    logging::start(args.log_level, args.log_format);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let config = loaded.config;
    agent::run(config).map_err(|error| Failure::new(UNAVAILABLE, format!("the agent ended: {}", with_causes(&error))))
}

/// Runs the guard until it is told to end.
///
/// It has no log set up by this program: it says what is wrong on stderr, and a small process stays small.
///
/// # Errors
/// A [`Failure`] with exit code 69 where the guard cannot start.
pub fn run_guard(args: GuardArgs) -> Ended {
    if args.stop {
        return GuardClient::of_run_dir(&args.run_dir)
            .stop()
            .map_err(|error| Failure::new(UNAVAILABLE, format!("the guard was not ended: {}", with_causes(&error))));
    }
    let options = GuardOptions { run_dir: args.run_dir, keeper: args.keeper };
    guard::run(options).map_err(|error| Failure::new(UNAVAILABLE, format!("the guard ended: {}", with_causes(&error))))
}

/// Asks one source, and says on standard output what it answers; see [`probe`].
///
/// # Errors
/// A [`Failure`] with exit code 69 where nothing can be asked.
pub fn run_probe(args: &ProbeArgs) -> Ended {
    probe::answer(std::io::stdin().lock()).map_err(|error| {
        Failure::new(UNAVAILABLE, format!("{} was not asked: {}", args.root.display(), with_causes(&error)))
    })
}
