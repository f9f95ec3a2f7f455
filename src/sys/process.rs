//! Processes: who one is, and who holds a clone of a mount. See proc(5).
//!
//! Processes come and go while they are read: one that is gone is skipped, not an error.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags};
use serde::{Deserialize, Serialize};

use super::table;

/// The file that a process executes, which no other process can claim to be by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExeIdentity {
    /// Device number, as makedev(3) packs it.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// Identifies the executable of process `pid`, also when its file was deleted or replaced since. Does not ask
/// the file system's server.
pub fn exe_identity(pid: i32) -> io::Result<ExeIdentity> {
    let path = format!("/proc/{pid}/exe");
    let stat = rustix::fs::statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO)?;
    Ok(ExeIdentity { device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino })
}

/// The name of the executable of process `pid`, without its directory and without the kernel's ` (deleted)`.
pub fn exe_name(pid: i32) -> io::Result<OsString> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe"))?;
    let name = path.file_name().unwrap_or_default().as_bytes();
    Ok(OsString::from_vec(name.strip_suffix(b" (deleted)").unwrap_or(name).to_vec()))
}

/// When process `pid` started, in clock ticks since boot: with the pid and [`boot_id`] it names one process
/// for ever.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
    parse_start_time(&stat).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a line of /proc/PID/stat"))
}

/// Whether process `pid` has ended and is only not let go yet: its main thread is a zombie (proc_pid_stat(5)). Threads
/// of it that wait in the kernel can be there still.
pub fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let end_of_name = stat.iter().rposition(|byte| *byte == b')');
    matches!(end_of_name.and_then(|end| stat.get(end + 2)), Some(b'Z' | b'X'))
}

/// How long ago process `pid` started.
pub fn age(pid: i32) -> io::Result<std::time::Duration> {
    let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
    let uptime = std::fs::read_to_string("/proc/uptime")?;
    let seconds: f64 = uptime
        .split_ascii_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    let started = std::time::Duration::from_millis(start_time(pid)?.saturating_mul(1000) / ticks_per_second);
    Ok(std::time::Duration::from_secs_f64(seconds.max(0.0)).saturating_sub(started))
}

fn parse_start_time(stat: &[u8]) -> Option<u64> {
    // The name may hold spaces and parentheses of its own; nothing after it holds a parenthesis.
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end_of_name + 1..)?).ok()?;
    // The state is field 3 of proc_pid_stat(5), the start time field 22.
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// The resident memory of process `pid`, in bytes (`VmRSS` of proc_pid_status(5)).
pub fn resident_memory(pid: i32) -> io::Result<u64> {
    read_status(pid, "VmRSS:").map(|kilobytes| kilobytes * 1024)
}

/// How many threads process `pid` has.
pub fn threads(pid: i32) -> io::Result<u64> {
    read_status(pid, "Threads:")
}

/// How many descriptors process `pid` has open.
pub fn open_descriptors(pid: i32) -> io::Result<u64> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64)
}

/// A number of proc_pid_status(5), which takes no lock that a process can hold while it waits.
fn read_status(pid: i32, key: &str) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let number = status.lines().find_map(|line| line.strip_prefix(key)?.split_ascii_whitespace().next()?.parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The random id of this boot.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The inode number of process `pid`'s mount namespace.
pub fn mount_namespace(pid: i32) -> io::Result<u64> {
    namespace_of(&pid.to_string())
}

/// The inode number of the calling thread's mount namespace.
pub fn own_mount_namespace() -> io::Result<u64> {
    namespace_of("thread-self")
}

fn namespace_of(process: &str) -> io::Result<u64> {
    let link = std::fs::read_link(format!("/proc/{process}/ns/mnt"))?;
    let number = link.to_str().and_then(|link| link.strip_prefix("mnt:[")?.strip_suffix(']')?.parse().ok());
    number.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a mount namespace's name"))
}

/// The numbers of all processes that there are now.
pub fn find_processes() -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        if let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// The processes whose executable's file has this name. Empty where /proc cannot be read.
pub fn find_processes_by_exe_name(name: &str) -> Vec<i32> {
    let mut pids = find_processes().unwrap_or_default();
    pids.retain(|pid| exe_name(*pid).is_ok_and(|found| found == OsStr::new(name)));
    pids
}

/// The process that listens on a TCP port of the caller's network namespace, at any address. None where none
/// does, or none that the caller may look into. Where several share the socket, the lowest pid.
pub fn find_listener(port: u16) -> Option<i32> {
    let inodes: BTreeSet<u64> = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|text| parse_listeners(&text, port))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let mut pids = find_processes().ok()?;
    pids.sort_unstable();
    pids.into_iter().find(|pid| has_socket(*pid, &inodes))
}

fn parse_listeners(text: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let inode = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, local_port) = words.get(1)?.rsplit_once(':')?;
        let matches = u16::from_str_radix(local_port, 16).ok()? == port && *words.get(3)? == LISTEN;
        if matches { words.get(9)?.parse().ok() } else { None }
    };
    text.lines().skip(1).filter_map(inode).collect()
}

fn has_socket(pid: i32, inodes: &BTreeSet<u64>) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        std::fs::read_link(descriptor.path())
            .ok()
            .and_then(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
            .is_some_and(|inode| inodes.contains(&inode))
    })
}

