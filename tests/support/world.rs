//! A test's own Nomad in a temporary directory.

use super::files::output;
use super::lab::{Keeper, Lab, lab, new_directory, read_line, tool};
use super::wait::wait_until;
use anyhow::Context as _;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long something that needs a busy machine's attention may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How a world's Nomad differs from the usual one.
#[derive(Default)]
pub struct Options {
    gc_max_allocs: Option<u32>,
    acl: bool,
    tls: bool,
    client: String,
    agent: String,
    rootfs: Option<PathBuf>,
}

impl Options {
    /// Collects terminal allocations as soon as there are more than this many allocations on the node.
    pub fn gc_max_allocs(mut self, most: u32) -> Self {
        self.gc_max_allocs = Some(most);
        self
    }

    /// Turns ACLs on; the world's own commands use the bootstrap token, see [`World::environment`].
    pub fn acl(mut self) -> Self {
        self.acl = true;
        self
    }

    /// Makes a private CA and turns on TLS for HTTP and RPC; clients need a certificate.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Gives exec tasks another root file system: what is in its `bin`, `usr`, `lib`, `lib64` and `etc`.
    pub fn rootfs(mut self, root: PathBuf) -> Self {
        self.rootfs = Some(root);
        self
    }

    /// Adds HCL to Nomad's `client` block.
    pub fn client(mut self, hcl: &str) -> Self {
        self.client.push_str(hcl);
        self.client.push('\n');
        self
    }

    /// Adds HCL to the top level of Nomad's configuration.
    pub fn nomad(mut self, hcl: &str) -> Self {
        self.agent.push_str(hcl);
        self.agent.push('\n');
        self
    }
}

/// A Nomad with a ready node, and room for a saddlebag agent.
///
/// Dropping it ends every process, removes the containers, unmounts what is left and removes the directory; with
/// `KEEP_LOGS=DIR` in the environment the logs are copied there first.
pub struct World {
    pub(super) directory: PathBuf,
    pub(super) lab: &'static Lab,
    pub(super) environment: Vec<(String, String)>,
    node: String,
    rootfs: Option<PathBuf>,
    keeper: Option<Keeper>,
}

