//! `backend "seaweedfs"`: a SeaweedFS filer and how it is mounted.

mod options;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{BackendKind, Common};
use crate::config::blocks::{checked, path};
use crate::config::url::is_host_port;
use crate::config::{Volume, is_name};
use crate::hcl::{Problem, Section};

pub use options::{Form, MOUNT_OPTIONS, MountOption};

/// Where `weed` is looked for when no `program` is configured, in this order.
pub const WEED_PATHS: [&str; 4] = ["/usr/local/bin/weed", "/usr/bin/weed", "/bin/weed", "/opt/seaweedfs/weed"];

/// Where a filer keeps buckets, unless it is set up otherwise.
const BUCKETS: &str = "/buckets";

/// The most memory for a mount program where nothing else is said: 1 GiB.
const MEMORY_LIMIT: u64 = 1 << 30;

/// `weed mount` alone takes about 117 MiB with nothing to do.
const LEAST_MEMORY: u64 = 128 << 20;

/// The most that the cache of chunks takes on the disk where nothing else is said, in bytes: `weed mount`'s own default.
pub const CACHE_CAPACITY: u64 = 128 << 20;

/// The most that what is written and not yet stored takes in memory and on the disk where nothing else is said, in bytes.
/// `weed mount` alone has no bound for it: while no volume server takes anything, it fills the disk.
pub const WRITE_BUFFER_SIZE: u64 = 512 << 20;

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
    /// Whether each volume that is not in a bucket has a collection of its own name.
    #[serde(default)]
    pub collection_per_volume: bool,
    /// The size of the one volume that this is the mount of, in bytes (see [`SeaweedfsBackend::for_size`]); nobody says it
    /// of a backend.
    #[serde(default)]
    pub quota: Option<u64>,
    /// SeaweedFS's `security.toml`, where it is not in one of the places in which `weed` looks by itself.
    #[serde(default)]
    pub security: Option<PathBuf>,
    /// Further flags of `weed mount` that are said, each with its text (see [`MOUNT_OPTIONS`]).
    #[serde(default)]
    pub options: BTreeMap<String, String>,
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
            collection_per_volume: false,
            quota: None,
            security: None,
            options: BTreeMap::new(),
        }
    }

    /// The collection of a volume that is given none.
    pub fn collection_of(&self, volume: &str, path: &Path) -> Option<String> {
        // What is in a bucket is in the bucket's collection, and in no other.
        let is_in_bucket = Path::new(&self.path).join(path).starts_with(BUCKETS);
        (self.collection_per_volume && !is_in_bucket && path != Path::new("")).then(|| volume.to_owned())
    }

    /// The collection that has a volume's data, where that is not said for the whole mount: its own, or its bucket's.
    pub fn accounts_of(&self, collection: Option<&str>, path: &Path) -> Option<String> {
        let whole = Path::new(&self.path).join(path);
        match whole.strip_prefix(BUCKETS) {
            Ok(below) => below.components().next().map(|bucket| bucket.as_os_str().to_string_lossy().into_owned()),
            Err(_) => collection.map(str::to_owned),
        }
    }

    /// How a writable volume with a size is mounted whose data is all that is in that collection: by a program of its own,
    /// which keeps the collection to the size. None where these settings leave no room for that.
    pub fn for_size(&self, collection: &str, path: &Path, bytes: u64) -> Option<Self> {
        let whole = Path::new(&self.path).join(path);
        // A directory of a bucket is not all of it.
        let is_part = whole.strip_prefix(BUCKETS).is_ok_and(|below| below.components().count() > 1);
        let is_taken = self.read_only || self.collection.is_some() || self.options.contains_key("collectionQuotaMB");
        let own = || Self { collection: Some(collection.to_owned()), quota: Some(bytes), ..self.clone() };
        (!is_part && !is_taken).then(own)
    }

    /// What is wrong with a volume of this backend, and what to do about it.
    pub fn find_fault(&self, volume: &Volume) -> Option<(String, &'static str)> {
        let (name, collection) = (&volume.name, volume.collection.as_ref()?);
        if let Some(other) = &self.collection {
            let message =
                format!("volume {name:?} has collection {collection:?}, and its backend has {other:?} for all");
            return Some((message, "say `collection` of the volumes only: what a mount says comes before every rule"));
        }
        let whole = Path::new(&self.path).join(&volume.path);
        if let Ok(below) = whole.strip_prefix(BUCKETS) {
            let bucket = below.components().next().map(|bucket| bucket.as_os_str().to_string_lossy().into_owned());
            return (bucket.as_deref() != Some(collection)).then(|| {
                let message = format!(
                    "volume {name:?} has collection {collection:?}, and lies in a bucket, whose data is always in the collection of its name"
                );
                (message, "leave `collection` out, or put the volume elsewhere in the filer")
            });
        }
        (whole == Path::new("/")).then(|| {
            let message = format!("volume {name:?} has collection {collection:?}, and is the filer's whole tree");
            (message, "put the volume into a directory of its own")
        })
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
    if let Some(said) = cache_capacity.as_ref().filter(|said| said.value < 1 << 20) {
        section.problem(Problem::new(said.span.clone(), "cache_capacity must be at least 1MiB"));
    }
    let security = path(section, "security").filter(|said| {
        let is_right = said.value.ends_with("security.toml");
        if !is_right {
            let message = "security must be a file named security.toml: weed looks for that name";
            section.problem(Problem::new(said.span.clone(), message));
        }
        is_right
    });
    let per_volume = section.boolean("collection_per_volume");
    if let (Some(said), Some(collection)) = (per_volume.as_ref().filter(|said| said.value), &collection) {
        let message = format!("collection_per_volume is set, and so is collection = {:?}", collection.value);
        section.problem(Problem::new(said.span.clone(), message).hint("leave one of the two out"));
    }
    let options = options::read(section);
    options::check(section, &options, collection.is_some());
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
        collection_per_volume: per_volume.is_some_and(|said| said.value),
        quota: None,
        security: security.map(|said| said.value),
        options,
    }))
}
