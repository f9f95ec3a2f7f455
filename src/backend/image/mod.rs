//! An image volume's source: a file system of its own, in a file of another backend (its *parent*), by a loop device.
//!
//! * [`site`] is where the file is, [`superblock`] what its beginning says, [`note`] the word beside it on who has it.
//! * [`create`] makes one, [`check`] mends one before it is mounted, [`grow`] enlarges one while it is used.
//! * [`devices`] finds the loop devices of one, and takes away what can write through a former one.
//! * [`tools`] are the programs for all that.
//!
//! What has an image: its note on this machine, a lock of the file description that the loop device has (so both live and
//! die together), and no second loop device. A file system is never mounted from a second device before the first one can
//! write nothing any more ([`devices::disarm`]).

mod check;
mod create;
mod devices;
mod error;
mod grow;
mod lock;
mod note;
mod site;
mod superblock;
mod tools;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::ImageError;
pub use note::name_of;

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;

use self::note::{Machine, Note, Stage};
use self::site::{Opened, Site};
use self::superblock::{Seen, Superblock};
use super::mount_point::{look_at, make_private, with_parent};
use super::probe::Question;
use super::{AttachError, Attached, Backend, DetachError, Enforcement, Place, SizeError};
use crate::config::{BackendKind, Format, ImageBackend};
use crate::sys::identity::{self, Identity};
use crate::sys::loop_device::{self, LoopDevice};
use crate::sys::mount::{Flags, MountError};
use crate::sys::{block_fs, mount, resolve, table};
use crate::volume::Resolved;

/// The block size of a device whose file system takes any, in bytes: direct I/O needs what the parent's disk has.
const BLOCK_SIZE: u64 = 4096;

/// One image.
pub struct Image {
    settings: ImageBackend,
}

impl Image {
    /// A backend for that image.
    pub fn new(settings: ImageBackend) -> Self {
        Self { settings }
    }

    fn parent(&self) -> Box<dyn Backend> {
        super::of(&self.settings.parent)
    }

    /// The file, relative to the directory that is the parent's root on this host.
    fn path(&self) -> PathBuf {
        self.parent().volumes_below().join(&self.settings.path)
    }

    fn find_attached(&self, place: &Place) -> Result<Attached, ImageError> {
        let settings = &self.settings;
        let parent = place.beneath.as_ref().ok_or(ImageError::NoParent)?;
        let tag = tag_of(place);
        let may_create = settings.create && place.may_create;
        let site = Site::find(&self.path(), parent, may_create)?;
        let mut opened = site.open()?;
        let mounted = look_at_mount(place)?;
        let known = devices::find(&site.name, &tag, mounted.as_ref().and_then(|at| loop_device::number_of(at.device)))?;
        if let Some(opened) = &opened
            && let Some(device) = devices::find_present(&known, opened, &tag, &site)?
            && let Some(attached) = self.take_over(place, device, mounted.as_ref())?
        {
            warn_of(grow::grow(settings.size, opened, device, &place.mount_point, &site), &site);
            return Ok(attached);
        }
        // Whatever else is there of this source is of a former file or a former mount of the parent.
        devices::take_away(&known, &tag, place, look_at_mount(place)?.as_ref())?;
        let machine = Machine::this().map_err(ImageError::call("find out which boot this is"))?;
        let is_over = |note: &Note| devices::is_over(&known, note, &machine, &tag, &site);
        if opened.is_none() {
            if !may_create {
                return Err(ImageError::Missing(site.path()));
            }
            if let Some(note) = note::read(&site)?.filter(|note| note.machine.is(&machine)) {
                is_over(&note)?;
            }
            create::create(&site, settings, &machine, &tag)?;
            opened = site.open()?;
        }
        let mut opened = opened.ok_or_else(|| ImageError::Missing(site.path()))?;
        note::claim(&site, &Note::new(&machine, &tag, Stage::Attached), is_over)?;
        let attached = self.attach_opened(place, &site, &mut opened, &known, &tag);
        if attached.is_err() {
            // What is not attached is nobody's; a device that could not be taken away again still is ours.
            if devices::find(&site.name, &tag, None).is_ok_and(|found| devices::are_all_over(&found, &tag)) {
                let _ = note::release(&site, &machine, &tag);
            }
        }
        attached
    }

