//! Programs that outlive their starter, and the cgroups that they live in.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::Signal;
use saddlebag::sys::cgroup::{self, CgroupError};
use saddlebag::sys::detached::Detached;
use saddlebag::sys::{peer, process};

use crate::scene::{signal, wait_until};

#[test]
fn a_detached_program_gets_nothing_of_its_starter_and_is_not_its_child() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let log = directory.path().join("log");
    let script = "echo env:$(/usr/bin/env | /bin/grep -c -v -E '^(PWD|SHLVL|_)='); umask; pwd; exec /bin/sleep 60";
    let args = [OsString::from("-c"), OsString::from(script)];
    let env = [(OsString::from("ONLY"), OsString::from("this"))];
    let held = std::fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&held, rustix::io::FdFlags::empty()).unwrap();
    let pid =
        Detached { program: Path::new("/bin/sh"), args: &args, env: &env, log: &log, cgroup: None }.spawn().unwrap();
    let number = i32::try_from(pid).unwrap();
    wait_until("the program itself", || process::exe_name(number).is_ok_and(|name| name == "sleep"));
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "env:1\n0022\n/\n");
    assert_eq!(std::fs::metadata(&log).unwrap().mode() & 0o777, 0o600);
    // The program's own loader may have a library open for a moment more.
    wait_until("no descriptor but the three", || {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let mut names: Vec<_> = descriptors.map(|descriptor| descriptor.unwrap().file_name()).collect();
        names.sort();
        names == ["0", "1", "2"]
    });
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
    assert_ne!(parent, std::process::id().to_string());
    assert!(status.lines().any(|line| line == "SigBlk:\t0000000000000000"));
    assert!(status.lines().any(|line| line == "SigIgn:\t0000000000000000"), "{status}");
    let parent_session = session_of("self");
    assert_ne!(session_of(&pid.to_string()), parent_session);
    signal(pid, Signal::SIGKILL);
    wait_until("its end", || process::exe_name(number).is_err());
}

/// The session of a process as the kernel writes it: 0 where its leader is outside this pid namespace, as it is for
/// tests that a container's manager starts.
fn session_of(process: &str) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, after_name) = stat.rsplit_once(") ").unwrap();
    after_name.split(' ').nth(3).unwrap().parse().unwrap()
}

#[test]
fn a_program_that_cannot_be_executed_is_an_error() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let log = directory.path().join("log");
    let program = directory.path().join("missing");
    let error = Detached { program: &program, args: &[], env: &[], log: &log, cgroup: None }.spawn().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn a_program_lives_in_its_cgroup_with_its_limit() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let log = directory.path().join("log");
    let name = format!("test-{}", std::process::id());
    let paths = cgroup::create(&name, Some(64 << 20)).unwrap();
    assert_eq!(cgroup::create(&name, Some(32 << 20)).unwrap(), paths);
    let limits = ["memory.limit_in_bytes", "memory.max"].iter();
    let limit = limits
        .flat_map(|file| paths.directories.iter().map(move |directory| directory.join(file)))
        .find_map(|file| std::fs::read_to_string(file).ok());
    assert_eq!(limit.unwrap().trim(), (32 << 20).to_string());
    let args = [OsString::from("60")];
    let program = Path::new("/bin/sleep");
    let pid = Detached { program, args: &args, env: &[], log: &log, cgroup: Some(&paths) }.spawn().unwrap();
    for directory in &paths.directories {
        let processes = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap();
        assert_eq!(processes.trim(), pid.to_string());
    }
    assert!(cgroup::memory_of(&name).unwrap().is_some());
    assert!(matches!(cgroup::remove(&name), Err(CgroupError::Busy(_))));
    signal(pid, Signal::SIGKILL);
    wait_until("the empty cgroup", || cgroup::remove(&name).unwrap_or(false));
    assert!(!cgroup::remove(&name).unwrap());
    assert_eq!(cgroup::memory_of(&name).unwrap(), None);
}

#[test]
fn a_peer_is_known_by_its_groups() {
    use std::os::fd::AsFd;
    let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let peer = peer::read_peer(one.as_fd()).unwrap();
    assert!(peer.is_root() && peer.is_in_group(0) && !peer.is_in_group(4_000_000));
    assert_eq!(u32::try_from(peer.pid).unwrap(), std::process::id());
}
