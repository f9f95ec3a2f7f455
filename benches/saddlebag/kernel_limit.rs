//! What the kernel itself takes for a guarded binding, and what `mount --bind` takes.

use crate::rig::milliseconds;
use anyhow::Context as _;
use saddlebag::sys::fanotify::Group;
use saddlebag::sys::{identity, mount, resolve};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Mounts a directory again and again, each time at the same place.
pub struct Limit {
    group: Group,
    source: PathBuf,
    folder: PathBuf,
}

/// The samples, in milliseconds, of one turn each.
#[derive(Default)]
pub struct Samples {
    pub bare: Vec<f64>,
    pub fsync: Vec<f64>,
    pub with_fsync: Vec<f64>,
    pub util_linux: Vec<f64>,
}

const PLACE: &str = "place";

impl Limit {
    /// Binds `source` at a place in `folder`.
    pub fn new(source: &Path, folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder.join(PLACE))?;
        Ok(Self { group: Group::create()?, source: source.to_owned(), folder: folder.to_owned() })
    }

    fn bind(&self) -> anyhow::Result<()> {
        let source = resolve::open_root(&self.source)?;
        let cloned = mount::clone_detached(source.as_fd())?;
        self.group.mark_mount(cloned.as_fd())?;
        let place = resolve::open_root(&self.folder.join(PLACE))?;
        mount::place(cloned.as_fd(), place.as_fd())?;
        Ok(())
    }

    fn unbind(&self) -> anyhow::Result<()> {
        let folder = resolve::open_root(&self.folder)?;
        mount::detach(folder.as_fd(), OsStr::new(PLACE))?;
        Ok(())
    }

    /// How long the source's file system takes to say that the directory is there and answers, in milliseconds: a hook
    /// waits for that before it binds.
    pub fn time_an_answer(&self) -> anyhow::Result<f64> {
        let source = resolve::open_root(&self.source)?;
        let begun = Instant::now();
        identity::answers(source.as_fd())?;
        Ok(milliseconds(begun))
    }

    /// One sample of each, and the fsync of a new file of a page's size in `ledger`.
    pub fn take_turn(&self, ledger: &Path, samples: &mut Samples) -> anyhow::Result<()> {
        let begun = Instant::now();
        self.bind()?;
        samples.bare.push(milliseconds(begun));
        self.unbind()?;

        let begun = Instant::now();
        fsync_a_new_file(ledger)?;
        samples.fsync.push(milliseconds(begun));

        let begun = Instant::now();
        self.bind()?;
        fsync_a_new_file(ledger)?;
        samples.with_fsync.push(milliseconds(begun));
        self.unbind()?;

        let begun = Instant::now();
        let done = Command::new("mount").arg("--bind").arg(&self.source).arg(self.folder.join(PLACE)).status();
        samples.util_linux.push(milliseconds(begun));
        anyhow::ensure!(done.context("starting mount")?.success(), "mount --bind failed");
        self.unbind()
    }
}

fn fsync_a_new_file(folder: &Path) -> anyhow::Result<()> {
    // Of a name that the ledger takes for a page that never came into place, and removes.
    let path = folder.join(".bench.new");
    let mut file = File::create(&path)?;
    file.write_all(&[b'x'; 700])?;
    file.sync_all()?;
    fs::remove_file(&path)?;
    Ok(())
}
