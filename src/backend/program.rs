//! Mount programs: started so that they outlive the agent, found again by the next one.
//!
//! Under systemd a program becomes a transient unit of its own; elsewhere it gets a session and a cgroup of its own.
//! Either way it is no child of the agent, has a memory limit, and writes to a log that is kept.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

use super::{AttachError, SourceKey};
use crate::sys::detached::Detached;
use crate::sys::{cgroup, process};

/// How many of a log's last lines are shown.
const LOG_LINES: usize = 10;
/// How much of a log is read for them, in bytes.
const LOG_TAIL: u64 = 16 << 10;
/// The whole environment of a mount program: nothing of the agent's, so no token, reaches it. `weed` looks for
/// `fusermount3` on PATH and for `security.toml` below HOME.
const ENVIRONMENT: [(&str, &str); 2] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root")];

/// A program to start.
pub struct Program<'a> {
    /// Its executable.
    pub path: &'a Path,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Names its unit or cgroup.
    pub key: &'a SourceKey,
    /// Its memory limit in bytes.
    pub memory_limit: u64,
    /// Where its output goes.
    pub log: &'a Path,
    /// Whether it is a trial's ([`super::Place::is_trial`]): it has no unit and no cgroup of its own, since it ends with
    /// the namespaces that it is started in.
    pub is_trial: bool,
}

/// A program that was started or found.
#[derive(Debug)]
pub struct Running {
    /// Its process id.
    pub pid: i32,
    watch: OwnedFd,
}

impl Running {
    /// Watches a process by its pidfd, so that another one with the same id is never meant.
    ///
    /// # Errors
    /// `ESRCH` where it is gone.
    pub fn watch(pid: i32) -> io::Result<Self> {
        let id = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { pid, watch: rustix::process::pidfd_open(id, PidfdFlags::NONBLOCK)? })
    }

    /// Waits at most `timeout` and says whether it has ended.
    pub fn has_ended(&self, timeout: Duration) -> bool {
        let mut poll = [rustix::event::PollFd::new(&self.watch, rustix::event::PollFlags::IN)];
        let timeout = rustix::event::Timespec::try_from(timeout).ok();
        matches!(rustix::event::poll(&mut poll, timeout.as_ref()), Ok(1))
    }

    /// Waits until it has ended.
    pub fn wait(&self) {
        let mut poll = [rustix::event::PollFd::new(&self.watch, rustix::event::PollFlags::IN)];
        while !matches!(rustix::event::poll(&mut poll, None), Ok(1)) {}
    }

    /// Ends it. Only ever called for a program whose mount never came up.
    pub fn kill(&self) {
        // ESRCH: it has ended by itself, which is what is wanted.
        let _ = rustix::process::pidfd_send_signal(&self.watch, Signal::KILL);
    }
}

/// Looks for an executable: at the configured place, or in fixed directories; never by PATH.
///
/// # Errors
/// [`AttachError::ProgramMissing`] with the places.
pub fn find_executable(configured: Option<&Path>, name: &str, places: &[&str]) -> Result<PathBuf, AttachError> {
    let looked: Vec<PathBuf> =
        configured.map_or_else(|| places.iter().map(PathBuf::from).collect(), |path| vec![path.to_owned()]);
    looked
        .iter()
        .find(|path| path.is_file())
        .cloned()
        .ok_or_else(|| AttachError::ProgramMissing { program: name.to_owned(), looked })
}

/// Finds root's process that was started with this argument. Not by its executable's name: `weed` may be a link to
/// `weed-4.48`, or a script that becomes it.
pub fn find_by_argument(argument: &[u8]) -> Option<i32> {
    process::find_processes().unwrap_or_default().into_iter().find(|pid| {
        let is_roots = fs::metadata(format!("/proc/{pid}")).is_ok_and(|of| of.uid() == 0);
        // A container's root is another host's, for all that is known here.
        let is_here = || process::mount_namespace(*pid).ok() == process::own_mount_namespace().ok();
        // Last: a command line is read from the process's memory, which one that hangs in a mapped file may hold.
        let line = || fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        is_roots && is_here() && line().split(|byte| *byte == 0).any(|part| part == argument)
    })
}

