//! A world's saddlebag: its agent, its guard and its command line.

use super::files::output;
use super::world::{PATIENCE, World};
use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

impl World {
    /// The saddlebag of this world: a link in the world's `bin`, which is on the PATH of Nomad and so of raw_exec tasks.
    /// exec tasks have it as `/usr/local/bin/saddlebag`; a docker task binds it, see [`World::run_job`].
    pub fn saddlebag_path(&self) -> PathBuf {
        self.directory.join("bin/saddlebag")
    }

    /// The agent's `state_dir`.
    pub fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// The agent's and the guard's `run_dir`.
    pub fn run_dir(&self) -> PathBuf {
        self.directory.join("run")
    }

    pub(super) fn prepare_saddlebag(&self) -> anyhow::Result<()> {
        let path = self.saddlebag_path();
        std::fs::create_dir(path.parent().context("a path below bin")?)?;
        // A hard link where that is possible, for what a chroot needs is a file; a copy of many megabytes otherwise.
        let built = env!("CARGO_BIN_EXE_saddlebag");
        if std::fs::hard_link(built, &path).is_err() {
            std::fs::copy(built, &path).context("copying saddlebag")?;
        }
        Ok(())
    }

    /// Writes the agent's configuration without starting it. `state_dir` and `run_dir` come first, then `hcl`.
    pub fn configure_agent(&self, hcl: &str) -> anyhow::Result<PathBuf> {
        let path = self.directory.join("agent.hcl");
        let places =
            format!("state_dir = \"{}\"\nrun_dir = \"{}\"\n", self.state_dir().display(), self.run_dir().display());
        std::fs::write(&path, format!("{places}{hcl}\n")).context("writing the agent's configuration")?;
        Ok(path)
    }

    /// Starts the agent with `hcl` as its configuration, and waits until it answers `status`. It finds Nomad by the
    /// world's environment. An agent that was killed is started again the same way.
    ///
    /// # Errors
    /// Where it ends or does not answer, with the ends of the logs.
    pub fn start_agent(&self, hcl: &str) -> anyhow::Result<()> {
        let configuration = self.configure_agent(hcl)?;
        let mut command = self.lab_command();
        command.arg("run").arg(&self.directory).arg("agent").arg(self.saddlebag_path());
        output(command.args(["agent", "--config"]).arg(configuration))?;
        self.wait_until("an agent that answers", PATIENCE, || {
            anyhow::ensure!(self.is_alive("agent"), "the agent ended");
            Ok(self.try_saddlebag(&["status", "--json"])?.status.success().then_some(()))
        })
    }

    /// Starts the agent as a service manager does, and returns when it has said that it is ready (sd_notify(3)).
    ///
    /// # Errors
    /// Where it does not say so in time.
    pub fn start_agent_until_ready(&self, hcl: &str) -> anyhow::Result<()> {
        let configuration = self.configure_agent(hcl)?;
        let path = self.directory.join("notify.sock");
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let arguments = [
            format!("NOTIFY_SOCKET={}", path.display()),
            self.saddlebag_path().display().to_string(),
            "agent".to_owned(),
            "--config".to_owned(),
            configuration.display().to_string(),
        ];
        self.run("agent", Path::new("/usr/bin/env"), &arguments.each_ref().map(String::as_str))?;
        let mut said = [0_u8; 4096];
        loop {
            let length = socket.recv(&mut said).context("waiting for READY=1")?;
            if said[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return Ok(());
            }
        }
    }

    /// Whether a process that the lab started is there still. A fresh one is there before it has a command line of its own.
    fn is_alive(&self, name: &str) -> bool {
        let file = std::fs::read_to_string(self.directory.join(format!("{name}.pid"))).unwrap_or_default();
        let stat = file.split(' ').next().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok());
        stat.is_some_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with('Z')))
    }

    /// The agent's process, while it runs.
    pub fn agent_pid(&self) -> Option<u32> {
        self.find_process("agent", &self.directory.join("agent.hcl"))
    }

    /// Kills the agent with SIGKILL and waits until it is gone.
    pub fn kill_agent(&self) -> anyhow::Result<()> {
        self.end("agent", "KILL")
    }

    /// Ends the agent with SIGTERM and waits until it is gone.
    pub fn stop_agent(&self) -> anyhow::Result<()> {
        self.end("agent", "TERM")
    }

    /// The guard's process, while it runs.
    pub fn guard_pid(&self) -> Option<u32> {
        self.find_process("guard", &self.run_dir())
    }

    /// Kills the guard with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// Where no guard runs.
    pub fn kill_guard(&self) -> anyhow::Result<()> {
        let pid = self.guard_pid().context("no guard runs")?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
        // Another guard may be there already: only this one must be gone.
        self.wait_until("the end of the killed guard", PATIENCE, || Ok((self.guard_pid() != Some(pid)).then_some(())))
    }

    /// Waits until a guard other than `before` runs.
    pub fn wait_for_new_guard(&self, before: Option<u32>, deadline: Duration) -> anyhow::Result<u32> {
        self.wait_until("a new guard", deadline, || Ok(self.guard_pid().filter(|pid| Some(*pid) != before)))
    }

    /// Runs a saddlebag command against this world's agent and returns what it printed.
    ///
    /// # Errors
    /// Where it fails, with what it wrote.
    pub fn saddlebag(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let done = self.try_saddlebag(arguments)?;
        let printed = String::from_utf8_lossy(&done.stdout).into_owned();
        let said = String::from_utf8_lossy(&done.stderr);
        anyhow::ensure!(done.status.success(), "saddlebag {arguments:?}: {}\n{printed}{said}", done.status);
        Ok(printed)
    }

    /// Runs a saddlebag command that may fail.
    pub fn try_saddlebag(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = self.command(&self.saddlebag_path());
        command.args(arguments).env("SADDLEBAG_SOCKET", self.run_dir().join("saddlebag.sock"));
        command.output().context("starting saddlebag")
    }

    /// A process `… VERB … PLACE …`, by its arguments; the world's paths are in no other process's.
    fn find_process(&self, verb: &str, place: &Path) -> Option<u32> {
        let place = place.to_str()?;
        std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            // A zombie's command line is empty.
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            // A guard's keeper has a guard's arguments and one more.
            if arguments.contains(&b"--keeper".as_slice()) {
                return None;
            }
            let names = |word: &str| arguments.iter().skip(1).any(|argument| *argument == word.as_bytes());
            let started = arguments.first()?.ends_with(b"saddlebag") || arguments.first()?.ends_with(b"exe");
            (started && names(verb) && (names(place) || names(&format!("--run-dir={place}")))).then_some(pid)
        })
    }
}
