//! A program that is asked one thing, and has so long to answer it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::backend::program::Running;

/// The most that is read of what it says, in bytes.
const MOST: u64 = 16 << 10;
/// How long one that was killed may take to end.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// How it ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself, with success.
    Well,
    /// By itself or by a signal, without: what it said, in one line.
    Badly(String),
    /// Not in time: it was killed.
    Never,
}

/// Runs it to its end, with nothing of the agent's environment and nothing on its standard input.
///
/// # Errors
/// It cannot be started.
pub(super) fn run(path: &Path, args: &[OsString], patience: Duration) -> io::Result<Ended> {
    // Not a pipe: who fills one that nobody empties waits.
    let mut said = File::from(memory_file()?);
    let (out, err) = (said.try_clone()?, said.try_clone()?);
    let mut command = Command::new(path);
    command.args(args).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C").current_dir("/");
    let mut child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn()?;
    let running = Running::watch(i32::try_from(child.id()).map_err(io::Error::other)?)?;
    let deadline = Instant::now() + patience;
    while !running.has_ended(deadline.saturating_duration_since(Instant::now())) {
        if Instant::now() >= deadline {
            let _ = child.kill();
            if running.has_ended(LAST_WAIT) {
                let _ = child.wait();
            }
            return Ok(Ended::Never);
        }
    }
    if child.wait()?.success() { Ok(Ended::Well) } else { Ok(Ended::Badly(read_end(&mut said)?)) }
}

fn memory_file() -> io::Result<OwnedFd> {
    Ok(rustix::fs::memfd_create(c"said", rustix::fs::MemfdFlags::CLOEXEC)?)
}

/// The last of what was said. A program's output is not trusted: no control character of it reaches a terminal.
fn read_end(said: &mut File) -> io::Result<String> {
    let length = said.seek(SeekFrom::End(0))?;
    said.seek(SeekFrom::Start(length.saturating_sub(MOST)))?;
    let mut bytes = Vec::new();
    said.take(MOST).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(4)..].join("; ");
    Ok(last.chars().filter(|c| !c.is_control()).take(600).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_its_time_and_no_more() {
        let run = |script: &str, patience| run(Path::new("/bin/sh"), &["-c".into(), script.into()], patience).unwrap();
        let long = Duration::from_secs(60);
        assert!(matches!(run("exit 0", long), Ended::Well));
        let Ended::Badly(said) = run("echo one; echo two >&2; exit 3", long) else { panic!("it failed") };
        assert_eq!(said, "one; two");
        assert!(matches!(run("exec sleep 60", Duration::from_millis(100)), Ended::Never));
    }
}
