//! `nfs`: an export of an NFS server, mounted by the kernel's own client.
//!
//! Every setting of nfs(5) that decides whether data is safe has a key and a default of its own here, and is always said
//! to the mount: a default of the host (`/etc/nfsmount.conf`) never changes one. What else there is stands in `options`,
//! which is a closed list too (see [`options`]).

pub mod options;

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BackendKind, Common};
use crate::config::blocks::{checked, path};
use crate::hcl::{Problem, Section, Spanned};

/// The longest time that the client may wait before it asks again: 600 s, in tenths of a second (nfs(5)).
const MOST_TIMEO: u32 = 6000;
/// So often at most it asks again before it says that the server does not answer.
const MOST_RETRANS: u32 = 100;
/// The most connections to one server (nfs(5)).
const MOST_CONNECTIONS: u32 = 16;
/// The least and the most of one read or write, in bytes (nfs(5)).
const LEAST_SIZE: u32 = 1024;
const MOST_SIZE: u32 = 1 << 20;
/// The longest that attributes are cached, in seconds.
const MOST_ACTIMEO: u32 = 86_400;
/// The port of NFS.
pub const PORT: u16 = 2049;
/// The port of NFS over RDMA.
pub const RDMA_PORT: u16 = 20049;

/// Where `mount.nfs` is looked for when no `program` is configured, in this order.
pub const MOUNT_PATHS: [&str; 3] = ["/sbin/mount.nfs", "/usr/sbin/mount.nfs", "/usr/local/sbin/mount.nfs"];
/// Where `rpc.statd` is looked for, which locks of NFS 3 need.
pub const STATD_PATHS: [&str; 3] = ["/sbin/rpc.statd", "/usr/sbin/rpc.statd", "/usr/local/sbin/rpc.statd"];
/// Where `rpc.gssd` is looked for, which Kerberos needs.
pub const GSSD_PATHS: [&str; 3] = ["/usr/sbin/rpc.gssd", "/sbin/rpc.gssd", "/usr/local/sbin/rpc.gssd"];

/// A closed list of words that the configuration, the mount and the disk write alike.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$of])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            /// Each, with its name.
            pub const NAMES: [(&'static str, Self); [$($word),+].len()] = [$(($word, Self::$variant)),+];

            /// As nfs(5) writes it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }
    };
}

words! {
    /// The version of the protocol.
    NfsVersion {
        /// The highest of 4.2, 4.1 and 4.0 that the server has.
        V4 = "4",
        /// 3, with its mount protocol and its locks by rpc.statd.
        V3 = "3",
        /// 4.0
        V4_0 = "4.0",
        /// 4.1
        V4_1 = "4.1",
        /// 4.2
        V4_2 = "4.2",
    }
}

words! {
    /// What names are cached.
    LookupCache {
        /// Those that are there, and those that are not.
        All = "all",
        /// None: another client's new file is seen at once.
        None = "none",
        /// Those that are there.
        Positive = "positive",
    }
}

words! {
    /// How soon what is written goes to the server.
    Write {
        /// When the kernel thinks fit.
        Lazy = "lazy",
        /// At once, without waiting for it.
        Eager = "eager",
        /// At once, and a write ends when it is there.
        Wait = "wait",
    }
}

words! {
    /// The transport.
    NfsProto {
        /// TCP.
        Tcp = "tcp",
        /// TCP over IPv6.
        Tcp6 = "tcp6",
        /// RDMA.
        Rdma = "rdma",
    }
}

words! {
    /// The transport of NFS 3's mount protocol.
    MountProto {
        /// UDP.
        Udp = "udp",
        /// TCP.
        Tcp = "tcp",
        /// UDP over IPv6.
        Udp6 = "udp6",
        /// TCP over IPv6.
        Tcp6 = "tcp6",
    }
}

words! {
    /// How client and user prove who they are.
    Security {
        /// By their numbers.
        Sys = "sys",
        /// By Kerberos.
        Krb5 = "krb5",
        /// By Kerberos, with integrity.
        Krb5i = "krb5i",
        /// By Kerberos, with integrity and encryption.
        Krb5p = "krb5p",
    }
}

words! {
    /// TLS below RPC (Linux 6.5).
    TransportSecurity {
        /// None.
        None = "none",
        /// The server has a certificate.
        Tls = "tls",
        /// Both have.
        Mtls = "mtls",
    }
}

words! {
    /// Which locks of NFS 3 stay on this client.
    LocalLock {
        /// None.
        None = "none",
        /// Those of flock(2).
        Flock = "flock",
        /// Those of fcntl(2).
        Posix = "posix",
        /// Both.
        All = "all",
    }
}

