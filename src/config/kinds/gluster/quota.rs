//! Who sets the limits of a Gluster volume's directories.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::blocks::{checked, path};
use crate::config::url::is_host;
use crate::hcl::{Problem, Section};

/// Where `gluster` is looked for when no `program` is configured, in this order.
pub const GLUSTER_PATHS: [&str; 3] = ["/usr/sbin/gluster", "/usr/local/sbin/gluster", "/sbin/gluster"];
/// Where `ssh` is looked for.
pub const SSH_PATHS: [&str; 2] = ["/usr/bin/ssh", "/usr/local/bin/ssh"];

/// How glusterd is told of a limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GlusterQuota {
    /// It is not: sizes are advisory.
    #[default]
    Off,
    /// By `gluster` on this host, which is a server of the pool itself.
    Local {
        /// The path of `gluster`; else it is looked for in [`GLUSTER_PATHS`].
        program: Option<PathBuf>,
        /// The socket of glusterd, where it is not at its usual place.
        socket: Option<PathBuf>,
    },
    /// By `gluster` on a server, over ssh.
    Ssh(GlusterSsh),
}

/// A server of the pool that can be reached by ssh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GlusterSsh {
    /// The server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who to be there.
    pub user: String,
    /// The private key, a file that only root can read.
    pub key: PathBuf,
    /// The file that has the server's public key: another one is refused.
    pub known_hosts: PathBuf,
    /// The path of `gluster` there.
    pub program: PathBuf,
    /// The socket of glusterd there, where it is not at its usual place.
    pub socket: Option<PathBuf>,
}

/// Reads the block, if there is one.
pub(super) fn read(section: &mut Section<'_>) -> GlusterQuota {
    let mut found = GlusterQuota::Off;
    for (labels, mut quota) in section.blocks("quota", &["WAY"]) {
        let Some(way) = labels.into_iter().next() else { continue };
        if found != GlusterQuota::Off {
            quota.problem(Problem::new(quota.span(), "there is a quota block already"));
        }
        match way.value.as_str() {
            "local" => {
                let program = path(&mut quota, "program").map(|said| said.value);
                let socket = path(&mut quota, "socket").map(|said| said.value);
                found = GlusterQuota::Local { program, socket };
            }
            "ssh" => {
                if let Some(ssh) = ssh(&mut quota) {
                    found = GlusterQuota::Ssh(ssh);
                }
            }
            other => {
                let shown: String = other.chars().take(100).collect();
                let problem = Problem::new(way.span, format!("{shown:?} is not a way to set quotas"));
                section.problem(problem.hint("the ways are quota \"local\" { } and quota \"ssh\" { … }"));
                // Its keys are not looked at: which are right depends on the way.
                continue;
            }
        }
        section.take_over(quota);
    }
    found
}

fn ssh(quota: &mut Section<'_>) -> Option<GlusterSsh> {
    quota.require("host", "\"HOST\"");
    quota.require("key", "\"/etc/saddlebag/gluster.key\"");
    quota.require("known_hosts", "\"/etc/saddlebag/gluster.known_hosts\"");
    let host = checked(quota, "host", "a host's name or address", is_host);
    let port = super::number(quota, "port", 1..=u64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok());
    let user = checked(quota, "user", "the name of a user", |text| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        (1..=32).contains(&text.len()) && !text.starts_with('-') && text.bytes().all(allowed)
    });
    let key = path(quota, "key");
    let known_hosts = path(quota, "known_hosts");
    let program = path(quota, "program").map(|said| said.value);
    let socket = path(quota, "socket").map(|said| said.value);
    Some(GlusterSsh {
        host: host?.value,
        port: port.unwrap_or(22),
        user: user.map_or_else(|| "root".to_owned(), |said| said.value),
        key: key?.value,
        known_hosts: known_hosts?.value,
        program: program.unwrap_or_else(|| PathBuf::from("/usr/sbin/gluster")),
        socket,
    })
}
