//! The kinds of storage that go through the suite: what each needs, and how its servers are stopped and ended.

use crate::support::{Gluster, World, tool};
use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A kind of storage.
pub trait Kind: Sized {
    /// As the configuration calls it; names the test's world.
    const NAME: &'static str;

    /// Storage that tests share, where there is some.
    fn start(world: &World) -> anyhow::Result<Self>;

    /// Storage of this world alone, whose servers may be stopped and ended.
    fn start_own(world: &World) -> anyhow::Result<Self> {
        Self::start(world)
    }

    /// A backend of that name, below a directory of the world's own; `options` are more lines of its block.
    fn backend(&self, world: &World, name: &str, options: &str) -> anyhow::Result<String>;

    /// What a volume block of this kind says besides, of a volume that is made at its first use.
    const VOLUME: &'static str = "";

    /// The processes of its servers.
    fn servers(&self, _world: &World) -> anyhow::Result<Vec<Pid>> {
        Ok(Vec::new())
    }

    /// Kills its servers.
    fn kill(&self, _world: &World) -> anyhow::Result<()> {
        Ok(())
    }

    /// Starts them again on the same data, and waits until they serve.
    fn start_again(&self, _world: &World) -> anyhow::Result<()> {
        Ok(())
    }
}

/// A world's own word, in paths on storage that worlds share.
pub fn unique(world: &World) -> anyhow::Result<&str> {
    world.directory().file_name().and_then(|name| name.to_str()).context("a world has a name")
}

/// A directory of this host.
pub struct Host;

impl Kind for Host {
    const NAME: &'static str = "host";

    fn start(world: &World) -> anyhow::Result<Self> {
        std::fs::create_dir_all(world.directory().join("disk"))?;
        Ok(Self)
    }

    fn backend(&self, world: &World, name: &str, options: &str) -> anyhow::Result<String> {
        let path = world.directory().join("disk");
        Ok(format!("backend \"host\" \"{name}\" {{\n  path = \"{}\"\n{options}\n}}\n", path.display()))
    }
}

/// A SeaweedFS filer.
pub struct Seaweedfs {
    filer: String,
}

impl Kind for Seaweedfs {
    const NAME: &'static str = "seaweedfs";

    fn start(world: &World) -> anyhow::Result<Self> {
        Ok(Self { filer: world.lab().filer.clone() })
    }

    fn start_own(world: &World) -> anyhow::Result<Self> {
        anyhow::ensure!(world.start_own_seaweedfs()?.wait()?.success(), "no SeaweedFS");
        Ok(Self { filer: world.own_filer()? })
    }

    fn backend(&self, world: &World, name: &str, options: &str) -> anyhow::Result<String> {
        let weed = tool("weed").context("no weed")?;
        let program =
            if options.contains("program") { String::new() } else { format!("  program = \"{}\"\n", weed.display()) };
        Ok(format!(
            "backend \"seaweedfs\" \"{name}\" {{\n  filer = \"{}\"\n  path = \"/{}\"\n{program}{options}\n}}\n",
            self.filer,
            unique(world)?
        ))
    }

    fn servers(&self, world: &World) -> anyhow::Result<Vec<Pid>> {
        let pid = std::fs::read_to_string(world.directory().join("seaweedfs.pid"))?;
        let group = pid.split(' ').next().unwrap_or_default().to_owned();
        // Who starts it again when it ends is of the same group.
        let found = std::process::Command::new("pgrep").args(["-g", &group, "-x", "weed"]).output()?;
        let found = String::from_utf8(found.stdout)?;
        found.split_whitespace().map(|pid| Ok(Pid::from_raw(pid.parse()?))).collect()
    }

    fn kill(&self, world: &World) -> anyhow::Result<()> {
        world.end("seaweedfs", "KILL")
    }

    fn start_again(&self, world: &World) -> anyhow::Result<()> {
        anyhow::ensure!(world.start_own_seaweedfs()?.wait()?.success(), "no SeaweedFS any more");
        Ok(())
    }
}

impl Kind for Gluster {
    const NAME: &'static str = "gluster";

    fn start(world: &World) -> anyhow::Result<Self> {
        let gluster = world.start_gluster()?;
        gluster.create("gv0", 1, &[])?;
        Ok(gluster)
    }

    fn backend(&self, _world: &World, name: &str, options: &str) -> anyhow::Result<String> {
        Ok(Self::backend(self, name, "gv0", options))
    }

    // Who may write is checked by the kernel, as everywhere.
    const VOLUME: &'static str = "  mode = \"0777\"";

    fn servers(&self, world: &World) -> anyhow::Result<Vec<Pid>> {
        let glusterd = std::fs::read_to_string(world.directory().join("gluster.pid"))?;
        let glusterd = glusterd.split(' ').next().unwrap_or_default().parse()?;
        Ok(vec![self.brick_pid("gv0", 0)?, Pid::from_raw(glusterd)])
    }

    fn kill(&self, world: &World) -> anyhow::Result<()> {
        kill(self.brick_pid("gv0", 0)?, Signal::SIGKILL)?;
        world.end("gluster", "KILL")
    }

    fn start_again(&self, world: &World) -> anyhow::Result<()> {
        // It starts the bricks of its volumes.
        world.start_gluster().map(drop)
    }
}

/// A file system of its own in a file of another kind.
pub struct Image<K>(K);

impl<K: Kind> Kind for Image<K> {
    const NAME: &'static str = "image";

    const VOLUME: &'static str = "  format = \"ext4\"\n  size = \"64MiB\"\n  access_mode = \"single-node-writer\"";

    fn start(world: &World) -> anyhow::Result<Self> {
        K::start(world).map(Self)
    }

    fn backend(&self, world: &World, name: &str, options: &str) -> anyhow::Result<String> {
        self.0.backend(world, name, options)
    }
}