/// A process outside the caller's mount namespace that has a clone of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountClone {
    /// One process of the namespace; others may be in it too.
    pub pid: i32,
    /// The inode number of the mount namespace.
    pub mount_namespace: u64,
}

/// Finds the mount namespaces other than the caller's that hold a mount of this device and root directory, one
/// process of each.
///
/// Errors: as [`read_foreign_tables`].
pub fn find_clones(device: (u32, u32), root: &Path) -> io::Result<Vec<MountClone>> {
    let mut clones: Vec<MountClone> = Vec::new();
    read_foreign_tables(
        |_, _| false,
        |pid, mount_namespace, entries| {
            let found = entries.iter().any(|entry| entry.device == device && entry.root == root);
            if found {
                clones.push(MountClone { pid, mount_namespace });
            }
            found
        },
    )?;
    Ok(clones)
}

/// Goes through the processes that are in other mount namespaces than the caller, and reads the mount table of each
/// namespace once, or once for each root directory that its processes have, since a process sees only mounts beneath
/// its own root. `is_known` is asked with pid and namespace before a table is read, which can be slow; `look` is given
/// both with the table, and says whether the namespace needs no further look. Returns all these processes, each
/// with its namespace.
///
/// Errors: /proc cannot be read, or a namespace that still exists cannot be looked into: then nobody may
/// conclude that a mount is in no namespace any more.
pub fn read_foreign_tables(
    mut is_known: impl FnMut(i32, u64) -> bool,
    mut look: impl FnMut(i32, u64, &[table::Entry]) -> bool,
) -> io::Result<Vec<(i32, u64)>> {
    let own = own_mount_namespace()?;
    let mut processes = Vec::new();
    let mut read: BTreeSet<(u64, PathBuf)> = BTreeSet::new();
    let mut unread: Vec<((u64, PathBuf), io::Error)> = Vec::new();
    let mut done: BTreeSet<u64> = BTreeSet::new();
    for pid in find_processes()? {
        // Zombies and processes that have just ended have no namespace any more.
        let Ok(mount_namespace) = mount_namespace(pid) else { continue };
        if mount_namespace == own {
            continue;
        }
        processes.push((pid, mount_namespace));
        if done.contains(&mount_namespace) {
            continue;
        }
        let Ok(process_root) = std::fs::read_link(format!("/proc/{pid}/root")) else { continue };
        let key = (mount_namespace, process_root);
        if read.contains(&key) {
            continue;
        }
        if is_known(pid, mount_namespace) {
            read.insert(key);
            continue;
        }
        match table::read_of(pid) {
            Ok(entries) => {
                if look(pid, mount_namespace, &entries) {
                    done.insert(mount_namespace);
                }
                read.insert(key);
            }
            // Gone in between (ENOENT, ESRCH), or a zombie by now (EINVAL).
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::EINVAL)) => {}
            Err(error) => unread.push((key, error)),
        }
    }
    match unread.into_iter().find(|(key, _)| !read.contains(key) && !done.contains(&key.0)) {
        Some((_, error)) => Err(error),
        None => Ok(processes),
    }
}

/// A process of mount namespace `namespace` that has something of the mount with this reusable id open, or works in it,
/// and the name of its program. None where none is found: a mapped file, or a process that has ended meanwhile.
pub fn find_user_of_mount(namespace: u64, mount_id: u64) -> Option<(i32, String)> {
    let mut pids = find_processes().ok()?;
    pids.retain(|pid| mount_namespace(*pid).is_ok_and(|found| found == namespace));
    let pid = pids.into_iter().find(|pid| uses_mount(*pid, mount_id))?;
    let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some((pid, String::from_utf8_lossy(&name).trim_end().to_owned()))
}

fn uses_mount(pid: i32, mount_id: u64) -> bool {
    let works_in = ["cwd", "root", "exe"].iter().any(|link| {
        // What the kernel has; no server is asked.
        let path = format!("/proc/{pid}/{link}");
        rustix::fs::statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID)
            .is_ok_and(|stat| stat.stx_mnt_id == mount_id)
    });
    let has_open = || {
        let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
        descriptors.flatten().any(|descriptor| {
            let text = std::fs::read_to_string(descriptor.path()).unwrap_or_default();
            let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
            id == Some(mount_id)
        })
    };
    works_in || has_open()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_start_time() {
        let fields: Vec<String> = (4..=30).map(|field| field.to_string()).collect();
        let stat = format!("7 (a) R 1 (b) S {}", fields.join(" "));
        assert_eq!(parse_start_time(stat.as_bytes()), Some(22));
        assert_eq!(parse_start_time(b"7 (a) S 1"), None);
    }

    #[test]
    fn the_own_process_is_found_by_its_name_and_identity() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let name = exe_name(pid).unwrap();
        assert!(find_processes_by_exe_name(name.to_str().unwrap()).contains(&pid));
        assert_eq!(exe_identity(pid).unwrap(), exe_identity(pid).unwrap());
        assert!(start_time(pid).unwrap() > 0);
        assert_eq!(mount_namespace(pid).unwrap(), own_mount_namespace().unwrap());
    }

    #[test]
    fn the_listener_of_a_port_is_found_and_a_client_of_it_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(find_listener(port), Some(i32::try_from(std::process::id()).unwrap()));
        drop(listener);
        assert_eq!(find_listener(port), None);
    }
}
