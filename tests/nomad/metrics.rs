//! A real Prometheus reads a real agent: what the dashboard asks for is there, and the alerts are about what happens.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{PATIENCE, World, require, tool};

const JOB: &str = r#"
variable "saddlebag" {}
variable "socket" {}

job "JOB" {
  group "app" {
    meta {
      storage_volume      = "JOB"
      storage_destination = "local/data"
    }
    PRESTART
    task "main" {
      driver       = "exec"
      kill_timeout = "1s"
      config {
        command = "/bin/sh"
        args    = ["-c", "exec sleep 1000"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
"#;

fn contrib(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(path)
}

/// Every `expr` of the dashboard, with its variables as Grafana would fill them in.
fn dashboard() -> anyhow::Result<BTreeSet<String>> {
    fn collect(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| collect(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(contrib("grafana/saddlebag.json"))?)?;
    let mut found = BTreeSet::new();
    collect(&dashboard, &mut found);
    let filled = found.iter().map(|expr| {
        let filled = expr.replace("$__rate_interval", "1m").replace("$job", "saddlebag");
        filled.replace("$instance", ".*").replace("$source", ".*")
    });
    Ok(filled.collect())
}

/// Every alert and its expression, which are of one line each.
fn alerts() -> anyhow::Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(contrib("prometheus/alerts.yml"))?;
    let mut lines = text.lines();
    let mut alerts = Vec::new();
    while let Some(line) = lines.next() {
        let Some(name) = line.trim_start().strip_prefix("- alert: ") else { continue };
        let expr = lines.next().and_then(|line| line.trim_start().strip_prefix("expr: ")).context("an expression")?;
        alerts.push((name.to_owned(), expr.to_owned()));
    }
    Ok(alerts)
}

struct Prometheus<'w> {
    world: &'w World,
    address: String,
}

impl Prometheus<'_> {
    /// What an expression gives now.
    fn query(&self, expr: &str) -> anyhow::Result<Vec<Value>> {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--noproxy", "*", "--max-time", "15", "-G", "--data-urlencode", &format!("query={expr}")]);
        let output = curl.arg(format!("http://{}/api/v1/query", self.address)).output()?;
        let answer: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{expr}: {}", String::from_utf8_lossy(&output.stderr)))?;
        anyhow::ensure!(answer["status"] == "success", "{expr}: {answer}");
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until each of the expressions gives something, or none of them does; names those that do not.
    fn wait<'e>(&self, exprs: impl IntoIterator<Item = &'e str>, something: bool) -> anyhow::Result<()> {
        let mut left: Vec<&str> = exprs.into_iter().collect();
        let waited = self.world.wait_until("what Prometheus is asked", PATIENCE, || {
            let mut still = Vec::new();
            for expr in &left {
                if self.query(expr)?.is_empty() == something {
                    still.push(*expr);
                }
            }
            left = still;
            Ok(left.is_empty().then_some(()))
        });
        let result = if something { "nothing" } else { "something" };
        waited.with_context(|| format!("these give {result}:\n{}", left.join("\n")))
    }
}

fn free_address() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn signal_mount_program(world: &World, signal: Signal) -> anyhow::Result<()> {
    let status: Value = serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?;
    let pid = status["sources"][0]["pid"].as_i64().with_context(|| format!("a mount program in {status}"))?;
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
}

/// What the host's socket tells, in the older format.
fn scrape_socket(world: &World) -> anyhow::Result<String> {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail-with-body", "--max-time", "15", "--unix-socket"])
        .arg(world.run_dir().join("saddlebag.sock"));
    let output = curl.arg("http://saddlebag/metrics").output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn the_alert_rules_are_right_and_each_is_fired_by_what_it_is_for() -> anyhow::Result<()> {
    require!("promtool");
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let mut promtool = Command::new(tool("promtool").context("no promtool")?);
        let output = promtool.args(arguments).current_dir(contrib("prometheus")).output()?;
        let said = [output.stdout, output.stderr].concat();
        anyhow::ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    }
    let tests = std::fs::read_to_string(contrib("prometheus/alerts_test.yml"))?;
    for (alert, _) in alerts()? {
        let tested = tests.matches(&format!("alertname: {alert}\n")).count();
        anyhow::ensure!(tested == 2, "{alert} is to be tested before its time and at it");
    }
    Ok(())
}

#[test]
fn prometheus_reads_the_agent_and_has_data_for_each_panel_and_alert() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "weed", "prometheus", "promtool", "curl");
    let world = World::new("metrics")?;
    let agent = free_address()?;
    let weed = tool("weed").context("no weed")?;
    let backend = format!(
        "backend \"seaweedfs\" \"main\" {{\n  filer = \"{}\"\n  program = \"{}\"\n  dynamic = true\n}}",
        world.lab().filer,
        weed.display()
    );
    world.start_agent(&format!("{backend}\nmetrics {{\n  address = \"{agent}\"\n}}"))?;
    let prometheus = Prometheus { world: &world, address: free_address()? };
    start_prometheus(&prometheus, &agent)?;
    // A rate is seen where a counter was read before and after.
    prometheus.wait(["count_over_time(up[1m]) > 1 and up == 1"], true)?;
    world.run_job(&JOB.replace("JOB", "metrics-one"), &[])?;
    world.wait_running("metrics-one")?;

    prometheus.wait(dashboard()?.iter().map(String::as_str), true)?;
    let alerts = alerts()?;
    let named: BTreeSet<String> = alerts.iter().flat_map(|(_, expr)| names(expr)).collect();
    prometheus.wait(named.iter().map(String::as_str), true)?;
    prometheus.wait(alerts.iter().map(|(_, expr)| expr.as_str()), false)?;
    check_format(&scrape_socket(&world)?)?;

    // A server that hangs, and a hook that waits for it: both are seen, and nobody waits who only looks.
    signal_mount_program(&world, Signal::SIGSTOP)?;
    world.run_job(&JOB.replace("JOB", "metrics-two"), &[])?;
    world.wait_until("a scrape that tells of a waiting hook", PATIENCE, || {
        Ok(scrape_socket(&world)?.contains("\nsaddlebag_hooks_pending 1\n").then_some(()))
    })?;
    signal_mount_program(&world, Signal::SIGCONT)?;
    world.wait_running("metrics-two")?;

    let alert =
        |name: &str| alerts.iter().find(|(alert, _)| alert == name).map(|(_, expr)| expr.as_str()).context("it");
    signal_mount_program(&world, Signal::SIGKILL)?;
    prometheus.wait(
        [alert("SaddlebagMountLost")?, "increase(saddlebag_faults_total{cause=\"program_ended\"}[1m]) > 0"],
        true,
    )?;
    let guard = Pid::from_raw(i32::try_from(world.guard_pid().context("a guard")?)?);
    kill(guard, Signal::SIGSTOP)?;
    let seen = prometheus.wait([alert("SaddlebagGuardDown")?], true);
    kill(guard, Signal::SIGCONT)?;
    seen?;
    world.kill_agent()?;
    prometheus.wait([alert("SaddlebagAgentDown")?], true)
}

fn start_prometheus(prometheus: &Prometheus<'_>, agent: &str) -> anyhow::Result<()> {
    let directory = prometheus.world.directory();
    let configuration = format!(
        "global:\n  scrape_interval: 2s\n  scrape_timeout: 2s\n  evaluation_interval: 2s\nrule_files:\n  - {}\n\
         scrape_configs:\n  - job_name: saddlebag\n    static_configs:\n      - targets: ['{agent}']\n",
        contrib("prometheus/alerts.yml").display()
    );
    let path = directory.join("prometheus.yml");
    std::fs::write(&path, configuration)?;
    let program = tool("prometheus").context("no prometheus")?;
    let (file, data) = (path.display(), directory.join("prometheus").display().to_string());
    let arguments = [
        format!("--config.file={file}"),
        format!("--storage.tsdb.path={data}"),
        format!("--web.listen-address={}", prometheus.address),
        "--log.level=warn".to_owned(),
    ];
    prometheus.world.run("prometheus", &program, &arguments.each_ref().map(String::as_str))?;
    prometheus.world.wait_until("Prometheus", PATIENCE, || Ok(prometheus.query("up").ok().map(drop)))
}

/// The names of saddlebag's metrics in an expression.
fn names(expr: &str) -> Vec<String> {
    let words = expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("saddlebag_")).map(str::to_owned).collect()
}

/// What promtool says of the names, the help and the format.
fn check_format(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut promtool = Command::new(tool("promtool").context("no promtool")?);
    let mut child = promtool
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    anyhow::ensure!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    Ok(())
}
