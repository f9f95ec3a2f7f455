//! The lock on an image: a range of bytes far beyond its end, of the open file description that its loop device has. It is
//! held for exactly as long as the device is bound, whatever becomes of the agent; and on NFS and GlusterFS by the whole
//! cluster. On a SeaweedFS there is none ([`none`]).
//!
//! All of the range is taken, which shows that nobody has a byte of it, and then all is given back but the byte of the
//! device's own number. So a device that was emptied ([`super::devices`]) and is still held by some container, with its
//! lock, is told from somebody else: only its own byte is taken.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use super::error::ImageError;
use super::site::{Opened, Site};
use crate::sys::file_lock::{self, Locked};

/// The first byte: beyond the end of any file that there can be.
const START: i64 = 1 << 62;
/// How many bytes there are: more than a machine has loop devices.
const LENGTH: i64 = 1 << 20;

/// A lock that is held.
#[derive(Debug)]
pub struct Lock {
    file: File,
    is_supported: bool,
}

/// Locks an image. Of `former` devices of this machine the bytes are theirs.
///
/// # Errors
/// [`ImageError::Locked`], or what the backend says.
pub fn take(opened: &Opened, former: &[u32], site: &Site) -> Result<Lock, ImageError> {
    let failed = || ImageError::call("lock the image");
    let mut is_supported = true;
    for (start, length) in ranges(former) {
        match file_lock::lock(opened.file.as_fd(), start, length).map_err(failed())? {
            Locked::Yes => {}
            Locked::Taken => {
                // What was taken before goes with the description, which may live on for a while.
                let _ = file_lock::unlock(opened.file.as_fd(), START, LENGTH);
                return Err(ImageError::Locked(site.path()));
            }
            Locked::Unsupported => is_supported = false,
        }
    }
    // A copy of the descriptor: the description, and so the lock, is the same.
    Ok(Lock { file: opened.file.try_clone().map_err(failed())?, is_supported })
}

/// No lock, for a file system that would keep it when the description is gone: `weed mount` 4.48 does, until it ends. (The
/// kernel's FUSE tells it of no owner but the closing process's table of files.) It keeps locks to itself, so that one
/// would prove nothing of another machine; of this one the loop devices tell.
///
/// # Errors
/// Where the descriptor cannot be copied.
pub fn none(opened: &Opened) -> Result<Lock, ImageError> {
    let file = opened.file.try_clone().map_err(ImageError::call("copy the image's descriptor"))?;
    Ok(Lock { file, is_supported: false })
}

impl Lock {
    /// Gives all bytes back but that of the device that was bound.
    ///
    /// # Errors
    /// What the backend says.
    pub fn keep(&self, number: u32) -> io::Result<()> {
        if !self.is_supported {
            return Ok(());
        }
        let own = byte_of(number);
        file_lock::unlock(self.file.as_fd(), START, own - START)?;
        file_lock::unlock(self.file.as_fd(), own + 1, START + LENGTH - own - 1)
    }
}

fn byte_of(number: u32) -> i64 {
    START + i64::from(number) % LENGTH
}

/// Start and length of what is to be locked: all but the bytes of `former` devices.
fn ranges(former: &[u32]) -> Vec<(i64, i64)> {
    let mut taken: Vec<i64> = former.iter().map(|number| byte_of(*number)).collect();
    taken.sort_unstable();
    let mut from = START;
    let mut ranges = Vec::new();
    for at in taken.into_iter().chain([START + LENGTH]) {
        if at > from {
            ranges.push((from, at - from));
        }
        from = at + 1;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_locked_but_those_of_former_devices() {
        assert_eq!(ranges(&[]), [(START, LENGTH)]);
        assert_eq!(ranges(&[0]), [(START + 1, LENGTH - 1)]);
        assert_eq!(ranges(&[7, 3]), [(START, 3), (START + 4, 3), (START + 8, LENGTH - 8)]);
        let last = u32::try_from(LENGTH - 1).unwrap();
        assert_eq!(ranges(&[last, last]), [(START, LENGTH - 1)]);
    }
}
