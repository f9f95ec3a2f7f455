//! What all tests of a process share, and the keeper that cleans up after the process however it ends.

use super::files::output;
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// A Docker daemon and a SeaweedFS.
pub struct Lab {
    /// The daemon's address, as `DOCKER_HOST` has it.
    pub docker: String,
    /// The filer's address, `host:port`.
    pub filer: String,
    // A static is never dropped: the kernel closes the keeper's pipe when this process ends.
    _keeper: Option<Keeper>,
}

impl Lab {
    /// The lab of this process, started at the first call, or the one that `SADDLEBAG_LAB_DOCKER` and
    /// `SADDLEBAG_LAB_FILER` name: `make test` starts one for all lanes.
    ///
    /// # Errors
    /// Where a server does not come up, with the end of its log; each later call fails with the same words.
    pub fn shared() -> anyhow::Result<&'static Self> {
        static LAB: OnceLock<Result<Lab, String>> = OnceLock::new();
        LAB.get_or_init(|| Self::start().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error}"))
    }

    fn start() -> anyhow::Result<Self> {
        if let (Ok(docker), Ok(filer)) = (std::env::var("SADDLEBAG_LAB_DOCKER"), std::env::var("SADDLEBAG_LAB_FILER")) {
            return Ok(Self { docker, filer, _keeper: None });
        }
        let directory = new_directory()?;
        let keeper = Keeper::start(&directory, None)?;
        // SeaweedFS takes seconds to come up, so both start at once.
        let seaweedfs =
            lab().arg("seaweedfs").arg(&directory).stdout(Stdio::null()).spawn().context("starting SeaweedFS")?;
        output(lab().arg("docker").arg(&directory))?;
        let status = seaweedfs.wait_with_output()?.status;
        anyhow::ensure!(status.success(), "SeaweedFS did not start: {status}");
        Ok(Self {
            docker: read_line(&directory.join("docker.address"))?,
            filer: read_line(&directory.join("filer.address"))?,
            _keeper: Some(keeper),
        })
    }
}

/// A process that removes a lab directory when its standard input ends: when this is dropped, or when this process is
/// gone, killed or not.
pub(super) struct Keeper(Child);

const KEEPER_LOG: &str = "keeper.log";

impl Keeper {
    pub(super) fn start(directory: &Path, docker: Option<&str>) -> anyhow::Result<Self> {
        let log = std::fs::File::create(directory.join(KEEPER_LOG))?;
        let mut command = Command::new("setsid");
        command.arg(script()).arg("keep").arg(directory);
        if let Some(docker) = docker {
            command.env("LAB_DOCKER", docker);
        }
        // Not this process's output: whoever reads that to its end would wait for the keeper.
        let child = command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).spawn();
        Ok(Self(child.context("starting the keeper")?))
    }

    /// Ends everything in the lab's directory and removes it.
    ///
    /// # Errors
    /// With the keeper's words where something could not be ended, unmounted or removed.
    pub(super) fn remove(mut self, directory: &Path) -> anyhow::Result<()> {
        drop(self.0.stdin.take());
        let status = self.0.wait()?;
        let log = directory.join(KEEPER_LOG);
        anyhow::ensure!(status.success(), "{} was not removed: {}", directory.display(), super::tail(&log, 20));
        Ok(())
    }
}

/// The path of a program that tests need: in the tools' cache, then in `PATH` and where Debian keeps what root runs.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(tools_bin())
        .chain(std::env::split_paths(&path))
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

fn tools_bin() -> PathBuf {
    let cache = std::env::var_os("SADDLEBAG_TOOLS").map(PathBuf::from).unwrap_or_else(|| {
        std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"))
            .join("saddlebag-tools")
    });
    cache.join("bin")
}

fn script() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/lab"))
}

/// The lab's script; its verbs are described in it.
pub(super) fn lab() -> Command {
    Command::new(script())
}

pub(super) fn new_directory() -> anyhow::Result<PathBuf> {
    Ok(PathBuf::from(output(lab().arg("new"))?.trim()))
}

pub(super) fn read_line(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.trim().to_owned())
}
