//! Making an image: a sparse file under a draft's name, proved blank by two methods, formatted, and named when all of it
//! is on the disk. A file that has the image's name is never formatted.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::devices;
use super::error::ImageError;
use super::note::{self, Machine, Note, Stage};
use super::site::Site;
use super::superblock::{self, Seen};
use super::tools::{BLKID, MKFS_EXT4, MKFS_XFS};
use crate::config::{Format, ImageBackend};
use crate::sys::loop_device::LoopDevice;
use crate::sys::mount::Flags;
use crate::sys::{block_fs, inode};

/// How long a program may take that makes a file system in an empty file.
const MKFS_PATIENCE: Duration = Duration::from_secs(300);
/// How long a look at a device may take.
const LOOK_PATIENCE: Duration = Duration::from_secs(60);
/// What blkid(8) says of a device with nothing on it that it knows.
const NOTHING_FOUND: i32 = 2;
/// So much of the beginning and of the end is read, beyond what the file system says of holes.
const ENDS: u64 = 1 << 20;
/// What ext4 puts into every root directory, and a database takes for somebody else's.
const LOST_AND_FOUND: &str = "lost+found";

/// Makes the image. What an agent of this machine that was killed had begun is thrown away, if its own note names it.
///
/// # Errors
/// [`ImageError`]; no file has the image's name then.
pub fn create(site: &Site, settings: &ImageBackend, machine: &Machine, tag: &str) -> Result<(), ImageError> {
    let begun = note::read(site)?.filter(|note| note.machine.is(machine));
    if let Some(Note { stage: Stage::Creating(draft), .. }) = begun {
        tracing::info!(image = %site.path().display(), draft, "what an agent that was killed had begun is thrown away");
        remove(site, OsStr::new(&draft))?;
    }
    let draft = draft_name(&site.name)?;
    let shown = draft.to_string_lossy().into_owned();
    note::claim(site, &Note::new(machine, tag, Stage::Creating(shown)), |_| Ok(()))?;
    let made = make(site, settings, &draft, tag, machine);
    if made.is_err() {
        // Its name is random and was made by this call alone.
        let _ = remove(site, &draft);
    }
    made
}

fn make(site: &Site, settings: &ImageBackend, draft: &OsStr, tag: &str, machine: &Machine) -> Result<(), ImageError> {
    let call = ImageError::call;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(site.directory.as_fd(), draft, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| call("make the image")(errno.into()))?;
    let mut file = File::from(file);
    file.set_len(settings.size).map_err(call("give the image its size"))?;
    prove_hollow(&mut file, settings.size)?;
    let device = LoopDevice::bind(file.as_fd(), 4096, false, tag).map_err(call("bind a loop device"))?;
    prove_unknown(&device)?;
    format(&device, settings)?;
    finish_root(&device, settings)?;
    let number = device.number();
    drop(device);
    devices::wait_until_let_go(number, &file)?;
    file.sync_all().map_err(call("write the image"))?;
    match read_superblock(&mut file)? {
        Seen::Known(found) if found.format == settings.format => {}
        seen => return Err(call("find the file system that was made")(io::Error::other(format!("{seen:?}")))),
    }
    // Where two asked in the same instant the note is one's by now; and there a name may be given over another's.
    let is_own =
        |note: &Note| note.machine.is(machine) && note.stage == Stage::Creating(draft.to_string_lossy().into());
    if !note::read(site)?.is_some_and(|note| is_own(&note)) || site.open()?.is_some() {
        return Err(call("name the image")(io::Error::other("another machine makes it too")));
    }
    name(site, draft).map_err(call("name the image"))?;
    site.sync().map_err(call("name the image"))?;
    tracing::info!(image = %site.path().display(), format = settings.format.name(), size = settings.size, "made an image");
    Ok(())
}

/// The first proof: this call made the file, and it holds nothing, by the file system's word and as far as it is read.
fn prove_hollow(file: &mut File, size: u64) -> Result<(), ImageError> {
    match rustix::fs::seek(&*file, rustix::fs::SeekFrom::Data(0)) {
        Err(Errno::NXIO) => {}
        // Without the notion of a hole all of a file is data: it is read.
        Ok(0) | Err(Errno::INVAL | Errno::OPNOTSUPP) => return prove_zero(file, 0, size),
        Ok(at) => return Err(ImageError::NotBlank(format!("there is data at byte {at}"))),
        Err(errno) => return Err(ImageError::call("look for data in the image")(errno.into())),
    }
    prove_zero(file, 0, ENDS.min(size))?;
    prove_zero(file, size.saturating_sub(ENDS), ENDS.min(size))
}

fn prove_zero(file: &mut File, from: u64, length: u64) -> Result<(), ImageError> {
    let failed = || ImageError::call("read the image");
    file.seek(SeekFrom::Start(from)).map_err(failed())?;
    let mut left = file.take(length);
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        match left.read(&mut buffer).map_err(failed())? {
            0 => return Ok(()),
            read if buffer[..read].iter().all(|byte| *byte == 0) => {}
            _ => return Err(ImageError::NotBlank(format!("a byte after {from} is not zero"))),
        }
    }
}

/// The second proof: a program that knows every file system, partition table and volume manager knows nothing on it.
fn prove_unknown(device: &LoopDevice) -> Result<(), ImageError> {
    let path = device.path();
    let args = [OsStr::new("-p"), OsStr::new("-o"), OsStr::new("export"), path.as_os_str()];
    let ended = BLKID.run(&args, LOOK_PATIENCE)?;
    match ended.code {
        Some(NOTHING_FOUND) => Ok(()),
        Some(0 | 8) => Err(ImageError::NotBlank(ended.said)),
        _ => Err(ImageError::Program { program: BLKID.name, said: ended.said }),
    }
}

