//! Asking the agent, within a deadline, and taking silence for an answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::question::{ANSWER_WITHIN, Answer, AnswerLine, QUESTIONS_SOCKET, Question};
use crate::sys::identity::Identity;

/// The longest answer, in bytes.
const LONGEST: u64 = 4096;

/// Describes an opened directory without asking its file system anything.
pub(super) fn question(object: BorrowedFd<'_>, pid: i32, identity: Identity) -> Question {
    let link = std::fs::read_link(format!("/proc/thread-self/fd/{}", object.as_raw_fd())).unwrap_or_default();
    let path = PathBuf::from(link.to_string_lossy().into_owned());
    Question { mount_id: identity.mount_id, device: identity.device, path, pid }
}

/// Asks the agent. None: no agent listens, it is too busy, too slow, or not understood.
pub(super) fn ask(run_dir: &Path, question: &Question) -> Option<Answer> {
    let until = Instant::now() + ANSWER_WITHIN;
    // Not blocking, since connecting to a stopped agent whose queue is full would wait for ever.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(run_dir.join(QUESTIONS_SOCKET)).ok()?).ok()?;
    let mut stream = UnixStream::from(socket);
    stream.set_nonblocking(false).ok()?;
    stream.set_write_timeout(Some(ANSWER_WITHIN)).ok()?;
    let mut text = serde_json::to_vec(question).ok()?;
    text.push(b'\n');
    stream.write_all(&text).ok()?;
    let mut reader = BufReader::with_capacity(512, Deadline { stream, until }.take(LONGEST));
    let mut answer = Vec::new();
    reader.read_until(b'\n', &mut answer).ok()?;
    serde_json::from_slice::<AnswerLine>(&answer).ok().map(|line| line.answer)
}

/// A stream all of whose reads together end at one time.
struct Deadline {
    stream: UnixStream,
    until: Instant,
}

impl Read for Deadline {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}
