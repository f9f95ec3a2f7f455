//! Tasks of docker, exec and raw_exec that write and verify without a pause, on a host directory and on SeaweedFS,
//! while everything around them is disturbed.
//!
//! Each runs `tests/tools/load.c` and in it fio. **May be seen:** a call that takes longer. **May not be seen:** any
//! error of any call, a record that is missing or another, a checksum of fio's that does not hold, another file or file
//! system at the volume's path, another mount of the same volume, a second mount program, a restart of a task.

mod ledger;
mod logs;
mod nomad_away;
mod restarts;
mod runtime;
mod state_disk;
mod upgrade;

use crate::support::{PATIENCE, World, tool};
use anyhow::Context as _;
use rustix::fs::{Mode, OFlags};
use saddlebag::sys::identity;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

pub const DRIVERS: [&str; 3] = ["docker", "exec", "raw_exec"];
pub const BACKENDS: [&str; 2] = ["disk", "weed"];
/// The bytes of a record of `load.c`.
const RECORD: u64 = 64;

/// What a chroot of an exec task needs for the load.
pub fn options() -> anyhow::Result<crate::support::Options> {
    Ok(crate::support::Options::default()
        .client(&format!("chroot_env {{\n    \"{}\" = \"/opt/load\"\n  }}", load_folder()?.display())))
}

fn load_folder() -> anyhow::Result<PathBuf> {
    let bin = tool("weed").context("no weed")?;
    let cache = bin.parent().and_then(Path::parent).context("the tools' cache")?;
    cache.join("load").canonicalize().context("make tools installs the load of test tasks")
}

/// A backend `disk` (a directory of the host) and `main` (SeaweedFS) with the volume `weed` and ten `weed-N`, all of
/// this world alone.
pub fn configuration(world: &World) -> anyhow::Result<String> {
    let disk = world.directory().join("disk");
    std::fs::create_dir_all(&disk)?;
    let unique = world.directory().file_name().and_then(|name| name.to_str()).context("a name")?;
    let mut text = format!(
        "backend \"host\" \"disk\" {{\n  path = \"{}\"\n  dynamic = true\n}}\n\
         backend \"seaweedfs\" \"main\" {{\n  filer = \"{}\"\n  program = \"{}\"\n}}\n",
        disk.display(),
        world.lab().filer,
        tool("weed").context("no weed")?.display(),
    );
    for name in std::iter::once("weed".to_owned()).chain((0..10).map(|number| format!("weed-{number}"))) {
        text.push_str(&format!(
            "volume \"{name}\" {{\n  backend = \"main\"\n  path = \"/{unique}/{name}\"\n  create = true\n}}\n"
        ));
    }
    Ok(text)
}

/// One task under load.
pub struct Loaded {
    pub driver: &'static str,
    pub backend: &'static str,
    pub alloc: String,
    /// Held open: what is in it is there also when its directory is not.
    report: File,
    /// The records in the volume's own storage: the task's mount is held by nobody but the task.
    records: File,
}

/// All that must stay as it is for one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Unique id and device of the mount on this host.
    host: Option<(u64, (u32, u32))>,
    /// Mount id, device and place of its clones where the task itself looks.
    inside: Vec<String>,
    /// The task's processes: the load's and fio's.
    processes: Vec<i32>,
}

/// The tasks under load.
pub struct Load {
    pub tasks: Vec<Loaded>,
    before: BTreeMap<String, Seen>,
    programs: Vec<i32>,
}

impl Load {
    /// Starts a job for each backend, with a task for each driver, and waits until all of them write.
    pub fn start(world: &World, drivers: &[&'static str], backends: &[&'static str]) -> anyhow::Result<Self> {
        Self::start_at(world, drivers, backends, "$NOMAD_TASK_DIR/x")
    }

