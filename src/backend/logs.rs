//! The logs of programs that live for months: none of them grows without bound, whoever writes it.
//!
//! A program keeps its log open, so the file itself is never replaced under it: its text is copied aside and the file
//! cut to nothing. The programs append (`O_APPEND`), and go on at its new end. Lines that come between the copy and the
//! cut are lost. The thread is woken by the kernel when something was written, at most once in a second, and sleeps
//! while nothing is.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// A log that is larger is set aside, in bytes; as much is kept of what was before. So a program has at most twice as
/// much on the disk, and what it writes in [`PAUSE`].
const LIMIT: u64 = 16 << 20;
/// Between two looks while something is written all the time.
const PAUSE: Duration = Duration::from_secs(1);
/// The thread's stack, in bytes.
const STACK: usize = 64 << 10;

/// Keeps every `*.log` of these folders small from now on, on a thread of its own.
///
/// # Errors
/// The kernel's, where there is no watch or no thread for it.
pub fn keep_small(folders: Vec<PathBuf>) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    for folder in &folders {
        inotify.add_watch(folder, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONLYDIR)?;
    }
    let watch = move || {
        loop {
            for folder in &folders {
                cut_large(folder, LIMIT);
            }
            if let Err(error) = inotify.read_events() {
                tracing::error!(%error, "logs are no longer kept small");
                return;
            }
            std::thread::sleep(PAUSE);
        }
    };
    std::thread::Builder::new().name("logs".into()).stack_size(STACK).spawn(watch).map(drop)
}

/// Sets aside what is in logs that are larger than `limit`.
fn cut_large(folder: &Path, limit: u64) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        if !is_log || !entry.metadata().is_ok_and(|found| found.is_file() && found.len() > limit) {
            continue;
        }
        match cut(&path) {
            Ok(()) => tracing::info!(log = %path.display(), "a large log was set aside as .log.1"),
            Err(error) => tracing::warn!(log = %path.display(), %error, "a large log cannot be set aside"),
        }
    }
}

fn cut(log: &Path) -> io::Result<()> {
    let mut aside = log.as_os_str().to_owned();
    aside.push(".1");
    let copied = fs::copy(log, &aside);
    if copied.is_err() {
        // The disk is full, most likely: half a copy helps nobody, and room is what is needed.
        let _ = fs::remove_file(&aside);
    }
    File::options().write(true).open(log)?.set_len(0)?;
    copied.map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_large_log_is_set_aside_and_its_writer_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, other) = (folder.path().join("a.log"), folder.path().join("b.log"));
        let mut writer = File::options().create(true).append(true).open(&log).expect("a log");
        writer.write_all(&[b'x'; 100]).expect("write");
        fs::write(&other, "small").expect("write");
        cut_large(folder.path(), 99);
        writer.write_all(b"next").expect("write");
        assert_eq!(fs::read_to_string(&log).expect("read"), "next");
        assert_eq!(fs::metadata(folder.path().join("a.log.1")).expect("aside").len(), 100);
        assert_eq!(fs::read_to_string(&other).expect("read"), "small");
        assert!(!folder.path().join("b.log.1").exists());
    }
}
