//! A world with one task that works on a volume, and that is killed.

use crate::kind::Kind;
use crate::support::{Options, PATIENCE, World, tool};
use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Times that a database is killed.
pub const KILLS: u64 = 2;

/// How long a database works before it is killed: some seconds, or `SADDLEBAG_WORKLOADS_SECONDS`.
///
/// # Panics
/// Where that is no number.
pub fn work_time() -> Duration {
    let seconds = std::env::var("SADDLEBAG_WORKLOADS_SECONDS").ok();
    Duration::from_secs(seconds.map_or(4, |text| text.parse().expect("SADDLEBAG_WORKLOADS_SECONDS is a number")))
}

/// A Nomad with the job, and saddlebag with the volume.
pub struct Scene {
    pub world: World,
    kind: Kind,
    name: &'static str,
    job: String,
    alloc: String,
    restarts: u64,
}

impl Scene {
    /// Starts a job whose task runs `script` in a shell, with the volume at `/local/data` and a directory of the host at
    /// `/local/notes`. `files` are put into the latter first.
    ///
    /// # Errors
    /// Where it does not come to run.
    pub fn start(kind: &Kind, name: &'static str, script: &str, files: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::start_with(kind, name, "exec", script, files)
    }

    /// The same with a task of raw_exec, which finds the two below `$NOMAD_TASK_DIR`.
    ///
    /// # Errors
    /// As [`Scene::start`].
    pub fn start_on_the_host(
        kind: &Kind,
        name: &'static str,
        script: &str,
        files: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        Self::start_with(kind, name, "raw_exec", script, files)
    }

    fn start_with(
        kind: &Kind,
        name: &'static str,
        driver: &str,
        script: &str,
        files: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let cache = |folder: &str| -> anyhow::Result<PathBuf> {
            let bin = tool("weed").context("no weed")?;
            let cache = bin.parent().and_then(Path::parent).context("the tools' cache")?;
            cache.join(folder).canonicalize().with_context(|| format!("make tools installs {folder}"))
        };
        let writer = format!("chroot_env {{\n    \"{}\" = \"/opt/writer\"\n  }}", cache("writer")?.display());
        let options = Options::default().rootfs(cache("databases")?.join("root")).client(&writer);
        let world = World::with(name, options)?;
        let configuration = kind.configuration(&world)?;
        let notes = world.directory().join("notes/notes");
        std::fs::create_dir(&notes)?;
        std::os::unix::fs::chown(&notes, Some(65534), Some(65534))?;
        std::fs::write(notes.join("run"), script)?;
        for (file, text) in files {
            std::fs::write(notes.join(file), text)?;
        }
        world.start_agent(&configuration)?;
        let run = if driver == "exec" { Path::new("/local/notes/run").to_owned() } else { notes.join("run") };
        let job = job(name, driver, &run);
        let mut scene = Self { world, kind: *kind, name, job, alloc: String::new(), restarts: 0 };
        scene.begin()?;
        Ok(scene)
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        self.world.run_job(&self.job, &[])?;
        self.alloc = self.world.wait_running(self.name)?;
        self.restarts = 0;
        Ok(())
    }

    /// The directory of the host that the task has at `/local/notes`.
    pub fn notes(&self) -> PathBuf {
        self.world.directory().join("notes/notes")
    }

