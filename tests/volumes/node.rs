//! An agent of its own, in a temporary directory, whose Nomad does not answer.

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_saddlebag");
/// A port at which nobody listens: Nomad that is away.
const NO_NOMAD: &str = "http://127.0.0.1:1";
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The directory of the backend `disk`, its agent, and the command line.
pub struct Node {
    pub directory: tempfile::TempDir,
    agent: Option<Child>,
    more: String,
}

/// What a verb printed.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Node {
    /// An agent with a backend `disk` and a volume `files` in its configuration, and what `more` says.
    pub fn new(more: &str) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("sb-volumes.").tempdir()?;
        let mut node = Self { directory, agent: None, more: more.to_owned() };
        std::fs::create_dir(node.disk())?;
        node.start()?;
        Ok(node)
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// The backend's directory.
    pub fn disk(&self) -> PathBuf {
        self.path("disk")
    }

    /// The file that keeps a registered definition.
    pub fn definition(&self, name: &str) -> PathBuf {
        self.path("state/volumes.d").join(format!("{name}.hcl"))
    }

    pub fn configuration(&self) -> anyhow::Result<PathBuf> {
        let text = format!(
            "state_dir = \"{0}/state\"\nrun_dir = \"{0}/run\"\nhook_timeout = \"5s\"\n\
             backend \"host\" \"disk\" {{\n  path = \"{0}/disk\"\n}}\n\
             volume \"files\" {{\n  backend = \"disk\"\n}}\n{1}",
            self.directory.path().display(),
            self.more,
        );
        let path = self.path("agent.hcl");
        std::fs::write(&path, text)?;
        Ok(path)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.env("SADDLEBAG_SOCKET", self.path("run/saddlebag.sock")).env("NOMAD_ADDR", NO_NOMAD);
        command.env_remove("NOTIFY_SOCKET");
        command
    }

    /// Starts the agent and waits until it answers.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let configuration = self.configuration()?;
        self.start_by(&configuration)
    }

    /// The same with another configuration.
    pub fn start_with(&mut self, text: &str) -> anyhow::Result<()> {
        let path = self.path("other.hcl");
        std::fs::write(&path, text)?;
        self.start_by(&path)
    }

    fn start_by(&mut self, configuration: &Path) -> anyhow::Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.path("agent.log"))?;
        let mut command = self.command();
        command.args(["agent", "--config"]).arg(configuration).stderr(log).stdout(Stdio::null());
        self.agent = Some(command.spawn()?);
        self.wait_until("an agent that answers", || Ok(self.say(&["volume", "list"])?.code == 0))
    }

    pub fn agent_pid(&self) -> anyhow::Result<u32> {
        Ok(self.agent.as_ref().context("an agent runs")?.id())
    }

    /// Kills the agent with SIGKILL.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut agent = self.agent.take().context("an agent runs")?;
        // One that has ended is no error.
        let _ = kill(Pid::from_raw(i32::try_from(agent.id())?), Signal::SIGKILL);
        agent.wait()?;
        Ok(())
    }

    /// Ends the guard, and all that it holds.
    pub fn stop_guard(&self) -> anyhow::Result<Output> {
        Ok(self.command().args(["guard", "--stop", "--run-dir"]).arg(self.path("run")).output()?)
    }

    /// Adds to the configuration of the next agent.
    pub fn add(&mut self, hcl: &str) {
        self.more.push_str(hcl);
    }

    /// A copy of the program that every user can run.
    pub fn program(&self) -> anyhow::Result<PathBuf> {
        let path = self.path("saddlebag");
        if !path.exists() {
            std::fs::copy(PROGRAM, &path)?;
        }
        Ok(path)
    }

    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        self.start()
    }

    pub fn wait_until(&self, what: &str, mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let start = Instant::now();
        while !is_so()? {
            let log = || std::fs::read_to_string(self.path("agent.log")).unwrap_or_default();
            anyhow::ensure!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Runs a verb.
    pub fn say(&self, arguments: &[&str]) -> anyhow::Result<Said> {
        Ok(said(self.command().args(arguments).output()?))
    }

    /// Runs a verb that must end well, and gives what it printed as JSON.
    pub fn ask(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let said = self.say(arguments)?;
        anyhow::ensure!(said.code == 0, "{arguments:?}: {} {}{}", said.code, said.out, said.err);
        Ok(serde_json::from_str(&said.out)?)
    }

    /// Runs `volume VERB -` with that definition on its standard input.
    pub fn define(&self, verb: &str, text: &str) -> anyhow::Result<Said> {
        Ok(said(finish(self.begin(verb, text)?)?))
    }

    /// Begins the same, and does not wait for its end.
    pub fn begin(&self, verb: &str, text: &str) -> anyhow::Result<Child> {
        let mut command = self.command();
        command.args(["volume", verb, "--json", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
        Ok(child)
    }

    /// Begins `volume VERB NAME`.
    pub fn begin_named(&self, verb: &str, name: &str) -> anyhow::Result<Child> {
        let mut command = self.command();
        command.args(["volume", verb, "--json", name]).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command.spawn()?)
    }

    /// What `volume list` says of a volume; `Null` where it is not there.
    pub fn listed(&self, name: &str) -> anyhow::Result<Value> {
        let list = self.ask(&["volume", "list", "--json"])?;
        let volumes = list["volumes"].as_array().context("volumes")?;
        Ok(volumes.iter().find(|volume| volume["name"] == name).cloned().unwrap_or(Value::Null))
    }

    /// What lies in the folder for deleted volumes.
    pub fn kept(&self) -> anyhow::Result<Vec<String>> {
        let Ok(entries) = std::fs::read_dir(self.disk().join(".saddlebag-deleted")) else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

pub fn finish(child: Child) -> anyhow::Result<Output> {
    Ok(child.wait_with_output()?)
}

pub fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Said {
    /// Its answer as JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        anyhow::ensure!(self.code == 0, "{} {}{}", self.code, self.out, self.err);
        Ok(serde_json::from_str(&self.out)?)
    }

    pub fn outcome(&self) -> anyhow::Result<String> {
        Ok(self.json()?["outcome"].as_str().context("an outcome")?.to_owned())
    }
}

/// The SHA-256 of each file below a directory, with its owner and mode; of a directory only these.
pub fn contents(directory: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    use std::os::unix::fs::MetadataExt as _;
    let found = Command::new("find").arg(directory).args(["-mindepth", "1", "-printf", r"%P\0"]).output()?;
    anyhow::ensure!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let mut contents = BTreeMap::new();
    for name in String::from_utf8(found.stdout)?.split('\0').filter(|name| !name.is_empty()) {
        let path = directory.join(name);
        let told = std::fs::symlink_metadata(&path)?;
        let sum = match told.is_file() {
            true => String::from_utf8(Command::new("sha256sum").arg(&path).output()?.stdout)?[..64].to_owned(),
            false => String::new(),
        };
        contents.insert(name.to_owned(), format!("{sum} {}:{} {:o}", told.uid(), told.gid(), told.mode()));
    }
    Ok(contents)
}

impl Drop for Node {
    fn drop(&mut self) {
        // Whatever the test came to, nothing of it is left running.
        if self.agent.is_some() {
            let _ = self.kill();
        }
        let _ = self.stop_guard();
    }
}
