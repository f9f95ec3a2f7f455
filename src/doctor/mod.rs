//! `saddlebag doctor`: is this client able to serve volumes, and if not, which command mends it?
//!
//! * [`conduct`] starts each part in a process of its own, all side by side, hears what they [`say`], and waits for none
//!   longer than its deadline. What hangs in the kernel is a process that is left behind, never doctor.
//! * [`part`] is such a process: [`host`] looks at the kernel, limits and disks; [`nomad`] at Nomad, the token's rights and
//!   the allocation root ([`allocs`]); [`units`] at systemd; [`agent`] at the agent and its guard; each backend at its own
//!   programs and servers ([`Backend::examine`](crate::backend::Backend::examine)); and [`trial`] mounts it for a moment.
//! * [`configuration`] tells what the files warn of, which takes no process.
//! * [`report`] is all of it, with the exit code.
//!
//! It harms nothing. A trial's mount is made in a mount namespace and below a file system in memory that nobody else
//! sees, and its program in a pid namespace whose end it cannot outlive: the kernel kills it there, whatever becomes of
//! doctor. All that a trial leaves on a backend for a moment is one small file of a name that nobody else has.

mod agent;
mod allocs;
pub mod conduct;
mod configuration;
mod host;
mod nomad;
pub mod part;
pub mod report;
pub mod say;
mod trial;
mod units;
