//! Where an image is: its directory beneath the root of the backend that it is on, and its name in it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::error::ImageError;
use crate::backend::Attached;
use crate::sys::{identity, resolve};

/// An image's place, proved to be on the mount that is its parent's now.
#[derive(Debug)]
pub struct Site {
    /// The directory, `O_PATH`.
    pub directory: OwnedFd,
    /// The image's name in it.
    pub name: OsString,
    /// The directory's path, for people.
    above: PathBuf,
}

/// An open image.
#[derive(Debug)]
pub struct Opened {
    /// Open for reading and writing.
    pub file: File,
    /// Major and minor number of its device.
    pub device: (u32, u32),
    /// Its inode number.
    pub inode: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl Opened {
    /// Takes the length that it has now.
    ///
    /// # Errors
    /// The backend's.
    pub fn look_again(&mut self) -> Result<(), ImageError> {
        self.length = self.file.metadata().map_err(ImageError::call("look at the image"))?.len();
        Ok(())
    }
}

impl Site {
    /// Finds the directory, over no symbolic link; where it may be made, it is.
    ///
    /// # Errors
    /// [`ImageError`]: the parent is another mount by now, or the directory is not there.
    pub fn find(path: &Path, parent: &Attached, may_make: bool) -> Result<Self, ImageError> {
        let failed = |error: resolve::ResolveError| {
            ImageError::call("open the image's directory")(match error {
                resolve::ResolveError::Call { source, .. } => source,
                error => io::Error::other(error),
            })
        };
        let root = resolve::open_root(&parent.root).map_err(failed)?;
        let now = identity::identify(root.as_fd()).map_err(ImageError::call("look at the backend's mount"))?;
        if now != parent.identity {
            return Err(ImageError::NoParent);
        }
        let (below, name) = (path.parent().unwrap_or(Path::new("")), path.file_name());
        let Some(name) = name else { return Err(ImageError::NotAFile(parent.root.clone())) };
        let above = parent.root.join(below);
        let directory = match resolve::open_beneath(root.as_fd(), below) {
            Ok(directory) => directory,
            Err(error) if error.is_missing() && may_make => {
                resolve::make_beneath(root.as_fd(), below, 0o755).map_err(failed)?.directory
            }
            Err(error) if error.is_missing() => return Err(ImageError::Missing(above.join(name))),
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { directory, name: name.to_owned(), above })
    }

    /// The image's path, for people.
    pub fn path(&self) -> PathBuf {
        self.above.join(&self.name)
    }

    /// Opens the image; none where there is none.
    ///
    /// # Errors
    /// [`ImageError::NotAFile`], or what the backend says.
    pub fn open(&self) -> Result<Option<Opened>, ImageError> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(self.directory.as_fd(), &self.name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return Err(ImageError::NotAFile(self.path())),
            Err(errno) => return Err(ImageError::call("open the image")(errno.into())),
        };
        let stat = rustix::fs::fstat(&file).map_err(|errno| ImageError::call("look at the image")(errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(ImageError::NotAFile(self.path()));
        }
        Ok(Some(Opened {
            file: File::from(file),
            device: (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev)),
            inode: stat.st_ino,
            length: u64::try_from(stat.st_size).unwrap_or_default(),
        }))
    }

    /// Makes the directory's entries durable, where the file system knows such a thing.
    ///
    /// # Errors
    /// The backend's.
    pub fn sync(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(self.directory.as_fd(), ".", flags, Mode::empty())?;
        match rustix::fs::fsync(&directory) {
            Ok(()) | Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}
