//! The mount namespaces of others: finding those of a task, and working inside one.
//!
//! A container has its own clone of a mount. What becomes of the host's does not reach it, so the mount is put in where
//! it is seen: by a thread of its own that enters the container's namespace and ends there (setns(2)).
//!
//! Whoever runs in the container is hostile. `/proc` there is its own or none, any directory may become a symlink, and
//! mounts come and go. So nothing inside goes by a path of `/proc`: the walk goes mount by mount, each is compared with
//! the table by its id, and within a mount openat2(2) follows no symlink. No step enters a mount that was not meant,
//! so that no other server is ever asked.

mod death;
mod inside;
mod owner;
mod search;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;
use rustix::process::{Pid, PidfdFlags};

pub use death::{is_dead_within, is_deaths, is_unattended};
pub use inside::{NamespaceError, SwapBy};
pub use search::{Family, Search};

use super::process;

/// The inside thread's stack, in bytes.
const STACK: usize = 256 << 10;

/// A mount namespace, and a process that is in it.
///
/// It holds the process by a pidfd. A descriptor of the namespace itself would keep it, and every mount in it, alive
/// after its last process.
#[derive(Debug)]
pub struct Namespace {
    pid: i32,
    id: u64,
    process: OwnedFd,
}

impl Namespace {
    /// The namespace `id`, by its process `pid`. None: that process has ended, or is in another namespace by now.
    ///
    /// # Errors
    /// The kernel's, for want of descriptors.
    pub fn of(pid: i32, id: u64) -> io::Result<Option<Self>> {
        let Some(number) = Pid::from_raw(pid) else { return Ok(None) };
        let process = match rustix::process::pidfd_open(number, PidfdFlags::empty()) {
            Ok(process) => process,
            // A thread that leads no process has a number of its own (EINVAL), which is nobody's to hold.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let namespace = Self { pid, id, process };
        // In this order: the descriptor is of that process, and while it lives the number is nobody else's.
        let is_it = process::mount_namespace(pid).is_ok_and(|found| found == id);
        Ok((is_it && !namespace.has_ended()).then_some(namespace))
    }

    /// A process in it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The namespace's inode number; it may be used again once the namespace is gone.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether that process has ended. Others may be in the namespace still.
    pub fn has_ended(&self) -> bool {
        let mut polled = [rustix::event::PollFd::new(&self.process, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec::default();
        !matches!(rustix::event::poll(&mut polled, Some(&now)), Ok(0) | Err(_))
    }

    /// The process's pidfd.
    pub fn process(&self) -> &OwnedFd {
        &self.process
    }

    /// Runs `work` on a thread of its own inside the namespace, at its root, and waits for its end.
    /// Whether it belongs to this process's user namespace: in another one somebody else may do what root may here.
    ///
    /// # Errors
    /// The kernel's; also where its process has ended.
    pub fn is_of_own_user_namespace(&self) -> io::Result<bool> {
        // For a moment only: a descriptor of it keeps it and its mounts alive.
        let namespace = std::fs::File::open(format!("/proc/{}/ns/mnt", self.pid))?;
        let owner = owner::user_namespace_of(namespace.as_fd())?;
        let (owner, own) = (rustix::fs::fstat(&owner)?, rustix::fs::stat("/proc/self/ns/user")?);
        Ok((owner.st_dev, owner.st_ino) == (own.st_dev, own.st_ino))
    }

    fn enter<T: Send>(
        &self,
        work: impl FnOnce(&inside::Inside) -> Result<T, NamespaceError> + Send,
    ) -> Result<T, NamespaceError> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("inside".into()).stack_size(STACK);
            // The thread ends with the closure: it can never come back out of the namespace as it was.
            let running = thread.spawn_scoped(scope, || {
                let inside = self.enter_here()?;
                work(&inside)
            });
            let running = running.map_err(NamespaceError::Thread)?;
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Puts the calling thread into the namespace for good.
    fn enter_here(&self) -> Result<inside::Inside, NamespaceError> {
        let proc = inside::open_proc()?;
        let call = |call| move |errno: nix::Error| NamespaceError::Call { call, source: errno.into() };
        // setns of a mount namespace demands that root and working directory are the thread's own.
        nix::sched::unshare(CloneFlags::CLONE_FS).map_err(call("unshare"))?;
        match nix::sched::setns(self.process.as_fd(), CloneFlags::CLONE_NEWNS) {
            Ok(()) => {}
            Err(nix::Error::ESRCH) => return Err(NamespaceError::Ended),
            Err(errno) => return Err(call("setns")(errno)),
        }
        inside::Inside::new(proc, self.id)
    }
}
