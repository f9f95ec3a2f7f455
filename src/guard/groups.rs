//! The groups of marks: one for each source as long as the kernel gives them, shared beyond that.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::reader::{Reader, STACK, Shared};
use crate::sys::descriptors;
use crate::sys::fanotify::Group;

/// Groups of our own; the kernel gives a user 128 in all (fs.fanotify.max_user_groups).
const MOST_GROUPS: usize = 96;
/// Longer names are hashed, so that systemd takes them as a descriptor's name (at most 255 characters).
const LONGEST_KEY: usize = 160;
/// How long a mark may take that asks the file system's server.
const MARK_WITHIN: Duration = Duration::from_secs(10);

/// A group and its reader.
#[derive(Debug)]
struct Guarded {
    group: Arc<Group>,
    reader: Reader,
}

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    guarded: BTreeMap<String, Guarded>,
    /// Keys that share another key's group.
    shared: BTreeMap<String, String>,
}

impl Groups {
    /// Takes over a group that another guard had.
    pub(super) fn adopt(&mut self, key: &str, descriptor: OwnedFd, shared: &Arc<Shared>) -> io::Result<()> {
        let group = Arc::new(Group::from_descriptor(descriptor));
        let reader = Reader::start(key, &group, shared, true)?;
        self.guarded.insert(key.to_owned(), Guarded { group, reader });
        Ok(())
    }

    /// The group of a key, and whether it was made for it just now.
    pub(super) fn get_or_create(&mut self, key: &str, shared: &Arc<Shared>) -> io::Result<(Arc<Group>, bool)> {
        let key = canonical(key);
        if let Some(guarded) = self.guarded.get(self.shared.get(&key).unwrap_or(&key)) {
            return Ok((Arc::clone(&guarded.group), false));
        }
        let created = if self.guarded.len() < MOST_GROUPS { Group::create() } else { Err(over_limit()) };
        match created {
            Ok(group) => {
                let group = Arc::new(group);
                let reader = Reader::start(&key, &group, shared, false)?;
                self.guarded.insert(key, Guarded { group: Arc::clone(&group), reader });
                Ok((group, true))
            }
            // Too many: one that hangs then holds up those that share its group, but none is unguarded.
            Err(error) if error.raw_os_error() == Some(libc::EMFILE) && !self.guarded.is_empty() => {
                let index = usize::try_from(hash(key.as_bytes()) % self.guarded.len() as u64).unwrap_or(0);
                let Some((other, guarded)) = self.guarded.iter().nth(index) else { return Err(error) };
                self.shared.insert(key, other.clone());
                Ok((Arc::clone(&guarded.group), false))
            }
            Err(error) => Err(error),
        }
    }

    /// Gives up a group, unless another key shares it. Returns its name when it is gone.
    pub(super) fn release(&mut self, key: &str) -> Option<(String, Arc<Group>)> {
        let key = canonical(key);
        if self.shared.remove(&key).is_some() || self.shared.values().any(|other| *other == key) {
            return None;
        }
        let guarded = self.guarded.remove(&key)?;
        guarded.reader.stop();
        Some((key, guarded.group))
    }

    /// Has all readers deny what a dead guard has read and not answered.
    pub(super) fn sweep(&self) {
        self.guarded.values().for_each(|guarded| guarded.reader.sweep());
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Arc<Group>)> {
        self.guarded.iter().map(|(key, guarded)| (key, &guarded.group))
    }

    /// The names of the groups.
    pub(super) fn keys(&self) -> BTreeSet<String> {
        self.guarded.keys().cloned().collect()
    }
}

/// The name under which a key's group is known.
fn canonical(key: &str) -> String {
    if encode(key).len() <= LONGEST_KEY { key.to_owned() } else { format!("long.{:016x}", hash(key.as_bytes())) }
}

/// A key as a descriptor's name for systemd: no colon, no control characters.
pub(super) fn encode(key: &str) -> String {
    let mut encoded = String::new();
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02x}"));
        }
    }
    encoded
}

/// Undoes [`encode`].
pub(super) fn decode(encoded: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = encoded.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let (digits, tail) = tail.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

/// FNV-1a: the same in every version of the program, since successive guards must agree.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn over_limit() -> io::Error {
    io::Error::from_raw_os_error(libc::EMFILE)
}

/// Marks a mount on a thread of its own, with a descriptor table of its own, since marking can hang in the file
/// system's server.
pub(super) fn mark(group: Arc<Group>, mount: OwnedFd) -> io::Result<()> {
    let originals = Arc::new((group, mount));
    let copies = Arc::clone(&originals);
    let (left, has_left) = mpsc::channel();
    let (done, is_done) = mpsc::channel();
    std::thread::Builder::new().name("mark".into()).stack_size(STACK).spawn(move || {
        let own = descriptors::leave_table(&[copies.0.as_fd(), copies.1.as_fd()]);
        // The caller still holds these, so nothing is closed here: their numbers are the old table's.
        drop(copies);
        let _ = left.send(());
        let _ = done.send(own.and_then(|own| {
            let mut own = own.into_iter();
            let (Some(group), Some(mount)) = (own.next(), own.next()) else {
                return Err(io::ErrorKind::NotFound.into());
            };
            Group::from_descriptor(group).mark_mount(mount.as_fd())
        }));
    })?;
    // An error: the thread has ended, and has left in any case.
    let _ = has_left.recv();
    is_done.recv_timeout(MARK_WITHIN).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_survives_a_descriptors_name() {
        for key in ["weed", "nfs://a:2049/x y", "ü/%25", "a.b", ""] {
            assert_eq!(decode(&encode(key)).as_deref(), Some(key));
        }
        assert_eq!(decode("%4"), None);
        assert!(encode(&canonical(&"/".repeat(300))).len() <= LONGEST_KEY);
    }
}