impl World {
    /// A world with the usual Nomad: docker, exec and raw_exec healthy, no ACLs, plain HTTP on loopback.
    ///
    /// # Errors
    /// Where a server does not come up, with the end of its log.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        Self::with(name, Options::default())
    }

    /// A world whose Nomad is configured otherwise. `name` is the Nomad node's name.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn with(name: &str, options: Options) -> anyhow::Result<Self> {
        let lab = Lab::shared()?;
        let directory = new_directory()?;
        let keeper = Keeper::start(&directory, Some(&lab.docker))?;
        let mut world = Self {
            directory,
            lab,
            environment: Vec::new(),
            node: String::new(),
            rootfs: options.rootfs.clone(),
            keeper: Some(keeper),
        };
        world.prepare_saddlebag()?;
        std::fs::create_dir(world.directory.join("nomad.d"))?;
        std::fs::write(world.directory.join("nomad.d/options.hcl"), configuration(name, &options))?;
        if options.tls {
            world.make_certificates()?;
        }
        world.start_nomad()?;
        if options.acl {
            world.bootstrap_acl()?;
        }
        world.wait_for_node()?;
        Ok(world)
    }

    /// The world's directory: Nomad's data is in `nomad`, logs are `*.log`, the agent's are `state` and `run`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The Docker daemon and the SeaweedFS that all worlds of this process share.
    pub fn lab(&self) -> &'static Lab {
        self.lab
    }

    /// `NOMAD_ADDR` and, with TLS and ACLs, what else a client of this Nomad needs.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// One value of [`World::environment`].
    ///
    /// # Errors
    /// Where this world has no such variable.
    pub fn variable(&self, name: &str) -> anyhow::Result<&str> {
        let found = self.environment.iter().find(|(key, _)| key == name);
        Ok(&found.with_context(|| format!("this world has no {name}"))?.1)
    }

    /// The id of Nomad's node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The `nomad` command with this world's address, certificates and token.
    pub fn nomad(&self, arguments: &[&str]) -> anyhow::Result<String> {
        output(self.command(&tool("nomad").context("no nomad")?).args(arguments))
    }

    /// A command with this world's environment and nothing of a surrounding Nomad's.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("NOMAD_") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Calls Nomad's HTTP API; `Value::Null` where it answers with nothing.
    ///
    /// # Errors
    /// Where there is no answer within a minute, with any status above 399, and where it is not JSON.
    pub fn api(&self, method: &str, path: &str) -> anyhow::Result<Value> {
        self.call_api(method, path, None)
    }

    /// Calls Nomad's HTTP API with a body.
    ///
    /// # Errors
    /// As [`World::api`].
    pub fn api_with(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call_api(method, path, Some(body))
    }

    fn call_api(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail-with-body", "--noproxy", "*", "--max-time", "60", "-X", method]);
        for (variable, flag) in
            [("NOMAD_CACERT", "--cacert"), ("NOMAD_CLIENT_CERT", "--cert"), ("NOMAD_CLIENT_KEY", "--key")]
        {
            if let Ok(value) = self.variable(variable) {
                curl.args([flag, value]);
            }
        }
        if let Ok(token) = self.variable("NOMAD_TOKEN") {
            curl.args(["-H", &format!("X-Nomad-Token: {token}")]);
        }
        if let Some(body) = body {
            curl.args(["--data-binary", &body.to_string()]);
        }
        let answer = output(curl.arg(format!("{}{path}", self.variable("NOMAD_ADDR")?)))?;
        if answer.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&answer).with_context(|| format!("{method} {path}: {answer}"))
    }

    /// Kills Nomad's agent with SIGKILL. What its tasks run goes on.
    pub fn kill_nomad(&self) -> anyhow::Result<()> {
        self.end("nomad", "KILL")
    }

    /// Ends Nomad's agent with SIGTERM, which leaves its tasks running.
    pub fn stop_nomad(&self) -> anyhow::Result<()> {
        self.end("nomad", "TERM")
    }

    /// Starts Nomad's agent again, on the same data and ports, and waits until its node is ready.
    pub fn start_nomad_again(&mut self) -> anyhow::Result<()> {
        self.start_nomad()?;
        self.wait_for_node()
    }

    /// Starts Nomad's agent again and waits for no node: which one it will be is the test's question.
    pub fn start_nomad_as_another_node(&mut self) -> anyhow::Result<()> {
        self.start_nomad()
    }

    /// Ends Nomad's agent and starts it again on the same data and ports; tasks go on meanwhile.
    pub fn restart_nomad(&mut self) -> anyhow::Result<()> {
        self.stop_nomad()?;
        self.start_nomad_again()
    }

    /// All that Nomad's agent has logged, at level DEBUG.
    pub fn nomad_log(&self) -> anyhow::Result<String> {
        std::fs::read_to_string(self.log("nomad")).context("reading Nomad's log")
    }

    /// Fails where Nomad said that it could not destroy an allocation's directory.
    pub fn assert_no_destroy_errors(&self) -> anyhow::Result<()> {
        let log = self.nomad_log()?;
        // alloc_runner.go, alloc_watcher.go and allocdir/ of Nomad 1.10.
        let marks = ["error running destroy hooks", "error destroying alloc dir", "failed to remove"];
        let found: Vec<&str> = log.lines().filter(|line| marks.iter().any(|mark| line.contains(mark))).collect();
        anyhow::ensure!(found.is_empty(), "Nomad could not destroy an allocation's directory:\n{}", found.join("\n"));
        Ok(())
    }

    /// Starts a SeaweedFS of this world alone, which may be killed by [`World::end`] of `seaweedfs` and started again on
    /// its data. The script that starts it ends when it stores files. See [`World::own_filer`].
    ///
    /// # Errors
    /// Where the script does not start.
    pub fn start_own_seaweedfs(&self) -> anyhow::Result<std::process::Child> {
        let mut command = self.lab_command();
        command.arg("seaweedfs").arg(&self.directory).stdout(std::process::Stdio::null());
        command.spawn().context("starting SeaweedFS")
    }

    /// The address of the filer of [`World::start_own_seaweedfs`], once it has served.
    ///
    /// # Errors
    /// Where there was none yet.
    pub fn own_filer(&self) -> anyhow::Result<String> {
        read_line(&self.directory.join("filer.address"))
    }

    /// Polls a condition; a failure shows the ends of the agent's, the guard's and Nomad's logs. See [`wait_until`].
    pub fn wait_until<T>(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let logs: Vec<PathBuf> =
            ["agent", "guard", "nomad"].map(|name| self.log(name)).into_iter().filter(|log| log.exists()).collect();
        wait_until(what, deadline, &logs, condition)
    }

    /// Starts a program that ends with the world; its output is in [`World::log`] of `name`. See [`World::end`].
    pub fn run(&self, name: &str, program: &Path, arguments: &[&str]) -> anyhow::Result<()> {
        output(self.lab_command().arg("run").arg(&self.directory).arg(name).arg(program).args(arguments)).map(drop)
    }

    /// Ends one of the world's processes by a signal and waits until it is gone.
    pub fn end(&self, name: &str, signal: &str) -> anyhow::Result<()> {
        output(lab().arg("end").arg(&self.directory).args([name, signal])).map(drop)
    }

    /// The log of one of the world's processes.
    pub fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    /// The lab's script with what it must know of this world.
    pub(super) fn lab_command(&self) -> Command {
        let mut command = self.command(lab().get_program().as_ref());
        command.env("LAB_DOCKER", &self.lab.docker).env("LAB_SADDLEBAG", self.saddlebag_path());
        command.envs(self.rootfs.iter().map(|root| ("LAB_ROOTFS", root)));
        command
    }

    fn start_nomad(&mut self) -> anyhow::Result<()> {
        let tls = self.directory.join("tls").exists();
        output(
            self.lab_command().env("LAB_SCHEME", if tls { "https" } else { "http" }).arg("nomad").arg(&self.directory),
        )?;
        let address = read_line(&self.directory.join("nomad.address"))?;
        self.environment.retain(|(name, _)| name != "NOMAD_ADDR");
        self.environment.push(("NOMAD_ADDR".into(), address));
        Ok(())
    }

    fn wait_for_node(&mut self) -> anyhow::Result<()> {
        output(self.lab_command().arg("ready").arg(&self.directory).args(["docker", "exec", "raw_exec"]))?;
        let nodes = self.api("GET", "/v1/nodes")?;
        self.node = nodes[0]["ID"].as_str().context("a node has an id")?.to_owned();
        Ok(())
    }

    fn bootstrap_acl(&mut self) -> anyhow::Result<()> {
        let token = self.wait_until("the first ACL token", PATIENCE, || {
            // Refused until the new leader has its ACL system up.
            let Ok(answer) = self.api("POST", "/v1/acl/bootstrap") else { return Ok(None) };
            Ok(answer["SecretID"].as_str().map(str::to_owned))
        })?;
        self.environment.push(("NOMAD_TOKEN".into(), token));
        Ok(())
    }

    /// A CA, a certificate that server and client of the one agent share, and one for the command line.
    fn make_certificates(&mut self) -> anyhow::Result<()> {
        let directory = self.directory.join("tls");
        std::fs::create_dir(&directory)?;
        let nomad = tool("nomad").context("no nomad")?;
        for arguments in [
            ["tls", "ca", "create"].as_slice(),
            &["tls", "cert", "create", "-server"],
            &["tls", "cert", "create", "-cli"],
        ] {
            output(Command::new(&nomad).current_dir(&directory).args(arguments))?;
        }
        let path = |name: &str| directory.join(name).display().to_string();
        let configuration = format!(
            "tls {{\n  http = true\n  rpc = true\n  verify_https_client = true\n  verify_server_hostname = true\n  \
             ca_file = \"{}\"\n  cert_file = \"{}\"\n  key_file = \"{}\"\n}}\n",
            path("nomad-agent-ca.pem"),
            path("global-server-nomad.pem"),
            path("global-server-nomad-key.pem")
        );
        std::fs::write(self.directory.join("nomad.d/tls.hcl"), configuration)?;
        for (variable, file) in [
            ("NOMAD_CACERT", "nomad-agent-ca.pem"),
            ("NOMAD_CLIENT_CERT", "global-cli-nomad.pem"),
            ("NOMAD_CLIENT_KEY", "global-cli-nomad-key.pem"),
        ] {
            self.environment.push((variable.into(), path(file)));
        }
        Ok(())
    }
}

fn configuration(name: &str, options: &Options) -> String {
    let collect = options.gc_max_allocs.map(|most| format!("gc_max_allocs = {most}\n")).unwrap_or_default();
    let acl = if options.acl { "acl {\n  enabled = true\n}\n" } else { "" };
    format!("name = \"{name}\"\n{acl}{}client {{\n{collect}{}}}\n", options.agent, options.client)
}

impl Drop for World {
    fn drop(&mut self) {
        let Some(keeper) = self.keeper.take() else { return };
        if let Err(error) = keeper.remove(&self.directory) {
            // A panic while another one unwinds would abort and hide the first.
            if std::thread::panicking() {
                eprintln!("{error:#}");
            } else {
                panic!("{error:#}");
            }
        }
    }
}
