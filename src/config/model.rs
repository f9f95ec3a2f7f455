//! The configuration as the rest of the agent sees it: checked, whole, with every default filled in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::kinds::{BackendKind, Format};
use super::url::UrlPrefix;

/// Everything the agent is told by its files and its environment.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What must outlive a reboot: the ledger, the mounted sources, the bindings of link placements.
    pub state_dir: PathBuf,
    /// What need not: sockets.
    pub run_dir: PathBuf,
    /// A group of the host whose members may look and change nothing.
    pub status_group: Option<String>,
    /// How long a prestart task may wait for its volumes.
    pub hook_timeout: Duration,
    /// How often the sources that a program or server stands behind are asked whether they answer, while a binding uses
    /// them; zero for never.
    pub probe_interval: Duration,
    /// Where metrics are served besides the host's socket: to everybody who can connect.
    pub metrics_address: Option<SocketAddr>,
    /// How Nomad is reached.
    pub nomad: Nomad,
    /// Storage systems by their name.
    pub backends: BTreeMap<String, Backend>,
    /// The volumes that the files define, by their name.
    pub volumes: BTreeMap<String, Volume>,
    /// Where each of them is defined: `FILE:LINE:COLUMN`.
    pub places: BTreeMap<String, String>,
    /// What jobs may do beyond naming a volume.
    pub policy: Policy,
}

impl Config {
    /// The host's socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("saddlebag.sock")
    }

    /// The guard's socket, over which the agent hands it mounts.
    pub fn guard_socket(&self) -> PathBuf {
        self.run_dir.join("guard.sock")
    }

    /// The socket on which the agent answers the guard's questions.
    pub fn question_socket(&self) -> PathBuf {
        self.run_dir.join("questions.sock")
    }

    /// One durable file for each allocation.
    pub fn ledger_dir(&self) -> PathBuf {
        self.state_dir.join("ledger")
    }

    /// Where sources are mounted, one directory for each.
    pub fn sources_dir(&self) -> PathBuf {
        self.state_dir.join("sources")
    }

    /// Bindings that tasks reach by a symbolic link, outside every allocation directory.
    pub fn links_dir(&self) -> PathBuf {
        self.state_dir.join("bindings")
    }

    /// Volumes that were registered while the agent ran, a file for each.
    pub fn registered_dir(&self) -> PathBuf {
        self.state_dir.join("volumes.d")
    }

    /// Logs of the mount programs.
    pub fn logs_dir(&self) -> PathBuf {
        self.state_dir.join("logs")
    }
}

/// A secret: it can be sent, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the request's header and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// How Nomad's HTTP API is reached; Nomad's own environment variables stand in for what the files leave out.
#[derive(Debug, Clone, PartialEq)]
pub struct Nomad {
    /// `http://HOST:PORT` or `https://HOST:PORT` (`NOMAD_ADDR`).
    pub address: String,
    /// The ACL token of the environment (`NOMAD_TOKEN`); [`Nomad::token_file`] wins over it.
    pub token: Option<Token>,
    /// A file that holds the ACL token; it is read by [`crate::nomad::token`], anew whenever it changes.
    pub token_file: Option<PathBuf>,
    /// Certificate authorities in PEM (`NOMAD_CACERT`); the system's where there is none.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate in PEM (`NOMAD_CLIENT_CERT`).
    pub cert_file: Option<PathBuf>,
    /// The client's private key in PEM (`NOMAD_CLIENT_KEY`).
    pub key_file: Option<PathBuf>,
    /// The name that the server's certificate must bear (`NOMAD_TLS_SERVER_NAME`).
    pub tls_server_name: Option<String>,
    /// `NOMAD_SKIP_VERIFY`: the server's certificate is not checked. Only the environment can say so.
    pub skip_verify: bool,
    /// Nomad's allocation root, where the agent cannot learn it from Nomad itself.
    pub alloc_dir: Option<PathBuf>,
}

