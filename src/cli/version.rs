//! `saddlebag version`.

use crate::cli::args::VersionArgs;
use crate::cli::{Ended, exit};

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that it was built from: SADDLEBAG_COMMIT in the build's environment.
pub const COMMIT: Option<&str> = option_env!("SADDLEBAG_COMMIT");

/// Prints the version.
///
/// # Errors
/// A [`exit::Failure`] where stdout cannot be written to.
pub fn run(args: VersionArgs) -> Ended {
    if args.json {
        return exit::print(&serde_json::json!({ "version": VERSION, "commit": COMMIT }).to_string());
    }
    match COMMIT {
        Some(commit) => exit::print(&format!("saddlebag {VERSION} ({commit})")),
        None => exit::print(&format!("saddlebag {VERSION}")),
    }
}
