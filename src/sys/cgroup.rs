//! Cgroups of the project's own for mount programs and the guard: outside the agent's, so that stopping the
//! agent stops none of them, and with a memory limit each.
//!
//! Works with a unified hierarchy (version 2), with version 1 hierarchies, and with both at once (memory of
//! version 1 beside a version 2 tree without controllers). See cgroups(7).

use std::io;
use std::path::{Path, PathBuf};

use super::table;

/// The project's own directory in each hierarchy.
const PARENT: &str = "saddlebag";

/// Why a cgroup could not be made, removed or read.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Neither a version 2 hierarchy nor a version 1 memory hierarchy is mounted.
    #[error("no cgroup hierarchy is mounted")]
    NoHierarchy,
    /// The name is not one path component.
    #[error("not a cgroup's name: {0:?}")]
    Name(String),
    /// A memory limit was asked for and no hierarchy can enforce one.
    #[error("{0} has no memory controller")]
    NoMemoryController(PathBuf),
    /// Processes still live in it.
    #[error("{0} is in use")]
    Busy(PathBuf),
    /// Any other failure.
    #[error("cannot {action} {path}")]
    Call {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's errno.
        #[source]
        source: io::Error,
    },
}

/// The directories of one cgroup: one in each hierarchy that is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupPaths {
    /// A process is moved by writing its pid to `cgroup.procs` in each.
    pub directories: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Makes the cgroup `saddlebag/<name>` and limits its memory, in bytes. What exists is taken over and given the
/// new limit; without a limit an old one is lifted.
pub fn create(name: &str, memory_limit: Option<u64>) -> Result<CgroupPaths, CgroupError> {
    check_name(name)?;
    let hierarchies = find_hierarchies()?;
    let has_version_one_memory = hierarchies.iter().any(|(version, _)| *version == Version::One);
    let mut directories = Vec::new();
    for (version, mount_point) in hierarchies {
        let parent = mount_point.join(PARENT);
        let directory = parent.join(name);
        make_directory(&parent)?;
        if version == Version::Two && !has_version_one_memory {
            // Fails where the hierarchy's administrator gives no memory controller: found out below.
            for above in [&mount_point, &parent] {
                let _ = std::fs::write(above.join("cgroup.subtree_control"), "+memory");
            }
        }
        make_directory(&directory)?;
        match version {
            Version::One => limit_memory(&directory.join("memory.limit_in_bytes"), memory_limit, "-1")?,
            Version::Two if !has_version_one_memory => {
                limit_memory(&directory.join("memory.max"), memory_limit, "max")?;
            }
            Version::Two => {}
        }
        directories.push(directory);
    }
    Ok(CgroupPaths { directories })
}

/// Removes the cgroup `saddlebag/<name>`. False: there was none. [`CgroupError::Busy`] while processes live in it.
pub fn remove(name: &str) -> Result<bool, CgroupError> {
    check_name(name)?;
    let mut removed = false;
    for (_, mount_point) in find_hierarchies()? {
        let directory = mount_point.join(PARENT).join(name);
        match std::fs::remove_dir(&directory) {
            Ok(()) => removed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Err(CgroupError::Busy(directory)),
            Err(source) => return Err(CgroupError::Call { action: "remove", path: directory, source }),
        }
    }
    Ok(removed)
}