    /// The same where a shell finds the volume so, `$NOMAD_TASK_DIR/x` or where that leads.
    pub fn start_at(
        world: &World,
        drivers: &[&'static str],
        backends: &[&'static str],
        at: &str,
    ) -> anyhow::Result<Self> {
        let mut tasks = Vec::new();
        for backend in backends {
            world
                .run_job(&text(&format!("load-{backend}"), backend, drivers)?.replace("$NOMAD_TASK_DIR/x", at), &[])?;
        }
        for backend in backends {
            let job = format!("load-{backend}");
            let alloc = world.wait_running(&job)?;
            for driver in drivers {
                let task = world.wait_until(&format!("the first records of {job} {driver}"), PATIENCE, || {
                    // Whoever ended has said why.
                    let report = report_of(world, &alloc, driver);
                    let said = std::fs::read_to_string(&report).unwrap_or_default();
                    anyhow::ensure!(!said.contains("error"), "{job} {driver}: {said}");
                    let place = volume(world, backend)?.join(driver);
                    let (Ok(report), Ok(records)) = (File::open(report), File::open(place.join("records"))) else {
                        return Ok(None);
                    };
                    if records.metadata()?.len() < 5 * RECORD || place.join("fio.d").read_dir()?.next().is_none() {
                        return Ok(None);
                    }
                    Ok(Some(Loaded { driver, backend, alloc: alloc.clone(), report, records }))
                });
                tasks.push(task.with_context(|| world.events(&alloc).unwrap_or_default())?);
            }
        }
        let mut load = Self { tasks, before: BTreeMap::new(), programs: mount_programs(world)? };
        for task in &load.tasks {
            // fio's directory is there before fio is.
            let seen = world.wait_until(&format!("the processes of {}", task.name()), PATIENCE, || {
                // What it does not call running Nomad has not noted yet, and starts again where it is killed now.
                if world.allocation(&task.alloc)?["TaskStates"][task.driver]["State"] != "running" {
                    return Ok(None);
                }
                let seen = task.look(world)?;
                Ok((seen.processes.len() == 2).then_some(seen))
            })?;
            anyhow::ensure!(seen.host.is_some() && !seen.inside.is_empty(), "{}: {seen:?}", task.name());
            load.before.insert(task.name(), seen);
        }
        anyhow::ensure!(load.programs.len() == 1, "one filer: {:?}", load.programs);
        Ok(load)
    }

    /// Nothing has been seen that may not be, everything is where it was, and every task goes on.
    pub fn assert_untouched(&self, world: &World) -> anyhow::Result<()> {
        self.assert_no_error()?;
        for task in &self.tasks {
            let seen = task.look(world)?;
            let before = self.before.get(&task.name());
            anyhow::ensure!(Some(&seen) == before, "{}: {seen:#?}\nin place of {before:#?}", task.name());
        }
        let programs = mount_programs(world)?;
        anyhow::ensure!(programs == self.programs, "mount programs {programs:?} in place of {:?}", self.programs);
        self.wait_for_progress(world)
    }

    /// No task has said anything but that it started.
    pub fn assert_no_error(&self) -> anyhow::Result<()> {
        self.tasks.iter().try_for_each(|task| {
            let said = task.said()?;
            anyhow::ensure!(said == "started\n", "{} says: {said}", task.name());
            Ok(())
        })
    }

    /// Each task writes some records more, from now on.
    pub fn wait_for_progress(&self, world: &World) -> anyhow::Result<()> {
        for task in &self.tasks {
            let before = task.count()?;
            world.wait_until(&format!("more records of {}", task.name()), PATIENCE, || {
                anyhow::ensure!(task.said()? == "started\n", "{} says: {}", task.name(), task.said()?);
                Ok((task.count()? >= before + 3).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Nomad calls every task running, and none was started twice.
    pub fn assert_running(&self, world: &World) -> anyhow::Result<()> {
        for task in &self.tasks {
            let state = &world.allocation(&task.alloc)?["TaskStates"][task.driver];
            anyhow::ensure!(
                state["State"] == "running" && state["Restarts"] == 0,
                "{}: {}",
                task.name(),
                world.events(&task.alloc)?
            );
        }
        Ok(())
    }

    /// Ends the jobs; every record is there and right, and no task ended otherwise than by being told to.
    pub fn end(self, world: &World) -> anyhow::Result<()> {
        for backend in BACKENDS.iter().filter(|backend| self.tasks.iter().any(|task| task.backend == **backend)) {
            world.stop(&format!("load-{backend}"))?;
        }
        for task in &self.tasks {
            world.wait_until(&format!("the end of {}", task.name()), PATIENCE, || {
                let said = task.said()?;
                anyhow::ensure!(!said.contains("error"), "{} says: {said}", task.name());
                Ok((said == "started\nended\n").then_some(()))
            })?;
            task.assert_whole()?;
        }
        for backend in BACKENDS.iter().filter(|backend| self.tasks.iter().any(|task| task.backend == **backend)) {
            world.wait_dead(&format!("load-{backend}"))?;
        }
        Ok(())
    }
}

impl Loaded {
    pub fn name(&self) -> String {
        format!("{} on {}", self.driver, self.backend)
    }

    /// What its report holds.
    pub fn said(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        let mut report = &self.report;
        report.seek(SeekFrom::Start(0))?;
        report.read_to_string(&mut text)?;
        Ok(text)
    }

    /// The records that it has written.
    pub fn count(&self) -> anyhow::Result<u64> {
        Ok(self.records.metadata()?.len() / RECORD)
    }

    /// Its mount on this host, its clones inside, and its processes.
    pub fn look(&self, world: &World) -> anyhow::Result<Seen> {
        let processes = processes(&self.alloc, self.driver)?;
        let mut inside = Vec::new();
        if let Some(first) = processes.first() {
            let table = std::fs::read_to_string(format!("/proc/{first}/mountinfo"))?;
            // A raw_exec task looks at the host's own table, of which only its own binding concerns it.
            let point = |line: &&str| match self.driver {
                "raw_exec" => line.contains(&self.alloc) && line.contains("/raw_exec/local/x "),
                _ => line.split(' ').nth(4) == Some("/local/x"),
            };
            inside.extend(table.lines().filter(point).map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                format!("{} {} {} {}", words[0], words[2], words[3], words[4])
            }));
        }
        Ok(Seen { host: host_mount(&place(world, self.driver, &self.alloc))?, inside, processes })
    }

    /// Every record that the volume holds is right, read on this host.
    pub fn assert_whole(&self) -> anyhow::Result<()> {
        let mut text = Vec::new();
        let mut records = &self.records;
        records.seek(SeekFrom::Start(0))?;
        records.read_to_end(&mut text)?;
        let lines: Vec<&[u8]> = text.chunks(usize::try_from(RECORD)?).collect();
        anyhow::ensure!(lines.len() > 10, "{}: {} records only", self.name(), lines.len());
        for (number, line) in lines.iter().enumerate() {
            let begins = format!("{number:016} ");
            anyhow::ensure!(
                line.starts_with(begins.as_bytes()) && line.len() == 64,
                "{}: record {number} is {:?}",
                self.name(),
                String::from_utf8_lossy(line)
            );
        }
        Ok(())
    }
}

/// The directory of the load's volume in its own storage.
fn volume(world: &World, backend: &str) -> anyhow::Result<PathBuf> {
    if backend == "disk" {
        return Ok(world.directory().join("disk/disk"));
    }
    let status = status(world)?;
    let source = status["sources"].as_array().and_then(|all| all.iter().find(|one| one["kind"] == "seaweedfs"));
    let mount = source.and_then(|source| source["mount_point"].as_str()).context("the mount of SeaweedFS")?;
    let unique = world.directory().file_name().context("a name")?;
    Ok(Path::new(mount).join(unique).join("weed"))
}

/// Where the mount of a task's volume is on this host.
pub fn place(world: &World, driver: &str, alloc: &str) -> PathBuf {
    let root = match driver {
        "raw_exec" => world.state_dir().join("bindings").join(alloc),
        _ => world.alloc_dir(alloc),
    };
    root.join(driver).join("local/x")
}

fn report_of(world: &World, alloc: &str, driver: &str) -> PathBuf {
    world.alloc_dir(alloc).join("alloc").join(format!("report-{driver}"))
}

/// The unique id and the device of the mount at a place, asking neither guard nor server; none where none is.
pub fn host_mount(place: &Path) -> anyhow::Result<Option<(u64, (u32, u32))>> {
    match rustix::fs::open(place, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(found) => {
            let identity = identity::identify(found.as_fd())?;
            Ok(identity.is_mount_root.then_some((identity.mount_id, identity.device)))
        }
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// What `status --json` says.
pub fn status(world: &World) -> anyhow::Result<serde_json::Value> {
    Ok(serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?)
}

/// The pages of the ledger, by their path.
pub fn pages(world: &World) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let listed = std::fs::read_dir(world.state_dir().join("ledger"))?;
    let paths = listed.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json"));
    let read = paths.map(|path| match std::fs::read_to_string(&path) {
        // It went after it was listed.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        page => Ok(Some((path, page?))),
    });
    read.filter_map(Result::transpose).collect()
}

/// Waits until every binding of the load is on a page as made, and returns the pages.
pub fn wait_recorded(world: &World, load: &Load) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    world.wait_until("complete pages", PATIENCE, || {
        let pages = pages(world).unwrap_or_default();
        let made: usize = pages.values().map(|page| page.matches("\"mounted\"").count()).sum();
        Ok((made == load.tasks.len()).then_some(pages))
    })
}

/// Whether the guard of that run directory has a mark on the mount at a place.
pub fn is_marked(world: &World, place: &Path) -> anyhow::Result<bool> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let lines = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let Some(id) = lines.rev().find(|words| Path::new(words[4]) == place).map(|words| words[0].to_owned()) else {
        anyhow::bail!("nothing is mounted at {}", place.display());
    };
    let id: i64 = id.parse()?;
    let Some(guard) = crate::guard::scene::find_guard(&world.run_dir(), false) else { return Ok(false) };
    // A guard that has only begun has no such folder, or less in it.
    for entry in std::fs::read_dir(format!("/proc/{guard}/fdinfo")).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let ids = text.lines().filter_map(|line| line.strip_prefix("fanotify mnt_id:")?.split(' ').next());
        if ids.filter_map(|id| i64::from_str_radix(id, 16).ok()).any(|marked| marked == id) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The processes of a task, by the environment that Nomad gave it, the oldest first.
pub fn processes(alloc: &str, task: &str) -> anyhow::Result<Vec<i32>> {
    let (alloc, task) = (format!("NOMAD_ALLOC_ID={alloc}"), format!("NOMAD_TASK_NAME={task}"));
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let has = |wanted: &str| environment.split(|byte| *byte == 0).any(|word| word == wanted.as_bytes());
        if has(&alloc) && has(&task) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Every `weed mount` of this world.
pub fn mount_programs(world: &World) -> anyhow::Result<Vec<i32>> {
    let sources = format!("-dir={}", world.state_dir().join("sources").display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).any(|word| word.starts_with(sources.as_bytes())) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// A job whose tasks, one for each driver, have one volume at `local/x` and each a folder of its own in it.
fn text(job: &str, volume: &str, drivers: &[&str]) -> anyhow::Result<String> {
    let load = load_folder()?;
    let load = load.display();
    let mut tasks = String::new();
    for driver in drivers {
        let (config, home) = match *driver {
            "docker" => (
                format!(
                    "image = \"saddlebag-test:1\"\n        network_mode = \"host\"\n        \
                     volumes = [\"{load}:/opt/load:ro\"]\n        command = \"sh\""
                ),
                "/opt/load".to_owned(),
            ),
            "exec" => ("command = \"/bin/sh\"".to_owned(), "/opt/load".to_owned()),
            _ => ("command = \"/bin/sh\"".to_owned(), load.to_string()),
        };
        tasks.push_str(&format!(
            r#"
    task "{driver}" {{
      driver       = "{driver}"
      kill_timeout = "10s"
      config {{
        {config}
        args = ["-ec", "mkdir -p $NOMAD_TASK_DIR/x/{driver}; exec {home}/load $NOMAD_TASK_DIR/x/{driver} $NOMAD_ALLOC_DIR/report-{driver}"]
      }}
      logs {{
        max_files     = 1
        max_file_size = 1
      }}
      resources {{
        cpu    = 20
        memory = 128
      }}
    }}
"#
        ));
    }
    Ok(format!(
        r#"variable "saddlebag" {{}}
job "{job}" {{
  group "group" {{
    meta {{
      storage_volume      = "{volume}"
      storage_destination = "local/x"
    }}
    restart {{
      attempts = 0
      mode     = "fail"
    }}
    reschedule {{
      attempts  = 0
      unlimited = false
    }}
    task "storage" {{
      driver = "raw_exec"
      lifecycle {{
        hook = "prestart"
      }}
      config {{
        command = var.saddlebag
        args    = ["mount"]
      }}
      logs {{
        disabled = true
      }}
      resources {{
        cpu    = 20
        memory = 32
      }}
    }}
{tasks}
  }}
}}
"#
    ))
}

/// A job that asks for a volume and sleeps: a hook that is in flight, and bindings that come and go.
pub fn guest(job: &str, volume: &str, driver: &str) -> String {
    let plan = crate::guard::fleet::Plan { script: "exec sleep 100000", ..Default::default() };
    crate::guard::fleet::text(job, driver, volume, &plan)
}
