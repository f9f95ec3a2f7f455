//! How a verb ends: exit codes by sysexits.h, and the sentence that goes with one.

use std::error::Error;
use std::fmt;
use std::io::{self, Write as _};

use crate::api::types::ErrorReply;
use crate::cli::text::{one_line, one_line_each};

/// The command line is wrong (EX_USAGE).
pub const USAGE: u8 = 64;
/// Something that is needed is not there (EX_UNAVAILABLE).
pub const UNAVAILABLE: u8 = 69;
/// It may work when tried again (EX_TEMPFAIL).
pub const TRY_AGAIN: u8 = 75;
/// Not permitted (EX_NOPERM).
pub const NOT_PERMITTED: u8 = 77;
/// The configuration, or what the job says, is wrong (EX_CONFIG).
pub const CONFIGURATION: u8 = 78;

/// Why a verb did not do what was asked. Displayed as the lines that go to stderr, without the last line's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What went wrong, in a sentence; several lines where several things did.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with its sentence.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<ErrorReply> for Failure {
    fn from(reply: ErrorReply) -> Self {
        // An error that ended with 0 would let the main tasks start without their volumes.
        let code = if reply.exit_code == 0 { reply.error.kind.exit_code() } else { reply.exit_code };
        Self { code, message: reply.error.message, hint: reply.error.hint }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "saddlebag: {}", one_line_each(&self.message))?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {}", one_line(hint)),
            None => Ok(()),
        }
    }
}

/// An error and what caused it, in one line: each level's `Display` says its own level only.
pub fn with_causes(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    line
}

/// Writes a text and a line's end to stdout.
///
/// # Errors
/// A [`Failure`] where it cannot be written; a reader that has gone away (`saddlebag status | head -1`) is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(UNAVAILABLE, format!("the answer cannot be written to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a text and a line's end to stderr; when even that fails there is nobody left to tell.
pub fn eprint(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Refusal;

    #[test]
    fn a_refusal_never_ends_with_exit_code_0() {
        let reply = ErrorReply { error: Refusal::configuration("no"), exit_code: 0 };
        assert_eq!(Failure::from(reply).code, CONFIGURATION);
    }

    #[test]
    fn what_a_server_says_cannot_drive_a_terminal() {
        let failure = Failure::new(USAGE, "red \x1b[31m\nnext").hint("a\rb");
        assert_eq!(failure.to_string(), "saddlebag: red \u{fffd}[31m\nnext\n  hint: a b");
    }
}
