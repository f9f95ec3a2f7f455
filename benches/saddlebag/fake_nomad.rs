//! As much of Nomad's HTTP API as the agent asks: the agent itself, its node, and the node's allocations by blocking
//! queries. Nomad is not what is measured here, and a thousand allocations of a real one would take a thousand tasks.

use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const NODE: &str = "95416110-b76a-d00e-8afe-4bc46d977ef7";

/// How far the tasks of an allocation are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The prestart task runs.
    Prestart,
    /// The main task runs.
    Main,
    /// All are over.
    Over,
}

struct Listing {
    index: u64,
    /// The JSON of each, as it is sent.
    allocations: Vec<String>,
}

/// The server.
pub struct FakeNomad {
    pub address: String,
    about: Arc<Vec<(String, String)>>,
    listing: Arc<(Mutex<Listing>, Condvar)>,
}

/// The id of the allocation of that number.
pub fn alloc_id(number: usize) -> String {
    format!("{number:08x}-0000-4000-8000-{number:012x}")
}

/// An allocation as Nomad lists it, of the eight or so KiB that a job with a template has.
fn allocation(number: usize, stage: Stage, volume: &str) -> String {
    let state = |word: &str, started: bool| json!({"State": word, "StartedAt": started.then_some("2026-01-01T00:00:00Z"), "Failed": false, "Restarts": 0, "Events": []});
    let (status, pre, main) = match stage {
        Stage::Prestart => ("pending", state("running", true), state("pending", false)),
        Stage::Main => ("running", state("dead", true), state("running", true)),
        Stage::Over => ("complete", state("dead", true), state("dead", true)),
    };
    let job = format!("bench-{number}");
    let allocation: Value = json!({
        "ID": alloc_id(number), "Namespace": "default", "Name": format!("{job}.app[0]"), "NodeID": NODE, "JobID": job,
        "TaskGroup": "app", "DesiredStatus": "run", "ClientStatus": status,
        "Job": {
            "ID": job, "Name": job, "Region": "global", "Type": "service", "Meta": null,
            "TaskGroups": [{
                "Name": "app", "Count": 1, "Meta": {"storage_volume": volume},
                "EphemeralDisk": {"Migrate": false, "SizeMB": 300, "Sticky": false},
                "Tasks": [
                    {"Name": "storage", "Driver": "raw_exec", "Lifecycle": {"Hook": "prestart", "Sidecar": false},
                     "Config": {"command": "saddlebag", "args": ["mount"]}, "Resources": {"CPU": 20, "MemoryMB": 32}},
                    {"Name": "main", "Driver": "docker", "Config": {"image": "app:1"}, "Resources": {"CPU": 100, "MemoryMB": 300},
                     "Templates": [{"DestPath": "local/app.conf", "EmbeddedTmpl": "setting = value\n".repeat(400)}]},
                ],
            }],
        },
        "TaskStates": {"storage": pre, "main": main},
    });
    allocation.to_string()
}

fn lock(listing: &Mutex<Listing>) -> MutexGuard<'_, Listing> {
    listing.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeNomad {
    /// Serves a node without allocations whose allocation directories are below `alloc_root`.
    pub fn start(alloc_root: &Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = format!("http://{}", listener.local_addr()?);
        let agent = json!({
            "config": {"Region": "global", "Version": {"Version": "1.10.5"}, "Client": {"Enabled": true, "AllocDir": alloc_root}},
            "stats": {"client": {"node_id": NODE}},
        });
        let node = json!({"ID": NODE, "Name": "bench", "Datacenter": "dc1", "NodePool": "default", "Attributes": {}, "Meta": {}});
        let about = Arc::new(vec![
            ("/v1/agent/self".to_owned(), agent.to_string()),
            (format!("/v1/node/{NODE}"), node.to_string()),
        ]);
        let listing = Arc::new((Mutex::new(Listing { index: 10, allocations: Vec::new() }), Condvar::new()));
        let nomad = Self { address, about, listing };
        let (about, listing) = (Arc::clone(&nomad.about), Arc::clone(&nomad.listing));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (about, listing) = (Arc::clone(&about), Arc::clone(&listing));
                // A connection that breaks is the agent's to make anew.
                std::thread::spawn(move || drop(converse(&stream, &about, &listing)));
            }
        });
        Ok(nomad)
    }

    /// From now on the node has these allocations, each with the number and stage given, and this volume.
    pub fn list(&self, allocations: impl Iterator<Item = (usize, Stage)>, volume: &str) {
        self.list_each(allocations.map(|(number, stage)| (number, stage, volume)));
    }

    /// The same, each with a volume of its own.
    pub fn list_each<'a>(&self, allocations: impl Iterator<Item = (usize, Stage, &'a str)>) {
        let texts = allocations.map(|(number, stage, volume)| allocation(number, stage, volume)).collect();
        let mut listing = lock(&self.listing.0);
        listing.allocations = texts;
        listing.index += 1;
        self.listing.1.notify_all();
    }
}

fn converse(stream: &TcpStream, about: &[(String, String)], shared: &(Mutex<Listing>, Condvar)) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        let target = first.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let fixed = about.iter().find(|(known, _)| known == path);
        let (index, body) = match fixed {
            Some((_, body)) => (1, body.clone()),
            None => {
                let asked = query.split('&').find_map(|pair| pair.strip_prefix("index=")?.parse().ok()).unwrap_or(0);
                wait_for_news(shared, asked)
            }
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Nomad-Index: {index}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        (&*stream).write_all(head.as_bytes())?;
        (&*stream).write_all(body.as_bytes())?;
    }
}

fn wait_for_news(shared: &(Mutex<Listing>, Condvar), asked: u64) -> (u64, String) {
    let held = lock(&shared.0);
    let (listing, _) = shared
        .1
        .wait_timeout_while(held, Duration::from_secs(300), |listing| listing.index <= asked)
        .unwrap_or_else(PoisonError::into_inner);
    (listing.index, format!("[{}]", listing.allocations.join(",")))
}
