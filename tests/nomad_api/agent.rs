//! A real Nomad agent for one test, on ports and in a directory of its own.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use saddlebag::nomad::client::Client;
use saddlebag::nomad::settings::Settings;
use saddlebag::nomad::token::{Secret, TokenSource};

/// Nomad's program: `SADDLEBAG_NOMAD`, else `nomad` on PATH. Without one the test is skipped, or fails if `REQUIRE_ALL=1`.
pub fn nomad_program(test: &str) -> Option<PathBuf> {
    let set = std::env::var_os("SADDLEBAG_NOMAD").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = set.or_else(|| std::env::split_paths(&path).map(|dir| dir.join("nomad")).find(|file| file.is_file()));
    if found.is_none() {
        assert_ne!(std::env::var("REQUIRE_ALL").as_deref(), Ok("1"), "{test}: no nomad found");
        println!("SKIPPED: {test}: no nomad on PATH, and SADDLEBAG_NOMAD is not set");
    }
    found
}

/// What distinguishes one agent from another.
#[derive(Default, Clone)]
pub struct Plan {
    /// Blocks to add to the configuration.
    pub extra: String,
    /// A server only.
    pub no_client: bool,
    /// TLS: the folder that holds the files of `pki::Pki`.
    pub tls: Option<PathBuf>,
}

pub struct Nomad {
    program: PathBuf,
    plan: Plan,
    dir: tempfile::TempDir,
    pub port: u16,
    child: Option<Child>,
    pub token: Option<String>,
    jobs: Vec<String>,
}

impl Nomad {
    /// Chooses ports and writes the configuration, but starts nothing.
    pub fn prepare(program: &Path, plan: Plan) -> Self {
        let [http, rpc, serf] = [(); 3].map(|()| find_port());
        let dir = tempfile::tempdir().unwrap();
        let tls = plan.tls.as_ref().map(|pki| {
            let pki = pki.display();
            format!(
                "tls {{\n http = true\n rpc = false\n ca_file = \"{pki}/ca.pem\"\n cert_file = \"{pki}/server.pem\"\n \
                 key_file = \"{pki}/server.key\"\n verify_https_client = true\n}}\n"
            )
        });
        let config = format!(
            r#"
            data_dir             = "{data}"
            bind_addr            = "127.0.0.1"
            disable_update_check = true
            ports {{
              http = {http}
              rpc  = {rpc}
              serf = {serf}
            }}
            advertise {{
              http = "127.0.0.1"
              rpc  = "127.0.0.1"
              serf = "127.0.0.1"
            }}
            server {{
              enabled          = true
              bootstrap_expect = 1
            }}
            client {{
              enabled           = {client}
              network_interface = "lo"
              servers           = ["127.0.0.1:{rpc}"]
              options = {{
                "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,consul,vault"
              }}
            }}
            plugin "raw_exec" {{
              config {{
                enabled = true
              }}
            }}
            telemetry {{
              publish_allocation_metrics = false
              publish_node_metrics       = false
            }}
            {extra}
            {tls}
            "#,
            data = dir.path().join("data").display(),
            client = !plan.no_client,
            extra = plan.extra,
            tls = tls.unwrap_or_default(),
        );
        std::fs::write(dir.path().join("agent.hcl"), config).unwrap();
        let program = program.to_owned();
        Self { program, plan, dir, port: http, child: None, token: None, jobs: Vec::new() }
    }

    /// Starts the agent and waits until its HTTP port listens.
    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let child = Command::new(&self.program)
            .args(["agent", "-config"])
            .arg(self.dir.path().join("agent.hcl"))
            .env_remove("AWS_CA_BUNDLE")
            .env_remove("NOMAD_TOKEN")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < deadline, "nomad does not listen: {}", self.read_log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the agent as a crash does. Its tasks go on.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// The settings that reach it, with the token that the test has set.
    pub fn settings(&self) -> Settings {
        let scheme = if self.plan.tls.is_some() { "https" } else { "http" };
        let token = self.token.clone().map_or(TokenSource::None, |token| TokenSource::Fixed(Secret::new(token)));
        Settings { address: format!("{scheme}://127.0.0.1:{}", self.port), token, ..Settings::default() }
    }

    pub fn client(&self) -> Client {
        Client::new(&self.settings()).unwrap()
    }

    pub fn alloc_dir(&self) -> PathBuf {
        self.dir.path().join("data/alloc")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn read_log(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("NOMAD_ADDR", self.settings().address).env_remove("NOMAD_TOKEN");
        if let Some(token) = &self.token {
            command.env("NOMAD_TOKEN", token);
        }
        command
    }

    /// Runs Nomad's command line, and gives what it printed.
    pub fn nomad(&self, args: &[&str]) -> String {
        text(args, self.command(args).stdin(Stdio::null()).output().unwrap())
    }

    /// Registers a job and waits for nothing.
    pub fn run_job(&mut self, name: &str, hcl: &str) {
        let args = ["job", "run", "-detach", "-"];
        let pipe = || Stdio::piped();
        let mut child = self.command(&args).stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(hcl.as_bytes()).unwrap();
        text(&args, child.wait_with_output().unwrap());
        self.jobs.push(name.to_owned());
    }
}

/// A free port that no other agent of this process has: the kernel would give again that of one that is not up.
fn find_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return port;
        }
    }
}

fn text(args: &[&str], output: Output) -> String {
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "nomad {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

impl Drop for Nomad {
    fn drop(&mut self) {
        if let Some(agent) = self.child.as_ref().map(Child::id) {
            // A dead agent leaves tasks, log collectors and a tmpfs for each task's secrets, so it cleans up first.
            for job in std::mem::take(&mut self.jobs) {
                let mut stop = self.command(&["job", "stop", "-purge", "-detach", &job]);
                let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
            }
            let clean = || {
                let allocs = std::fs::read_dir(self.alloc_dir()).into_iter().flatten().count();
                allocs == 0 && !processes().any(|pid| pid != agent && uses(pid, self.dir.path()))
            };
            let deadline = Instant::now() + Duration::from_secs(20);
            while !clean() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        self.kill();
        if std::thread::panicking() {
            let log = self.read_log();
            let from = log.len().saturating_sub(6000);
            println!("--- the end of nomad's log\n{}", log.get(from..).unwrap_or(&log));
        }
    }
}

fn processes() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether any process works in that directory or below it, as raw_exec tasks do.
pub fn task_runs_below(dir: &Path) -> bool {
    processes().any(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir)))
}

/// Whether the process works below that directory, or has something below it open.
fn uses(pid: u32, dir: &Path) -> bool {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().map(|entry| entry.path());
    let cwd = PathBuf::from(format!("/proc/{pid}/cwd"));
    open.chain([cwd]).any(|link| std::fs::read_link(link).is_ok_and(|target| target.starts_with(dir)))
}
