//! From a job's registration to its running main task, on a real Nomad with docker.

use crate::figures::Report;
use crate::support::{Options, World, tool};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

const ROUNDS: usize = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Trivial,
    Nothing,
    HostVolume,
    One,
    Five,
}

/// In the order in which each round takes them; the first is what the others are compared with.
const WAYS: [(Way, &str); 5] = [
    (Way::Trivial, "a prestart task that does nothing"),
    (Way::Nothing, "no volume, no prestart task"),
    (Way::HostVolume, "Nomad's own dynamic host volume, no prestart task"),
    (Way::One, "saddlebag, one volume on SeaweedFS"),
    (Way::Five, "saddlebag, five volumes on SeaweedFS"),
];

/// Runs the jobs in turns.
pub fn measure(report: &mut Report) -> anyhow::Result<()> {
    let world = World::with("bench", Options::default().client("gc_max_allocs = 200"))?;
    let weed = tool("weed").context("no weed")?;
    let volumes: String = (0..5)
        .map(|number| format!("volume \"v{number}\" {{\n  backend = \"main\"\n  path = \"/bench-jobs/v{number}\"\n  create = true\n}}\n"))
        .collect();
    world.start_agent(&format!(
        "backend \"seaweedfs\" \"main\" {{\n  filer = \"{}\"\n  program = \"{}\"\n}}\n{volumes}",
        world.lab().filer,
        weed.display()
    ))?;
    let spec = world.directory().join("volume.hcl");
    std::fs::write(
        &spec,
        "name = \"bench\"\ntype = \"host\"\nplugin_id = \"mkdir\"\n\
         capability {\n  access_mode = \"single-node-multi-writer\"\n  attachment_mode = \"file-system\"\n}\n",
    )?;
    world.nomad(&["volume", "create", "-detach", spec.to_str().context("a path in UTF-8")?])?;
    world.wait_until("a host volume", Duration::from_secs(60), || {
        let listed = world.api("GET", "/v1/volumes?type=host")?;
        Ok(listed[0]["State"].as_str().is_some_and(|state| state == "ready").then_some(()))
    })?;

    let mut took: Vec<Vec<f64>> = vec![Vec::new(); WAYS.len()];
    for round in 0..=ROUNDS {
        for (turn, (way, _)) in WAYS.iter().enumerate() {
            let sample = run(&world, &format!("bench-{round}-{turn}"), *way)?;
            // The first round warms what is warm from then on.
            if round > 0 {
                took[turn].push(sample);
            }
        }
        eprintln!("jobs: round {round} of {ROUNDS}");
    }
    let section = "Job registered to main task started";
    let mut medians = Vec::new();
    for ((_, what), took) in WAYS.iter().zip(&took) {
        medians.push(report.samples(section, what, "ms", took));
    }
    for (what, index) in [("one volume", 3), ("five volumes", 4)] {
        let more = medians[index] - medians[0];
        let target = format!("a job with {what}, more than with a prestart task that does nothing");
        report.target(&target, "at most 5 ms", format!("{more:.1} ms"), more <= 5.0);
    }
    Ok(())
}

/// Milliseconds by one clock: from before the call until Nomad's own event that the main task has started.
fn run(world: &World, id: &str, way: Way) -> anyhow::Result<f64> {
    let address = world.variable("NOMAD_ADDR")?.to_owned();
    let text = job(id, way, &world.saddlebag_path().display().to_string()).to_string();
    let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
    call(&address, "POST", "/v1/jobs", &text)?;
    let started = world.wait_until(&format!("a main task of {id} that runs"), Duration::from_secs(60), || {
        let listed = call(&address, "GET", &format!("/v1/job/{id}/allocations"), "")?;
        let Some(newest) = listed.get(0) else { return Ok(None) };
        anyhow::ensure!(newest["ClientStatus"] != "failed", "{id} failed: {}", newest["TaskStates"]);
        let events = newest["TaskStates"]["main"]["Events"].as_array().cloned().unwrap_or_default();
        let started = events.iter().find(|event| event["Type"] == "Started");
        Ok(started.and_then(|event| event["Time"].as_u64()))
    })?;
    call(&address, "DELETE", &format!("/v1/job/{id}"), "")?;
    world.wait_dead(id)?;
    Ok((f64::from(u32::try_from(u128::from(started).saturating_sub(begun) / 1000)?)) / 1e3)
}

fn job(id: &str, way: Way, saddlebag: &str) -> Value {
    let mut main = json!({
        "Name": "main", "Driver": "docker",
        "Config": {"image": "saddlebag-test:1", "network_mode": "host", "command": "sleep", "args": ["1000"]},
        // What a sleeping process does with SIGTERM is not measured.
        "KillSignal": "SIGKILL",
        "Resources": {"CPU": 20, "MemoryMB": 64},
    });
    let mut group = json!({
        "Name": "app", "Count": 1, "EphemeralDisk": {"SizeMB": 150},
        "RestartPolicy": {"Attempts": 0, "Mode": "fail", "Interval": 60_000_000_000_u64, "Delay": 1_000_000_000},
        "ReschedulePolicy": {"Attempts": 0, "Unlimited": false},
    });
    let mut tasks = Vec::new();
    if matches!(way, Way::Trivial | Way::One | Way::Five) {
        let config = match way {
            Way::Trivial => json!({"command": "/bin/true"}),
            _ => json!({"command": saddlebag, "args": ["mount"]}),
        };
        tasks.push(json!({
            "Name": "storage", "Driver": "raw_exec", "Config": config, "Lifecycle": {"Hook": "prestart", "Sidecar": false},
            "LogConfig": {"Disabled": true, "MaxFiles": 1, "MaxFileSizeMB": 1},
            "Resources": {"CPU": 20, "MemoryMB": 32},
        }));
    }
    match way {
        Way::HostVolume => {
            group["Volumes"] = json!({"bench": {
                "Name": "bench", "Type": "host", "Source": "bench", "ReadOnly": false,
                "AccessMode": "single-node-multi-writer", "AttachmentMode": "file-system",
            }});
            main["VolumeMounts"] = json!([{"Volume": "bench", "Destination": "/data", "ReadOnly": false}]);
        }
        Way::One => group["Meta"] = json!({"storage_volume": "v0"}),
        Way::Five => {
            let blocks: String = (0..5).map(|number| format!("volume \"v{number}\" {{\n}}\n")).collect();
            group["Meta"] = json!({"storage_volume": blocks});
        }
        Way::Trivial | Way::Nothing => {}
    }
    tasks.push(main);
    group["Tasks"] = tasks.into();
    json!({"Job": {"ID": id, "Name": id, "Type": "service", "Datacenters": ["*"], "TaskGroups": [group]}})
}

/// One request in HTTP/1.0, so that the answer ends with its connection. curl's own start would be part of the figure.
fn call(address: &str, method: &str, path: &str, body: &str) -> anyhow::Result<Value> {
    let mut stream = TcpStream::connect(address.trim_start_matches("http://"))?;
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: nomad\r\nContent-Length: {length}\r\n\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, content) = answer.split_once("\r\n\r\n").context("an answer of HTTP")?;
    anyhow::ensure!(head.split(' ').nth(1) == Some("200"), "{method} {path}: {answer}");
    serde_json::from_str(content).with_context(|| format!("{method} {path}: {content}"))
}