    /// An image that is attached: mounted at its place, or, where somebody has unmounted it there, mounted there again.
    /// None where it is there and cannot be used any more.
    fn take_over(
        &self,
        place: &Place,
        device: &LoopDevice,
        mounted: Option<&Identity>,
    ) -> Result<Option<Attached>, ImageError> {
        let is_here = mounted.is_some_and(|mounted| loop_device::number_of(mounted.device) == Some(device.number()));
        if mounted.is_some() && !is_here {
            return Ok(None);
        }
        if !is_here {
            self.mount(place, device)?;
        }
        if let Some(damage) = find_damage(&place.mount_point)? {
            tracing::warn!(source = %place.key, damage, "the file system in the image is attached anew");
            return Ok(None);
        }
        Ok(Some(Attached {
            root: place.mount_point.clone(),
            identity: look_at_mount(place)?.ok_or(ImageError::NoParent)?,
            pid: None,
            found: true,
            may_cross: false,
        }))
    }

    fn attach_opened(
        &self,
        place: &Place,
        site: &Site,
        opened: &mut Opened,
        known: &[devices::Known],
        tag: &str,
    ) -> Result<Attached, ImageError> {
        let settings = &self.settings;
        let lock = match self.settings.parent.kind {
            BackendKind::Seaweedfs(_) => lock::none(opened)?,
            _ => lock::take(opened, &devices::disarmed_numbers(known, tag), site)?,
        };
        let superblock = self.recognise(opened, site)?;
        // It was opened before a former device was taken away, whose last write may have made it longer.
        opened.look_again()?;
        grow::cut_stray(settings.size, &superblock, opened, site)?;
        grow::lengthen(settings.size, opened, site)?;
        // The one thing that must never be: two devices that write to one file.
        if devices::find_present(&devices::find(&site.name, tag, None)?, opened, tag, site)?.is_some() {
            return Err(ImageError::call("attach the image")(io::ErrorKind::ResourceBusy.into()));
        }
        let block_size = u32::try_from(superblock.sector_size.min(BLOCK_SIZE)).unwrap_or(512);
        let device = LoopDevice::bind(opened.file.as_fd(), block_size, DIRECT, tag)
            .map_err(ImageError::call("bind a loop device"))?;
        lock.keep(device.number()).map_err(ImageError::call("keep the image's lock"))?;
        check::check(&superblock, &device, site)?;
        grow::grow_unmounted(&superblock, opened.length, &device, site)?;
        self.mount(place, &device).map_err(|error| check::explain_mount(error, settings.format, site))?;
        let identity = look_at_mount(place)?.ok_or(ImageError::NoParent)?;
        if loop_device::number_of(identity.device) != Some(device.number()) {
            return Err(ImageError::call("mount the image: another mount is in its place")(
                io::ErrorKind::AlreadyExists.into(),
            ));
        }
        warn_of(grow::grow(settings.size, opened, &device, &place.mount_point, site), site);
        Ok(Attached { root: place.mount_point.clone(), identity, pid: None, found: false, may_cross: false })
    }

    /// The file system in an image that is not new: the one of its definition, or a refusal.
    fn recognise(&self, opened: &mut Opened, site: &Site) -> Result<Superblock, ImageError> {
        let wrong = |found: &str| ImageError::WrongFormat {
            path: site.path(),
            wanted: self.settings.format,
            found: found.to_owned(),
        };
        match create::read_superblock(&mut opened.file)? {
            Seen::Known(found) if found.format == self.settings.format => Ok(found),
            Seen::Known(found) => Err(wrong(found.format.name())),
            Seen::Relative(found) => Err(wrong(found)),
            Seen::Unknown => Err(ImageError::Unformatted(site.path())),
        }
    }

