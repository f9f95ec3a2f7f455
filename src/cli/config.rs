//! `saddlebag config validate`, and where the configuration is.

use std::path::{Path, PathBuf};

use crate::cli::args::ConfigFiles;
use crate::cli::exit::{CONFIGURATION, Failure};
use crate::cli::text::{counted, one_line_each};
use crate::cli::{Ended, exit};
use crate::config::Config;

/// Where the configuration is looked for when no `--config` is given; neither needs to be there.
pub const DEFAULTS: [&str; 2] = ["/etc/saddlebag/agent.hcl", "/etc/saddlebag/conf.d"];

/// Reads the configuration and says what is wrong in it.
///
/// # Errors
/// A [`Failure`] with exit code 78 and one line for each error.
pub fn validate(files: &ConfigFiles) -> Ended {
    let config = load(files)?;
    let backends = counted(config.backends.len(), "backend");
    let volumes = counted(config.volumes.len(), "volume");
    exit::print(&format!("configuration is valid: {backends}, {volumes}"))
}

/// The configuration of the files that were named, or of those of [`DEFAULTS`] that exist.
///
/// # Errors
/// A [`Failure`] with exit code 78, whose message has one `FILE:LINE:COLUMN: …` line for each error.
pub fn load(files: &ConfigFiles) -> Result<Config, Failure> {
    let paths: Vec<PathBuf> = match files.config.as_slice() {
        [] => DEFAULTS.iter().map(PathBuf::from).filter(|path| is_there(path)).collect(),
        named => named.to_vec(),
    };
    Config::load(&paths).map_err(|errors| {
        let lines = one_line_each(&errors.to_string());
        let count = counted(lines.lines().count(), "error");
        Failure::new(CONFIGURATION, format!("the configuration is not valid: {count}\n{lines}"))
    })
}

/// Whether something is there; a file that may not be looked at counts, so that reading it says why.
fn is_there(path: &Path) -> bool {
    !matches!(path.symlink_metadata(), Err(error) if error.kind() == std::io::ErrorKind::NotFound)
}
