//! `backend "gluster"`: a Gluster volume and how it is mounted.

pub(crate) mod xlators;

mod quota;
mod tls;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BackendKind, Common};
use crate::config::blocks::{checked, path};
use crate::config::url::is_host;
use crate::hcl::{Problem, Section, Spanned};

pub use quota::{GLUSTER_PATHS, GlusterQuota, GlusterSsh, SSH_PATHS};
pub use tls::GlusterTls;

/// Where `glusterfs` is looked for when no `program` is configured, in this order.
pub const GLUSTERFS_PATHS: [&str; 3] = ["/usr/sbin/glusterfs", "/usr/local/sbin/glusterfs", "/sbin/glusterfs"];

/// The port of glusterd where nothing else is said.
pub const GLUSTERD_PORT: u16 = 24007;

/// The most memory for the client where nothing else is said: 1 GiB.
const MEMORY_LIMIT: u64 = 1 << 30;

/// `glusterfs` alone takes about 15 MiB with nothing to do, and its caches as much as the volume's options give them.
const LEAST_MEMORY: u64 = 64 << 20;

/// The longest that a client waits for an answer to its ping, in seconds (client.c of GlusterFS).
const LONGEST_PING: u64 = 1013;

/// A Gluster volume and how it is mounted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GlusterBackend {
    /// The hosts whose glusterd is asked for the volume's bricks, in this order.
    pub servers: Vec<String>,
    /// The port of each.
    pub port: u16,
    /// The Gluster volume.
    pub volume: String,
    /// The directory of it that saddlebag's volumes are below; absolute, of plain components.
    pub path: String,
    /// The options of the client.
    pub options: GlusterOptions,
    /// Options of the client's translators, by `TRANSLATOR.OPTION`.
    pub xlator_options: BTreeMap<String, String>,
    /// How it is encrypted, where that is said here.
    pub tls: Option<GlusterTls>,
    /// Who sets the limits of directories.
    pub quota: GlusterQuota,
    /// The most memory that the client may take, in bytes.
    pub memory_limit: u64,
    /// The path of `glusterfs`; else it is looked for in [`GLUSTERFS_PATHS`].
    pub program: Option<PathBuf>,
    /// Mounted read-only.
    pub read_only: bool,
}

/// The options of the client; what is none is left to `glusterfs`, or to the volume.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GlusterOptions {
    /// As `glusterfs` takes it, in capitals.
    pub log_level: Option<String>,
    /// How long the kernel keeps attributes.
    pub attribute_timeout: Option<Duration>,
    /// How long the kernel keeps names.
    pub entry_timeout: Option<Duration>,
    /// How long the kernel keeps that a name is not there.
    pub negative_timeout: Option<Duration>,
    /// How long the groups of a user are kept.
    pub gid_timeout: Option<Duration>,
    /// After how long without an answer a brick counts as gone.
    pub ping_timeout: Option<Duration>,
    /// After how long a request to a brick fails.
    pub frame_timeout: Option<Duration>,
    /// `auto`, `enable` or `disable`.
    pub direct_io_mode: Option<String>,
    /// POSIX ACLs.
    pub acl: bool,
    /// More than 32 groups of a user.
    pub resolve_gids: bool,
    /// The kernel gathers writes.
    pub kernel_writeback_cache: bool,
    /// The kernel keeps a file's pages when it is opened again.
    pub fopen_keep_cache: bool,
    /// The kernel drops a file's pages when its attributes have changed.
    pub auto_invalidation: Option<bool>,
    /// Attributes come with a directory's names.
    pub use_readdirp: Option<bool>,
    /// How many inodes that nobody uses are kept.
    pub lru_limit: Option<u64>,
    /// How many invalidations may wait for the kernel.
    pub invalidate_limit: Option<u64>,
    /// How many requests the kernel may have in the background.
    pub background_qlen: Option<u64>,
    /// From how many on the kernel slows writers.
    pub congestion_threshold: Option<u64>,
    /// Threads that read the kernel's requests.
    pub reader_thread_count: Option<u64>,
}

impl GlusterBackend {
    /// That whole volume, with every default.
    pub fn at(server: &str, port: u16, volume: &str) -> Self {
        Self {
            servers: vec![server.to_owned()],
            port,
            volume: volume.to_owned(),
            path: "/".to_owned(),
            options: GlusterOptions::default(),
            xlator_options: BTreeMap::new(),
            tls: None,
            quota: GlusterQuota::Off,
            memory_limit: MEMORY_LIMIT,
            program: None,
            read_only: false,
        }
    }
}

