//! Reading the files: the only I/O of the configuration.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Config;
use super::read::{Invalid, Loaded, MOST_BYTES};
use crate::hcl::Source;

/// The file that is read when none is named, if it is there.
pub const DEFAULT_FILE: &str = "/etc/saddlebag/agent.hcl";

/// The folder whose `*.hcl` files are read after it when none is named, if it is there.
pub const DEFAULT_FOLDER: &str = "/etc/saddlebag/conf.d";

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file or folder cannot be read.
    #[error("cannot read the configuration {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not text.
    #[error("the configuration {} is not UTF-8 text", .0.display())]
    NotText(PathBuf),
    /// Something other than a file or folder.
    #[error("the configuration {} is neither a file nor a folder", .0.display())]
    NotAFile(PathBuf),
    /// A folder that was named, without a file to read.
    #[error("the folder {} has no file *.hcl", .0.display())]
    NothingThere(PathBuf),
    /// What the files say is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

impl Config {
    /// Reads the files and folders (of these every `*.hcl`, by name) as one configuration, with the process's
    /// environment. With no path the default file and folder, neither of which has to be there.
    ///
    /// # Errors
    /// [`LoadError`]: a named path that is missing or cannot be read, or [`LoadError::Invalid`] with all mistakes.
    pub fn load(paths: &[PathBuf]) -> Result<Loaded, LoadError> {
        let mut files = Vec::new();
        if paths.is_empty() {
            files.extend(Some(PathBuf::from(DEFAULT_FILE)).filter(|file| is_there(file)));
            if is_there(Path::new(DEFAULT_FOLDER)) {
                files.extend(list(Path::new(DEFAULT_FOLDER))?);
            }
        }
        for path in paths {
            let metadata = std::fs::metadata(path).map_err(|source| LoadError::Read { path: path.clone(), source })?;
            if metadata.is_dir() {
                let found = list(path)?;
                if found.is_empty() {
                    return Err(LoadError::NothingThere(path.clone()));
                }
                files.extend(found);
            } else {
                files.push(path.clone());
            }
        }
        let texts = files.iter().map(|file| read_text(file)).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        let sources: Vec<Source<'_>> = names.iter().zip(&texts).map(|(name, text)| Source { name, text }).collect();
        let loaded = Self::read(&sources, &|name| std::env::var(name).ok())?;
        Ok(Loaded { files, ..loaded })
    }
}

/// Whether a default is there; one that cannot be looked at is read, so that its error is told.
fn is_there(path: &Path) -> bool {
    !matches!(std::fs::metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "hcl") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    };
    read().map_err(|source| LoadError::Read { path: folder.to_owned(), source })
}

/// Reads one byte more than is taken, so that a file that is too long is told of and never read whole.
fn read_text(path: &Path) -> Result<String, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    // Opening a FIFO would wait for a writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(LoadError::NotAFile(path.to_owned()));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(MOST_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() > MOST_BYTES {
        // The cut may go through a character; what is told is the length.
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8(bytes).map_err(|_| LoadError::NotText(path.to_owned()))
}