    /// Mounts it where nobody sees it, and moves it to its place.
    fn mount(&self, place: &Place, device: &LoopDevice) -> Result<(), ImageError> {
        let failed = || ImageError::call("mount the image");
        let flags = Flags { nosuid: self.settings.nosuid, nodev: self.settings.nodev, ..Flags::default() };
        let options: &[(&str, Option<&str>)] = match self.settings.format {
            // After an error nothing is written over what may be damaged; and no data is seen that was never written.
            Format::Ext4 => &[("errors", Some("remount-ro")), ("data", Some("ordered")), ("discard", None)],
            // A former mount of it, which can write nothing any more, may be with some container still, and has its UUID.
            Format::Xfs => &[("discard", None), ("nouuid", None)],
        };
        let name = self.settings.format.name();
        let detached = block_fs::mount_detached(name, &device.path(), options, flags).map_err(ImageError::Mount)?;
        let target = resolve::open_root(&place.mount_point).map_err(|error| failed()(io::Error::other(error)))?;
        mount::place(detached.as_fd(), target.as_fd()).map_err(|error| failed()(io::Error::other(error)))
    }

    /// Grows what is attached; it never shrinks.
    fn set_attached_size(&self, place: &Place, attached: &Attached, size: u64) -> Result<(), ImageError> {
        let parent = place.beneath.as_ref().ok_or(ImageError::NoParent)?;
        let site = Site::find(&self.path(), parent, false)?;
        let opened = site.open()?.ok_or_else(|| ImageError::Missing(site.path()))?;
        if size < opened.length {
            return Err(ImageError::Shrunk { path: site.path(), has: opened.length, wanted: size });
        }
        let number = loop_device::number_of(attached.identity.device).ok_or(ImageError::NoParent)?;
        let device = LoopDevice::open(number).map_err(ImageError::call("open the image's loop device"))?;
        grow::grow(size, &opened, &device, &attached.root, &site)
    }

    /// Removes the note, if the parent is there to have it removed from.
    fn let_go(&self, place: &Place) -> Result<(), ImageError> {
        let Some(parent) = &place.beneath else { return Err(ImageError::NoParent) };
        let site = match Site::find(&self.path(), parent, false) {
            Err(ImageError::Missing(_)) => return Ok(()),
            found => found?,
        };
        let machine = Machine::this().map_err(ImageError::call("find out which boot this is"))?;
        note::release(&site, &machine, &tag_of(place))
    }
}

/// Whether loop devices pass by the page cache of their files.
const DIRECT: bool = true;

impl Backend for Image {
    fn kind(&self) -> &'static str {
        "image"
    }

    fn options(&self) -> String {
        // Not its size and format: what differs in these alone is the same image. Backends that share a source have their
        // volumes below directories of their own.
        format!("{} {:?}", super::key_of(&self.settings.parent), self.path())
    }

    fn has_server(&self) -> bool {
        // Its file system may meet an error at any time, whatever it lies on.
        true
    }

    fn probe(&self, patience: Duration) -> Result<(), AttachError> {
        self.parent().probe(patience)
    }

    fn find_ailment(&self, question: &Question) -> Option<String> {
        let (root, _) = question.beneath.as_ref()?;
        let has = fs::symlink_metadata(root.join(self.path())).ok()?.len();
        let wanted = self.settings.size;
        (has != wanted).then(|| {
            let why = if has > wanted { "an image cannot be shrunk" } else { "it has not grown; see the agent's log" };
            format!("the image has {} MiB, and its definition says {} MiB: {why}", has >> 20, wanted >> 20)
        })
    }

    fn find_damage(&self, question: &Question) -> Option<String> {
        find_damage(&question.root).ok().flatten()
    }

    fn enforcement(&self, _volume: &Resolved) -> Enforcement {
        Enforcement::Enforced
    }

    /// Its file system has the size already, or grows now.
    fn set_size(
        &self,
        place: &Place,
        attached: &Attached,
        _directory: &Path,
        bytes: Option<u64>,
    ) -> Result<(), SizeError> {
        let size = self.settings.size.max(bytes.unwrap_or_default());
        self.set_attached_size(place, attached, size).map_err(|error| SizeError::Refused {
            program: "the image".to_owned(),
            hint: Some(error.advice().1),
            reason: error.to_string(),
        })
    }

    fn attach(&self, place: &Place) -> Result<Attached, AttachError> {
        make_private(&place.mount_point)?;
        self.find_attached(place).map_err(AttachError::Image)
    }

    fn detach(&self, place: &Place) -> Result<(), DetachError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source: io::Error| DetachError::Host { what, source }
        };
        match with_parent(&place.mount_point, mount::unmount) {
            Ok(()) | Err(MountError::NotAMountPoint | MountError::Missing) => {}
            Err(MountError::Busy) => return Err(DetachError::Busy),
            Err(error) => return Err(failed("unmount the image")(io::Error::other(error))),
        }
        let name = self.settings.path.file_name().unwrap_or(OsStr::new(""));
        let tag = tag_of(place);
        // The device goes with the last mount of its file system. Where it has not, a container still has one.
        let known = devices::find(name, &tag, None)
            .map_err(|error| failed("look for its loop device")(io::Error::other(error)))?;
        if !devices::are_all_over(&known, &tag) {
            return Err(DetachError::Busy);
        }
        let _ = fs::remove_dir(&place.mount_point);
        if let Err(error) = self.let_go(place) {
            tracing::warn!(source = %place.key, reason = %error, "the note that this machine has the image stays: another machine is refused until it is removed");
        }
        Ok(())
    }
}

