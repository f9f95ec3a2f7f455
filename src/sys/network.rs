//! The host's network namespace, which the agent may not be in: a mount of a network file system talks for ever from the
//! one in which it was made.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The network namespace of the host's first process.
const HOST: &str = "/proc/1/ns/net";
/// The stack of the thread that enters it, in bytes.
const STACK: usize = 256 << 10;

/// Runs `work` in the host's network namespace: here, if the agent is in it, else on a thread of its own that enters it
/// and ends there. Programs that `work` starts are in it too. Where the agent may not look at the host's first process, it
/// is in a container that has no other network than its own, and `work` is done there.
///
/// # Errors
/// The kernel's; what `work` returns is in the inner result.
pub fn in_host_network<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    in_network(HOST, work)
}

fn in_network<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let of = |path: &str| rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino));
    match of(namespace) {
        Ok(wanted) if wanted != of("/proc/thread-self/ns/net")? => {}
        Ok(_) | Err(rustix::io::Errno::ACCESS) => return Ok(work()),
        Err(errno) => return Err(errno.into()),
    }
    let wanted = rustix::fs::open(namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("host-network".into()).stack_size(STACK);
        let running = thread.spawn_scoped(scope, || -> io::Result<T> {
            move_into_link_name_space(wanted.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        })?;
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn number(path: &str) -> u64 {
        rustix::fs::stat(path).unwrap().st_ino
    }

    #[test]
    fn work_and_its_programs_are_in_the_wanted_network_and_the_caller_stays_in_its_own() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let mut other = Command::new("unshare").args(["--net", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
        let namespace = format!("/proc/{}/ns/net", other.id());
        let own = number("/proc/thread-self/ns/net");
        // It is there as soon as unshare has become cat.
        while number(&namespace) == own {
            std::thread::yield_now();
        }
        let look = || {
            let program = Command::new("stat").args(["-Lc", "%i", "/proc/self/ns/net"]).output().unwrap().stdout;
            (number("/proc/thread-self/ns/net"), String::from_utf8(program).unwrap().trim().parse().unwrap())
        };
        let wanted = number(&namespace);
        assert_eq!(in_network(&namespace, look).unwrap(), (wanted, wanted));
        assert_eq!(number("/proc/thread-self/ns/net"), own);
        assert_eq!(in_network("/proc/thread-self/ns/net", look).unwrap(), (own, own));
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(in_network("/proc/0/ns/net", look).is_err());
    }
}
