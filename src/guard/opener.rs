//! Who opens: Nomad's agent, someone else, or nobody that can be identified.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use super::log::{Priority, line};
use super::wire::NomadExe;
use crate::sys::process;

/// The most executables that are remembered; a host upgrades its Nomad a few times a year.
const MOST: usize = 64;

/// Who opens something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opener {
    /// Nomad's agent, or one of its helper processes: the same executable.
    Nomad,
    /// Surely not Nomad.
    Other,
    /// Cannot be told.
    Unidentified,
}

impl fmt::Display for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nomad => "nomad",
            Self::Other => "other",
            Self::Unidentified => "unidentified",
        })
    }
}

/// The executables of Nomad's agent, remembered in the run directory so that a guard that is started anew knows
/// them before any agent does.
#[derive(Debug)]
pub(super) struct Nomad {
    known: RwLock<BTreeSet<NomadExe>>,
    file: PathBuf,
}

impl Nomad {
    /// Reads what an earlier guard remembered. What cannot be read is not known; the name `nomad` always is.
    pub(super) fn load(run_dir: &Path) -> Self {
        let file = run_dir.join("nomad.json");
        let known = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                line(Priority::Warning, format_args!("cannot understand {}: {error}", file.display()));
                BTreeSet::new()
            }),
            Err(_) => BTreeSet::new(),
        };
        Self { known: RwLock::new(known), file }
    }

    /// Adds executables and remembers them.
    pub(super) fn add(&self, executables: Vec<NomadExe>) -> io::Result<()> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if executables.iter().all(|executable| known.contains(executable)) {
            return Ok(());
        }
        if known.len() + executables.len() > MOST {
            known.clear();
        }
        known.extend(executables);
        drop(known);
        self.write()
    }

    /// Writes what is known for a successor.
    pub(super) fn write(&self) -> io::Result<()> {
        let text = serde_json::to_vec(&*self.known.read().unwrap_or_else(PoisonError::into_inner))?;
        write_whole(&self.file, &text)
    }

    /// Says who process `pid` is: by the file that it executes, else by that file's name.
    pub(super) fn identify(&self, pid: i32) -> Opener {
        // Zero: in another pid namespace than the guard's, which can be anyone.
        let (Ok(identity), Ok(name)) = (process::exe_identity(pid), process::exe_name(pid)) else {
            return Opener::Unidentified;
        };
        if pid <= 0 {
            return Opener::Unidentified;
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let is_known = known.iter().any(|nomad| {
            nomad.identity == Some(identity) || nomad.name.as_ref().is_some_and(|known| name == OsStr::new(known))
        });
        if is_known || is_called_nomad(&name) { Opener::Nomad } else { Opener::Other }
    }
}

/// `nomad`, or what a version of it is often called: `nomad-1.10.5`, `nomad_1.10.5_linux_amd64`.
fn is_called_nomad(name: &OsStr) -> bool {
    let Some(rest) = name.as_encoded_bytes().strip_prefix(b"nomad") else { return false };
    let Some((separator, version)) = rest.split_first() else { return true };
    let version = version.strip_prefix(b"v").unwrap_or(version);
    let digits = version.iter().take_while(|byte| byte.is_ascii_digit()).count();
    matches!(separator, b'-' | b'_') && digits > 0 && version.get(digits) == Some(&b'.')
}

/// Replaces a file in one step: a reader sees the old text or the new one.
pub(super) fn write_whole(path: &Path, text: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nomad_is_known_by_its_usual_names() {
        for name in ["nomad", "nomad-1.10.5", "nomad_1.10.5_linux_amd64", "nomad-v2.0.4"] {
            assert!(is_called_nomad(OsStr::new(name)), "{name}");
        }
        for name in ["nomadic", "nomad-driver-podman", "nomad-8ee04dbfaa43cd75", "nomad-", "my-nomad", ""] {
            assert!(!is_called_nomad(OsStr::new(name)), "{name}");
        }
    }
}
