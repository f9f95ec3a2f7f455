//! A trial: the backend is mounted by the very code that the agent mounts it by, written to, read back, and unmounted,
//! where nobody else sees it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{Advice, AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::part::Part;
use super::say::Teller;
use crate::backend::prober::Prober;
use crate::backend::{self, AttachError, Attached, Backend, Place, SourceKey, program};
use crate::check::{Check, Fault};
use crate::config::{self, Config};
use crate::job::Kind;
use crate::sys::{apart, resolve};

/// How much is written and read back.
const SIZE: usize = 64 << 10;
/// How much of a trial's logs and caches fits into memory.
const MEMORY: u64 = 512 << 20;
/// How long a mount program may take to end after its unmount.
const END: Duration = Duration::from_secs(5);
/// How many entries of a directory are read at most.
const ENTRIES: usize = 1000;

/// Has the trial done by a child, and waits for it. To be called in the first process of a pid namespace, in a mount
/// namespace of its own.
///
/// The first process never touches the mount: what it has sent to a mount program that is stopped would keep it in the
/// kernel, SIGKILL or not, and the kernel ends the others of the namespace, that program too, only once it is gone.
///
/// # Errors
/// The child cannot be started, or has failed.
pub(super) fn watch_over(part: &Part) -> io::Result<()> {
    apart::mount_proc()?;
    // The same files and socket, and the same standard output, by which it says what it finds.
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let own = Part::to_string(part);
    let at = args.iter().position(|arg| arg == "--part").ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("saddlebag").args(&args[..=at]).arg(own).args(args.iter().skip(at + 2));
    let status = command.stdin(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("the trial ended ({status})"))) }
}

/// Tries one backend. To be called in namespaces of its own.
pub(super) fn run(config: &Config, definition: &config::Backend, tell: &mut Teller) {
    tell.begin("trial");
    if let Err(error) = apart::mount_memory(&config.run_dir, MEMORY) {
        let detail = format!("no private place for a mount below {}: {error}", config.run_dir.display());
        let mend = format!("mkdir -p {}   # and run doctor as root on the host", config.run_dir.display());
        tell.found(Check::unavailable("trial", detail, mend));
        return;
    }
    let key = SourceKey("doctor".into());
    let below = |name: &str| config.run_dir.join(name);
    let place = Place {
        mount_point: below("mount"),
        log: below("log"),
        cache: below("cache"),
        socket: below("mount.sock"),
        prober: Prober::new(key.clone(), |_| {}),
        key,
        is_trial: true,
        beneath: None,
        may_create: true,
    };
    let backend = backend::of(definition);
    tell.begin("trial mount");
    let attached = match backend.attach(&place) {
        Ok(attached) => attached,
        Err(error) => return tell.found_timed(of_attach(definition, &error, &place.log)),
    };
    if attached.found {
        tell.found(Check::ok("trial mount", "a directory of this host, which needs no mount"));
    } else {
        tell.found_timed(Check::ok("trial mount", "mounted, and it answers"));
    }
    if let Some(folder) = open_volumes(&*backend, &attached, tell) {
        if is_read_only(config, definition) {
            read(folder.as_fd(), tell);
        } else {
            write(folder.as_fd(), tell);
        }
        find_volumes(config, &definition.name, &*backend, folder.as_fd(), tell);
    }
    take_away(&*backend, &place, &attached, tell);
}

fn of_attach(definition: &config::Backend, error: &AttachError, log: &Path) -> Check {
    let refusal = error.refusal(&definition.name);
    // Also of a program that has mounted and then failed.
    let log = telling_line(&program::tail(log)).map(|line| format!("; its log ends with: {line}")).unwrap_or_default();
    let detail = format!("{}{log}", error.sentence());
    let mend = refusal.hint.unwrap_or_else(|| "journalctl -u saddlebag -n 50".to_owned());
    match refusal.kind {
        Kind::Configuration => Check::misconfigured("trial mount", detail, mend),
        _ => Check::unavailable("trial mount", detail, mend),
    }
}

/// The last line of a log that speaks of a failure, since some programs end with pages of usage; else its last line.
fn telling_line(log: &str) -> Option<String> {
    const WORDS: [&str; 8] = ["fail", "error", "refused", "denied", "cannot", "panic", "not found", "unable"];
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let tells = |line: &&&str| WORDS.iter().any(|word| line.to_ascii_lowercase().contains(word));
    let line = lines.iter().rev().find(tells).or(lines.last())?;
    Some(line.chars().filter(|c| !c.is_control()).take(300).collect())
}