/// The value of a word.
fn find<T: Copy>(names: &[(&'static str, T)], word: &str) -> Option<T> {
    names.iter().find(|(name, _)| *name == word).map(|(_, value)| *value)
}

/// An export of an NFS server and how it is mounted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NfsBackend {
    /// The server: a name or an address, an IPv6 one without brackets.
    pub server: String,
    /// The server's directory that is mounted; absolute, of plain components.
    pub export: String,
    /// The version of the protocol.
    pub version: NfsVersion,
    /// Mounted read-only.
    pub read_only: bool,
    /// Whether a request is repeated until it is answered.
    pub hard: bool,
    /// How long an answer is waited for before a request is repeated, in tenths of a second.
    pub timeo: Option<u32>,
    /// How often a request is repeated before more is done about it.
    pub retrans: Option<u32>,
    /// Whether files are locked at the server (NFS 3; NFS 4 always does).
    pub lock: bool,
    /// Which locks stay on this client although `lock` is on (NFS 3).
    pub local_lock: LocalLock,
    /// Whether every write waits for the server.
    pub sync: bool,
    /// Whether nothing is known of a file without having asked the server.
    pub noac: bool,
    /// How long attributes are cached, in seconds.
    pub actimeo: Option<u32>,
    /// What names are cached.
    pub lookupcache: LookupCache,
    /// Close-to-open consistency.
    pub cto: bool,
    /// Whether old attributes are shown while the server does not answer.
    pub softreval: bool,
    /// How soon what is written goes to the server.
    pub write: Write,
    /// The transport.
    pub proto: NfsProto,
    /// The server's port.
    pub port: u16,
    /// The port of its mount protocol (NFS 3); else rpcbind is asked.
    pub mountport: Option<u16>,
    /// The transport of its mount protocol (NFS 3).
    pub mountproto: Option<MountProto>,
    /// How client and user prove who they are.
    pub sec: Security,
    /// TLS.
    pub xprtsec: TransportSecurity,
    /// How many connections.
    pub nconnect: Option<u32>,
    /// The most of one read, in bytes.
    pub rsize: Option<u32>,
    /// The most of one write, in bytes.
    pub wsize: Option<u32>,
    /// Whether pages are cached on this host's disk (FS-Cache).
    pub fsc: bool,
    /// What else nfs(5) has, of [`options::check_free`].
    pub options: Vec<String>,
    /// The path of `mount.nfs`; else it is looked for in [`MOUNT_PATHS`].
    pub program: Option<PathBuf>,
}

impl NfsBackend {
    /// An export with the default of every setting.
    pub fn new(server: impl Into<String>, export: impl Into<String>) -> Self {
        let server = server.into();
        Self {
            proto: if server.parse::<Ipv6Addr>().is_ok() { NfsProto::Tcp6 } else { NfsProto::Tcp },
            server,
            export: export.into(),
            version: NfsVersion::V4,
            read_only: false,
            hard: true,
            timeo: None,
            retrans: None,
            lock: true,
            local_lock: LocalLock::None,
            sync: false,
            noac: false,
            actimeo: None,
            lookupcache: LookupCache::All,
            cto: true,
            softreval: false,
            write: Write::Lazy,
            port: PORT,
            mountport: None,
            mountproto: None,
            sec: Security::Sys,
            xprtsec: TransportSecurity::None,
            nconnect: None,
            rsize: None,
            wsize: None,
            fsc: false,
            options: Vec::new(),
            program: None,
        }
    }
}

/// Whether the text is an address, or can be the name of a host.
pub fn is_host(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
        || ((1..=253).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')))
}

/// Reads what is of NFS in a `backend` block.
pub(super) fn read(section: &mut Section<'_>, common: &mut Common) -> Option<BackendKind> {
    common.read_mount(section);
    section.require("server", "\"10.0.0.1\"");
    section.require("export", "\"/srv/export\"");
    let server = checked(section, "server", "the name or address of one server, without a port", is_host);
    let export = path(section, "export").and_then(|said| said.value.to_str().map(str::to_owned));
    let mut of = NfsBackend::new(server.as_ref().map_or("", |said| &said.value), String::new());
    let boolean =
        |section: &mut Section<'_>, key, default: bool| section.boolean(key).map_or(default, |said| said.value);
    of.version = word(section, "version", &NfsVersion::NAMES, of.version);
    of.read_only = boolean(section, "read_only", of.read_only);
    of.hard = boolean(section, "hard", of.hard);
    of.timeo = tenths(section, "timeo");
    of.retrans = number(section, "retrans", 1, MOST_RETRANS);
    of.lock = boolean(section, "lock", of.lock);
    of.local_lock = word(section, "local_lock", &LocalLock::NAMES, of.local_lock);
    of.sync = boolean(section, "sync", of.sync);
    of.noac = boolean(section, "noac", of.noac);
    of.actimeo = seconds(section, "actimeo");
    of.lookupcache = word(section, "lookupcache", &LookupCache::NAMES, of.lookupcache);
    of.cto = boolean(section, "cto", of.cto);
    of.softreval = boolean(section, "softreval", of.softreval);
    of.write = word(section, "write", &Write::NAMES, of.write);
    of.proto = proto(section).unwrap_or(of.proto);
    let default_port = if of.proto == NfsProto::Rdma { RDMA_PORT } else { PORT };
    of.port = port(section, "port").unwrap_or(default_port);
    of.mountport = port(section, "mountport");
    of.mountproto =
        section.is_set("mountproto").then(|| word(section, "mountproto", &MountProto::NAMES, MountProto::Tcp));
    of.sec = word(section, "sec", &Security::NAMES, of.sec);
    of.xprtsec = word(section, "xprtsec", &TransportSecurity::NAMES, of.xprtsec);
    of.nconnect = number(section, "nconnect", 1, MOST_CONNECTIONS);
    of.rsize = size(section, "rsize");
    of.wsize = size(section, "wsize");
    of.fsc = boolean(section, "fsc", of.fsc);
    of.program = path(section, "program").map(|said| said.value);
    let mut free = true;
    for said in section.strings("options").map(|said| said.value).unwrap_or_default() {
        if let Err(mistake) = options::check_free(&said.value) {
            section.problem(problem(said.span, mistake));
            free = false;
        }
        of.options.push(said.value);
    }
    if server.is_some() && free {
        for mistake in options::contradictions(&of) {
            section.problem(problem(section.span(), mistake));
        }
    }
    Some(BackendKind::Nfs(NfsBackend { export: export?, ..of }))
}

fn problem(span: std::ops::Range<usize>, mistake: options::Mistake) -> Problem {
    let problem = Problem::new(span, mistake.message);
    match mistake.hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// One of a list of words.
fn word<T: Copy>(section: &mut Section<'_>, key: &'static str, names: &[(&'static str, T)], default: T) -> T {
    let Some(Spanned { value, span }) = section.string(key) else { return default };
    if let Some(found) = find(names, &value) {
        return found;
    }
    let words: Vec<String> = names.iter().map(|(name, _)| format!("{name:?}")).collect();
    let message = format!("{key} must be one of {}, not {value:?}", words.join(", "));
    section.problem(Problem::new(span, message));
    default
}

/// UDP is refused with its reason: it can be named, and must not be.
fn proto(section: &mut Section<'_>) -> Option<NfsProto> {
    let Spanned { value, span } = section.string("proto")?;
    if let Some(found) = find(&NfsProto::NAMES, &value) {
        return Some(found);
    }
    let problem = Problem::new(span, format!("proto must be \"tcp\", \"tcp6\" or \"rdma\", not {value:?}"));
    section.problem(if value.starts_with("udp") {
        problem.hint("over UDP a fragment of another packet can end in a file (nfs(5)): there is no safe use of it")
    } else {
        problem
    });
    None
}

fn number(section: &mut Section<'_>, key: &'static str, least: u32, most: u32) -> Option<u32> {
    let Spanned { value, span } = section.integer(key)?;
    let found = u32::try_from(value).ok().filter(|number| (least..=most).contains(number));
    if found.is_none() {
        section.problem(Problem::new(span, format!("{key} must be from {least} to {most}")));
    }
    found
}

fn port(section: &mut Section<'_>, key: &'static str) -> Option<u16> {
    let Spanned { value, span } = section.integer(key)?;
    let found = u16::try_from(value).ok().filter(|port| *port > 0);
    if found.is_none() {
        section.problem(Problem::new(span, format!("{key} must be a port, from 1 to 65535")));
    }
    found
}

fn tenths(section: &mut Section<'_>, key: &'static str) -> Option<u32> {
    let Spanned { value, span } = section.duration(key)?;
    let tenths = u32::try_from(value.as_millis() / 100).ok().filter(|tenths| (1..=MOST_TIMEO).contains(tenths));
    if tenths.is_none_or(|tenths| value != Duration::from_millis(100) * tenths) {
        section.problem(Problem::new(span, format!("{key} must be from 100ms to 10m, in tenths of a second")));
        return None;
    }
    tenths
}

fn seconds(section: &mut Section<'_>, key: &'static str) -> Option<u32> {
    let Spanned { value, span } = section.duration(key)?;
    let seconds = u32::try_from(value.as_secs()).ok().filter(|seconds| *seconds <= MOST_ACTIMEO);
    if seconds.is_none_or(|seconds| value != Duration::from_secs(seconds.into())) {
        section.problem(Problem::new(span, format!("{key} must be from 0s to 24h, in whole seconds")));
        return None;
    }
    seconds
}

fn size(section: &mut Section<'_>, key: &'static str) -> Option<u32> {
    let Spanned { value, span } = section.size(key)?;
    let found = u32::try_from(value).ok().filter(|size| (LEAST_SIZE..=MOST_SIZE).contains(size) && size % 1024 == 0);
    if found.is_none() {
        section.problem(Problem::new(span, format!("{key} must be from 1KiB to 1MiB, in whole KiB")));
    }
    found
}
