//! The log of `glusterfs`: what of it tells why a client ended.
//!
//! Every line but those of a graph that it writes out begins with `[TIME] LEVEL [FILE:LINE:FUNCTION] NUMBER-DOMAIN: `. The
//! last ones are always about how it takes itself away.

use std::path::Path;

use crate::backend::program;

/// What a client writes first.
const STARTED: &str = "Started running";
/// How many lines are told.
const MOST: usize = 5;

/// The errors of the client that ran last, the newest at the end; where it wrote none, the log's last lines.
pub(super) fn last_errors(log: &Path) -> Vec<String> {
    let errors = read(&program::tail(log));
    if errors.is_empty() { program::last_lines(log) } else { errors }
}

fn read(tail: &str) -> Vec<String> {
    // The log is older than the client.
    let own = tail.rsplit(STARTED).next().unwrap_or_default();
    let errors: Vec<String> = own.lines().filter_map(error).collect();
    errors[errors.len().saturating_sub(MOST)..].to_vec()
}

/// What a line says, if it is an error's.
fn error(line: &str) -> Option<String> {
    let (_, rest) = line.strip_prefix('[')?.split_once("] ")?;
    let rest = rest.strip_prefix("E ").or_else(|| rest.strip_prefix("C "))?;
    // Where in the source it comes from is nobody's affair here; a message id is bracketed likewise.
    let mut said = rest;
    while let Some((_, after)) = said.strip_prefix('[').and_then(|inside| inside.split_once("] ")) {
        said = after;
    }
    // A program's output is not trusted: no control character of it reaches a terminal.
    Some(said.trim().chars().filter(|c| !c.is_control()).take(400).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_told_and_not_the_end() {
        let log = "\
[2026-01-01 00:00:00.1 +0000] E [glusterfsd-mgmt.c:1:x] 0-mgmt: an earlier client's
[2026-01-01 00:00:01.1 +0000] I [MSGID: 100030] [glusterfsd.c:2767:main] 0-glusterfs: Started running version [{arg=glusterfs}]
[2026-01-01 00:00:01.2 +0000] E [glusterfsd-mgmt.c:2371:mgmt_getspec_cbk] 0-mgmt: failed to fetch volume file (key:nope)
  1: volume nope-client-0
[2026-01-01 00:00:01.3 +0000] E [MSGID: 101] [glusterfsd.c:2:y] 0-mgmt: one\u{1b}[31mmore
[2026-01-01 00:00:01.4 +0000] W [glusterfsd.c:1458:cleanup_and_exit] (-->/lib/x(+1) [0x7f]) 0-: received signum (0), shutting down
";
        assert_eq!(read(log), ["0-mgmt: failed to fetch volume file (key:nope)", "0-mgmt: one[31mmore"]);
        assert!(read("nothing of the kind\n").is_empty());
    }
}
