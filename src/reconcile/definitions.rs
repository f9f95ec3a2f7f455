//! Definitions of volumes that were registered while an agent ran: a durable file for each, in the words in which it
//! was registered, read by the next agent beside its configuration.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config::{Config, LARGEST_DEFINITION, Volume, is_name};
use crate::volume::{Registry, Unusable};

/// Why a definition is not on the disk, or not off it.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// It could not be written; what was there before is there still.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It could not be removed.
    #[error("cannot remove {}", .path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A volume and the text that defines it; or what is wrong with that.
type Found = Result<(Volume, String), String>;

/// The folder of definitions.
#[derive(Debug, Clone)]
pub struct Definitions {
    folder: PathBuf,
}

impl Definitions {
    /// The definitions in that folder, which is made when the first one is written.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The file that keeps a volume's definition.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.hcl"))
    }

    /// Writes a definition, durably: the former one is there until the new one is whole.
    ///
    /// # Errors
    /// [`DefinitionError::Write`]: nothing was changed.
    pub fn write(&self, name: &str, text: &str) -> Result<(), DefinitionError> {
        let (path, temporary) = (self.path(name), self.folder.join(format!(".{name}.new")));
        let write = || -> io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|source| {
            // On a full disk its half would be in the way of the next try.
            let _ = fs::remove_file(&temporary);
            DefinitionError::Write { path, source }
        })
    }

    /// Removes a definition, durably. One that is not there is no error.
    ///
    /// # Errors
    /// [`DefinitionError::Remove`].
    pub fn remove(&self, name: &str) -> Result<(), DefinitionError> {
        let path = self.path(name);
        let remove = || match fs::remove_file(&path) {
            Ok(()) => File::open(&self.folder)?.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        remove().map_err(|source| DefinitionError::Remove { path: path.clone(), source })
    }

    /// Reads every definition into the registry. One that cannot be used makes its name unusable, and nothing else: what
    /// is mounted has to be looked after all the same.
    pub fn recall(&self, config: &Config, registry: &mut Registry) {
        for (name, read) in self.read(config) {
            let place = self.path(&name).display().to_string();
            match read {
                Ok((volume, text)) => registry.register(volume, place, text),
                Err(reason) => {
                    tracing::error!(volume = name, reason, "a registered volume cannot be used");
                    registry.note_unusable(name, Unusable { place, reason });
                }
            }
        }
    }

    /// Every definition by its volume's name, or what is wrong with it.
    pub fn read(&self, config: &Config) -> Vec<(String, Found)> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let mut found = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            let Some(file) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if let Some(name) = file.strip_suffix(".hcl").filter(|name| is_name(name)) {
                found.push((name.to_owned(), read_one(config, &path, name)));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }
}

fn read_one(config: &Config, path: &Path, name: &str) -> Found {
    let mut text = String::new();
    let limit = u64::try_from(LARGEST_DEFINITION).unwrap_or(u64::MAX).saturating_add(1);
    // Opening a FIFO would wait for a writer.
    let mut open = || match fs::symlink_metadata(path)? {
        found if found.is_file() => File::open(path)?.take(limit).read_to_string(&mut text),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file")),
    };
    let shown = path.display().to_string();
    open().map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let volume = config.read_volume(&text, &shown).map_err(|invalid| invalid.to_string())?;
    if volume.name != name {
        return Err(format!("{shown} defines volume {:?}", volume.name));
    }
    Ok((volume, text))
}
