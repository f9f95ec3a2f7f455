//! What the guard asks the agent when Nomad's agent opens a directory of a guarded mount, and the answers.
//!
//! Over `<run_dir>/questions.sock` (SOCK_STREAM, the agent listens): one JSON line each way for each connection.
//! The guard denies the open whatever the answer is. It waits for one only so that an agent that finds the
//! binding unused can detach the mount and clear the immutable flag of the directory beneath first: then Nomad's
//! removal, which goes on when the open is denied, finds an empty directory and ends clean.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The socket's name in the run directory.
pub const QUESTIONS_SOCKET: &str = "questions.sock";

/// How long the guard waits for an answer, all in all. The opener is held as long.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Nomad's agent opens this directory of a guarded mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The mount's id, as [`crate::sys::identity::Identity::mount_id`].
    pub mount_id: u64,
    /// Major and minor number of the superblock's device.
    pub device: (u32, u32),
    /// Where the directory is, seen from the guard's root. Bytes that are no UTF-8 are replaced: know the mount
    /// by its id.
    pub path: PathBuf,
    /// The process that opens it.
    pub pid: i32,
}

/// What the agent has found out and done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Nothing used the binding: its mount is detached and the directory beneath can be removed.
    Detached,
    /// A task uses the binding, or may yet: it stays.
    InUse,
    /// The agent knows no such binding.
    Unknown,
}

/// An answer on the wire: `{"answer":"detached"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerLine {
    /// The answer.
    pub answer: Answer,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_said_as_documented() {
        for (answer, text) in [
            (Answer::Detached, r#"{"answer":"detached"}"#),
            (Answer::InUse, r#"{"answer":"in_use"}"#),
            (Answer::Unknown, r#"{"answer":"unknown"}"#),
        ] {
            assert_eq!(serde_json::to_string(&AnswerLine { answer }).unwrap(), text);
            assert_eq!(serde_json::from_str::<AnswerLine>(text).unwrap().answer, answer);
        }
    }
}
