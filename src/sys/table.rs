//! The kernel's mount table, as proc_pid_mountinfo(5) specifies it.
//!
//! Names in it can be chosen by anyone who may mount, so they are bytes, not text: the kernel escapes space,
//! tab, newline and backslash as octal and passes everything else through.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::mount::Flags;
use super::{descriptor_path, identity};

/// One mount of a mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The reusable id (not the unique one of [`super::identity::Identity`]).
    pub mount_id: u64,
    /// The reusable id of the mount that this one is mounted on.
    pub parent: u64,
    /// Major and minor number of the superblock's device.
    pub device: (u32, u32),
    /// The directory of the file system that is this mount's root; ends in `//deleted` when that is gone. On NFS the
    /// server's own name of it.
    pub root: PathBuf,
    /// Where it is mounted, seen from the reader's root.
    pub mount_point: PathBuf,
    /// The file system's type, with its subtype (`fuse.seaweedfs`).
    pub fs_type: String,
    /// What it was mounted from, as the file system chose to say it.
    pub source: OsString,
    /// Whether this mount is read-only, by its own flag or the superblock's.
    pub read_only: bool,
    /// The mount's own flags, whatever its superblock's.
    pub flags: Flags,
    /// The peer group that it is in, if it is shared (mount_namespaces(7)).
    pub peer_group: Option<u64>,
    /// The superblock's options, undecoded (`rw,memory` of a cgroup hierarchy).
    pub super_options: OsString,
}

/// Reads the mount table of the caller's own mount namespace, as seen from its root.
///
/// Errors: what reading says, or `InvalidData` for a line that is not as specified.
pub fn read_own() -> io::Result<Vec<Entry>> {
    parse(&std::fs::read("/proc/thread-self/mountinfo")?)
}

/// Reads the mount table that process `pid` sees.
pub fn read_of(pid: i32) -> io::Result<Vec<Entry>> {
    parse(&std::fs::read(format!("/proc/{pid}/mountinfo"))?)
}

/// Where a directory is: the mount that it lies in, of a table of the caller's own mount namespace, and its path within
/// that mount's file system.
///
/// Errors: what the kernel says, or `NotFound` where the mount is not in the table or the directory was removed.
pub fn locate(directory: BorrowedFd<'_>, table: &[Entry]) -> io::Result<(Entry, PathBuf)> {
    let id = identity::reusable_mount_id(directory)?;
    let entry = table.iter().find(|entry| entry.mount_id == id).ok_or(io::ErrorKind::NotFound)?;
    let path = std::fs::read_link(descriptor_path(directory))?;
    let below = path.strip_prefix(&entry.mount_point).map_err(|_| io::ErrorKind::NotFound)?;
    Ok((entry.clone(), join(&entry.root, below)))
}

/// As [`std::path::Path::join`], without a slash at the end where there is nothing to add.
pub fn join(path: &std::path::Path, below: &std::path::Path) -> PathBuf {
    if below.as_os_str().is_empty() { path.to_owned() } else { path.join(below) }
}

