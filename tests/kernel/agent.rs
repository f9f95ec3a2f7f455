//! A real agent that has no Nomad to ask, with a guard of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::scene::{PATIENCE, end_guards, signal};

pub const ALLOC: &str = "11111111-2222-3333-4444-555555555555";

/// An agent without a Nomad, which refuses a hook after a second.
pub struct Agent {
    directory: tempfile::TempDir,
    process: Child,
}

impl Agent {
    pub fn start(arguments: &[&str], variable: Option<String>, stderr: Stdio) -> Self {
        Self::start_with("", arguments, variable, stderr)
    }

    /// With more in its configuration.
    pub fn configured(hcl: &str) -> Self {
        Self::start_with(hcl, &[], None, Stdio::null())
    }

    fn start_with(hcl: &str, arguments: &[&str], variable: Option<String>, stderr: Stdio) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().display();
        let text = format!(
            "state_dir = \"{place}/state\"\nrun_dir = \"{place}/run\"\nhook_timeout = \"1s\"\n\
             nomad {{\n  address = \"http://127.0.0.1:1\"\n}}\n{hcl}"
        );
        std::fs::write(directory.path().join("agent.hcl"), text).unwrap();
        let mut command = Self::command(&directory);
        command.args(arguments).stderr(stderr);
        command.envs(variable.map(|value| ("JOURNAL_STREAM", value)));
        Self { process: command.spawn().unwrap(), directory }
    }

    fn command(directory: &tempfile::TempDir) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_saddlebag"));
        command.arg("agent").arg("--config").arg(directory.path().join("agent.hcl")).stdin(Stdio::null());
        command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET");
        command
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("run/saddlebag.sock")
    }

    /// Kills it and starts another.
    pub fn restart(&mut self) {
        signal(self.process.id(), Signal::SIGKILL);
        self.process.wait().unwrap();
        self.process = Self::command(&self.directory).stderr(Stdio::null()).spawn().unwrap();
    }

    /// Waits until it answers.
    pub fn wait(&self) {
        let until = Instant::now() + PATIENCE;
        let status = || self.saddlebag().args(["status", "--socket"]).arg(self.socket()).output().unwrap().status;
        while !status().success() {
            assert!(Instant::now() < until, "the agent does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The guard's process, once the agent knows it.
    pub fn guard_pid(&self) -> Option<u32> {
        let status = self.saddlebag().args(["status", "--json", "--socket"]).arg(self.socket()).output().unwrap();
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        status["guard"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
    }

    pub fn saddlebag(&self) -> Command {
        Command::new(env!("CARGO_BIN_EXE_saddlebag"))
    }

    /// Has a prestart task ask, which gets no volumes.
    pub fn ask(&self) {
        self.wait();
        let mut mount = self.saddlebag();
        mount.args(["mount", "--alloc", ALLOC, "--task", "storage", "--timeout", "20s", "--socket"]).arg(self.socket());
        let asked = mount.output().unwrap();
        assert!(!asked.status.success(), "{asked:?}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        signal(self.process.id(), Signal::SIGTERM);
        let _ = self.process.wait();
        // It may have been about to start its guard, or the keeper to start the next one.
        let place = self.directory.path();
        end_guards(&place.join("run"), Some(&place.join("agent.hcl")));
    }
}
