//! The kernel: mounts, paths, inodes, namespaces, processes, cgroups. The only unsafe code of the crate.
//!
//! Every function names one thing that the kernel does. Paths into directories that a job can write go
//! through [`resolve`] and are held as `O_PATH` descriptors from then on; nothing is looked up twice.
//!
//! * [`mount`] clones, flags, places and removes mounts.
//! * [`identity`] says which mount and which inode a descriptor is, without asking a server.
//! * [`table`] reads the kernel's mount table, [`own_table`] the own one for many at once; [`tree`] says what of it is
//!   visible at a path.
//! * [`namespace`] works in the mount namespaces of others; [`table_watch`] tells when a mount table changes.
//! * [`network`] runs work in the host's network namespace.
//! * [`resolve`] opens, makes and removes directories beneath a root that others may attack.
//! * [`inode`] changes a directory's own attributes (immutable, mode, owner).
//! * [`process`] identifies processes and finds who holds a clone of a mount.
//! * [`detached`] starts a program that outlives its starter; [`cgroup`] is where it lives.
//! * [`fanotify`], [`seqpacket`] and [`descriptors`] are what the guard is made of.
//! * [`removals`] tells what is removed from a directory.
//! * [`apart`] leaves the host for namespaces of its own; [`clock`] says how well the clock is kept.
//! * [`loop_device`] makes a file a block device, [`block_fs`] mounts what is on one, and [`file_lock`] locks a file.
//! * [`peer`] says who is at the other end of a unix socket.
#![allow(unsafe_code)]

pub mod apart;
pub mod block_fs;
pub mod cgroup;
pub mod clock;
pub mod descriptors;
pub mod detached;
pub mod fanotify;
pub mod file_lock;
pub mod identity;
pub mod inode;
pub mod loop_device;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod network;
pub mod own_table;
pub mod peer;
pub mod process;
pub mod removals;
pub mod resolve;
pub mod seqpacket;
pub mod table;
pub mod table_watch;
pub mod tree;
pub mod users;

use std::os::fd::{AsRawFd, BorrowedFd};

/// The path by which the kernel finds an open descriptor again. `thread-self`, since a thread may have a
/// descriptor table of its own and `/proc/self` is always the first thread's.
pub(crate) fn descriptor_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/thread-self/fd/{}", fd.as_raw_fd())
}
