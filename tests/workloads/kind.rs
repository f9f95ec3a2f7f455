//! The kinds of volume that a database may be given. A further one is a function here, and a word in `main.rs`.

use crate::support::{PATIENCE, World, tool};
use anyhow::Context as _;
use rustix::process::Pid;
use std::path::PathBuf;
use std::process::Command;

/// What the largest of the databases needs (Prometheus makes room for whole segments ahead); the file is sparse.
const IMAGE_SIZE: &str = "1GiB";

/// A kind of volume.
#[derive(Clone, Copy)]
pub struct Kind {
    /// How figures and failures call it.
    pub name: &'static str,
    /// The blocks of its backend `data`.
    backend: fn(&World) -> anyhow::Result<String>,
    /// The file system that its volume is an image of.
    format: Option<&'static str>,
}

impl Kind {
    /// The agent's configuration: the volume `data` of this kind, empty, and `notes`, which is always a directory of the
    /// host. Both belong to `nobody`. The binding of `data` has the flags of its source and no others.
    ///
    /// # Errors
    /// Where a program of the backend is not there.
    pub fn configuration(&self, world: &World) -> anyhow::Result<String> {
        let backend = (self.backend)(world)?;
        let volume = self.format.map(|format| format!("  format = \"{format}\"\n  size = \"{IMAGE_SIZE}\"\n"));
        let volume = volume.unwrap_or_default();
        let notes = world.directory().join("notes");
        std::fs::create_dir_all(&notes)?;
        Ok(format!(
            "{backend}\nbackend \"host\" \"outside\" {{\n  path = \"{}\"\n}}\n\
             volume \"data\" {{\n  backend = \"data\"\n  path = \"{}\"\n  create = true\n  \
             owner = \"65534:65534\"\n  mode = \"0755\"\n  access_mode = \"single-node-writer\"\n  \
             nosuid = false\n  nodev = false\n{volume}}}\n\
             volume \"notes\" {{\n  backend = \"outside\"\n  path = \"notes\"\n  create = true\n  \
             owner = \"65534:65534\"\n}}\n",
            notes.display(),
            place(world)?
        ))
    }

    /// Where the files of `data` are in the file system that the agent has mounted, or uses, for it.
    ///
    /// # Errors
    /// Where the agent does not say.
    pub fn directory(&self, world: &World) -> anyhow::Result<PathBuf> {
        if self.format.is_some() {
            let mounted = source(world, "data~data")?;
            return Ok(PathBuf::from(mounted["mount_point"].as_str().context("an image that is mounted")?));
        }
        self.place_on_backend(world)
    }

    fn place_on_backend(&self, world: &World) -> anyhow::Result<PathBuf> {
        let source = source(world, "data")?;
        let mount = source["mount_point"].as_str().map_or_else(|| world.directory().join("disk"), PathBuf::from);
        Ok(mount.join(place(world)?))
    }

    /// The program that has mounted the source that `data` lies on.
    ///
    /// # Errors
    /// Where there is none.
    pub fn mount_program(&self, world: &World) -> anyhow::Result<Pid> {
        let pid = source(world, "data")?["pid"].as_i64();
        let pid = pid.with_context(|| format!("{} has no mount program", self.name))?;
        Pid::from_raw(i32::try_from(pid)?).context("a pid")
    }

    /// What is proved of the volume when nothing uses it any more: a file system in an image is let go, and clean.
    ///
    /// # Errors
    /// Where it is not.
    pub fn assert_clean(&self, world: &World) -> anyhow::Result<()> {
        if self.format.is_none() {
            return Ok(());
        }
        let file = self.place_on_backend(world)?;
        let name = file.file_name().and_then(|name| name.to_str()).context("a name")?;
        let note = file.with_file_name(format!(".{name}.owner"));
        world.wait_until("an image that is let go", PATIENCE, || Ok((!note.try_exists()?).then_some(())))?;
        let done = Command::new(tool("e2fsck").context("no e2fsck")?).args(["-f", "-n"]).arg(&file).output()?;
        let said = String::from_utf8_lossy(&done.stdout);
        anyhow::ensure!(done.status.success(), "e2fsck of {}: {}\n{said}", self.name, done.status);
        Ok(())
    }
}

/// What the agent says of that source.
fn source(world: &World, name: &str) -> anyhow::Result<serde_json::Value> {
    let status: serde_json::Value = serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?;
    let mut sources = status["sources"].as_array().context("status lists sources")?.iter();
    Ok(sources.find(|source| source["name"] == name).with_context(|| format!("{status:#}"))?.clone())
}

/// The directory of `data` in its backend. A filer is shared by all worlds.
fn place(world: &World) -> anyhow::Result<String> {
    let unique = world.directory().file_name().and_then(|name| name.to_str()).context("a name")?;
    Ok(format!("workloads-{unique}"))
}

/// A directory of the host: what the others are measured against.
pub fn host() -> Kind {
    Kind { name: "host", backend: host_backend, format: None }
}

/// A directory of a SeaweedFS, with the options that `docs/backends/databases.md` recommends for databases.
pub fn seaweedfs() -> Kind {
    Kind { name: "seaweedfs", backend: seaweedfs_backend, format: None }
}

/// A directory of a Gluster volume with one brick, by its own defaults.
pub fn gluster() -> Kind {
    Kind { name: "gluster", backend: gluster_backend, format: None }
}

/// A file system of its own in a file on the same SeaweedFS.
pub fn image() -> Kind {
    Kind { name: "image", backend: seaweedfs_backend, format: Some("ext4") }
}

fn gluster_backend(world: &World) -> anyhow::Result<String> {
    let gluster = world.start_gluster()?;
    gluster.create("gv0", 1, &[])?;
    Ok(gluster.backend("data", "gv0", ""))
}

fn host_backend(world: &World) -> anyhow::Result<String> {
    let disk = world.directory().join("disk");
    std::fs::create_dir_all(&disk)?;
    Ok(format!("backend \"host\" \"data\" {{\n  path = \"{}\"\n}}\n", disk.display()))
}

fn seaweedfs_backend(world: &World) -> anyhow::Result<String> {
    Ok(format!(
        "backend \"seaweedfs\" \"data\" {{\n  filer = \"{}\"\n  program = \"{}\"\n}}\n",
        world.lab().filer,
        tool("weed").context("no weed")?.display()
    ))
}
