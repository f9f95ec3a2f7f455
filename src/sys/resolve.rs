//! Directories beneath a root in which others may plant anything: symlinks, mounts, renames in mid-walk.
//!
//! A task owns its directories and can change them while the agent walks through them. All resolution is
//! openat2(2) with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS, so the kernel itself refuses
//! every way out, and what it returns is an `O_PATH` descriptor that later steps use instead of a path.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How often a walk that raced with a rename (EAGAIN of openat2) or with a removal is begun again.
const ATTEMPTS: usize = 32;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Why a path was not resolved. The path in each variant leads to the offending component and ends in it.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// A component is a symbolic link.
    #[error("{0} is a symbolic link")]
    Symlink(PathBuf),
    /// The path is absolute or has a `..`, or a component was moved out of the root meanwhile.
    #[error("{0} leads out of the directory that it must stay in")]
    LeavesRoot(PathBuf),
    /// A component is there and is not a directory.
    #[error("{0} is not a directory")]
    NotADirectory(PathBuf),
    /// A component is a mount point, where the walk must stay on one mount.
    #[error("{0} is a mount point")]
    CrossesMount(PathBuf),
    /// A component does not exist.
    #[error("{0} does not exist")]
    Missing(PathBuf),
    /// The directory to remove has entries.
    #[error("{0} is not empty")]
    NotEmpty(PathBuf),
    /// The directory to remove is a mount point.
    #[error("{0} is in use as a mount point")]
    Busy(PathBuf),
    /// Any other refusal of the kernel.
    #[error("{call} of {path} failed")]
    Call {
        /// The system call.
        call: &'static str,
        /// The component that it failed at.
        path: PathBuf,
        /// The kernel's errno.
        #[source]
        source: io::Error,
    },
}

impl ResolveError {
    /// Whether the path, or a directory on the way to it, is just not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing(_))
    }
}

/// What [`make_beneath`] did.
#[derive(Debug)]
pub struct Made {
    /// The last directory of the path, `O_PATH`.
    pub directory: OwnedFd,
    /// The directories that this call made, relative to the root, outermost first.
    pub created: Vec<PathBuf>,
}

/// Opens a directory by a path that the host's administrator wrote (symlinks are followed) as `O_PATH`.
pub fn open_root(path: &Path) -> Result<OwnedFd, ResolveError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => ResolveError::Missing(path.to_owned()),
        Errno::NOTDIR => ResolveError::NotADirectory(path.to_owned()),
        Errno::LOOP => ResolveError::Symlink(path.to_owned()),
        other => call("open", path, other),
    })
}

/// Opens the directory `path` beneath `root` as `O_PATH`. The path may lead over mount points; an empty path is
/// the root itself.
pub fn open_beneath(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, ResolveError> {
    open_with(root, path, BENEATH)
}

/// As [`open_beneath`], of whatever is there that is no symbolic link: a directory, a file, a socket.
pub fn open_any_beneath(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, ResolveError> {
    let names: PathBuf = components(path)?.iter().collect();
    let name = if names.as_os_str().is_empty() { OsStr::new(".") } else { names.as_os_str() };
    // Without O_NOFOLLOW: with it and O_PATH the kernel opens a symbolic link at the end itself.
    let kind = OFlags::PATH | OFlags::CLOEXEC;
    open_kind(root, name, kind, BENEATH).map_err(|errno| match errno {
        Errno::LOOP => ResolveError::Symlink(path.to_owned()),
        Errno::XDEV => ResolveError::LeavesRoot(path.to_owned()),
        Errno::NOTDIR => ResolveError::NotADirectory(path.to_owned()),
        Errno::NOENT => ResolveError::Missing(path.to_owned()),
        other => call("openat2", path, other),
    })
}

/// As [`open_beneath`], but every component, the last included, lies on the root's own mount.
pub fn open_beneath_on_one_mount(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, ResolveError> {
    open_with(root, path, BENEATH | ResolveFlags::NO_XDEV)
}

/// Makes the directory `path` beneath `root` with every parent that is missing, on the root's own mount. What
/// exists must be a real directory. `mode` is lessened by the caller's umask, as mkdir(2) says. When it fails,
/// what this call had made is removed again.
pub fn make_beneath(root: BorrowedFd<'_>, path: &Path, mode: u32) -> Result<Made, ResolveError> {
    let mut made: Vec<(OwnedFd, OsString, PathBuf)> = Vec::new();
    match make_each(root, path, mode, &mut made) {
        Ok(directory) => Ok(Made { directory, created: made.into_iter().map(|(_, _, path)| path).collect() }),
        Err(error) => {
            for (parent, name, _) in made.iter().rev() {
                // The first error is what the caller must know; a directory that someone filled stays.
                let _ = rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
            }
            Err(error)
        }
    }
}

/// Removes the one empty directory `path` beneath `root`. False: there is none.
pub fn remove_empty(root: BorrowedFd<'_>, path: &Path) -> Result<bool, ResolveError> {
    let names = components(path)?;
    let Some((last, parents)) = names.split_last() else {
        return Err(ResolveError::LeavesRoot(path.to_owned()));
    };
    let parent = match open_with(root, &parents.iter().collect::<PathBuf>(), BENEATH) {
        Ok(parent) => parent,
        Err(ResolveError::Missing(_)) => return Ok(false),
        Err(error) => return Err(error),
    };
    match rustix::fs::unlinkat(&parent, *last, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Err(ResolveError::NotEmpty(path.to_owned())),
        Err(Errno::BUSY) => Err(ResolveError::Busy(path.to_owned())),
        Err(Errno::NOTDIR) => Err(explain(parent.as_fd(), last, path, BENEATH, Errno::NOTDIR)),
        Err(other) => Err(call("unlinkat", path, other)),
    }
}

fn make_each(
    root: BorrowedFd<'_>,
    path: &Path,
    mode: u32,
    made: &mut Vec<(OwnedFd, OsString, PathBuf)>,
) -> Result<OwnedFd, ResolveError> {
    let resolve = BENEATH | ResolveFlags::NO_XDEV;
    let mut directory = open_one(root, OsStr::new("."), resolve).map_err(|errno| call("openat2", path, errno))?;
    let mut walked = PathBuf::new();
    for name in components(path)? {
        walked.push(name);
        let mut created = false;
        let mut attempt = 0;
        let next = loop {
            attempt += 1;
            match open_one(directory.as_fd(), name, resolve) {
                Ok(next) => break next,
                Err(Errno::NOENT) if attempt < ATTEMPTS => {}
                Err(errno) => return Err(explain(directory.as_fd(), name, &walked, resolve, errno)),
            }
            match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(mode)) {
                Ok(()) => created = true,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(call("mkdirat", &walked, errno)),
            }
        };
        let parent = std::mem::replace(&mut directory, next);
        if created {
            made.push((parent, name.to_owned(), walked.clone()));
        }
    }
    Ok(directory)
}

/// The plain names of a relative path; anything else leads out.
fn components(path: &Path) -> Result<Vec<&OsStr>, ResolveError> {
    let mut walked = PathBuf::new();
    let mut names = Vec::new();
    for component in path.components() {
        walked.push(component);
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(ResolveError::LeavesRoot(walked));
            }
        }
    }
    Ok(names)
}

