//! Prometheus: every sample that it has ingested is read back, through kills and compactions.
//!
//! It scrapes a server of the test's own, ten times a second, and its blocks are of a second, so that it makes and
//! compacts blocks all the time. A sample is acknowledged when the same Prometheus begins its next scrape: it makes one
//! after another. Each tells the server which it is, by a parameter that the task puts into its configuration.

use crate::kind::Kind;
use crate::scene::{KILLS, Scene, work_time};
use crate::support::PATIENCE;
use anyhow::Context as _;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The series of each scrape.
const SERIES: u64 = 40;
/// Values tell the scrape and the series.
const SPREAD: u64 = 1000;

/// What is served to Prometheus: of each scrape its number.
#[derive(Default)]
struct Target(Mutex<Scrapes>);

#[derive(Default)]
struct Scrapes {
    begun: u64,
    /// The last one of each Prometheus that there was. It need not be there: no further one has acknowledged it.
    last: BTreeMap<String, u64>,
}

impl Target {
    fn begun(&self) -> u64 {
        self.0.lock().unwrap().begun
    }

    /// The scrapes that have begun, less those that nothing has acknowledged.
    fn acknowledged(&self) -> BTreeSet<u64> {
        let scrapes = self.0.lock().unwrap();
        let last: BTreeSet<u64> = scrapes.last.values().copied().collect();
        (0..scrapes.begun).filter(|scrape| !last.contains(scrape)).collect()
    }

    /// One more scrape, by the Prometheus that has sent this first line of a request.
    fn scrape(&self, request: String) -> String {
        let mut scrapes = self.0.lock().unwrap();
        let scrape = scrapes.begun;
        scrapes.begun += 1;
        scrapes.last.insert(request, scrape);
        let mut text = String::new();
        for series in 0..SERIES {
            let _ = writeln!(text, "witness{{series=\"{series}\"}} {}", scrape * SPREAD + series);
        }
        text
    }

    fn serve(self: Arc<Self>) -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let at = listener.local_addr()?;
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let Ok(half) = stream.try_clone() else { continue };
                let lines = BufReader::new(half).lines().map_while(Result::ok);
                if let Some(request) = lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().into_iter().next()
                {
                    let text = self.scrape(request);
                    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close";
                    let _ = write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                }
            }
        });
        Ok(at)
    }
}

/// A port for Prometheus that nobody else is given meanwhile: both say that they share it.
fn reserve_port() -> anyhow::Result<(OwnedFd, u16)> {
    let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    let port = SocketAddr::try_from(net::getsockname(&socket)?)?.port();
    Ok((socket, port))
}

/// Kills the server again and again, and moves its volume to another allocation; each time every sample is read back.
pub fn is_whole_after_kills(kind: &Kind) -> anyhow::Result<()> {
    let target = Arc::new(Target::default());
    let at = Arc::clone(&target).serve()?;
    let (_reserved, port) = reserve_port()?;
    let configuration = format!(
        "global:\n  scrape_interval: 100ms\n  scrape_timeout: 100ms\nscrape_configs:\n  - job_name: witness\n    \
         params:\n      run: [THIS_RUN]\n    static_configs:\n      - targets: [\"{at}\"]\n"
    );
    let script = format!(
        "sed \"s/THIS_RUN/$(date +%s%N)/\" /local/notes/prometheus.yml >/local/notes/of-this-run.yml\n\
         exec prometheus --config.file=/local/notes/of-this-run.yml --storage.tsdb.path=/local/data/tsdb \
         --web.listen-address=127.0.0.1:{port} --storage.tsdb.retention.time=10y --storage.tsdb.min-block-duration=1s \
         --storage.tsdb.max-block-duration=1h\n"
    );
    let mut scene = Scene::start(kind, "prometheus", &script, &[("prometheus.yml", &configuration)])?;
    for _ in 0..KILLS {
        wait_for_scrapes(&scene, &target, 30)?;
        let (before, began) = (target.begun(), Instant::now());
        std::thread::sleep(work_time());
        scene.note_figure("Prometheus: scrapes", target.begun() - before, began.elapsed())?;
        scene.kill()?;
        check(&scene, &target, port)?;
    }
    wait_for_scrapes(&scene, &target, 30)?;
    // Of blocks that were made of other blocks. While Prometheus works they come and go.
    let compacted = "cat /local/data/tsdb/*/meta.json 2>/dev/null | grep -q '\"level\": *[2-9]'";
    scene.wait("a compaction of blocks", || Ok(scene.ask(&["sh", "-c", compacted]).is_ok().then_some(())))?;
    scene.move_to_another_allocation()?;
    let samples = check(&scene, &target, port)?;
    println!("prometheus on {}: {samples} samples of {} scrapes are there", kind.name, target.begun());
    scene.end()
}

fn wait_for_scrapes(scene: &Scene, target: &Target, more: u64) -> anyhow::Result<()> {
    let before = target.begun();
    scene.wait("more scrapes", || Ok((target.begun() > before + more).then_some(())))
}

/// Every sample is there, each once and in order. Returns how many.
fn check(scene: &Scene, target: &Target, port: u16) -> anyhow::Result<usize> {
    // One that has read its log again.
    scene.world.wait_until("a Prometheus that answers", PATIENCE, || Ok(query(port, "1").is_ok().then_some(())))?;
    let acknowledged = target.acknowledged();
    let all = query(port, "witness[1d]")?;
    let all = all["data"]["result"].as_array().context("a matrix")?;
    anyhow::ensure!(all.len() == usize::try_from(SERIES)?, "{} series", all.len());
    let mut count = 0;
    for series in all {
        let label: u64 = series["metric"]["series"].as_str().context("a label")?.parse()?;
        let mut found = BTreeSet::new();
        for sample in series["values"].as_array().context("values")? {
            let value: f64 = sample[1].as_str().context("a value")?.parse()?;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole numbers")]
            let value = value as u64;
            let scrape = value / SPREAD;
            anyhow::ensure!(value % SPREAD == label, "series {label} has {value}");
            anyhow::ensure!(
                found.last().is_none_or(|last| *last < scrape),
                "series {label}: {scrape} comes twice or late"
            );
            found.insert(scrape);
        }
        count += found.len();
        let lost: Vec<&u64> = acknowledged.difference(&found).collect();
        // A scrape that was answered too late is none, and Prometheus says so itself.
        let late = late_scrapes(port)?;
        anyhow::ensure!(lost.len() <= late, "series {label}: scrapes {lost:?} are not there, {late} were late");
    }
    let said = scene.said();
    let bad = said.lines().find(|line| line.contains("level=error") || line.contains("orrupt"));
    anyhow::ensure!(bad.is_none(), "{}", bad.unwrap_or_default());
    Ok(count)
}

/// How many scrapes did not come to be.
fn late_scrapes(port: u16) -> anyhow::Result<usize> {
    let up = query(port, "up[1d]")?;
    let values = up["data"]["result"][0]["values"].as_array().context("the series up")?;
    Ok(values.iter().filter(|sample| sample[1] == "0").count())
}

fn query(port: u16, query: &str) -> anyhow::Result<Value> {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail-with-body", "--noproxy", "*", "--max-time", "60", "--data-urlencode"]);
    curl.arg(format!("query={query}")).arg(format!("http://127.0.0.1:{port}/api/v1/query"));
    let done = curl.output()?;
    let text = String::from_utf8_lossy(&done.stdout);
    anyhow::ensure!(done.status.success(), "{query}: {text}");
    serde_json::from_str(&text).with_context(|| format!("{query}: {text}"))
}