/// Whether the text can be the name of a Gluster volume (glusterd refuses any other).
pub fn is_gluster_volume(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Reads what a block says that is the kind's own.
pub(super) fn read(section: &mut Section<'_>, common: &mut Common) -> Option<BackendKind> {
    common.read_mount(section);
    section.require("servers", "[\"HOST\"]");
    section.require("volume", "\"NAME\"");
    let servers = servers(section);
    let port = number(section, "port", 1..=u64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok());
    let volume = checked(section, "volume", "the name of a Gluster volume", is_gluster_volume);
    let root = path(section, "path").map_or_else(|| PathBuf::from("/"), |said| said.value);
    let options = options(section);
    let xlator_options = xlators::read(section);
    let tls = tls::read(section);
    let quota = quota::read(section);
    let memory_limit = section.size("memory_limit");
    if let Some(said) = memory_limit.as_ref().filter(|said| said.value < LEAST_MEMORY) {
        section.problem(Problem::new(said.span.clone(), "memory_limit must be at least 64MiB"));
    }
    let program = path(section, "program").map(|said| said.value);
    let read_only = section.boolean("read_only").is_some_and(|said| said.value);
    Some(BackendKind::Gluster(Box::new(GlusterBackend {
        servers: servers?,
        port: port.unwrap_or(GLUSTERD_PORT),
        volume: volume?.value,
        path: root.to_str()?.to_owned(),
        options,
        xlator_options,
        tls,
        quota,
        memory_limit: memory_limit.map_or(MEMORY_LIMIT, |said| said.value),
        program,
        read_only,
    })))
}

fn servers(section: &mut Section<'_>) -> Option<Vec<String>> {
    let said = section.strings("servers")?;
    if said.value.is_empty() {
        section.problem(Problem::new(said.span, "servers names nobody"));
        return None;
    }
    let mut servers: Vec<String> = Vec::new();
    for server in said.value {
        let Spanned { value, span } = server;
        if !is_host(&value) {
            let problem = Problem::new(span, format!("{value:?} is not a host's name or address"));
            let has_port = value.rsplit_once(':').is_some_and(|(host, _)| is_host(host));
            section.problem(if has_port {
                problem.hint("the port is a key of its own: port = 24007")
            } else {
                problem
            });
        } else if servers.contains(&value) {
            section.problem(Problem::new(span, format!("servers has {value:?} twice")));
        } else {
            servers.push(value);
        }
    }
    Some(servers)
}

fn options(section: &mut Section<'_>) -> GlusterOptions {
    const LEVELS: [&str; 7] = ["trace", "debug", "info", "warning", "error", "critical", "none"];
    let log_level =
        checked(section, "log_level", &format!("one of {}", LEVELS.join(", ")), |text| LEVELS.contains(&text));
    let is_mode = |text: &str| matches!(text, "auto" | "enable" | "disable");
    let direct_io_mode = checked(section, "direct_io_mode", "\"auto\", \"enable\" or \"disable\"", is_mode);
    let mut boolean = |key| section.boolean(key).map(|said| said.value);
    let (acl, resolve_gids) = (boolean("acl"), boolean("resolve_gids"));
    let (writeback, keep) = (boolean("kernel_writeback_cache"), boolean("fopen_keep_cache"));
    let (auto_invalidation, use_readdirp) = (boolean("auto_invalidation"), boolean("use_readdirp"));
    let mut count = |key, least| number(section, key, least..=i32::MAX.unsigned_abs().into());
    GlusterOptions {
        lru_limit: count("lru_limit", 0),
        invalidate_limit: count("invalidate_limit", 0),
        background_qlen: count("background_qlen", 1),
        congestion_threshold: count("congestion_threshold", 1),
        reader_thread_count: number(section, "reader_thread_count", 1..=64),
        attribute_timeout: section.duration("attribute_timeout").map(|said| said.value),
        entry_timeout: section.duration("entry_timeout").map(|said| said.value),
        negative_timeout: section.duration("negative_timeout").map(|said| said.value),
        gid_timeout: seconds(section, "gid_timeout", 0..=86400),
        ping_timeout: seconds(section, "ping_timeout", 1..=LONGEST_PING),
        frame_timeout: seconds(section, "frame_timeout", 1..=86400),
        log_level: log_level.map(|said| said.value.to_uppercase()),
        direct_io_mode: direct_io_mode.map(|said| said.value),
        acl: acl.unwrap_or_default(),
        resolve_gids: resolve_gids.unwrap_or_default(),
        kernel_writeback_cache: writeback.unwrap_or_default(),
        fopen_keep_cache: keep.unwrap_or_default(),
        auto_invalidation,
        use_readdirp,
    }
}

/// A whole number in a range.
fn number(section: &mut Section<'_>, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
    let said = section.integer(key)?;
    if range.contains(&said.value) {
        return Some(said.value);
    }
    let message = format!("{key} must be from {} to {}", range.start(), range.end());
    section.problem(Problem::new(said.span, message));
    None
}

/// A duration of whole seconds.
fn seconds(section: &mut Section<'_>, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<Duration> {
    let said = section.duration(key)?;
    if said.value.subsec_nanos() == 0 && range.contains(&said.value.as_secs()) {
        return Some(said.value);
    }
    let message = format!("{key} must be whole seconds from {}s to {}s", range.start(), range.end());
    section.problem(Problem::new(said.span, message));
    None
}
