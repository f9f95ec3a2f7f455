//! An image volume's own source: a file system in a file of another backend. No `backend` block makes one; a `volume`
//! block with a `format` does.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Backend;

/// The file system in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// ext4(5)
    Ext4,
    /// xfs(5)
    Xfs,
}

impl Format {
    /// Every format, with its name.
    pub const NAMES: [(&'static str, Self); 2] = [("ext4", Self::Ext4), ("xfs", Self::Xfs)];

    /// Its name, which is the kernel's too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// The least size that its mkfs makes, in bytes: with a journal, and of mkfs.xfs's own limit.
    pub fn least_size(self) -> u64 {
        match self {
            Self::Ext4 => 16 << 20,
            Self::Xfs => 300 << 20,
        }
    }
}

/// A file system in a file of another backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageBackend {
    /// The backend that the file is on.
    pub parent: Box<Backend>,
    /// The file, below the backend's own directory; of plain components.
    pub path: PathBuf,
    /// The file system that is in it, or is made in it.
    pub format: Format,
    /// Its size in bytes.
    pub size: u64,
    /// Whether it is made where it is missing.
    pub create: bool,
    /// Owner given to the root directory of a file system that is made: uid and gid.
    pub owner: Option<(u32, u32)>,
    /// Permission bits given to it.
    pub mode: Option<u32>,
    /// Set-user-id bits mean nothing in it.
    pub nosuid: bool,
    /// Device files mean nothing in it.
    pub nodev: bool,
}
