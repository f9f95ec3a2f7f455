//! `backend "host"`: a directory of this host.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{BackendKind, Common};
use crate::config::blocks::path;
use crate::hcl::Section;

/// A directory of this host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostBackend {
    /// The directory that holds the volumes; absolute, of plain components.
    pub path: PathBuf,
}

/// Reads what a block says that is the kind's own.
pub(super) fn read(section: &mut Section<'_>, _common: &mut Common) -> Option<BackendKind> {
    section.require("path", "\"/srv/volumes\"");
    path(section, "path").map(|said| BackendKind::Host(HostBackend { path: said.value }))
}