impl Nomad {
    /// The TCP port of the address: the scheme's own where it names none; none at all for a unix socket.
    pub fn port(&self) -> Option<u16> {
        let (scheme, rest) = self.address.split_once("://")?;
        if scheme == "unix" {
            return None;
        }
        let authority = rest.split('/').next()?;
        // The last colon, unless it belongs to an IPv6 address in brackets.
        match authority.rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => port.parse().ok(),
            _ => Some(if scheme == "https" { 443 } else { 80 }),
        }
    }
}

/// A storage system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Its name: of a configured backend as written there. One that is derived from a URL has a `~` in it, which no
    /// configured name can have; every name is a plain path component.
    pub name: String,
    /// Which kind it is, with the options of that kind.
    pub kind: BackendKind,
    /// Whether a volume that is not registered becomes a directory of its name here, at first use.
    pub dynamic: bool,
    /// How long its source stays mounted after the last binding of it.
    pub linger: Duration,
    /// Whether its source is mounted when the agent starts, or only when an allocation needs it.
    pub attach_at_start: bool,
    /// How long mounting may take.
    pub attach_timeout: Duration,
}

impl Backend {
    /// How long a source lingers where nothing else is said.
    pub const LINGER: Duration = Duration::from_secs(300);
    /// How long mounting may take where nothing else is said.
    pub const ATTACH_TIMEOUT: Duration = Duration::from_secs(20);
}

/// Who may mount a volume, by the names of the Container Storage Interface that Nomad uses.
///
/// Only the difference between reading and writing is enforced, on every binding. Exclusivity between nodes is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AccessMode {
    /// `single-node-reader-only`
    SingleNodeReaderOnly,
    /// `single-node-writer`
    SingleNodeWriter,
    /// `multi-node-reader-only`
    MultiNodeReaderOnly,
    /// `multi-node-single-writer`
    MultiNodeSingleWriter,
    /// `multi-node-multi-writer`
    #[default]
    MultiNodeMultiWriter,
}

impl AccessMode {
    /// Every mode, with its name.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("single-node-reader-only", Self::SingleNodeReaderOnly),
        ("single-node-writer", Self::SingleNodeWriter),
        ("multi-node-reader-only", Self::MultiNodeReaderOnly),
        ("multi-node-single-writer", Self::MultiNodeSingleWriter),
        ("multi-node-multi-writer", Self::MultiNodeMultiWriter),
    ];

    /// Whether nobody may write.
    pub fn is_reader_only(self) -> bool {
        matches!(self, Self::SingleNodeReaderOnly | Self::MultiNodeReaderOnly)
    }
}

/// A registered volume.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    /// Its name, by which jobs ask for it.
    pub name: String,
    /// The name of the backend that it is on.
    pub backend: String,
    /// Its directory, relative to the backend's mounted root; of plain components, empty for the root itself.
    pub path: PathBuf,
    /// Whether the directory is created at first use.
    pub create: bool,
    /// The file system of a volume that is an image; its path is then a file's.
    pub format: Option<Format>,
    /// The most that it is to hold, in bytes; whether anything keeps it to that is its backend's affair.
    pub size: Option<u64>,
    /// Nobody may write: said so, or by a reader-only access mode.
    pub read_only: bool,
    /// Its access mode.
    pub access_mode: AccessMode,
    /// Owner of a directory that is created: uid and gid.
    pub owner: Option<(u32, u32)>,
    /// Permission bits of a directory that is created.
    pub mode: Option<u32>,
    /// The collection that its data is kept in; only on SeaweedFS.
    pub collection: Option<String>,
    /// Set-user-id bits mean nothing in it.
    pub nosuid: bool,
    /// Device files mean nothing in it.
    pub nodev: bool,
    /// Nothing in it can be executed.
    pub noexec: bool,
}

/// What jobs may do beyond naming a registered volume.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// The URLs that jobs may name.
    pub allow_url: Vec<UrlPrefix>,
}