    /// Kills all processes of the task at once, and waits until Nomad has started it again.
    ///
    /// # Errors
    /// Where nothing ran, and where it does not come to run again.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let killed = self.processes()?;
        anyhow::ensure!(!killed.is_empty(), "nothing runs: {}", self.world.events(&self.alloc)?);
        for pid in &killed {
            // It may have ended with its parent.
            let _ = kill_process(*pid, Signal::KILL);
        }
        self.world.wait_until("the end of what was killed", PATIENCE, || {
            Ok(killed.iter().all(|pid| is_over(*pid)).then_some(()))
        })?;
        self.restarts += 1;
        self.world.wait_restarted(&self.alloc, "main", self.restarts)
    }

    /// Stops the job as an operator does, and starts it again: another allocation gets the volume.
    ///
    /// # Errors
    /// Where it does not end, or does not come to run again.
    pub fn move_to_another_allocation(&mut self) -> anyhow::Result<()> {
        self.world.stop_purge(self.name)?;
        let former = self.alloc.clone();
        self.world.wait_until("the end of the task", PATIENCE, || Ok(self.processes()?.is_empty().then_some(())))?;
        self.begin()?;
        anyhow::ensure!(self.alloc != former, "the same allocation");
        Ok(())
    }

    /// Stops the job for good, and removes it. What its volume is then is clean.
    ///
    /// # Errors
    /// Where its allocation does not go.
    pub fn end(self) -> anyhow::Result<()> {
        self.world.stop_purge(self.name)?;
        self.world.wait_until("the end of the task", PATIENCE, || Ok(self.processes()?.is_empty().then_some(())))?;
        self.kind.assert_clean(&self.world)
    }

    /// Waits for something, and shows what the task has said where it does not come.
    ///
    /// # Errors
    /// What the condition says, and when it takes too long.
    pub fn wait<T>(&self, what: &str, condition: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
        // A database that recovers on a slow file system takes its time.
        let found = self.world.wait_until(what, PATIENCE * 2, condition);
        found.with_context(|| self.said())
    }

    /// What the task has said to Nomad, its last lines.
    pub fn said(&self) -> String {
        let text = self.world.alloc_logs(&self.alloc, "main").unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("{} on {}: {}", self.name, self.kind.name, lines[lines.len().saturating_sub(30)..].join("\n"))
    }

    /// A command that runs inside the task: its file systems, its user.
    ///
    /// # Errors
    /// Where the task does not run.
    pub fn inside(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let pid = *self.processes()?.first().context("the task does not run")?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", pid.as_raw_nonzero())).args(["--mount", "--root", "--wd=/"]);
        command.args(["--setuid=65534", "--setgid=65534", "--", "/bin/sh", "-c"]);
        command.arg("export LC_ALL=C PATH=$(echo /usr/lib/postgresql/*/bin):/usr/bin:/bin; exec \"$@\"").arg("sh");
        command.args(arguments);
        Ok(command)
    }

    /// Runs a command inside the task, and returns what it prints.
    ///
    /// # Errors
    /// Where it fails, with what it said.
    pub fn ask(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let done = self.inside(arguments)?.output()?;
        let (printed, said) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        anyhow::ensure!(done.status.success(), "{}: {}\n{printed}{said}", arguments.join(" "), done.status);
        Ok(printed.into_owned())
    }

    /// The processes that the task consists of, by the allocation's id in their environment; the first is the first that
    /// was started.
    fn processes(&self) -> anyhow::Result<Vec<Pid>> {
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
        Ok(found.into_iter().filter_map(Pid::from_raw).collect())
    }

    /// Says how fast it was: a line of the test's output, and of the file that `SADDLEBAG_WORKLOADS_FIGURES` names.
    ///
    /// # Errors
    /// Where that file cannot be written.
    pub fn note_figure(&self, what: &str, count: u64, time: Duration) -> anyhow::Result<()> {
        use std::io::Write as _;
        #[expect(clippy::cast_precision_loss, reason = "a rate of some thousands")]
        let rate = count as f64 / time.as_secs_f64();
        println!("{what} on {}: {count} in {:.1} s, {rate:.0} a second", self.kind.name, time.as_secs_f64());
        if let Some(path) = std::env::var_os("SADDLEBAG_WORKLOADS_FIGURES") {
            let mut file = std::fs::File::options().create(true).append(true).open(path)?;
            writeln!(file, "{what}\t{}\t{rate:.1}", self.kind.name)?;
        }
        Ok(())
    }
}

/// Whether a process does nothing any more.
fn is_over(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])))
}

fn job(name: &str, driver: &str, run: &Path) -> String {
    format!(
        r#"
variable "saddlebag" {{}}
variable "socket" {{}}
job "{name}" {{
  group "g" {{
    meta {{
      storage_volume = <<EOT
volume "data" {{
}}
volume "notes" {{
}}
EOT
    }}
    restart {{
      attempts = 100
      interval = "1h"
      delay    = "0s"
      mode     = "fail"
    }}
    PRESTART
    task "main" {{
      driver = "{driver}"
      config {{
        command = "/bin/sh"
        args    = ["{}"]
      }}
      kill_timeout = "20s"
      resources {{
        cpu    = 500
        memory = 700
      }}
    }}
  }}
}}
"#,
        run.display()
    )
}
