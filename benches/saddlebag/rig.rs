//! The agent under measure, its guard and keeper, in a directory that `tests/tools/lab` made and removes.

use crate::fake_nomad::{FakeNomad, alloc_id};
use anyhow::Context as _;
use saddlebag::api::types::{MountReply, MountRequest, Status};
use saddlebag::cli::client::{Question, ask, block_on};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const SADDLEBAG: &str = env!("CARGO_BIN_EXE_saddlebag");
pub const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/lab");
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Rig {
    pub directory: PathBuf,
    pub nomad: FakeNomad,
    configuration: String,
    agent: Option<Child>,
    notified: UnixDatagram,
    keeper: Child,
}

impl Rig {
    /// A directory, a fake Nomad, and no agent yet. The lab's keeper cleans up however this process ends.
    pub fn new(configuration: &str) -> anyhow::Result<Self> {
        let made = Command::new(LAB).arg("new").output().context("making a lab directory")?;
        let directory = PathBuf::from(String::from_utf8(made.stdout)?.trim());
        let keeper = Command::new("setsid").args([LAB, "keep"]).arg(&directory).stdin(Stdio::piped()).spawn()?;
        for name in ["alloc", "volumes", "limit"] {
            fs::create_dir(directory.join(name))?;
        }
        let nomad = FakeNomad::start(&directory.join("alloc"))?;
        let notified = UnixDatagram::bind(directory.join("notify.sock"))?;
        notified.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { directory, nomad, configuration: configuration.to_owned(), agent: None, notified, keeper })
    }

    /// The same with this configuration, which may name the directory.
    pub fn with(mut self, configuration: &str) -> Self {
        configuration.clone_into(&mut self.configuration);
        self
    }

    pub fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
    }

    fn run_dir(&self) -> PathBuf {
        self.directory.join("run")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("agent.log")
    }

    /// Starts the agent and returns how long it took until it said that it is ready, in milliseconds.
    pub fn start_agent(&mut self) -> anyhow::Result<f64> {
        let path = self.directory.join("agent.hcl");
        let (state, run) = (self.state_dir(), self.run_dir());
        let own = format!(
            "state_dir = \"{}\"\nrun_dir = \"{}\"\nnomad {{\n  address = \"{}\"\n}}\n",
            state.display(),
            run.display(),
            self.nomad.address
        );
        fs::write(&path, own + &self.configuration)?;
        // On a host of systemd's the agent expects its guard to be a unit; here there is none.
        if self.guard_processes()?.is_empty() {
            fs::create_dir_all(&run)?;
            saddlebag::guard::ensure_running(&run, Path::new(SADDLEBAG), &[])?;
        }
        let log = File::options().create(true).append(true).open(self.log())?;
        let begun = Instant::now();
        let agent = Command::new(SADDLEBAG)
            .args(["agent", "--config"])
            .arg(&path)
            .env("NOTIFY_SOCKET", self.directory.join("notify.sock"))
            .env("SADDLEBAG_LAB", &self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.agent = Some(agent);
        let mut said = [0; 512];
        loop {
            let length = self.notified.recv(&mut said).context("an agent that says that it is ready")?;
            if said[..length].windows(7).any(|word| word == b"READY=1") {
                return Ok(milliseconds(begun));
            }
        }
    }

    /// Ends the agent; its mounts, its guard and its mount programs stay.
    pub fn stop_agent(&mut self) -> anyhow::Result<()> {
        let mut agent = self.agent.take().context("no agent runs")?;
        agent.kill()?;
        agent.wait()?;
        Ok(())
    }

    pub fn agent_pid(&self) -> anyhow::Result<u32> {
        Ok(self.agent.as_ref().context("no agent runs")?.id())
    }

    /// The guard and its keeper, by their arguments.
    pub fn guard_processes(&self) -> anyhow::Result<Vec<(&'static str, u32)>> {
        let place = self.run_dir().into_os_string().into_string().ok().context("a path in UTF-8")?;
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(line) = fs::read_to_string(entry.path().join("cmdline")) else { continue };
            if line.contains(&place) && line.split('\0').any(|word| word == "guard") {
                found.push((if line.contains("--keeper") { "keeper" } else { "guard" }, pid));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The directory of an allocation, as Nomad has made it when the prestart task starts.
    pub fn make_alloc_dir(&self, number: usize) -> anyhow::Result<()> {
        let own = self.alloc_dir(number);
        fs::create_dir_all(own.join("alloc/logs"))?;
        fs::create_dir_all(own.join("storage/local"))?;
        Ok(())
    }

    pub fn alloc_dir(&self, number: usize) -> PathBuf {
        self.directory.join("alloc").join(alloc_id(number))
    }

    fn alloc_socket(&self, number: usize) -> PathBuf {
        self.alloc_dir(number).join("alloc/saddlebag.sock")
    }

    /// Waits for the sockets of these allocations.
    pub fn wait_for_sockets(&self, mut numbers: impl Iterator<Item = usize>) -> anyhow::Result<()> {
        numbers.try_for_each(|number| wait_until("an allocation's socket", || Ok(self.alloc_socket(number).exists())))
    }

    /// Asks as `saddlebag mount` does, in this process; milliseconds until the answer.
    pub fn ask_for_mounts(&self, number: usize) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let reply = self.ask_patiently(number)?;
        let took = milliseconds(begun);
        anyhow::ensure!(reply.bindings.iter().all(|binding| !binding.already), "allocation {number} had its volume");
        Ok(took)
    }

    /// The same where it may be found in place: a source that hung while it was bound is looked at once more.
    pub fn ask_patiently(&self, number: usize) -> anyhow::Result<MountReply> {
        let request = MountRequest { alloc: Some(alloc_id(number)), task: Some("storage".into()) };
        let question = Question::post("/v1/mount", &request)?;
        let reply: MountReply = block_on(ask(&self.alloc_socket(number), question, Instant::now() + PATIENCE))??;
        anyhow::ensure!(!reply.bindings.is_empty(), "allocation {number} got no volume");
        Ok(reply)
    }

    /// Runs `saddlebag mount` as the prestart task does; milliseconds until its end.
    pub fn run_mount(&self, number: usize) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let done = Command::new(SADDLEBAG)
            .arg("mount")
            .env("NOMAD_ALLOC_ID", alloc_id(number))
            .env("NOMAD_TASK_NAME", "storage")
            .env("NOMAD_ALLOC_DIR", self.alloc_dir(number).join("alloc"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        let took = milliseconds(begun);
        anyhow::ensure!(done.success(), "saddlebag mount: {done}");
        Ok(took)
    }

    /// Reads the metrics as Prometheus does; milliseconds until their end.
    pub fn scrape(&self) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let mut stream = std::os::unix::net::UnixStream::connect(self.run_dir().join("saddlebag.sock"))?;
        stream.write_all(
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\nConnection: close\r\n\r\n",
        )?;
        let text = std::io::read_to_string(stream)?;
        let took = milliseconds(begun);
        anyhow::ensure!(text.ends_with("# EOF\n"), "no metrics: {text}");
        Ok(took)
    }

    pub fn status(&self) -> anyhow::Result<Status> {
        let deadline = Instant::now() + PATIENCE;
        Ok(block_on(ask(&self.run_dir().join("saddlebag.sock"), Question::get("/v1/status"), deadline))??)
    }

    /// Waits until the only source is in that state; its mount point.
    pub fn wait_for_source(&self, state: &str) -> anyhow::Result<Option<String>> {
        let mut point = None;
        wait_until(&format!("a source that is {state}"), || {
            let source = self.status()?.sources.into_iter().next();
            let is_so = source.as_ref().is_some_and(|source| source.state == state);
            point = source.and_then(|source| source.mount_point);
            Ok(is_so)
        })?;
        Ok(point)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            // Ended already is as good.
            let _ = agent.kill();
            let _ = agent.wait();
        }
        drop(self.keeper.stdin.take());
        match self.keeper.wait() {
            Ok(status) if status.success() => {}
            other => eprintln!("{} was not removed: {other:?}", self.directory.display()),
        }
    }
}

pub fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !condition()? {
        anyhow::ensure!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Resident memory, in MiB.
pub fn resident(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// The context switches of each thread so far.
pub fn context_switches(pid: u32) -> anyhow::Result<BTreeMap<OsString, u64>> {
    let mut found = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let counts = status.lines().filter(|line| line.contains("ctxt_switches:"));
        let sum = counts.filter_map(|line| line.rsplit('\t').next()?.trim().parse::<u64>().ok()).sum();
        found.insert(thread.file_name(), sum);
    }
    Ok(found)
}

/// The processor's time that each thread has had so far, in milliseconds.
pub fn processor_times(pid: u32) -> anyhow::Result<BTreeMap<i32, f64>> {
    let mut found = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        let nanoseconds: Option<f64> = text.split(' ').next().and_then(|word| word.parse().ok());
        let id = thread.file_name().to_str().and_then(|name| name.parse().ok());
        found.extend(id.zip(nanoseconds.map(|nanoseconds| nanoseconds / 1e6)));
    }
    Ok(found)
}

/// How many mount tables a process has open.
pub fn watched_tables(pid: u32) -> anyhow::Result<usize> {
    let links = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    Ok(links.filter(|link| link.ends_with("mountinfo")).count())
}
