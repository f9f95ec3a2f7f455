//! What the guard and its keeper say to each other, over a socket pair: JSON messages with descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::sys::seqpacket;

/// Set for a guard that a keeper starts: descriptor 0 is the connection to it.
pub(super) const LINK_VARIABLE: &str = "SADDLEBAG_GUARD_LINK";

/// How long the other end may take a message; it does nothing else.
const SEND_WITHIN: Duration = Duration::from_secs(2);

/// A message of either.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LinkMessage {
    /// From the keeper: so many groups of the dead guard come next, each a `Group`.
    TakeOver(usize),
    /// A group, whose descriptor comes along: to keep, or to take over.
    Group(String),
    /// From the guard: forget this group.
    Forget(String),
    /// From the guard: it ends as it was told to, and so does the keeper.
    End {},
}

/// One end of the connection.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
}

impl Link {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    pub(super) fn send(&self, message: &LinkMessage, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        seqpacket::send(self.socket.as_fd(), &text, descriptor.as_slice(), Instant::now() + SEND_WITHIN)
    }

    /// Waits for a message; None when the other end is gone.
    pub(super) fn receive(&self, until: Option<Instant>) -> io::Result<Option<(LinkMessage, Option<OwnedFd>)>> {
        let Some(message) = seqpacket::receive(self.socket.as_fd(), until)? else { return Ok(None) };
        Ok(Some((serde_json::from_slice(&message.bytes)?, message.descriptors.into_iter().next())))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
