//! Lines for `nomad alloc logs` where Nomad collects none.
//!
//! With `logs { disabled = true }` Nomad gives a task /dev/null for its output (a container's goes to Docker alone), which
//! saves it a process and a job some 80 ms; `nomad alloc logs` still shows what is in `logs/TASK.stdout.0` and
//! `logs/TASK.stderr.0` of the shared directory. Where Nomad does collect, its collector has made the pipe
//! `logs/.TASK.stderr.fifo` before the task starts, and those files are the collector's alone.

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

/// Which of a task's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// What was done.
    Stdout,
    /// Why it was not.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log files of one task whose output Nomad does not collect.
#[derive(Debug)]
pub struct TaskLog {
    /// The folder `logs` of the allocation's shared directory.
    folder: OwnedFd,
    task: String,
}

impl TaskLog {
    /// The log files of that task below `NOMAD_ALLOC_DIR`; none where Nomad collects its output, where a person sees
    /// it on a terminal, or where the directory is not as Nomad makes it.
    pub fn find(alloc_dir: &Path, task: &str) -> Option<Self> {
        // Nomad lets a task's name have neither (structs.Task.Validate).
        if task.is_empty() || task.contains(['/', '\0']) || std::io::stderr().is_terminal() {
            return None;
        }
        // The directory itself is Nomad's word; what is in it may be another task's trap, also a symlink over which
        // this process, which may be root on the host, would write anywhere.
        let alloc = rustix::fs::open(alloc_dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::openat2(alloc.ok()?, "logs", flags, Mode::empty(), beneath()).ok()?;
        let is_collected = rustix::fs::statat(&folder, format!(".{task}.stderr.fifo"), AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
        if is_collected { None } else { Some(Self { folder, task: task.to_owned() }) }
    }

    /// Appends lines. What cannot be written is left out: the volumes are there or not whether it is logged or not.
    pub fn append(&self, stream: Stream, text: &str) {
        if let Some(mut file) = self.open(stream) {
            // In one piece, so that lines of two processes do not mix.
            let _ = file.write_all(format!("{text}\n").as_bytes());
        }
    }

    /// Opens the file, new or as it is. Only a plain file with one name is taken: a hard link could be a file of
    /// somewhere else, and opening a pipe that nobody reads would block for good.
    fn open(&self, stream: Stream) -> Option<File> {
        let name = format!("{}.{}.0", self.task, stream.name());
        let flags = OFlags::WRONLY
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(&self.folder, name, flags, Mode::from_raw_mode(0o644), beneath()).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        let is_plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1;
        is_plain.then(|| File::from(file))
    }
}

fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn alloc_dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("logs")).unwrap();
        dir
    }

    fn append(dir: &tempfile::TempDir) {
        // Built here, not by `find`, so that the test says the same on a terminal.
        let folder = File::open(dir.path().join("logs")).unwrap().into();
        TaskLog { folder, task: "storage".into() }.append(Stream::Stderr, "a line");
    }

    #[test]
    fn lines_are_appended_to_what_is_there() {
        let dir = alloc_dir();
        append(&dir);
        append(&dir);
        assert_eq!(fs::read_to_string(dir.path().join("logs/storage.stderr.0")).unwrap(), "a line\na line\n");
    }

    #[test]
    fn a_planted_symlink_or_hard_link_or_pipe_is_never_written_to() {
        let dir = alloc_dir();
        let (victim, log) = (dir.path().join("victim"), dir.path().join("logs/storage.stderr.0"));
        fs::write(&victim, "mine").unwrap();
        symlink(&victim, &log).unwrap();
        append(&dir);
        fs::remove_file(&log).unwrap();
        fs::hard_link(&victim, &log).unwrap();
        append(&dir);
        fs::remove_file(&log).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &log, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        append(&dir);
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
    }

    #[test]
    fn a_task_name_cannot_leave_the_folder() {
        let dir = alloc_dir();
        assert!(TaskLog::find(dir.path(), "../x").is_none());
        assert!(TaskLog::find(dir.path(), "").is_none());
    }
}
