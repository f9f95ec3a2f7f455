//! A world's own GlusterFS.

use super::files::output;
use super::lab::read_line;
use super::world::World;
use anyhow::Context as _;
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A glusterd in a network namespace of its own, with its command line.
pub struct Gluster {
    /// Its address, which this host reaches.
    pub address: String,
    directory: PathBuf,
}

impl World {
    /// Starts the world's glusterd; again after an end of `gluster` by [`World::end`], when its bricks have gone on.
    ///
    /// # Errors
    /// Where it does not come up.
    pub fn start_gluster(&self) -> anyhow::Result<Gluster> {
        Gluster::start(self.lab_command(), self.directory())
    }
}

impl Gluster {
    /// Starts the glusterd of a lab's directory, by the lab's command.
    ///
    /// # Errors
    /// Where it does not come up.
    pub fn start(mut lab: Command, directory: &Path) -> anyhow::Result<Self> {
        // Not its standard output: bricks and their like keep what they were given.
        let status = lab.arg("gluster").arg(directory).stdout(std::process::Stdio::null()).status()?;
        anyhow::ensure!(status.success(), "glusterd did not start: {status}");
        let address = read_line(&directory.join("gluster.address"))?;
        Ok(Self { address, directory: directory.join("gluster") })
    }

    /// Its command line's own path: what it is told, it tells this glusterd.
    pub fn program(&self) -> PathBuf {
        self.directory.join("gluster")
    }

    /// The socket of its glusterd.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("glusterd.sock")
    }

    /// Runs a command where it is: in its namespaces.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new(self.directory.join("enter"));
        command.arg(program);
        command
    }

    /// Runs `gluster` with these arguments.
    ///
    /// # Errors
    /// Where it refuses, with its words.
    pub fn gluster(&self, arguments: &[&str]) -> anyhow::Result<String> {
        output(Command::new(self.program()).args(arguments))
    }

    /// Where a brick of a volume lies.
    pub fn brick(&self, volume: &str, number: usize) -> PathBuf {
        self.directory.join(format!("bricks/{volume}-{number}"))
    }

    /// Makes a volume with so many bricks, each a replica of the others, and starts it with these options.
    pub fn create(&self, volume: &str, bricks: usize, options: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut command = Command::new(self.program());
        command.args(["volume", "create", volume]);
        if bricks > 1 {
            command.args(["replica", &bricks.to_string()]);
        }
        for number in 0..bricks {
            command.arg(format!("{}:{}", self.address, self.brick(volume, number).display()));
        }
        // Bricks on the root file system, and all on one host: elsewhere nobody wants that.
        output(command.arg("force"))?;
        for (option, value) in options {
            self.gluster(&["volume", "set", volume, option, value])?;
        }
        self.gluster(&["volume", "start", volume]).map(drop)
    }

    /// The process of a brick, while it runs.
    ///
    /// # Errors
    /// Where none runs.
    pub fn brick_pid(&self, volume: &str, number: usize) -> anyhow::Result<Pid> {
        let brick = self.brick(volume, number);
        let brick = brick.to_str().context("a path in UTF-8")?;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            if words.windows(2).any(|two| two == [b"--brick-name".as_slice(), brick.as_bytes()]) {
                return Ok(Pid::from_raw(pid));
            }
        }
        anyhow::bail!("no brick {brick} runs")
    }

    /// A backend of a volume, with `options` of its own, for an agent's configuration.
    pub fn backend(&self, name: &str, volume: &str, options: &str) -> String {
        format!(
            "backend \"gluster\" \"{name}\" {{\n  servers = [\"{}\"]\n  volume  = \"{volume}\"\n{options}\n}}\n",
            self.address
        )
    }

    /// The same with volumes `NAME-0` to `NAME-5`, made at first use.
    pub fn backend_with_volumes(&self, name: &str, volume: &str, options: &str) -> String {
        let volumes = (0..6).map(|number| {
            format!(
                "volume \"{name}-{number}\" {{\n  backend = \"{name}\"\n  create  = true\n  mode    = \"0777\"\n}}\n"
            )
        });
        self.backend(name, volume, options) + &volumes.collect::<String>()
    }
}
