//! See the crate's first page.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The agent configuration.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The backends by name.
    pub backends: BTreeMap<String, ()>,
    /// The volumes by name.
    pub volumes: BTreeMap<String, ()>,
}

/// What is wrong in a configuration: one line for each error.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigErrors(pub Vec<String>);

impl Config {
    /// Reads files and folders.
    ///
    /// # Errors
    /// All that is wrong in them.
    pub fn load(paths: &[PathBuf]) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        for path in paths {
            if let Err(e) = std::fs::metadata(path) {
                errors.push(format!("{}:1:1: cannot be read: {e}", path.display()));
            }
        }
        if errors.is_empty() { Ok(Self::default()) } else { Err(ConfigErrors(errors)) }
    }
}
