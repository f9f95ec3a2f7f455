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
/// The database's folder, in the names of files that it could not write.
const DATABASE: &str = "/meta/";
/// What the program writes once when it has mounted.
const MOUNTED: &str = "This is SeaweedFS version";

/// What ails the source, if it is this.
pub(super) fn find(question: &Question) -> Option<String> {
    let is_full = rustix::fs::statvfs(&question.cache).is_ok_and(|of| of.f_bavail.saturating_mul(of.f_frsize) < FULL);
    let (is_said, is_lost) = read_log(&program::tail(&question.log));
    let cache = question.cache.display();
    // A listing is asked for only where there is reason to: of a large directory it costs the filer something.
    let is_lost = is_lost || (is_full || is_said) && list(&question.root).is_err();
    match (is_lost, is_full) {
        (false, false) => None,
        (false, true) => Some(format!("the disk of its cache {cache} is full")),
        (true, true) => Some(format!("the disk of its cache {cache} is full, and directories cannot be listed")),
        (true, false) => Some(format!(
            "the disk of its cache {cache} was full, and directories cannot be listed until its mount program is started anew"
        )),
    }
}

/// Whether the program that runs has written that there was no space; and whether it was its database that wanted it.
fn read_log(tail: &str) -> (bool, bool) {
    // The log is older than the program.
    let own = tail.rsplit(MOUNTED).next().unwrap_or_default();
    let mut said = own.lines().filter(|line| line.contains(SAID)).peekable();
    (said.peek().is_some(), said.any(|line| line.contains(DATABASE)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_program_wrote_is_not_held_against_the_next() {
        let chunk = "I1121 on_disk_cache_layer.go:61 cache write 60: write /c/c1_3_2.dat: no space left on device\n";
        let database = "E1121 weedfs_dir_read.go:359 dir ReadDirAll /y: batch write: write /c/740c730d/meta/000001.log: no space left on device\n";
        let mounted = "I1121 mount_std.go:260 This is SeaweedFS version 8000GB 4.48\n";
        assert_eq!(read_log(&[mounted, chunk].concat()), (true, false));
        assert_eq!(read_log(&[chunk, database].concat()), (true, true));
        assert_eq!(read_log(&[mounted, chunk, database, mounted].concat()), (false, false));
    }
}
