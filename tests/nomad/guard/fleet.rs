//! Jobs of every driver on every backend, each with a volume of its own that holds something worth keeping.

use super::scene::{SOON, Scene};
use crate::support::checksums;
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::path::PathBuf;

pub const DRIVERS: [&str; 3] = ["docker", "exec", "raw_exec"];
pub const BACKENDS: [&str; 2] = ["disk", "weed"];

/// Says that it started and sleeps until it is told to end.
pub const SLEEPS: &str = "trap 'exit 0' TERM INT\nsleep 1000000 & wait\n";

/// What the main task's shell does, and what else is said of the job.
pub struct Plan<'a> {
    /// After it has appended a line to `starts` in its volume, `$V`, and has it on the storage.
    pub script: &'a str,
    pub kind: &'a str,
    pub kill_timeout: &'a str,
    /// More HCL in the main task.
    pub task: &'a str,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self { script: SLEEPS, kind: "service", kill_timeout: "2s", task: "" }
    }
}

/// One job and its volume.
pub struct Ship {
    pub job: String,
    pub driver: &'static str,
    /// The volume's directory in its own storage.
    pub volume: PathBuf,
    /// What must be in it, whatever happens.
    cargo: BTreeMap<String, String>,
    /// Its allocation, once it runs.
    pub alloc: String,
}

/// Some jobs that live through the same.
pub struct Fleet(pub Vec<Ship>);

impl Ship {
    /// Fills a volume and registers a job on it; does not wait for it.
    pub fn launch(
        scene: &mut Scene,
        driver: &'static str,
        backend: &'static str,
        plan: &Plan<'_>,
    ) -> anyhow::Result<Self> {
        let number = scene.number();
        let (name, volume) = scene.volume(backend, number);
        std::fs::create_dir_all(volume.join("deep/er"))?;
        std::fs::write(volume.join("ledger"), format!("what a year's work has earned {number}\n").repeat(1000))?;
        std::fs::write(volume.join("deep/er/copy"), "and its copy")?;
        std::os::unix::fs::symlink("ledger", volume.join("link"))?;
        let cargo = checksums(&volume)?;
        assert_eq!(cargo.len(), 5, "{cargo:?}");
        let job = format!("{driver}-{backend}-{number}");
        scene.world.run_job(&text(&job, driver, &name, plan), &[])?;
        Ok(Self { job, driver, volume, cargo, alloc: String::new() })
    }

    /// The lines of a file of the volume.
    pub fn lines(&self, file: &str) -> anyhow::Result<Vec<String>> {
        let path = self.volume.join(file);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Everything that was in the volume before its job came is in it as it was.
    pub fn assert_whole(&self) -> anyhow::Result<()> {
        let mut found = checksums(&self.volume)?;
        found.retain(|path, _| self.cargo.contains_key(path));
        anyhow::ensure!(found == self.cargo, "{}: {found:#?} is left of {:#?}", self.job, self.cargo);
        Ok(())
    }

    /// Nothing is left of its allocation, soon.
    pub fn wait_for_no_remains(&self, scene: &Scene) -> anyhow::Result<()> {
        let mut left = Vec::new();
        let gone = scene.world.wait_until(&format!("no remains of {}", self.job), SOON, || {
            left = scene.remains(&self.alloc)?;
            Ok(left.is_empty().then_some(()))
        });
        gone.with_context(|| format!("left: {left:#?}"))
    }

    /// The task has started so often, each time with its first write.
    pub fn wait_for_starts(&self, scene: &Scene, wanted: usize) -> anyhow::Result<()> {
        let mut lines = Vec::new();
        let what = format!("start number {wanted} of {} with its volume", self.job);
        let seen = scene.world.wait_until(&what, SOON * 2, || {
            lines = self.lines("starts").unwrap_or_default();
            Ok((lines.len() >= wanted).then_some(()))
        });
        seen.with_context(|| format!("{lines:?}\n{}", scene.world.events(&self.alloc).unwrap_or_default()))?;
        anyhow::ensure!(lines.len() == wanted, "{}: {lines:?}", self.job);
        Ok(())
    }

    /// The mount's id, where a mount is.
    pub fn mount_id(&self, scene: &Scene) -> anyhow::Result<Option<String>> {
        let place = scene.place(self.driver, &self.alloc);
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        let mut found = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        Ok(found.rfind(|words| place.to_str() == Some(words[4])).map(|words| words[0].to_owned()))
    }

    /// The processes of its main task, the oldest first.
    pub fn main_processes(&self) -> anyhow::Result<Vec<i32>> {
        let (alloc, task) = (format!("NOMAD_ALLOC_ID={}", self.alloc), "NOMAD_TASK_NAME=main");
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let has = |wanted: &str| environment.split(|byte| *byte == 0).any(|word| word == wanted.as_bytes());
            if has(&alloc) && has(task) {
                found.push(pid);
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Kills the main task's own process with SIGKILL.
    pub fn kill_main(&self) -> anyhow::Result<()> {
        let first = *self.main_processes()?.first().with_context(|| format!("no process of {}", self.job))?;
        Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGKILL)?)
    }
}

impl Fleet {
    /// One job for each driver and backend; all run when this returns.
    pub fn start(scene: &mut Scene, plan: &Plan<'_>) -> anyhow::Result<Self> {
        Self::start_with(scene, &DRIVERS, plan)
    }

