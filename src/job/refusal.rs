//! A refusal: one clear sentence for the author of a job, a suggestion, and an exit code.

use serde::{Deserialize, Serialize};

/// What kind of refusal or failure it is; decides the exit code (sysexits.h) and the HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The call itself was wrong (exit 64).
    Usage,
    /// Something that is needed is not there: a server, a program, the agent (exit 69).
    Unavailable,
    /// It may work when tried again (exit 75).
    TryAgain,
    /// Not permitted, by the policy or by who is asking (exit 77).
    NotPermitted,
    /// The job or the configuration says something that cannot be (exit 78).
    Configuration,
}

impl Kind {
    /// The exit code, by sysexits.h.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::TryAgain => 75,
            Self::NotPermitted => 77,
            Self::Configuration => 78,
        }
    }
}

/// Why a job does not get what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Refusal {
    /// Decides the exit code.
    pub kind: Kind,
    /// One sentence: what is wrong, naming the key, volume or task.
    pub message: String,
    /// What to write or do instead.
    pub hint: Option<String>,
}

impl Refusal {
    /// A refusal of the job's words.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self { kind: Kind::Configuration, message: message.into(), hint: None }
    }

    /// A refusal by policy.
    pub fn not_permitted(message: impl Into<String>) -> Self {
        Self { kind: Kind::NotPermitted, message: message.into(), hint: None }
    }

    /// The same with a suggestion.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
