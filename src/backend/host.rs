//! `host`: volumes are directories of this host.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::{AttachError, Attached, Backend, DetachError, Place};
use crate::check::Check;
use crate::config::HostBackend;
use crate::sys::{identity, resolve};

/// Volumes below one directory.
pub struct Host {
    settings: HostBackend,
    dynamic: bool,
}

impl Host {
    /// A backend for that directory; where volumes may come into being by their first use (`dynamic`), so may it.
    pub fn new(settings: HostBackend, dynamic: bool) -> Self {
        Self { settings, dynamic }
    }
}

impl Backend for Host {
    fn kind(&self) -> &'static str {
        "host"
    }

    fn options(&self) -> String {
        self.settings.path.display().to_string()
    }

    fn command_to_make(&self, path: &Path) -> Option<String> {
        Some(format!("mkdir -p {}", self.settings.path.join(path).display()))
    }

    fn examine(&self) -> Vec<Check> {
        const NAME: &str = "directory";
        let path = &self.settings.path;
        let shown = path.display();
        let error = match resolve::open_root(path) {
            Ok(_) => return vec![Check::ok(NAME, shown.to_string())],
            Err(error) => error,
        };
        let has_parent = path.parent().is_some_and(|parent| resolve::open_root(parent).is_ok());
        vec![match (error.is_missing(), self.dynamic, has_parent) {
            (true, true, true) => Check::skipped(NAME, format!("{shown} is made when the agent starts")),
            (true, ..) => Check::misconfigured(NAME, error.to_string(), format!("mkdir -p {shown}")),
            (false, ..) => Check::unavailable(NAME, error.to_string(), format!("ls -ld {shown}; findmnt -T {shown}")),
        }]
    }

    fn attach(&self, _place: &Place) -> Result<Attached, AttachError> {
        let path = &self.settings.path;
        if self.dynamic {
            // 0711: tasks of any user reach the volume that is linked for them, and cannot list the others.
            match fs::DirBuilder::new().mode(0o711).create(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(AttachError::NoDirectory(path.clone()));
                }
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(AttachError::host(format!("create {}", path.display()))(error));
                }
                _ => {}
            }
        }
        let root = match resolve::open_root(path) {
            Ok(root) => root,
            Err(error) if error.is_missing() => return Err(AttachError::NoDirectory(path.clone())),
            Err(error) => {
                return Err(AttachError::host(format!("open {}", path.display()))(io::Error::other(error)));
            }
        };
        let look = || format!("look at {}", path.display());
        let identity = identity::identify(root.as_fd()).map_err(AttachError::host(look()))?;
        identity::answers(root.as_fd()).map_err(AttachError::host(look()))?;
        Ok(Attached { root: path.clone(), identity, pid: None, found: true, may_cross: true })
    }

    fn detach(&self, _place: &Place) -> Result<(), DetachError> {
        Ok(())
    }
}