/// Opens the directory that the configuration keeps volumes below.
fn open_volumes(backend: &dyn Backend, attached: &Attached, tell: &Teller) -> Option<OwnedFd> {
    let below = backend.volumes_below();
    let opened = resolve::open_root(&attached.root).and_then(|root| resolve::open_beneath(root.as_fd(), &below));
    match opened {
        Ok(folder) => Some(folder),
        Err(error) => {
            let path = Path::new("/").join(&below);
            let detail = format!("its directory {} cannot be used: {error}", path.display());
            let check = if error.is_missing() {
                let make = backend.command_to_make(Path::new("")).map(|make| format!("{make}   # makes it; or: "));
                let mend = format!("{}path = \"…\" of one that is there", make.unwrap_or_default());
                Check::misconfigured("trial directory", detail, mend)
            } else {
                Check::unavailable("trial directory", detail, "look at the servers' own logs")
            };
            tell.found(check);
            None
        }
    }
}

/// Whether nothing may be written: the backend says so, or each of its volumes does.
fn is_read_only(config: &Config, definition: &config::Backend) -> bool {
    let mut volumes = config.volumes.values().filter(|volume| volume.backend == definition.name).peekable();
    let all = volumes.peek().is_some() && volumes.all(|volume| volume.read_only);
    definition.kind.is_read_only() || (all && !definition.dynamic)
}

fn list(folder: BorrowedFd<'_>) -> io::Result<(usize, bool)> {
    let directory =
        rustix::fs::openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut count = 0;
    for entry in Dir::new(directory)? {
        let name = entry?;
        if name.file_name() != c"." && name.file_name() != c".." {
            count += 1;
        }
        if count == ENTRIES {
            return Ok((count, true));
        }
    }
    Ok((count, false))
}

fn read(folder: BorrowedFd<'_>, tell: &mut Teller) {
    tell.begin("trial read");
    match list(folder) {
        Ok((count, more)) => {
            let more = if more { " or more" } else { "" };
            tell.found_timed(Check::ok(
                "trial read",
                format!("read-only: {count}{more} entries listed, nothing written"),
            ));
        }
        Err(error) => tell.found_timed(of_error("trial read", "its directory cannot be listed", &error)),
    }
}

/// Bytes that no cache and no server can guess, the same for the same seed (SplitMix64, Steele and others, 2014).
fn bytes(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let words = (0..SIZE / 8).flat_map(|_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    });
    words.collect()
}

fn write(folder: BorrowedFd<'_>, tell: &mut Teller) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Of this process in its pid namespace the number is always 1; the time in nanoseconds tells two doctors apart.
    let name = format!(".saddlebag-doctor-{:x}", now.as_nanos());
    let wanted = bytes(u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or(1));

    tell.begin("trial write");
    tell.holds(Some(&name));
    let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(folder, &name, create, Mode::RUSR | Mode::WUSR) {
        Ok(file) => File::from(file),
        Err(errno) => {
            tell.holds(None);
            return tell.found_timed(of_error("trial write", "no file can be created", &errno.into()));
        }
    };
    let written = fill(file, &wanted);
    match &written {
        Ok(()) => tell.found_timed(Check::ok("trial write", format!("{} KiB written and synced", SIZE >> 10))),
        Err(error) => tell.found_timed(of_error("trial write", "a file cannot be written", error)),
    }
    if written.is_ok() {
        tell.begin("trial read");
        match read_back(folder, &name) {
            Ok(found) if found == wanted => tell.found_timed(Check::ok("trial read", "read back, and the same")),
            Ok(found) => {
                let at = found.iter().zip(&wanted).position(|(found, wanted)| found != wanted).unwrap_or(found.len());
                let detail = format!(
                    "what was read back is not what was written: {} bytes of {SIZE}, the first difference at {at}",
                    found.len()
                );
                let mend = "stop the jobs that use it, and look at the servers' own logs and disks";
                tell.found_timed(Check::unavailable("trial read", detail, mend));
            }
            Err(error) => tell.found_timed(of_error("trial read", "the file cannot be read back", &error)),
        }
    }
    tell.begin("trial remove");
    match rustix::fs::unlinkat(folder, &name, AtFlags::empty()) {
        Ok(()) => {
            tell.holds(None);
            if rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                let detail = format!("the file {name:?} is still there after it was removed");
                tell.found_timed(Check::unavailable("trial remove", detail, "look at the servers' own logs"));
            } else {
                tell.found_timed(Check::ok("trial remove", "removed"));
            }
        }
        Err(errno) => {
            let what = format!("the file {name:?} cannot be removed again");
            tell.found_timed(of_error("trial remove", &what, &errno.into()));
        }
    }
}

