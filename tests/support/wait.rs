//! Waiting for what happens elsewhere.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Polls `condition` every 50 ms until it yields a value.
///
/// A condition that fails for good returns an error, which ends the wait; one that is not met yet returns `Ok(None)`.
///
/// # Errors
/// After `deadline`, or the condition's own error: in both the ends of `logs` are part of the message, since a test
/// that waited in vain is explained by what the servers wrote.
pub fn wait_until<T>(
    what: &str,
    deadline: Duration,
    logs: &[PathBuf],
    mut condition: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) if start.elapsed() < deadline => std::thread::sleep(Duration::from_millis(50)),
            Ok(None) => {
                anyhow::bail!("{what}: not within {} s\n{}", deadline.as_secs_f32(), tails(logs));
            }
            Err(error) => return Err(error.context(format!("{what}\n{}", tails(logs)))),
        }
    }
}

fn tails(logs: &[PathBuf]) -> String {
    logs.iter().map(|log| format!("--- the end of {}\n{}\n", log.display(), tail(log, 40))).collect()
}

/// The last `lines` lines of a file; a word about why not where it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("(not readable: {error})"),
    }
}