    /// The same with some drivers only.
    pub fn start_with(scene: &mut Scene, drivers: &[&'static str], plan: &Plan<'_>) -> anyhow::Result<Self> {
        let mut fleet = Self::launch_with(scene, drivers, plan)?;
        for ship in &mut fleet.0 {
            ship.alloc = scene.world.wait_running(&ship.job)?;
            ship.wait_for_starts(scene, 1)?;
        }
        Ok(fleet)
    }

    /// The same without waiting.
    pub fn launch(scene: &mut Scene, plan: &Plan<'_>) -> anyhow::Result<Self> {
        Self::launch_with(scene, &DRIVERS, plan)
    }

    fn launch_with(scene: &mut Scene, drivers: &[&'static str], plan: &Plan<'_>) -> anyhow::Result<Self> {
        let mut ships = Vec::new();
        for driver in drivers {
            for backend in BACKENDS {
                ships.push(Ship::launch(scene, driver, backend, plan)?);
            }
        }
        Ok(Self(ships))
    }

    pub fn purge(&self, scene: &Scene) -> anyhow::Result<()> {
        self.0.iter().try_for_each(|ship| scene.world.stop_purge(&ship.job))
    }

    /// Nothing is lost, nothing is left, and Nomad had nothing to complain of: an agent was there all the time.
    pub fn assert_clean(&self, scene: &Scene) -> anyhow::Result<()> {
        self.assert_swept(scene)?;
        scene.world.assert_no_destroy_errors()
    }

    /// The same where Nomad's client collects the moment a task has ended, and its servers hear of that later: Nomad may
    /// complain of those allocations that the agent says it kept it out of, having waited for the servers' word in vain.
    pub fn assert_clean_or_kept_out(&self, scene: &Scene) -> anyhow::Result<()> {
        self.assert_swept(scene)?;
        let Err(complaint) = scene.world.assert_no_destroy_errors() else { return Ok(()) };
        let said = std::fs::read_to_string(scene.world.log("agent"))?;
        let waited = "Nomad is kept out of a volume that may still be used";
        let kept_out: Vec<&str> = self
            .0
            .iter()
            .map(|ship| ship.alloc.as_str())
            .filter(|alloc| said.lines().any(|line| line.contains(waited) && line.contains(alloc)))
            .collect();
        let text = complaint.to_string();
        // The first line is no line of Nomad's.
        let mut complaints = text.lines().skip(1).peekable();
        let is_explained =
            complaints.peek().is_some() && complaints.all(|line| kept_out.iter().any(|alloc| line.contains(alloc)));
        anyhow::ensure!(is_explained, "{text}\nKept out of, and said so: {kept_out:?}");
        Ok(())
    }

    /// Nothing is lost and nothing is left.
    pub fn assert_swept(&self, scene: &Scene) -> anyhow::Result<()> {
        for ship in &self.0 {
            ship.wait_for_no_remains(scene)?;
        }
        self.assert_whole()
    }

    pub fn assert_whole(&self) -> anyhow::Result<()> {
        self.0.iter().try_for_each(Ship::assert_whole)
    }

    /// Purges all and sees that nothing is lost or left.
    pub fn end(&self, scene: &Scene) -> anyhow::Result<()> {
        self.purge(scene)?;
        scene.world.system_gc()?;
        self.assert_clean(scene)
    }
}

/// A job whose main task has the volume at `local/x`.
pub fn text(job: &str, driver: &str, volume: &str, plan: &Plan<'_>) -> String {
    let Plan { script, kind, kill_timeout, task } = plan;
    let (image, shell) = match driver {
        "docker" => ("image = \"saddlebag-test:1\"\n        network_mode = \"host\"", "command = \"sh\""),
        _ => ("", "command = \"/bin/sh\""),
    };
    // Enough for a task that starts in vain all the time until its volume is there again.
    let attempts = if *kind == "batch" { 0 } else { 500 };
    format!(
        r#"variable "saddlebag" {{}}
job "{job}" {{
  type = "{kind}"
  group "group" {{
    meta {{
      storage_volume      = "{volume}"
      storage_destination = "local/x"
    }}
    restart {{
      attempts = {attempts}
      interval = "10m"
      delay    = "100ms"
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
    task "main" {{
      driver       = "{driver}"
      kill_timeout = "{kill_timeout}"
      {task}
      config {{
        {image}
        {shell}
        args = ["-ec", <<EOT
V=$NOMAD_TASK_DIR/x
echo "$NOMAD_ALLOC_ID" | dd of=$V/starts oflag=append conv=notrunc,fsync 2>/dev/null
{script}
EOT
        ]
      }}
      logs {{
        max_files     = 1
        max_file_size = 1
      }}
      resources {{
        cpu    = 20
        memory = 32
      }}
    }}
  }}
}}
"#
    )
}
