//! `saddlebag config validate`, and reading the configuration for the agent.

use crate::cli::args::ConfigFiles;
use crate::cli::exit::{CONFIGURATION, Failure, with_causes};
use crate::cli::text::{counted, one_line, one_line_each};
use crate::cli::{Ended, exit};
use crate::config::{Config, Loaded};

/// Reads the configuration and says what is wrong in it.
///
/// # Errors
/// A [`Failure`] with exit code 78 and one line for each error.
pub fn validate(files: &ConfigFiles) -> Ended {
    let Loaded { config, warnings, files } = load(files)?;
    for warning in &warnings {
        exit::eprint(&format!("warning: {}", one_line(&warning.to_string())));
    }
    let backends = counted(config.backends.len(), "backend");
    let volumes = counted(config.volumes.len(), "volume");
    let whose = if files.is_empty() { " (no file was read: these are the defaults)" } else { "" };
    exit::print(&format!("configuration is valid: {backends}, {volumes}{whose}"))
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
