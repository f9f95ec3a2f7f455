//! Where a volume is, and what may be done with it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A volume whose name or URL has been looked up and allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The volume's name for people: the registered name, or the URL.
    pub name: String,
    /// The backend's name in the configuration; for a URL one that is derived from it (see [`crate::config::Config`]).
    pub backend: String,
    /// The directory within the backend's source, relative, of plain components only; empty for its root.
    pub path: PathBuf,
    /// Read-only whatever the job asks for (reader-only access modes, or its definition).
    pub read_only: bool,
    /// The most that it is to hold, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Whether the directory may be created at first use.
    pub create: bool,
    /// Owner given to a directory that is created: uid and gid.
    pub owner: Option<(u32, u32)>,
    /// Permission bits given to a directory that is created.
    pub mode: Option<u32>,
    /// The collection that its data is kept in, on a system that has such.
    #[serde(default)]
    pub collection: Option<String>,
    /// Mount flags beyond read-only; nosuid and nodev unless its definition says otherwise.
    pub nosuid: bool,
    /// No device files.
    pub nodev: bool,
    /// No executables.
    pub noexec: bool,
}
