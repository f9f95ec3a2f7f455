//! Disks that the agent writes to: room, inodes, and whether they take a write at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, StatVfs};

use super::super::say::Teller;
use crate::check::Check;
use crate::config::{BackendKind, Config};

/// Less than this share of a disk free is worth a word.
const FEW: u64 = 20;
/// And less than this, in bytes, whatever the share.
const LITTLE: u64 = 64 << 20;

/// Looks at the state directory and at each folder of caches.
pub(super) fn look(config: &Config, tell: &mut Teller) {
    let mut folders = vec![("state_dir", config.state_dir.clone())];
    for backend in config.backends.values() {
        if let BackendKind::Seaweedfs(settings) = &backend.kind
            && let Some(cache) = &settings.cache_dir
            && !folders.iter().any(|(_, known)| known == cache)
        {
            folders.push(("cache_dir", cache.clone()));
        }
    }
    for (name, folder) in folders {
        tell.begin(name);
        tell.found(look_at(name, &folder));
    }
}

/// Looks at the disk that a folder is on, or will be on.
pub(in crate::doctor) fn look_at(name: &str, folder: &Path) -> Check {
    let Some(there) = nearest(folder) else {
        return Check::unavailable(name, format!("{} cannot be reached", folder.display()), "findmnt /");
    };
    let shown = folder.display();
    let later = if there == folder { "" } else { ", made when the agent starts" };
    let room = match rustix::fs::statvfs(&there) {
        Ok(room) => room,
        Err(errno) => {
            let mend = format!("ls -ld {shown}; findmnt -T {shown}");
            return Check::unavailable(name, format!("{shown} cannot be looked at: {errno}"), mend);
        }
    };
    if let Err(error) = try_write(&there) {
        return refused(name, &shown.to_string(), &error);
    }
    let free = free_of(&room);
    match low(&room) {
        Some(what) => Check::warning(name, format!("{shown}: {what}{later}"), format!("df -h {shown}; df -i {shown}")),
        None => Check::ok(name, format!("{shown}: {} free{later}", size(free))),
    }
}

fn refused(name: &str, shown: &str, error: &io::Error) -> Check {
    let detail = format!("{shown} takes no write: {error}");
    let mend = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("df -h {shown}; du -xh --max-depth=1 {shown}   # and make room")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            format!("mount -o remount,rw $(findmnt -no TARGET -T {shown}); dmesg | tail")
        }
        _ => format!("ls -ld {shown}; findmnt -T {shown}"),
    };
    Check::unavailable(name, detail, mend)
}

/// The folder, or the nearest one above it that is there.
fn nearest(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().find(|path| path.is_dir()).map(Path::to_owned)
}

/// Writes and syncs a block of a file that has no name, and so is gone with its descriptor.
fn try_write(folder: &Path) -> io::Result<()> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => file,
        // A file system that has no files without names: whether it is writable is all that is known.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let mut file = File::from(file);
    file.write_all(&[1; 4096])?;
    file.sync_all()
}

fn free_of(room: &StatVfs) -> u64 {
    room.f_bavail.saturating_mul(room.f_frsize)
}

/// What of a disk runs out.
fn low(room: &StatVfs) -> Option<String> {
    let free = free_of(room);
    let is_little = free < LITTLE || room.f_bavail < room.f_blocks / FEW;
    // A file system that counts no inodes says 0 of all.
    let few_inodes = room.f_files > 0 && room.f_favail < room.f_files / FEW;
    match (is_little, few_inodes) {
        (true, _) => Some(format!("{} free of {}", size(free), size(room.f_blocks.saturating_mul(room.f_frsize)))),
        (_, true) => Some(format!("{} inodes free of {}", room.f_favail, room.f_files)),
        _ => None,
    }
}

fn size(bytes: u64) -> String {
    match bytes >> 20 {
        mib if mib < 10 << 10 => format!("{mib} MiB"),
        mib => format!("{} GiB", mib >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_of_a_folder_that_is_not_there_yet_is_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        let check = look_at("state_dir", &dir.path().join("a/b"));
        assert!(!check.is_problem(), "{check:?}");
        assert!(check.detail.contains("made when the agent starts"), "{check:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }
}