fn format(device: &LoopDevice, settings: &ImageBackend) -> Result<(), ImageError> {
    let path = device.path();
    match settings.format {
        Format::Ext4 => {
            // Its tables are zero already, and no kernel thread needs to write them later; no block is kept for root.
            let options = |more: &str| format!("lazy_itable_init=0,lazy_journal_init=0,nodiscard{more}");
            let run = |options: String| {
                let args = ["-q", "-b", "4096", "-m", "0", "-E", &options].map(OsString::from);
                MKFS_EXT4.succeed(&[args.as_slice(), &[path.clone().into()]].concat(), MKFS_PATIENCE)
            };
            match run(options(",assume_storage_prezeroed=1")) {
                // Before e2fsprogs 1.47 it writes them.
                Err(ImageError::Program { said, .. }) if said.contains("assume_storage_prezeroed") => run(options("")),
                made => made,
            }
        }
        // Without -f: it refuses a device on which it finds anything.
        Format::Xfs => MKFS_XFS.succeed(&[OsStr::new("-q"), OsStr::new("-K"), path.as_os_str()], MKFS_PATIENCE),
    }
}

/// Owner and mode of the root directory, which is empty afterwards; in a mount that nobody else sees.
fn finish_root(device: &LoopDevice, settings: &ImageBackend) -> Result<(), ImageError> {
    let failed = || ImageError::call("finish the new file system");
    let flags = Flags { nosuid: true, nodev: true, noexec: true, read_only: false };
    let root =
        block_fs::mount_detached(settings.format.name(), &device.path(), &[], flags).map_err(ImageError::Mount)?;
    block_fs::remove_empty_at_root(root.as_fd(), OsStr::new(LOST_AND_FOUND));
    if let Some((uid, gid)) = settings.owner {
        inode::set_owner(root.as_fd(), uid, gid).map_err(|error| failed()(io::Error::other(error)))?;
    }
    inode::set_mode(root.as_fd(), settings.mode.unwrap_or(0o755)).map_err(|error| failed()(io::Error::other(error)))?;
    block_fs::sync(root.as_fd()).map_err(failed())
}

/// What the beginning of a file says.
///
/// # Errors
/// It cannot be read.
pub fn read_superblock(file: &mut File) -> Result<Seen, ImageError> {
    let failed = || ImageError::call("read the image");
    file.seek(SeekFrom::Start(0)).map_err(failed())?;
    let mut bytes = Vec::new();
    file.take(superblock::LENGTH as u64).read_to_end(&mut bytes).map_err(failed())?;
    Ok(superblock::read(&bytes))
}

/// Gives a draft the image's name, over nothing that has it.
fn name(site: &Site, draft: &OsStr) -> io::Result<()> {
    let directory = site.directory.as_fd();
    match rustix::fs::renameat_with(directory, draft, directory, &site.name, RenameFlags::NOREPLACE) {
        // Not every file system knows the flag. A link has one name only for the first of two.
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(directory, draft, directory, &site.name, AtFlags::empty())?;
            rustix::fs::unlinkat(directory, draft, AtFlags::empty())?;
            Ok(())
        }
        named => Ok(named?),
    }
}

fn remove(site: &Site, draft: &OsStr) -> Result<(), ImageError> {
    // Read from a note that others can write: one name in this directory, and a draft's.
    if !is_draft_of(draft, &site.name) {
        return Err(ImageError::call("remove a draft")(io::ErrorKind::InvalidData.into()));
    }
    match rustix::fs::unlinkat(site.directory.as_fd(), draft, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(ImageError::call("remove a draft")(errno.into())),
    }
}

fn draft_name(image: &OsStr) -> Result<OsString, ImageError> {
    let random =
        std::fs::read_to_string(Path::new("/proc/sys/kernel/random/uuid")).map_err(ImageError::call("name a draft"))?;
    let mut name = OsString::from(".");
    name.push(image);
    name.push(format!(".{}.new", &random.trim()[..random.trim().len().min(8)]));
    Ok(name)
}

fn is_draft_of(draft: &OsStr, image: &OsStr) -> bool {
    let bytes = draft.as_encoded_bytes();
    let rest = bytes.strip_prefix(b".").and_then(|rest| rest.strip_prefix(image.as_encoded_bytes()));
    let random = rest.and_then(|rest| rest.strip_prefix(b".")).and_then(|rest| rest.strip_suffix(b".new"));
    random.is_some_and(|random| !random.is_empty() && random.iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drafts_name_is_known_and_no_other_is_taken_for_one() {
        let image = OsStr::new("pg.img");
        let draft = draft_name(image).unwrap();
        assert!(is_draft_of(&draft, image) && draft != draft_name(image).unwrap());
        for other in ["pg.img", ".pg.img.new", ".pg.img.owner", ".pg.img.../x.new", ".other.img.01234567.new", ""] {
            assert!(!is_draft_of(OsStr::new(other), image), "{other}");
        }
    }

    #[test]
    fn a_file_with_a_byte_in_it_is_not_blank() {
        use std::os::unix::fs::FileExt;
        for at in [0, 5000, 3 << 20] {
            let mut file = tempfile::tempfile().unwrap();
            file.set_len(4 << 20).unwrap();
            prove_hollow(&mut file, 4 << 20).unwrap();
            file.write_all_at(b"x", at).unwrap();
            assert!(matches!(prove_hollow(&mut file, 4 << 20), Err(ImageError::NotBlank(_))), "at {at}");
        }
    }
}