pub(super) fn parse(text: &[u8]) -> io::Result<Vec<Entry>> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> io::Result<Entry> {
    fields(line).ok_or_else(|| {
        let message = format!("not a line of mountinfo: {:?}", String::from_utf8_lossy(line));
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

fn fields(line: &[u8]) -> Option<Entry> {
    let mut words = line.split(|byte| *byte == b' ');
    let mount_id = number(words.next()?)?;
    let parent = number(words.next()?)?;
    let mut device = words.next()?.splitn(2, |byte| *byte == b':');
    let device = (number(device.next()?)?, number(device.next()?)?);
    let root = PathBuf::from(decode(words.next()?)?);
    let mount_point = PathBuf::from(decode(words.next()?)?);
    let options = words.next()?;
    // Zero or more optional fields, ended by a lone hyphen.
    let optional: Vec<&[u8]> = words.by_ref().take_while(|word| *word != b"-").collect();
    let peer_group = optional.iter().find_map(|word| number(word.strip_prefix(b"shared:")?));
    let fs_type = String::from_utf8(decode(words.next()?)?.into_vec()).ok()?;
    let source = decode(words.next()?)?;
    let root = if is_nfs(&fs_type) { nfs_root(&source).unwrap_or(root) } else { root };
    let super_options = words.next()?;
    let has = |options: &[u8], wanted: &[u8]| options.split(|byte| *byte == b',').any(|option| option == wanted);
    Some(Entry {
        mount_id,
        parent,
        device,
        root,
        mount_point,
        fs_type,
        source,
        read_only: has(options, b"ro") || has(super_options, b"ro"),
        flags: Flags {
            read_only: has(options, b"ro"),
            nosuid: has(options, b"nosuid"),
            nodev: has(options, b"nodev"),
            noexec: has(options, b"noexec"),
        },
        peer_group,
        super_options: OsString::from_vec(super_options.to_vec()),
    })
}

/// Whether a type is one of the kernel's NFS client.
pub fn is_nfs(fs_type: &str) -> bool {
    matches!(fs_type, "nfs" | "nfs4")
}

/// The directory that a mount of NFS shows. The kernel lists `/` as the root of every one, and names the directory behind
/// the server in its source instead (`nfs_show_path` and `nfs_show_devname` in fs/nfs/super.c).
fn nfs_root(source: &OsStr) -> Option<PathBuf> {
    let bytes = source.as_bytes();
    let colon = bytes.windows(2).position(|pair| pair == b":/")?;
    Some(PathBuf::from(OsStr::from_bytes(&bytes[colon + 1..])))
}

fn number<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// Undoes the kernel's octal escapes. A backslash that starts none is not the kernel's work: it escapes its own.
fn decode(word: &[u8]) -> Option<OsString> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'\\' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let (digits, tail) = tail.split_at_checked(3)?;
        let value = digits.iter().try_fold(0_u32, |value, digit| {
            matches!(digit, b'0'..=b'7').then(|| value * 8 + u32::from(digit - b'0'))
        })?;
        bytes.push(u8::try_from(value).ok()?);
        rest = tail;
    }
    Some(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_decoded_as_bytes() {
        let line = b"36 35 98:0 /a\\040b /mnt/\\134x\\012y\xff rw,noatime master:1 shared:7 - fuse.weed a\\040- rw,errors=continue";
        let entry = parse_line(line).unwrap();
        assert_eq!((entry.mount_id, entry.parent, entry.device), (36, 35, (98, 0)));
        assert_eq!(entry.root.as_os_str().as_bytes(), b"/a b");
        assert_eq!(entry.mount_point.as_os_str().as_bytes(), b"/mnt/\\x\ny\xff");
        assert_eq!(entry.source.as_bytes(), b"a -");
        assert!(!entry.read_only && entry.flags == Flags::default() && entry.peer_group == Some(7));
    }

    #[test]
    fn a_read_only_mount_and_a_read_only_superblock_are_both_read_only() {
        assert!(parse_line(b"1 2 0:3 / / ro - ext4 x rw").unwrap().read_only);
        assert!(parse_line(b"1 2 0:3 / / rw - ext4 x rw,ro").unwrap().read_only);
    }

    #[test]
    fn a_broken_line_is_an_error_and_never_half_an_entry() {
        for line in [
            &b"1 2 0:3 / /"[..],
            b"x 2 0:3 / / rw - ext4 x rw",
            b"1 2 0:3 /\\04 / rw - ext4 x rw",
            b"1 2 3 / / rw - a b c",
        ] {
            assert!(parse_line(line).is_err(), "{:?}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn the_own_table_holds_the_root() {
        assert!(read_own().unwrap().iter().any(|entry| entry.mount_point.as_os_str() == "/"));
    }

    #[test]
    fn the_directory_of_an_nfs_mount_is_told_by_its_source() {
        // As Linux 6.12 lists an export, and binds of two directories of it.
        let text = b"129 25 0:45 / /mnt/a rw,relatime shared:64 - nfs4 10.0.0.1:/srv/x rw,vers=4.2,hard\n\
            124 25 0:45 / /mnt/b rw,relatime - nfs4 10.0.0.1:/srv/x/vol\\040a rw,vers=4.2,hard\n\
            125 25 0:46 / /mnt/c ro - nfs [fd00::1]:/ rw,vers=3,hard\n\
            126 25 0:47 / /mnt/d rw - fuse.sshfs 10.0.0.1:/srv/x rw\n";
        let roots: Vec<PathBuf> = parse(text).unwrap().into_iter().map(|entry| entry.root).collect();
        assert_eq!(roots, ["/srv/x", "/srv/x/vol a", "/", "/"].map(PathBuf::from));
    }
}
