//! See the crate's first page.

use std::path::PathBuf;

/// How a guard is started.
#[derive(Debug, Clone)]
pub struct GuardOptions {
    /// Where its socket is.
    pub run_dir: PathBuf,
    /// Whether this process only keeps the guard's descriptors.
    pub keeper: bool,
}

/// Why the guard ended.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {}

/// Runs until SIGTERM.
///
/// # Errors
/// What keeps a guard from starting.
pub fn run(_options: GuardOptions) -> Result<(), GuardError> {
    Ok(())
}
