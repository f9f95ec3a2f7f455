//! A world with both backends, its agent, and what is looked at in it.

use crate::support::{Options, World, mounts_below, tool};
use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long what is done "at once" may take on a busy machine. Empty directories of which there is no record are swept ten
/// seconds after an agent has heard Nomad; what nobody notices by itself is noticed after five minutes.
pub const SOON: Duration = Duration::from_secs(60);

/// So many volumes of SeaweedFS are registered; every test takes its own.
const WEED_VOLUMES: usize = 200;

/// A world whose agent has the backend `disk` of the host (dynamic) and `main` of SeaweedFS.
pub struct Scene {
    pub world: World,
    configuration: String,
    disk: PathBuf,
    weed: PathBuf,
    next: usize,
}

static CALM: Mutex<Option<Scene>> = Mutex::new(None);
static ROUGH: Mutex<Option<Scene>> = Mutex::new(None);

/// A shared scene, held by one test at a time.
pub struct Shared(MutexGuard<'static, Option<Scene>>);

impl std::ops::Deref for Shared {
    type Target = Scene;
    fn deref(&self) -> &Scene {
        match self.0.as_ref() {
            Some(scene) => scene,
            None => unreachable!("made by `take`"),
        }
    }
}

impl std::ops::DerefMut for Shared {
    fn deref_mut(&mut self) -> &mut Scene {
        match self.0.as_mut() {
            Some(scene) => scene,
            None => unreachable!("made by `take`"),
        }
    }
}

/// The scene in which an agent runs whenever Nomad removes something.
pub fn calm() -> anyhow::Result<Shared> {
    take(&CALM, "calm")
}

/// The scene in which it may be away.
pub fn rough() -> anyhow::Result<Shared> {
    take(&ROUGH, "rough")
}

fn take(place: &'static Mutex<Option<Scene>>, name: &str) -> anyhow::Result<Shared> {
    // Another test's failure is no reason for this one to fail.
    let mut held = place.lock().unwrap_or_else(PoisonError::into_inner);
    match held.as_ref() {
        Some(scene) if scene.world.agent_pid().is_none() => scene.start_agent()?,
        Some(_) => {}
        None => *held = Some(Scene::new(name, Options::default())?),
    }
    Ok(Shared(held))
}

impl Scene {
    pub fn new(name: &str, options: Options) -> anyhow::Result<Self> {
        let world = World::with(name, options)?;
        let disk = world.directory().join("disk");
        std::fs::create_dir(&disk)?;
        let unique = world.directory().file_name().and_then(|name| name.to_str()).context("a name")?.to_owned();
        let mut configuration = format!(
            "backend \"host\" \"disk\" {{\n  path = \"{}\"\n  dynamic = true\n}}\n\
             backend \"seaweedfs\" \"main\" {{\n  filer = \"{}\"\n  program = \"{}\"\n}}\n",
            disk.display(),
            world.lab().filer,
            tool("weed").context("no weed")?.display(),
        );
        for number in 0..WEED_VOLUMES {
            configuration.push_str(&format!(
                "volume \"weed-{number}\" {{\n  backend = \"main\"\n  path = \"/{unique}/{number}\"\n  create = true\n}}\n"
            ));
        }
        world.start_agent(&configuration)?;
        let mut scene = Self { world, configuration, disk, weed: PathBuf::new(), next: 0 };
        let mount = scene.world.wait_until("the mount of SeaweedFS", SOON, || {
            let source = scene.source()?;
            Ok(source.filter(|source| source["state"] == "attached").map(|source| source["mount_point"].clone()))
        })?;
        scene.weed = Path::new(mount.as_str().context("an attached source has a mount point")?).join(unique);
        Ok(scene)
    }

    pub fn start_agent(&self) -> anyhow::Result<()> {
        self.world.start_agent(&self.configuration)
    }

    /// A number that no other job or volume of this scene has.
    pub fn number(&mut self) -> usize {
        self.next += 1;
        assert!(self.next <= WEED_VOLUMES, "more volumes are needed");
        self.next - 1
    }

    /// A volume's name, and its directory in its own storage, which no guard watches.
    pub fn volume(&self, backend: &str, number: usize) -> (String, PathBuf) {
        match backend {
            "disk" => (format!("disk-{number}"), self.disk.join(format!("disk-{number}"))),
            _ => (format!("weed-{number}"), self.weed.join(number.to_string())),
        }
    }

    pub fn status(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.world.saddlebag(&["status", "--json"])?)?)
    }

    fn source(&self) -> anyhow::Result<Option<Value>> {
        let status = self.status()?;
        Ok(status["sources"].as_array().and_then(|all| all.iter().find(|s| s["kind"] == "seaweedfs")).cloned())
    }

    /// The pid of the `weed mount`.
    pub fn weed_pid(&self) -> anyhow::Result<Pid> {
        let source = self.source()?.context("the source of SeaweedFS")?;
        let pid = source["pid"].as_i64().context("its program's pid")?;
        Ok(Pid::from_raw(i32::try_from(pid)?))
    }

    /// The guard, or with `keeper` the process that keeps its groups.
    pub fn find_guard(&self, keeper: bool) -> Option<Pid> {
        find_guard(&self.world.run_dir(), keeper)
    }

    /// Kills the guard alone; its keeper starts the next one.
    pub fn kill_guard(&self) -> anyhow::Result<()> {
        let guard = self.find_guard(false).context("no guard runs")?;
        kill(guard, Signal::SIGKILL)?;
        self.wait_gone(guard)
    }

    /// Kills guard and keeper in one instant, so that nobody keeps the marks.
    pub fn kill_guard_and_keeper(&self) -> anyhow::Result<()> {
        let guard = self.find_guard(false).context("no guard runs")?;
        let keeper = self.find_guard(true).context("no keeper runs")?;
        // Stopped first: neither may notice the other's end.
        for process in [guard, keeper] {
            kill(process, Signal::SIGSTOP)?;
        }
        for process in [guard, keeper] {
            kill(process, Signal::SIGKILL)?;
        }
        self.wait_gone(guard)?;
        self.wait_gone(keeper)
    }

    fn wait_gone(&self, process: Pid) -> anyhow::Result<()> {
        self.world.wait_until("the end of a killed process", SOON, || {
            let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            Ok(line.is_empty().then_some(()))
        })
    }

    /// Where the mount of an allocation's volume is: in its directory, or behind the link of a raw_exec task.
    pub fn place(&self, driver: &str, alloc: &str) -> PathBuf {
        let root = match driver {
            "raw_exec" => self.world.state_dir().join("bindings").join(alloc),
            _ => self.world.alloc_dir(alloc),
        };
        root.join("main/local/x")
    }

    /// Whether anything of an allocation is left: its directory, its page, a mount, a binding.
    pub fn remains(&self, alloc: &str) -> anyhow::Result<Vec<String>> {
        let mut left = Vec::new();
        let state = self.world.state_dir();
        for path in [self.world.alloc_dir(alloc), state.join("bindings").join(alloc)] {
            if path.symlink_metadata().is_ok() {
                left.push(path.display().to_string());
            }
        }
        for page in std::fs::read_dir(state.join("ledger"))?.flatten() {
            if page.file_name().to_string_lossy().contains(alloc) {
                left.push(page.path().display().to_string());
            }
        }
        for point in mounts_below(self.world.directory())? {
            if point.to_string_lossy().contains(alloc) {
                left.push(format!("a mount at {}", point.display()));
            }
        }
        Ok(left)
    }
}

/// The guard of a run directory, or with `keeper` the process that keeps its groups.
pub fn find_guard(run_dir: &Path, keeper: bool) -> Option<Pid> {
    find_guards(run_dir, keeper).into_iter().next()
}

/// All of them: there must never be two for long.
pub fn find_guards(run_dir: &Path, keeper: bool) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let arguments: Vec<&str> = line.split(|byte| *byte == 0).flat_map(std::str::from_utf8).collect();
        let is_guard = arguments.get(1) == Some(&"guard") && arguments.iter().any(|a| Path::new(a) == run_dir);
        (is_guard && arguments.contains(&"--keeper") == keeper).then_some(Pid::from_raw(pid))
    });
    pids.collect()
}

/// Seconds since boot, as a task reads them in /proc/uptime.
pub fn uptime() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    Ok(text.split(' ').next().context("/proc/uptime has two numbers")?.parse()?)
}
