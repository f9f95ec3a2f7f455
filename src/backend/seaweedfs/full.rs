//! A cache folder that is full, and what it leaves behind.
//!
//! `weed mount` keeps chunks of files there, without which it goes on, and a database of what it knows of directories. A
//! write to that database that fails is final: from then on every listing of a directory fails with EIO, also when there is
//! space again, until the program is started anew. Files can be opened, read and written by their names meanwhile.

use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::backend::probe::Question;
use crate::backend::program;

/// With less than this a cache is full, in bytes.
const FULL: u64 = 1 << 20;
/// What the program writes into its log then (strerror(3) of ENOSPC, as Go has it).
const SAID: &str = "no space left on device";

/// What ails the source, if it is this. A listing is asked for only where there is reason to: of a large directory it
/// costs the filer something.
pub(super) fn find(question: &Question) -> Option<String> {
    let is_full = rustix::fs::statvfs(&question.cache).is_ok_and(|of| of.f_bavail.saturating_mul(of.f_frsize) < FULL);
    if !is_full && !program::tail(&question.log).contains(SAID) {
        return None;
    }
    let cache = question.cache.display();
    match (list(&question.root), is_full) {
        (Ok(()), false) => None,
        (Ok(()), true) => Some(format!("the disk of its cache {cache} is full")),
        (Err(error), true) => {
            Some(format!("the disk of its cache {cache} is full, and directories cannot be listed: {error}"))
        }
        (Err(error), false) => Some(format!(
            "the disk of its cache {cache} was full, and directories cannot be listed until its mount program is started anew: {error}"
        )),
    }
}

/// Lists the beginning of a directory.
fn list(directory: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty())?;
    let mut room = Vec::with_capacity(4096);
    let mut entries = rustix::fs::RawDir::new(opened, room.spare_capacity_mut());
    match entries.next() {
        Some(Err(errno)) => Err(errno.into()),
        _ => Ok(()),
    }
}
