//! The kinds of volume that a database may be given. A further one is a function here, and a word in `main.rs`.

use crate::support::{World, tool};
use anyhow::Context as _;
use rustix::process::Pid;
use std::path::PathBuf;

/// A kind of volume.
pub struct Kind {
    /// How figures and failures call it.
    pub name: &'static str,
    /// The blocks of its backend `data`, and what its `volume` block says besides.
    configure: fn(&World) -> anyhow::Result<(String, &'static str)>,
}

impl Kind {
    /// The agent's configuration: the volume `data` of this kind, empty, and `notes`, which is always a directory of the
    /// host. Both belong to `nobody`. The binding of `data` has the flags of its source and no others.
    ///
    /// # Errors
    /// Where a program of the backend is not there.
    pub fn configuration(&self, world: &World) -> anyhow::Result<String> {
        let (backend, volume) = (self.configure)(world)?;
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
        let source = source(world)?;
        let mount = source["mount_point"].as_str().map_or_else(|| world.directory().join("disk"), PathBuf::from);
        Ok(mount.join(place(world)?))
    }

    /// The program that has mounted the source of `data`.
    ///
    /// # Errors
    /// Where there is none.
    pub fn mount_program(&self, world: &World) -> anyhow::Result<Pid> {
        let pid = source(world)?["pid"].as_i64().with_context(|| format!("{} has no mount program", self.name))?;
        Pid::from_raw(i32::try_from(pid)?).context("a pid")
    }
}

/// What the agent says of the source of `data`.
fn source(world: &World) -> anyhow::Result<serde_json::Value> {
    let status: serde_json::Value = serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?;
    let mut sources = status["sources"].as_array().context("status lists sources")?.iter();
    Ok(sources.find(|source| source["name"] == "data").with_context(|| format!("{status:#}"))?.clone())
}

/// The directory of `data` in its backend. A filer is shared by all worlds.
fn place(world: &World) -> anyhow::Result<String> {
    let unique = world.directory().file_name().and_then(|name| name.to_str()).context("a name")?;
    Ok(format!("workloads-{unique}"))
}

/// A directory of the host: what the others are measured against.
pub fn host() -> Kind {
    Kind {
        name: "host",
        configure: |world| {
            let disk = world.directory().join("disk");
            std::fs::create_dir_all(&disk)?;
            Ok((format!("backend \"host\" \"data\" {{\n  path = \"{}\"\n}}\n", disk.display()), ""))
        },
    }
}

/// A directory of a SeaweedFS, with the options that `docs/backends/databases.md` recommends for databases.
pub fn seaweedfs() -> Kind {
    Kind { name: "seaweedfs", configure: |world| Ok((seaweedfs_backend(world)?, "")) }
}

fn seaweedfs_backend(world: &World) -> anyhow::Result<String> {
    Ok(format!(
        "backend \"seaweedfs\" \"data\" {{\n  filer = \"{}\"\n  program = \"{}\"\n}}\n",
        world.lab().filer,
        tool("weed").context("no weed")?.display()
    ))
}
