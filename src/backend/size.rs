//! Sizes of volumes: what a storage system makes of one.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What becomes of a volume's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// Nobody can write more than it.
    Enforced,
    /// It is written down, and nothing keeps anybody from writing more.
    Advisory,
    /// The volume has none.
    Unlimited,
}

impl Enforcement {
    /// What a storage system that cannot limit a directory makes of a size.
    pub fn without_limits(size: Option<u64>) -> Self {
        if size.is_some() { Self::Advisory } else { Self::Unlimited }
    }
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enforced => "enforced",
            Self::Advisory => "advisory",
            Self::Unlimited => "unlimited",
        })
    }
}

/// Why a storage system does not keep a volume to its size. Each says what to do about it where that is known.
#[derive(Debug, thiserror::Error)]
pub enum SizeError {
    /// The program that sets sizes is not installed.
    #[error(
        "the program {program} is not installed (looked for {})",
        looked.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    ProgramMissing {
        /// Its name.
        program: String,
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// The program that sets sizes, or its server, said no.
    #[error("{program} refuses: {reason}")]
    Refused {
        /// Its name.
        program: String,
        /// What it said, in one line, without any secret.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// It did not answer in time.
    #[error("{program} did not answer within {}", humantime::format_duration(*.after))]
    TooSlow {
        /// Its name.
        program: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The kernel or the disk refused something.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

impl SizeError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::ProgramMissing { program, .. } => Some(format!("install {program} on this client")),
            Self::Refused { hint, .. } => hint.clone(),
            Self::TooSlow { .. } | Self::Host { .. } => None,
        }
    }
}
