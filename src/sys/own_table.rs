//! The caller's own mount table, read once for all who ask while nothing changes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::table::{self, Entry};

/// The table as it was read last.
#[derive(Debug, Default)]
pub struct OwnTable(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    last: Option<(File, Arc<Snapshot>)>,
    reads: u64,
}

/// What one reading has found.
#[derive(Debug)]
pub struct Snapshot {
    begun: Instant,
    /// All mounts.
    pub entries: Vec<Entry>,
    /// The peer groups that they are in.
    pub peer_groups: BTreeSet<u64>,
}

impl OwnTable {
    /// The table of the mount namespace that the calling threads are all in. It is read anew unless that began after
    /// `since` and no mount has come, gone or changed in the namespace after that (proc_pid_mountinfo(5), poll).
    ///
    /// Both are asked for: that a mount was made private or shared is no change by the kernel's word.
    ///
    /// # Errors
    /// As [`table::read_own`].
    pub fn read(&self, since: Instant) -> io::Result<Arc<Snapshot>> {
        let mut memory = self.lock();
        if let Some((mountinfo, last)) = &memory.last
            && last.begun >= since
            && !has_changed(mountinfo)
        {
            return Ok(Arc::clone(last));
        }
        memory.last = None;
        memory.reads += 1;
        let begun = Instant::now();
        let mut mountinfo = File::open("/proc/thread-self/mountinfo")?;
        // In this order: what changes while it is read is told the next time.
        has_changed(&mountinfo);
        let mut text = Vec::new();
        mountinfo.read_to_end(&mut text)?;
        let entries = table::parse(&text)?;
        let peer_groups = entries.iter().filter_map(|entry| entry.peer_group).collect();
        let snapshot = Arc::new(Snapshot { begun, entries, peer_groups });
        memory.last = Some((mountinfo, Arc::clone(&snapshot)));
        Ok(snapshot)
    }

    /// How often it was read.
    pub fn reads(&self) -> u64 {
        self.lock().reads
    }

    /// Lets go of what only those can use who have asked already.
    pub fn forget_last(&self) {
        self.lock().last = None;
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether anything has changed since this was asked last. What cannot be asked may have.
fn has_changed(mountinfo: &File) -> bool {
    let mut polled = [PollFd::new(mountinfo, PollFlags::PRI)];
    !matches!(rustix::event::poll(&mut polled, Some(&Timespec::default())), Ok(0))
}
