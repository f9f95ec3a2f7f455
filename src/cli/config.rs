//! `saddlebag config validate`, and reading the configuration for the agent.

use crate::cli::args::ConfigFiles;
use crate::cli::exit::{CONFIGURATION, Failure, with_causes};
use crate::cli::text::{counted, one_line, one_line_each};
use crate::cli::{Ended, exit};
use crate::config::{Config, Loaded};
use crate::reconcile::definitions::Definitions;

/// Reads the configuration and says what is wrong in it.
///
/// # Errors
/// A [`Failure`] with exit code 78 and one line for each error.
pub fn validate(files: &ConfigFiles) -> Ended {
    let Loaded { config, warnings, files } = load(files)?;
    for warning in &warnings {
        exit::eprint(&format!("warning: {}", one_line(&warning.to_string())));
    }
    check_registered(&config)?;
    let backends = counted(config.backends.len(), "backend");
    let volumes = counted(config.volumes.len(), "volume");
    let whose = if files.is_empty() { " (no file was read: these are the defaults)" } else { "" };
    exit::print(&format!("configuration is valid: {backends}, {volumes}{whose}"))
}

/// What was registered with an agent of this configuration has to go with it; where this user may look.
fn check_registered(config: &Config) -> Result<(), Failure> {
    let read = Definitions::new(config.registered_dir()).read(config);
    let wrong: Vec<String> = read.into_iter().filter_map(|(_, read)| read.err()).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let lines = one_line_each(&wrong.join("\n"));
    Err(Failure::new(CONFIGURATION, format!("registered volumes do not go with the configuration\n{lines}"))
        .hint("deregister them with `saddlebag volume deregister`, or register them anew"))
}

/// The configuration of the files that were named, or else of the files of /etc/saddlebag that exist.
///
/// # Errors
/// A [`Failure`] with exit code 78, whose message has a `FILE:LINE:COLUMN: …` line for each error.
pub fn load(files: &ConfigFiles) -> Result<Loaded, Failure> {
    Config::load(&files.config).map_err(|error| {
        let lines = one_line_each(&with_causes(&error));
        Failure::new(CONFIGURATION, format!("the configuration is not valid\n{lines}"))
    })
}
