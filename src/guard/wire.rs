//! What the agent says to the guard over `<run_dir>/guard.sock`: one JSON message each way, SOCK_SEQPACKET.

use serde::{Deserialize, Serialize};

use crate::sys::process::ExeIdentity;

/// The socket's name in the run directory.
pub const GUARD_SOCKET: &str = "guard.sock";

/// A message of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who are you?
    Hello {},
    /// Mark the mount whose descriptor comes along.
    Mark {
        /// The key of the mount's source: what can hang together is guarded together.
        group: String,
    },
    /// No mount of this group is left: give it up.
    Release {
        /// The group.
        group: String,
    },
    /// These are the executables of Nomad's agent; they are added to those known.
    Nomad(Vec<NomadExe>),
    /// End, and protect nothing from then on.
    Stop {},
}

/// The guard's reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To a hello.
    Hello(Hello),
    /// It is done.
    Done {},
    /// It is not done, and why.
    Refused(String),
}

/// An executable of Nomad's agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NomadExe {
    /// The file, whatever its name.
    pub identity: Option<ExeIdentity>,
    /// A name of the file, for a Nomad that is upgraded while no agent runs.
    pub name: Option<String>,
}

/// What a guard says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its process.
    pub pid: u32,
    /// `<lineage>-<number>`: a guard that took over its predecessor's marks has the same lineage and a higher
    /// number. Another lineage means that every mark is gone: mark everything anew.
    pub generation: String,
    /// The version of the program.
    pub version: String,
    /// The groups that it guards.
    pub groups: Vec<String>,
    /// Whether it took its groups over from a guard that died.
    pub took_over: bool,
}

impl Hello {
    /// The part of the generation that stays the same for as long as no mark was lost.
    pub fn lineage(&self) -> &str {
        self.generation.split_once('-').map_or(self.generation.as_str(), |(lineage, _)| lineage)
    }
}
