//! The keeper: where no systemd does it, a second process that holds a copy of every group's descriptor and does
//! nothing else. When the guard dies it starts the next one at once and hands them over; in between what Nomad
//! opens waits, since the kernel allows pending opens only when a group's last descriptor is closed.
//!
//! Both killed in the same instant leave nothing: the agent then starts a guard and marks everything anew.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::GuardRunError;
use super::link::{LINK_VARIABLE, Link, LinkMessage};
use super::lock;
use super::log::{Priority, line};
use crate::sys::detached::Detached;
use crate::sys::{descriptors, seqpacket};

/// A guard that dies sooner than this after its start is started again more slowly each time.
const HEALTHY_AFTER: Duration = Duration::from_secs(1);
/// Tasks' own opens wait meanwhile, so not slower than they can bear.
const SLOWEST: Duration = Duration::from_millis(250);

/// Starts a keeper for a guard and returns the guard's end of their connection.
pub(super) fn start(run_dir: &Path, exe: &Path) -> io::Result<Link> {
    start_with(run_dir, exe, &[OsString::from("--keeper")], &[])
}

fn start_with(run_dir: &Path, exe: &Path, more: &[OsString], env: &[(OsString, OsString)]) -> io::Result<Link> {
    let (ours, theirs) = seqpacket::pair()?;
    let mut args = vec![OsString::from("guard"), OsString::from("--run-dir"), run_dir.as_os_str().to_owned()];
    args.extend_from_slice(more);
    let log = run_dir.join("guard.log");
    // No cgroup of its own: it lives in the starter's.
    Detached { program: exe, args: &args, env, log: &log, cgroup: None }.spawn_with_input(Stdio::from(theirs))?;
    Ok(Link::new(ours))
}

/// Runs the keeper until its guard says that it ends.
pub(super) fn run(run_dir: &Path) -> Result<(), GuardRunError> {
    let link = descriptors::take_input().map_err(GuardRunError::Link)?;
    // An older keeper may still be going.
    let lock = lock::wait(&run_dir.join(lock::KEEPER))?;
    let exe = super::own_executable()?;
    Keeper { run_dir, exe, link: Link::new(link), groups: BTreeMap::new(), _lock: lock }.run()
}

struct Keeper<'a> {
    run_dir: &'a Path,
    exe: PathBuf,
    link: Link,
    groups: BTreeMap<String, OwnedFd>,
    _lock: File,
}

impl Keeper<'_> {
    fn run(mut self) -> Result<(), GuardRunError> {
        // The guard that started this keeper is alive and healthy.
        let mut started = Instant::now();
        let mut pause = Duration::ZERO;
        loop {
            match self.link.receive(None) {
                Ok(Some((LinkMessage::Group(key), Some(group)))) => {
                    self.groups.insert(key, group);
                }
                Ok(Some((LinkMessage::Forget(key), _))) => {
                    self.groups.remove(&key);
                }
                Ok(Some((LinkMessage::End {}, _))) => return Ok(()),
                Ok(Some((message, _))) => {
                    line(Priority::Warning, format_args!("keeper: unexpected message {message:?}"));
                }
                Ok(None) | Err(_) => {
                    if started.elapsed() < HEALTHY_AFTER {
                        pause = (pause * 2).clamp(Duration::from_millis(10), SLOWEST);
                        std::thread::sleep(pause);
                    } else {
                        pause = Duration::ZERO;
                    }
                    started = Instant::now();
                    line(Priority::Warning, format_args!("keeper: the guard has died; starting the next one"));
                    if let Err(error) = self.start_guard() {
                        // The broken link makes the next round.
                        line(Priority::Error, format_args!("keeper: cannot start a guard: {error}"));
                    }
                }
            }
        }
    }

    fn start_guard(&mut self) -> io::Result<()> {
        let env = [(OsString::from(LINK_VARIABLE), OsString::from("0"))];
        self.link = start_with(self.run_dir, &self.exe, &[], &env)?;
        self.link.send(&LinkMessage::TakeOver(self.groups.len()), None)?;
        for (key, group) in &self.groups {
            self.link.send(&LinkMessage::Group(key.clone()), Some(group.as_fd()))?;
        }
        Ok(())
    }
}
