//! `backend "seaweedfs"`: a SeaweedFS filer and how it is mounted.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{BackendKind, Common};
use crate::config::blocks::{checked, path};
use crate::config::is_name;
use crate::config::url::is_host_port;
use crate::hcl::{Problem, Section};

/// Where `weed` is looked for when no `program` is configured, in this order.
pub const WEED_PATHS: [&str; 4] = ["/usr/local/bin/weed", "/usr/bin/weed", "/bin/weed", "/opt/seaweedfs/weed"];

/// The most memory for a mount program where nothing else is said: 1 GiB.
const MEMORY_LIMIT: u64 = 1 << 30;

/// `weed mount` alone takes about 117 MiB with nothing to do.
const LEAST_MEMORY: u64 = 128 << 20;

/// A SeaweedFS filer and how it is mounted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeaweedfsBackend {
    /// `HOST:PORT` of each filer.
    pub filers: Vec<String>,
    /// The filer's directory that is mounted; absolute, of plain components.
    pub path: String,
    /// The collection that new files go to.
    pub collection: Option<String>,
    /// The replication of new files: three digits.
    pub replication: Option<String>,
    /// The most memory that the mount program may take, in bytes.
    pub memory_limit: u64,
    /// Where chunks are cached on this host.
    pub cache_dir: Option<PathBuf>,
    /// The most that the cache may take, in bytes.
    pub cache_capacity: Option<u64>,
    /// The path of `weed`; else it is looked for in [`WEED_PATHS`].
    pub program: Option<PathBuf>,
    /// Mounted read-only.
    pub read_only: bool,
}

impl SeaweedfsBackend {
    /// That filer's whole tree, with every default.
    pub fn at(filer: &str) -> Self {
        Self {
            filers: vec![filer.to_owned()],
            path: "/".to_owned(),
            collection: None,
            replication: None,
            memory_limit: MEMORY_LIMIT,
            cache_dir: None,
            cache_capacity: None,
            program: None,
            read_only: false,
        }
    }
}

/// Reads what a block says that is the kind's own.
pub(super) fn read(section: &mut Section<'_>, common: &mut Common) -> Option<BackendKind> {
    common.read_mount(section);
    section.require("filer", "\"HOST:8888\"");
    let filers = checked(section, "filer", "HOST:PORT of one or more filers, separated by commas", |text| {
        text.split(',').all(|filer| is_host_port(filer.trim()))
    });
    let root = path(section, "path").map_or_else(|| PathBuf::from("/"), |said| said.value);
    let collection = checked(section, "collection", "the name of a collection", is_name);
    let replication = checked(section, "replication", "three digits such as \"001\"", |text| {
        text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit())
    });
    let memory_limit = section.size("memory_limit");
    if let Some(said) = memory_limit.as_ref().filter(|said| said.value < LEAST_MEMORY) {
        let message = "memory_limit must be at least 128MiB: weed mount takes nearly as much with nothing to do";
        section.problem(Problem::new(said.span.clone(), message));
    }
    let cache_dir = path(section, "cache_dir").map(|said| said.value);
    let cache_capacity = section.size("cache_capacity");
    if let Some(said) = &cache_capacity
        && !section.is_set("cache_dir")
    {
        let problem = Problem::new(said.span.clone(), "cache_capacity is set, and cache_dir is not");
        section.problem(problem.hint("add cache_dir = \"/var/cache/saddlebag\""));
    }
    let program = path(section, "program").map(|said| said.value);
    let read_only = section.boolean("read_only").is_some_and(|said| said.value);
    let root = root.to_str()?.to_owned();
    Some(BackendKind::Seaweedfs(SeaweedfsBackend {
        filers: filers?.value.split(',').map(|filer| filer.trim().to_owned()).collect(),
        path: root,
        collection: collection.map(|said| said.value),
        replication: replication.map(|said| said.value),
        memory_limit: memory_limit.map_or(MEMORY_LIMIT, |said| said.value),
        cache_dir,
        cache_capacity: cache_capacity.map(|said| said.value),
        program,
        read_only,
    }))
}