/// An image that did not grow is of use all the same; `status` says so for as long as it is smaller than it should be.
fn warn_of(grown: Result<(), ImageError>, site: &Site) {
    if let Err(error) = grown {
        tracing::error!(image = %site.path().display(), reason = %error, "the image has not grown to the size of its definition");
    }
}

/// What a source writes on its loop devices, by which they are known.
fn tag_of(place: &Place) -> String {
    format!("saddlebag:{}", place.key)
}

/// What is mounted at the place; a mount of another kind than an image's is nobody's to take away.
fn look_at_mount(place: &Place) -> Result<Option<Identity>, ImageError> {
    let Some((_, identity)) = look_at(&place.mount_point).map_err(|error| match error {
        AttachError::Host { source, .. } => ImageError::call("look at the image's mount point")(source),
        other => ImageError::call("look at the image's mount point")(io::Error::other(other)),
    })?
    else {
        return Ok(None);
    };
    if loop_device::number_of(identity.device).is_none() {
        return Err(ImageError::Taken {
            path: place.mount_point.clone(),
            by: "something that is no image is mounted there".to_owned(),
        });
    }
    Ok(Some(identity))
}

/// Why what is mounted at a path cannot be used any more: the file system met an error and refuses writes, or was shut
/// down, or its device is empty. Asks no file system.
fn find_damage(mount_point: &Path) -> Result<Option<String>, ImageError> {
    let failed = || ImageError::call("look at the image's mount");
    let root = resolve::open_root(mount_point).map_err(|error| failed()(io::Error::other(error)))?;
    let id = identity::reusable_mount_id(root.as_fd()).map_err(failed())?;
    let entries = table::read_own().map_err(failed())?;
    let Some(entry) = entries.iter().find(|entry| entry.mount_id == id) else { return Ok(None) };
    if loop_device::is_disarmed(entry.device) {
        return Ok(Some("its loop device was taken from it".to_owned()));
    }
    // An XFS that was shut down has no word for it but this.
    let stat = rustix::fs::statx(&root, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS);
    if let Err(Errno::IO) = stat {
        return Ok(Some("its file system was shut down".to_owned()));
    }
    let options = entry.super_options.to_string_lossy();
    // Linux 6.14 and newer say emergency_ro of an ext4 that met an error; older ones make it read-only.
    let signs = [
        ("shutdown", "its file system was shut down"),
        ("emergency_ro", "its file system met an error and is read-only"),
        ("ro", "its file system met an error and is read-only"),
    ];
    let found = signs.iter().find(|(sign, _)| options.split(',').any(|option| option == *sign));
    Ok(found.map(|(_, meaning)| (*meaning).to_owned()))
}
