//! The kinds of storage systems, and what a `backend` block of each may say.
//!
//! A kind is a file here, which has its settings and reads them, a variant of [`BackendKind`], and a line in [`KINDS`].

mod gluster;
mod host;
mod image;
pub mod nfs;
pub mod seaweedfs;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Backend;
use super::blocks::{checked, name_of, positive};
use crate::hcl::{Problem, Section, Spanned};

pub use gluster::xlators::argument as xlator_argument;
pub use gluster::{
    GLUSTER_PATHS, GLUSTERD_PORT, GLUSTERFS_PATHS, GlusterBackend, GlusterOptions, GlusterQuota, GlusterSsh,
    GlusterTls, SSH_PATHS, is_gluster_volume,
};
pub use host::HostBackend;
pub use image::{Format, ImageBackend};
pub use nfs::NfsBackend;
pub use seaweedfs::{SeaweedfsBackend, WEED_PATHS};

/// Reads what a block of a kind says beyond what every kind knows.
type Read = fn(&mut Section<'_>, &mut Common) -> Option<BackendKind>;

/// Every kind, by its name in the configuration.
const KINDS: [(&str, Read); 4] =
    [("gluster", gluster::read), ("host", host::read), ("nfs", nfs::read), ("seaweedfs", seaweedfs::read)];

/// The kinds of storage systems.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// A directory of this host.
    Host(HostBackend),
    /// A SeaweedFS filer.
    Seaweedfs(SeaweedfsBackend),
    /// An export of an NFS server.
    Nfs(NfsBackend),
    /// A Gluster volume.
    Gluster(Box<GlusterBackend>),
    /// A file system in a file of another backend.
    Image(ImageBackend),
}

impl BackendKind {
    /// Whether nothing can be written to any volume of it.
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::Host(_) => false,
            Self::Seaweedfs(seaweedfs) => seaweedfs.read_only,
            Self::Nfs(nfs) => nfs.read_only,
            Self::Gluster(gluster) => gluster.read_only,
            Self::Image(image) => image.parent.kind.is_read_only(),
        }
    }

    /// The most memory that its mount program may take, in bytes; none where it has no program.
    pub fn memory_limit(&self) -> Option<u64> {
        match self {
            Self::Host(_) | Self::Nfs(_) | Self::Image(_) => None,
            Self::Seaweedfs(seaweedfs) => Some(seaweedfs.memory_limit),
            Self::Gluster(gluster) => Some(gluster.memory_limit),
        }
    }
}

/// What is said of the mounting of a source, with its defaults.
pub(super) struct Common {
    linger: Duration,
    attach_at_start: bool,
    attach_timeout: Duration,
}

impl Default for Common {
    fn default() -> Self {
        Self { linger: Backend::LINGER, attach_at_start: true, attach_timeout: Backend::ATTACH_TIMEOUT }
    }
}

impl Common {
    /// Reads the keys of every kind whose source is mounted, and does not lie there anyway.
    fn read_mount(&mut self, section: &mut Section<'_>) {
        if let Some(said) = section.duration("linger") {
            self.linger = said.value;
        }
        if let Some(said) = positive(section, "attach_timeout") {
            self.attach_timeout = said.value;
        }
        let is_right = |text: &str| matches!(text, "start" | "demand");
        let attach = checked(section, "attach", "\"start\" or \"demand\"", is_right);
        self.attach_at_start = attach.is_none_or(|said| said.value == "start");
    }
}

/// Reads a `backend` block; nothing where it is wrong.
pub(in crate::config) fn backend(
    labels: &[Spanned<String>],
    mut section: Section<'_>,
    problems: &mut Vec<Problem>,
) -> Option<(String, Spanned<Backend>)> {
    let [kind, name] = labels else { return None };
    let before = problems.len();
    let name = name_of(name, "backend", problems);
    let span = section.span();
    let dynamic = section.boolean("dynamic");
    let mut common = Common::default();
    let Some((_, read)) = KINDS.iter().find(|(known, _)| *known == kind.value) else {
        let shown: String = kind.value.chars().take(100).collect();
        let problem = Problem::new(kind.span.clone(), format!("{shown:?} is not a kind of backend"));
        // Its keys are not looked at: which are right depends on the kind.
        problems.push(match crate::hcl::nearest(&kind.value, KINDS.map(|(known, _)| known)) {
            Some(near) => problem.hint(format!("did you mean {near:?}?")),
            None => problem.hint(format!("the kinds are {}", KINDS.map(|(known, _)| known).join(", "))),
        });
        return None;
    };
    let read = read(&mut section, &mut common);
    if let (Some(said), Some(true)) = (&dynamic, read.as_ref().map(BackendKind::is_read_only))
        && said.value
    {
        let message = "a read-only backend cannot be dynamic: nothing could be created there";
        section.problem(Problem::new(said.span.clone(), message));
    }
    section.finish(problems);
    if problems.len() > before {
        return None;
    }
    let name = name?;
    let value = Backend {
        name: name.clone(),
        kind: read?,
        dynamic: dynamic.is_some_and(|said| said.value),
        linger: common.linger,
        attach_at_start: common.attach_at_start,
        attach_timeout: common.attach_timeout,
    };
    Some((name, Spanned { value, span }))
}
