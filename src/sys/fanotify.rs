//! Permission events of whole mounts: fanotify(7), as far as the guard needs it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::descriptor_path;

/// A group of marks: its events queue in the kernel for as long as any descriptor of it is open anywhere.
#[derive(Debug)]
pub struct Group {
    fd: OwnedFd,
}

/// Someone opens something and waits for the answer.
#[derive(Debug)]
pub struct Event {
    /// What is opened.
    pub object: OwnedFd,
    /// The process that opens it; 0 where it is outside the caller's pid namespace.
    pub pid: i32,
}

/// The answer to an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The open goes on.
    Allow,
    /// The open fails with EPERM.
    Deny,
}

impl Group {
    /// Makes a group. Events' descriptors are opened with O_NONBLOCK, since opening a pipe for reading would
    /// otherwise wait for a writer.
    ///
    /// Errors: `EMFILE` over `fs.fanotify.max_user_groups`.
    pub fn create() -> io::Result<Self> {
        let flags = libc::FAN_CLASS_CONTENT
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_UNLIMITED_QUEUE
            | libc::FAN_UNLIMITED_MARKS;
        let event_flags = libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::fanotify_init(flags, event_flags.cast_unsigned()) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and owned by nobody else.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// A group whose descriptor another process had.
    pub fn from_descriptor(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Marks the mount that `mount` lies in, attached or not: every open below it asks the group, directories
    /// included; opens by `O_PATH` do not. Marking it twice is harmless.
    ///
    /// **May hang** where the file system checks with its server whether its root is still the same (NFS does).
    pub fn mark_mount(&self, mount: BorrowedFd<'_>) -> io::Result<()> {
        let path = std::ffi::CString::new(descriptor_path(mount))?;
        // SAFETY: the path is a valid C string that lives for the call.
        let answer = unsafe {
            libc::fanotify_mark(
                self.fd.as_raw_fd(),
                libc::FAN_MARK_ADD | libc::FAN_MARK_MOUNT,
                libc::FAN_OPEN_PERM | libc::FAN_ONDIR,
                libc::AT_FDCWD,
                path.as_ptr(),
            )
        };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Reads one event, or None when there is none. One at a time: an event that is read is opened by the kernel,
    /// and must not wait for the next one's open to come back.
    ///
    /// **May hang** in the file system's server. Errors: the kernel could not open the object (it has denied the
    /// open then), or the group is broken.
    pub fn read(&self) -> io::Result<Option<Event>> {
        let mut metadata = std::mem::MaybeUninit::<libc::fanotify_event_metadata>::uninit();
        let size = size_of::<libc::fanotify_event_metadata>();
        // SAFETY: the buffer is writable for `size` bytes.
        let length = unsafe { libc::read(self.fd.as_raw_fd(), metadata.as_mut_ptr().cast(), size) };
        if length < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        }
        if length.cast_unsigned() != size {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an event of an unexpected length"));
        }
        // SAFETY: the kernel has filled the whole structure, and every bit pattern of it is valid.
        let metadata = unsafe { metadata.assume_init() };
        if metadata.vers != libc::FANOTIFY_METADATA_VERSION {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an event of an unknown version"));
        }
        if metadata.fd < 0 {
            return Ok(None);
        }
        // SAFETY: the kernel made it for this event, and nobody else owns it.
        let object = unsafe { OwnedFd::from_raw_fd(metadata.fd) };
        Ok(Some(Event { object, pid: metadata.pid }))
    }

    /// Answers an event. To be said while the event's object is open.
    pub fn answer(&self, event: &Event, verdict: Verdict) -> io::Result<()> {
        self.answer_number(event.object.as_raw_fd(), verdict)
    }

    /// Denies what another process read under this descriptor number and did not answer. False: there is no such
    /// event. The kernel knows a read event by the number alone.
    pub fn deny_number(&self, number: RawFd) -> io::Result<bool> {
        match self.answer_number(number, Verdict::Deny) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn answer_number(&self, number: RawFd, verdict: Verdict) -> io::Result<()> {
        let response = match verdict {
            Verdict::Allow => libc::FAN_ALLOW,
            Verdict::Deny => libc::FAN_DENY,
        };
        let response = libc::fanotify_response { fd: number, response };
        let size = size_of::<libc::fanotify_response>();
        // SAFETY: the structure is readable for `size` bytes.
        let length = unsafe { libc::write(self.fd.as_raw_fd(), (&raw const response).cast(), size) };
        if length < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Group> for OwnedFd {
    fn from(group: Group) -> Self {
        group.fd
    }
}
