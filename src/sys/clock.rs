//! The host's clock.

use std::io;

/// Whether something keeps the clock in step with others (`STA_UNSYNC` of adjtimex(2) is not set).
///
/// # Errors
/// The kernel's.
pub fn is_kept() -> io::Result<bool> {
    // SAFETY: all zeroes is a valid `timex`, and with no mode set the call changes nothing.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure lives for the call and is writable.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(timex.status & libc::STA_UNSYNC == 0)
}