fn fill(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()?;
    // close(2) is where some file systems say that the write has failed; the standard library does not tell.
    drop(file);
    Ok(())
}

fn read_back(folder: BorrowedFd<'_>, name: &str) -> io::Result<Vec<u8>> {
    let file = rustix::fs::openat(folder, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    // From the server rather than from what the kernel still has of the write.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
    let mut found = Vec::with_capacity(SIZE);
    File::from(file).take(2 * SIZE as u64).read_to_end(&mut found)?;
    Ok(found)
}

/// What a refusal of the file system means.
fn of_error(name: &str, what: &str, error: &io::Error) -> Check {
    let detail = format!("{what}: {error}");
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let (fault, mend) = match errno {
        Some(Errno::ROFS) => (
            Fault::Configuration,
            "read_only = true   # of the backend or its volumes; or mount it writable: mount -o remount,rw",
        ),
        Some(Errno::NOSPC | Errno::DQUOT) => {
            (Fault::Unavailable, "make room on it: df -h; df -i   # on its servers, where it has some")
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            (Fault::Configuration, "give root of this client the right to write there (of NFS: no_root_squash)")
        }
        _ => (Fault::Unavailable, "look at the servers' own logs and free space"),
    };
    match fault {
        Fault::Configuration => Check::misconfigured(name, detail, mend),
        Fault::Unavailable => Check::unavailable(name, detail, mend),
    }
}

/// Which of the registered volumes are there.
fn find_volumes(config: &Config, name: &str, backend: &dyn Backend, folder: BorrowedFd<'_>, tell: &mut Teller) {
    let volumes: Vec<_> = config.volumes.values().filter(|volume| volume.backend == name).collect();
    if volumes.is_empty() {
        return;
    }
    tell.begin("volumes");
    let (mut there, mut later) = (0, 0);
    for volume in &volumes {
        // Also one that is a file: an image has its file system in it.
        match resolve::open_any_beneath(folder, &volume.path) {
            Ok(_) => there += 1,
            Err(error) if error.is_missing() && volume.create => later += 1,
            Err(error) => {
                let detail = format!("volume {}: {error}", volume.name);
                let make = backend.command_to_make(&volume.path).map(|make| format!("   # or: {make}"));
                let mend = format!("volume {:?} {{ create = true }}{}", volume.name, make.unwrap_or_default());
                tell.found(Check::misconfigured("volumes", detail, mend));
            }
        }
    }
    let made = if later > 0 { format!(", {later} made at first use") } else { String::new() };
    if there + later > 0 {
        tell.found_timed(Check::ok("volumes", format!("{there} of {} there{made}", volumes.len())));
    }
}

fn take_away(backend: &dyn Backend, place: &Place, attached: &Attached, tell: &mut Teller) {
    tell.begin("trial unmount");
    if let Err(error) = backend.detach(place) {
        let mend = "see its mount program's documentation; doctor's mount is gone all the same";
        tell.found_timed(Check::unavailable("trial unmount", format!("not unmounted: {error}"), mend));
        return;
    }
    if attached.found {
        return;
    }
    let unmounted = Instant::now();
    if let Some(running) = attached.pid.and_then(|pid| program::Running::watch(pid).ok())
        && !running.has_ended(END)
    {
        let detail = format!("its mount program had not ended {} later", humantime::format_duration(END));
        tell.found(Check::warning("trial unmount", detail, "look at its log; doctor has ended it"));
        return;
    }
    let ended = if attached.pid.is_some() {
        format!("its program ended after {} ms", unmounted.elapsed().as_millis())
    } else {
        "nothing of it is left".to_owned()
    };
    tell.found_timed(Check::ok("trial unmount", ended));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_log_ends_with_is_what_failed_and_no_page_of_usage() {
        let log =
            "starting\nfailed to start background tasks: connection refused\nUsage of weed mount:\n  -dir string\n";
        assert_eq!(telling_line(log).as_deref(), Some("failed to start background tasks: connection refused"));
        assert_eq!(telling_line("one\ntwo \x1b[31m\n").as_deref(), Some("two [31m"));
        assert_eq!(telling_line("\n \n"), None);
    }

    #[test]
    fn what_is_written_is_never_the_same_and_can_be_told_again() {
        assert_eq!(bytes(7).len(), SIZE);
        assert_eq!(bytes(7), bytes(7));
        assert_ne!(bytes(7), bytes(8));
    }
}
