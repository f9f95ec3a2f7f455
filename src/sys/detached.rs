//! Starting a program that outlives its starter: mount programs, and the guard where no systemd runs it.
//!
//! The program is nobody's child (its parent ends at once and init takes it over), so that no zombie is left and
//! no signal to the starter's process group or session reaches it.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::cgroup::CgroupPaths;

/// A program to start, and what it gets: nothing but this.
#[derive(Debug, Clone, Copy)]
pub struct Detached<'a> {
    /// The executable's path; PATH is not searched.
    pub program: &'a Path,
    /// Its arguments, without the program itself.
    pub args: &'a [OsString],
    /// Its whole environment.
    pub env: &'a [(OsString, OsString)],
    /// Where its output and errors are appended; made with mode 0600.
    pub log: &'a Path,
    /// The cgroup to live in; without one, the starter's.
    pub cgroup: Option<&'a CgroupPaths>,
}

impl Detached<'_> {
    /// Starts the program in a session of its own, with umask 022, in `/`, with standard input from /dev/null,
    /// no other descriptors, and every signal at its default and unblocked. Returns its process id; it is not
    /// the caller's child: watch it by a pidfd and its start time.
    ///
    /// Errors: the log or the cgroup cannot be written, or the program cannot be executed.
    pub fn spawn(&self) -> io::Result<u32> {
        self.spawn_with_input(Stdio::null())
    }

    /// As [`Detached::spawn`], with something else as descriptor 0.
    pub fn spawn_with_input(&self, input: Stdio) -> io::Result<u32> {
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(self.log)?;
        let mut cgroups = Vec::new();
        for directory in self.cgroup.map_or(&[][..], |paths| &paths.directories) {
            cgroups.push(OpenOptions::new().write(true).open(directory.join("cgroup.procs"))?);
        }
        let (pid_reader, pid_writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let mut command = Command::new(self.program);
        command.args(self.args).env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        command.current_dir("/").stdin(input).stdout(log.try_clone()?).stderr(log);
        let cgroup_fds: Vec<RawFd> = cgroups.iter().map(File::as_raw_fd).collect();
        let writer = pid_writer.as_raw_fd();
        // SAFETY: between fork and exec `become_detached` makes only async-signal-safe calls on descriptors that
        // stay open until after the spawn; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || become_detached(&cgroup_fds, writer));
        }
        // Returns once the program runs or could not be executed: the child that waits in between is the
        // program's short-lived parent.
        command.spawn()?.wait()?;
        drop(pid_writer);
        let mut pid = [0_u8; 4];
        io::Read::read_exact(&mut File::from(pid_reader), &mut pid)?;
        Ok(u32::from_ne_bytes(pid))
    }
}

/// In the child: leaves everything of the starter's behind. Returns only in the process that is to execute.
fn become_detached(cgroups: &[RawFd], pid_writer: RawFd) -> io::Result<()> {
    // SAFETY: plain system calls without pointers to anything but the buffers named beside them.
    unsafe {
        for fd in cgroups {
            if libc::write(*fd, c"0".as_ptr().cast(), 1) != 1 {
                return Err(io::Error::last_os_error());
            }
        }
        if libc::setsid() < 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::fork() {
            0 => {}
            child if child < 0 => return Err(io::Error::last_os_error()),
            child => {
                let pid = child.to_ne_bytes();
                let written = libc::write(pid_writer, pid.as_ptr().cast(), pid.len());
                libc::_exit(i32::from(written != 4));
            }
        }
        if libc::setpgid(0, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        // The kernel's own call, since the C library refuses the two signals that it keeps for itself, and they can
        // be inherited as ignored too. All zeroes is the default; KILL and STOP are refused, and have it anyway.
        let default = [0_u64; 4];
        for signal in 1..=64_i32 {
            let old: *mut u64 = std::ptr::null_mut();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), old, 8_usize);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::umask(0o022);
        // Marked, not closed: the standard library reports a failed exec over one of them.
        if libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