/// The memory that the cgroup `saddlebag/<name>` uses, in bytes. None: no such cgroup, or nothing counts memory.
pub fn memory_of(name: &str) -> Result<Option<u64>, CgroupError> {
    check_name(name)?;
    for (version, mount_point) in find_hierarchies()? {
        let file = match version {
            Version::One => "memory.usage_in_bytes",
            Version::Two => "memory.current",
        };
        let path = mount_point.join(PARENT).join(name).join(file);
        match std::fs::read_to_string(&path) {
            Ok(text) => return Ok(text.trim().parse().ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(CgroupError::Call { action: "read", path, source }),
        }
    }
    Ok(None)
}

/// How often the kernel has killed a process of somebody's cgroup because the cgroup was at its limit of memory.
///
/// The count is of the cgroup, which may be older than the process: what counts is whether it grows. One program after
/// another may be watched in it; a kill between the end of one and the watch of the next counts for the next.
#[derive(Debug, Default)]
pub struct OomKills {
    files: Vec<(PathBuf, u64)>,
}

impl OomKills {
    /// Counts for the cgroup of process `pid` from now on; where the process is gone already, for that of the one before.
    pub fn watch(&mut self, pid: i32) {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let mut files = Vec::new();
        for (version, mount_point) in find_hierarchies().unwrap_or_default() {
            let Some(path) = text.lines().find_map(|line| path_in(line, version)) else { continue };
            let directory = mount_point.join(path.trim_start_matches('/'));
            match version {
                Version::One => files.push(directory.join("memory.oom_control")),
                Version::Two => {
                    files.push(directory.join("memory.events"));
                    // systemd removes a unit's cgroup as soon as it is empty; the slice above counts with it.
                    files.extend(directory.parent().map(|above| above.join("memory.events")));
                }
            }
        }
        let counted = files.into_iter().filter_map(|file| {
            let now = read_oom_kills(&file)?;
            let before = self.files.iter().find(|(known, _)| *known == file).map_or(now, |(_, before)| *before);
            // Fewer than before: another cgroup of the same name.
            Some((file, before.min(now)))
        });
        let counted: Vec<_> = counted.collect();
        if !counted.is_empty() {
            self.files = counted;
        }
    }

    /// Whether it was so since the last time that this was asked. By the cgroup's own count while it is there, else by
    /// that of the one above.
    pub fn take_growth(&mut self) -> bool {
        let mut grown = None;
        for (file, before) in &mut self.files {
            let Some(now) = read_oom_kills(file) else { continue };
            grown.get_or_insert(now > *before);
            *before = now;
        }
        grown.unwrap_or(false)
    }
}

/// The cgroup's path in one hierarchy, from a line of `/proc/PID/cgroup` (cgroups(7)).
fn path_in(line: &str, version: Version) -> Option<&str> {
    let mut parts = line.splitn(3, ':');
    let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    match version {
        Version::One => controllers.split(',').any(|controller| controller == "memory").then_some(path),
        Version::Two => (number == "0" && controllers.is_empty()).then_some(path),
    }
}

/// The line `oom_kill N`: of `memory.oom_control` in version 1 (Linux 4.13), of `memory.events` in version 2.
fn read_oom_kills(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

fn check_name(name: &str) -> Result<(), CgroupError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    // No dot first: neither `.` nor `..`; and `cgroup.` or `memory.` would meet the kernel's own files.
    let is_kernels = ["cgroup.", "memory."].iter().any(|prefix| name.starts_with(prefix));
    if name.is_empty() || name.len() > 200 || name.starts_with('.') || is_kernels || !name.bytes().all(allowed) {
        return Err(CgroupError::Name(name.to_owned()));
    }
    Ok(())
}

/// The mount points of the version 1 memory hierarchy and of the version 2 tree, in this order.
fn find_hierarchies() -> Result<Vec<(Version, PathBuf)>, CgroupError> {
    let entries = table::read_own().map_err(|source| CgroupError::Call {
        action: "read",
        path: PathBuf::from("/proc/thread-self/mountinfo"),
        source,
    })?;
    let is_memory = |entry: &&table::Entry| {
        let options = entry.super_options.to_string_lossy();
        entry.fs_type == "cgroup" && options.split(',').any(|option| option == "memory")
    };
    let one = entries.iter().find(is_memory).map(|entry| (Version::One, entry.mount_point.clone()));
    let two = entries.iter().find(|entry| entry.fs_type == "cgroup2");
    let two = two.map(|entry| (Version::Two, entry.mount_point.clone()));
    let hierarchies: Vec<_> = one.into_iter().chain(two).collect();
    if hierarchies.is_empty() { Err(CgroupError::NoHierarchy) } else { Ok(hierarchies) }
}

fn make_directory(path: &Path) -> Result<(), CgroupError> {
    match std::fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(CgroupError::Call { action: "make", path: path.to_owned(), source }),
    }
}

fn limit_memory(file: &Path, limit: Option<u64>, unlimited: &str) -> Result<(), CgroupError> {
    if !file.exists() {
        return match limit {
            Some(_) => Err(CgroupError::NoMemoryController(file.parent().unwrap_or(file).to_owned())),
            None => Ok(()),
        };
    }
    let text = limit.map_or_else(|| unlimited.to_owned(), |limit| limit.to_string());
    std::fs::write(file, text).map_err(|source| CgroupError::Call { action: "write", path: file.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_the_projects_own_cgroup() {
        for name in ["", ".", "..", "a/b", "../x", ".hidden", "a b", "cgroup.procs"] {
            assert!(matches!(check_name(name), Err(CgroupError::Name(_))), "{name:?}");
        }
        assert!(check_name("weed-10.0.0.1_8888").is_ok());
    }

    #[test]
    fn a_cgroups_path_is_read_for_either_version() {
        assert_eq!(path_in("4:memory:/saddlebag/a:b", Version::One), Some("/saddlebag/a:b"));
        assert_eq!(path_in("5:cpu,memory:/x", Version::One), Some("/x"));
        assert_eq!(path_in("0::/system.slice/a.service", Version::Two), Some("/system.slice/a.service"));
        assert_eq!(path_in("0::/x", Version::One), None);
        assert_eq!(path_in("4:memory:/x", Version::Two), None);
    }
}