fn open_with(root: BorrowedFd<'_>, path: &Path, resolve: ResolveFlags) -> Result<OwnedFd, ResolveError> {
    let names = components(path)?;
    if names.is_empty() {
        return open_one(root, OsStr::new("."), resolve).map_err(|errno| call("openat2", Path::new("."), errno));
    }
    let plain: PathBuf = names.iter().collect();
    let errno = match open_one(root, plain.as_os_str(), resolve) {
        Ok(directory) => return Ok(directory),
        Err(errno) => errno,
    };
    // The kernel does not say which component it refused: walk again, only to name it.
    let mut walked = PathBuf::new();
    let mut held: Option<OwnedFd> = None;
    for name in names {
        walked.push(name);
        let parent = held.as_ref().map_or(root, |held| held.as_fd());
        match open_one(parent, name, resolve) {
            Ok(next) => held = Some(next),
            Err(errno) => return Err(explain(parent, name, &walked, resolve, errno)),
        }
    }
    // By now it would open, but not while it counted.
    Err(match errno {
        Errno::LOOP => ResolveError::Symlink(plain),
        Errno::XDEV => ResolveError::LeavesRoot(plain),
        Errno::NOTDIR => ResolveError::NotADirectory(plain),
        Errno::NOENT => ResolveError::Missing(plain),
        other => call("openat2", &plain, other),
    })
}

fn open_one(parent: BorrowedFd<'_>, path: &OsStr, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    open_kind(parent, path, DIRECTORY, resolve)
}

fn open_kind(parent: BorrowedFd<'_>, path: &OsStr, kind: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match rustix::fs::openat2(parent, path, kind, Mode::empty(), resolve) {
            // A rename somewhere on the system raced with the walk and the kernel cannot vouch for it.
            Err(Errno::AGAIN | Errno::INTR) if attempt < ATTEMPTS => {}
            answer => return answer,
        }
    }
}

/// Turns the errno of opening `name` in `parent` into what is wrong with it.
fn explain(parent: BorrowedFd<'_>, name: &OsStr, walked: &Path, resolve: ResolveFlags, errno: Errno) -> ResolveError {
    let walked = walked.to_owned();
    let crosses = resolve.contains(ResolveFlags::NO_XDEV)
        && matches!(open_one(parent, name, resolve - ResolveFlags::NO_XDEV), Ok(_) | Err(Errno::LOOP));
    // Of what the kernel knows: a mount may be there whose server does not answer.
    let is_symlink = || {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        rustix::fs::statx(parent, name, flags, rustix::fs::StatxFlags::TYPE).is_ok_and(|stat| {
            rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()) == rustix::fs::FileType::Symlink
        })
    };
    match errno {
        Errno::LOOP => ResolveError::Symlink(walked),
        Errno::NOTDIR if is_symlink() => ResolveError::Symlink(walked),
        Errno::NOTDIR => ResolveError::NotADirectory(walked),
        Errno::NOENT => ResolveError::Missing(walked),
        Errno::XDEV if crosses => ResolveError::CrossesMount(walked),
        Errno::XDEV => ResolveError::LeavesRoot(walked),
        other => call("openat2", &walked, other),
    }
}

fn call(call: &'static str, path: &Path, errno: Errno) -> ResolveError {
    ResolveError::Call { call, path: path.to_owned(), source: errno.into() }
}
