//! The note beside an image on who has it attached: `.NAME.owner`, in the image's own directory, so that every client of
//! the backend sees it. It is written before the image is touched, and removed after it was let go.
//!
//! Of a note that names this machine the machine itself knows better: what an earlier boot had attached is attached no
//! more, and what this boot has is a loop device. A note of another machine is believed until somebody removes it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::SystemTime;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::ImageError;
use super::site::Site;

/// The form of a note.
const FORM: u32 = 1;
/// A note is far smaller.
const LONGEST: u64 = 16 << 10;
/// How often a note that comes and goes is looked at again.
const ATTEMPTS: usize = 8;

/// A machine, and one run of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// machine-id(5), with the hardware's own id where it has one: machines that were copied have different ones.
    pub id: String,
    /// The host's name.
    pub host: String,
    /// The boot's id (random(4)).
    pub boot: String,
}

impl Machine {
    /// This one.
    ///
    /// # Errors
    /// The kernel does not say which boot it is.
    pub fn this() -> io::Result<Self> {
        let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned());
        let ids = ["/etc/machine-id", "/sys/class/dmi/id/product_uuid"].map(|path| read(path).unwrap_or_default());
        Ok(Self {
            id: ids.join(" ").trim().to_owned(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            boot: read("/proc/sys/kernel/random/boot_id")?,
        })
    }

    /// Whether it is the same machine, in this boot or another. One without an id is known by nothing but its boot.
    pub fn is(&self, other: &Self) -> bool {
        self.boot == other.boot || !self.id.is_empty() && self.id == other.id && self.host == other.host
    }
}

/// What whoever wrote a note is at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Making the image: under this name, until it is whole.
    Creating(String),
    /// It is attached, or about to be.
    Attached,
}

/// A note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    form: u32,
    /// Who wrote it.
    #[serde(flatten)]
    pub machine: Machine,
    /// The source that the image is on that machine.
    pub source: String,
    /// How far it is.
    pub stage: Stage,
    /// When it was written, in seconds since the epoch; for people.
    since: u64,
}

impl Note {
    /// This machine's.
    pub fn new(machine: &Machine, source: &str, stage: Stage) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { form: FORM, machine: machine.clone(), source: source.to_owned(), stage, since }
    }
}

/// Reads what a note says. Pure.
fn parse(text: &[u8]) -> Result<Note, String> {
    let note: Note = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if note.form == FORM {
        Ok(note)
    } else {
        Err(format!("it has form {}, which this version does not know", note.form))
    }
}

/// The note's name.
pub fn name_of(image: &OsStr) -> OsString {
    let mut name = OsString::from(".");
    name.push(image);
    name.push(".owner");
    name
}

/// The note beside an image; none where there is none.
///
/// # Errors
/// [`ImageError`]: it cannot be read.
pub fn read(site: &Site) -> Result<Option<Note>, ImageError> {
    let name = name_of(&site.name);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(site.directory.as_fd(), &name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(ImageError::call("open the note on who has the image")(errno.into())),
    };
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).map_err(ImageError::call("read the note on who has the image"))?;
    parse(&text).map(Some).map_err(|reason| ImageError::BadNote { note: path_of(site), reason })
}

/// Writes the note for this machine, unless another has the image. `may_replace` says of this machine's own note whether
/// what it speaks of is over.
///
/// # Errors
/// [`ImageError::Owned`], or that it cannot be written.
pub fn claim(
    site: &Site,
    note: &Note,
    may_replace: impl Fn(&Note) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let failed = || ImageError::call("write the note on who has the image");
    let name = name_of(&site.name);
    for _ in 0..ATTEMPTS {
        let found = read(site)?;
        if let Some(found) = &found {
            if !found.machine.is(&note.machine) {
                return Err(ImageError::Owned {
                    path: site.path(),
                    host: found.machine.host.clone(),
                    note: path_of(site),
                });
            }
            may_replace(found)?;
        }
        let draft = write_draft(site, note).map_err(failed())?;
        let directory = site.directory.as_fd();
        let placed = if found.is_some() {
            rustix::fs::renameat(directory, &draft, directory, &name)
        } else {
            // Only one of several gets the name, and whoever reads it reads it whole.
            let linked = rustix::fs::linkat(directory, &draft, directory, &name, AtFlags::empty());
            let _ = rustix::fs::unlinkat(directory, &draft, AtFlags::empty());
            linked
        };
        match placed {
            Ok(()) => return site.sync().map_err(failed()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed()(errno.into())),
        }
    }
    Err(failed()(io::ErrorKind::ResourceBusy.into()))
}

/// Removes this machine's note on that source; any other stays.
///
/// # Errors
/// It cannot be removed.
pub fn release(site: &Site, machine: &Machine, source: &str) -> Result<(), ImageError> {
    match read(site)? {
        Some(note) if note.machine.is(machine) && note.source == source => {
            let removed = rustix::fs::unlinkat(site.directory.as_fd(), name_of(&site.name), AtFlags::empty());
            match removed {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(ImageError::call("remove the note on who has the image")(errno.into())),
            }
        }
        _ => Ok(()),
    }
}

fn write_draft(site: &Site, note: &Note) -> io::Result<OsString> {
    // One name for each machine: what an agent that was killed left behind is removed by its next. It may be the note
    // itself by a second name, so it is never written to.
    let mut name = name_of(&site.name);
    name.push(format!(".{:08x}", crate::backend::fnv1a(note.machine.id.as_bytes()) >> 32));
    match rustix::fs::unlinkat(site.directory.as_fd(), &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file: OwnedFd = rustix::fs::openat(site.directory.as_fd(), &name, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(file);
    file.write_all(&serde_json::to_vec_pretty(note)?)?;
    file.sync_all()?;
    Ok(name)
}

fn path_of(site: &Site) -> PathBuf {
    site.path().with_file_name(name_of(&site.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(id: &str, host: &str, boot: &str) -> Machine {
        Machine { id: id.to_owned(), host: host.to_owned(), boot: boot.to_owned() }
    }

    #[test]
    fn a_machine_is_known_over_a_reboot_and_a_copy_under_another_name_is_not() {
        let this = machine("m1", "alpha", "b1");
        assert!(this.is(&machine("m1", "alpha", "b2")));
        assert!(!this.is(&machine("m1", "beta", "b2")) && !this.is(&machine("m2", "alpha", "b2")));
        // Without an id nothing but the boot tells.
        assert!(machine("", "alpha", "b1").is(&machine("", "alpha", "b1")));
        assert!(!machine("", "alpha", "b1").is(&machine("", "alpha", "b2")));
    }

    #[test]
    fn a_note_is_read_as_it_was_written_and_nothing_else_is_taken_for_one() {
        let note = Note::new(&machine("m1", "alpha", "b1"), "image-1", Stage::Creating(".x.new".to_owned()));
        let text = serde_json::to_vec(&note).unwrap();
        assert_eq!(parse(&text), Ok(note));
        assert!(parse(&text[..text.len() - 1]).is_err() && parse(b"").is_err());
        let later = String::from_utf8(text).unwrap().replace("\"form\":1", "\"form\":2");
        assert!(parse(later.as_bytes()).unwrap_err().contains("form 2"));
    }
}
