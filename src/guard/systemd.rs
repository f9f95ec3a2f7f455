//! systemd's descriptor store, readiness and watchdog (sd_notify(3), "File Descriptor Store" of systemd's
//! documentation). Everything here is a no-op where systemd did not start the guard.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use sd_notify::NotifyState;

use super::groups::{decode, encode};
use super::log::{Priority, line};
use crate::sys::descriptors;

/// Tells systemd that the guard serves.
pub(super) fn ready() {
    complain(sd_notify::notify(&[NotifyState::Ready]));
}

/// Tells systemd's watchdog that the main thread goes on.
pub(super) fn alive() {
    if watchdog_interval().is_some() {
        complain(sd_notify::notify(&[NotifyState::Watchdog]));
    }
}

/// How often the watchdog must hear of the guard: half its time. None: it does not watch.
pub(super) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|interval| interval / 2)
}

/// Puts a group's descriptor into the store.
pub(super) fn store(generation: &str, key: &str, group: BorrowedFd<'_>) -> io::Result<()> {
    let name = name(generation, key);
    // Not polled: systemd would take an event that waits for the end of the descriptor.
    let states = [NotifyState::FdStore, NotifyState::FdName(&name), NotifyState::Custom("FDPOLL=0")];
    sd_notify::notify_with_fds(&states, &[group])
}

/// Takes a group out of the store, whichever guard of the lineage has put it there.
pub(super) fn forget(generation: &str, key: &str) {
    let (lineage, number) = generation.rsplit_once('-').unwrap_or((generation, "0"));
    for number in 0..=number.parse::<u64>().unwrap_or(0) {
        let name = name(&format!("{lineage}-{number}"), key);
        complain(sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]));
    }
}

/// Takes what the store has passed to this process. Groups that cannot be taken are logged and lost, which the
/// guard's lineage shows.
pub(super) fn take_groups() -> Vec<(String, OwnedFd)> {
    let passed = descriptors::take_from_systemd().unwrap_or_else(|error| {
        line(Priority::Error, format_args!("cannot take the descriptors of the store: {error}"));
        Vec::new()
    });
    let key_of = |name: &str| decode(name.strip_prefix("fan.")?.split_once('.')?.1);
    passed.into_iter().filter_map(|(name, descriptor)| Some((key_of(&name)?, descriptor))).collect()
}

fn name(generation: &str, key: &str) -> String {
    format!("fan.{generation}.{}", encode(key))
}

fn complain(result: io::Result<()>) {
    if let Err(error) = result {
        line(Priority::Warning, format_args!("cannot notify systemd: {error}"));
    }
}
