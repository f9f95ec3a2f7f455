//! The guard: keeps Nomad's garbage collection out of volumes, whether or not an agent is running.
//!
//! Nomad removes an allocation's directory recursively and walks into every mount that is not its own. So each
//! binding is marked by fanotify(7) before it is visible, and a process of its own answers every open below it:
//! directories are denied to Nomad's agent, everything else is allowed. See [`question`] for what the agent can
//! do before the denial.
//!
//! * `server` is the process: its socket ([`wire`]), its groups, its signals.
//! * `groups` are the fanotify groups, one for each source; `reader` reads and answers the events of one;
//!   `opener` says who opens; `ask` asks the agent; `counts` counts what was decided.
//! * `keeper` (over `link`) or systemd's descriptor store (`systemd`) keep the groups when the guard dies;
//!   `state` and `lock` say who is whose successor.
//! * `place` are its files in the run directory, made anew when somebody removes them.
//! * [`client`] is the agent's side.
//!
//! The guard opens nothing below a guarded mount but by `O_PATH`, which asks nobody, and asks no file system
//! anything except on threads that may be lost.

mod ask;
pub mod client;
mod counts;
mod groups;
mod keeper;
mod link;
mod lock;
mod log;
mod opener;
mod place;
pub mod question;
mod reader;
mod server;
mod state;
mod systemd;
pub mod wire;

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

pub use client::{GuardClient, GuardError, ensure_running};
pub use wire::{Decisions, Hello, NomadExe};

/// How to run the guard's process.
#[derive(Debug, Clone)]
pub struct GuardOptions {
    /// Where its socket, its locks and its memory are; shared with the agent.
    pub run_dir: PathBuf,
    /// Be the keeper of a guard, which has started this process with their connection as descriptor 0.
    pub keeper: bool,
}

/// Why the guard's process ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum GuardRunError {
    /// The run directory cannot be made.
    #[error("cannot make the run directory {path}")]
    RunDir {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A lock file cannot be used.
    #[error("cannot lock {path}")]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process holds the lock and does not end.
    #[error("another process holds {0}")]
    Held(PathBuf),
    /// The connection between guard and keeper is not there.
    #[error("cannot take over the connection to the guard's other process")]
    Link(#[source] io::Error),
    /// The own executable cannot be told, which a successor is started from.
    #[error("cannot tell the own executable")]
    Executable(#[source] io::Error),
    /// Signals cannot be taken.
    #[error("cannot take signals")]
    Signals(#[source] io::Error),
    /// The record for a successor cannot be written.
    #[error("cannot write the guard's state")]
    State(#[source] io::Error),
    /// A predecessor's group cannot be served.
    #[error("cannot take over the group {group}")]
    Adopt {
        /// The group.
        group: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The control socket cannot be made.
    #[error("cannot listen for the agent")]
    Listen(#[source] io::Error),
    /// Waiting failed.
    #[error("cannot wait for connections")]
    Wait(#[source] io::Error),
}

/// Runs the guard's process, or its keeper's, until it is told to stop. Needs CAP_SYS_ADMIN.
///
/// SIGTERM does not end protection: without systemd the guard stays for as long as it guards anything (say `stop`
/// over its socket); under systemd it ends, and the unit's descriptor store keeps the groups.
pub fn run(options: GuardOptions) -> Result<(), GuardRunError> {
    if options.keeper { keeper::run(&options.run_dir) } else { server::run(&options.run_dir) }
}

/// The own executable's path, also when the file was replaced by an upgrade meanwhile.
fn own_executable() -> Result<PathBuf, GuardRunError> {
    let path = std::fs::read_link("/proc/self/exe").map_err(GuardRunError::Executable)?;
    let bytes = path.as_os_str().as_bytes();
    Ok(PathBuf::from(OsString::from_vec(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes).to_vec())))
}
