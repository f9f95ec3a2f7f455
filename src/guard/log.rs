//! The guard's log: plain lines on standard error, so that a process that must never fail depends on nothing.

use std::fmt;
use std::io::Write;

/// How much a line matters, as sd-daemon(3) numbers it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Priority {
    /// Protection is lessened.
    Error = 3,
    /// Something went wrong and was mended.
    Warning = 4,
    /// Said once in a while.
    Info = 6,
}

/// Writes one line; under systemd's journal with its priority. A line that cannot be written is lost.
pub(super) fn line(priority: Priority, text: fmt::Arguments<'_>) {
    let mut error = std::io::stderr().lock();
    let _ = if std::env::var_os("JOURNAL_STREAM").is_some() {
        writeln!(error, "<{}>{text}", priority as u8)
    } else {
        writeln!(error, "guard[{}]: {text}", std::process::id())
    };
}