/// Whether systemd is the service manager of this host (`sd_booted(3)`).
pub fn is_under_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Starts it.
///
/// # Errors
/// What kept it from starting.
pub fn start(program: &Program<'_>, find: impl Fn() -> Option<i32>) -> Result<Running, AttachError> {
    let has_unit = is_under_systemd() && !program.is_trial;
    let pid = if has_unit { start_unit(program, find)? } else { start_detached(program)? };
    Running::watch(pid).map_err(|source| {
        if source.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) {
            AttachError::ProgramEnded { program: name_of(program.path), log: last_lines(program.log) }
        } else {
            AttachError::host(format!("watch process {pid}"))(source)
        }
    })
}

fn start_detached(program: &Program<'_>) -> Result<i32, AttachError> {
    // A host without a memory controller still gets its mount; `status` then shows no memory for it.
    let create = || {
        cgroup::create(&program.key.0, Some(program.memory_limit))
            .inspect_err(|error| tracing::warn!(source = %program.key, %error, "no cgroup for the mount program: its memory has no limit"))
            .ok()
    };
    let cgroup = if program.is_trial { None } else { create() };
    let env: Vec<(OsString, OsString)> =
        ENVIRONMENT.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
    let detached =
        Detached { program: program.path, args: &program.args, env: &env, log: program.log, cgroup: cgroup.as_ref() };
    let pid = detached.spawn().map_err(AttachError::host(format!("start {}", program.path.display())))?;
    i32::try_from(pid).map_err(|error| AttachError::host("read the process id")(io::Error::other(error)))
}

/// The name of the transient unit of a source.
pub fn unit_name(key: &SourceKey) -> String {
    format!("saddlebag-source-{key}.service")
}

fn start_unit(program: &Program<'_>, find: impl Fn() -> Option<i32>) -> Result<i32, AttachError> {
    let unit = unit_name(program.key);
    let mut command = Command::new("/usr/bin/systemd-run");
    command
        .arg(format!("--unit={unit}"))
        .args(["--collect", "--quiet", "--slice=saddlebag.slice", "--service-type=exec"])
        .arg(format!("--description=saddlebag: mount program of {}", program.key))
        .arg(format!("--property=MemoryMax={}", program.memory_limit))
        .arg(format!("--property=StandardOutput=append:{}", program.log.display()))
        .arg(format!("--property=StandardError=append:{}", program.log.display()))
        // A stop of the unit sends SIGTERM, on which the program unmounts; nothing else of it is killed before that.
        .args(["--property=KillMode=mixed", "--property=OOMScoreAdjust=-500"])
        // At shutdown it goes after all who use it, and while there is a network to write by: systemd stops in the
        // reverse order. Starts wait for none of these, since they are under way already or not asked for.
        .arg("--property=Before=saddlebag.service nomad.service docker.service")
        .arg("--property=After=network.target network-online.target remote-fs-pre.target")
        .args(ENVIRONMENT.iter().map(|(name, value)| format!("--setenv={name}={value}")))
        .arg("--")
        .arg(program.path)
        .args(&program.args)
        .env_clear()
        .stdin(Stdio::null());
    let start = format!("start unit {unit}");
    let output = command.output().map_err(AttachError::host(start.clone()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(AttachError::host(start)(io::Error::other(said)));
    }
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        if let Some(pid) = find() {
            return Ok(pid);
        }
        if Instant::now() > deadline {
            return Err(AttachError::ProgramEnded { program: name_of(program.path), log: last_lines(program.log) });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A program's name for people.
pub fn name_of(path: &Path) -> String {
    String::from_utf8_lossy(path.file_name().unwrap_or(path.as_os_str()).as_bytes()).into_owned()
}

/// The end of a log; empty where it cannot be read.
pub fn tail(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut text = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut text)?;
        Ok(text)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// The last lines of a log; none where it cannot be read.
pub fn last_lines(log: &Path) -> Vec<String> {
    tidy(&tail(log))
}

/// The last lines of what a program wrote.
pub fn tidy(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    // A program's output is not trusted: no control character of it reaches a terminal.
    lines[lines.len().saturating_sub(LOG_LINES)..]
        .iter()
        .map(|line| line.chars().filter(|c| !c.is_control()).take(400).collect())
        .collect()
}
