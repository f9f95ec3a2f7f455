//! Every file of `examples/jobs` runs as it stands, and what its tasks write is there again whatever becomes of the job.

use crate::support::{PATIENCE, World, require, tool};
use anyhow::Context as _;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The folder with the examples.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/jobs");

/// How an example is started and how it ends.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Runs until it is stopped.
    Service,
    /// Runs on every node until it is stopped.
    System,
    /// Ends by itself.
    Batch,
    /// Ends by itself, and `nomad job periodic force` starts it.
    Periodic,
    /// Ends by itself, and `nomad job dispatch` starts it.
    Parameterized,
}

/// One example: its file and job have one name.
struct Example {
    name: &'static str,
    kind: Kind,
    /// Allocations at a time.
    count: usize,
    /// The tasks that use storage.
    tasks: &'static [&'static str],
    /// What one allocation writes: volume and line. `INDEX` and `NODE` stand for the allocation's, `ID` for its id.
    writes: &'static [(&'static str, &'static str)],
}

const fn example(
    name: &'static str,
    kind: Kind,
    count: usize,
    tasks: &'static [&'static str],
    writes: &'static [(&'static str, &'static str)],
) -> Example {
    Example { name, kind, count, tasks, writes }
}

const EXAMPLES: [Example; 12] = [
    example("batch", Kind::Batch, 1, &["main"], &[("batch-notes", "ID")]),
    example("count", Kind::Service, 3, &["main"], &[("data-INDEX", "ID")]),
    example("database", Kind::Service, 1, &["postgres"], &[("pgdata", "ID")]),
    example("docker", Kind::Service, 1, &["main"], &[("notes", "ID")]),
    example("exec", Kind::Service, 1, &["main"], &[("exec-notes", "ID")]),
    example("parameterized", Kind::Parameterized, 1, &["main"], &[("reports-acme", "ID")]),
    example("periodic", Kind::Periodic, 1, &["main"], &[("daily-notes", "ID")]),
    example("prestart-curl", Kind::Service, 1, &["main"], &[("curl-notes", "ID")]),
    example("prestart-docker", Kind::Service, 1, &["main"], &[("boxed-notes", "ID")]),
    example("raw-exec", Kind::Service, 1, &["main"], &[("raw-notes", "ID")]),
    example(
        "several-volumes",
        Kind::Service,
        1,
        &["writer", "reader"],
        &[("journal", "ID"), ("scratch", "writer ID"), ("scratch", "reader ID")],
    ),
    example("system", Kind::System, 1, &["main"], &[("cache-NODE", "ID")]),
];

#[test]
fn every_example_is_run_by_these_tests() -> anyhow::Result<()> {
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(FOLDER)? {
        files.insert(entry?.file_name().into_string().ok().context("a name in UTF-8")?);
    }
    let tested: BTreeSet<String> = EXAMPLES.iter().map(|example| format!("{}.nomad.hcl", example.name)).collect();
    assert_eq!(files, tested, "the files of {FOLDER} and those that these tests run");
    Ok(())
}

#[test]
fn every_example_keeps_its_files_on_a_host_directory() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed");
    let world = World::new("examples-host")?;
    let storage = world.directory().join("volumes");
    let backend = format!("backend \"host\" \"disk\" {{\n  path = \"{}\"\n  dynamic = true\n}}", storage.display());
    Story::new(world, &backend, Storage::Directory(storage))?.tell()
}

#[test]
fn every_example_keeps_its_files_on_seaweedfs() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("examples-weed")?;
    let (filer, weed) = (world.lab().filer.clone(), tool("weed").context("no weed")?);
    let backend = format!(
        "backend \"seaweedfs\" \"disk\" {{\n  filer = \"{filer}\"\n  path = \"/examples\"\n  dynamic = true\n  program = \"{}\"\n}}",
        weed.display()
    );
    // weed mounts no directory that is not there.
    let directory = format!("http://{filer}/examples/");
    let made = Command::new("curl")
        .args(["-sf", "-o", "/dev/null", "--noproxy", "*", "--retry", "30", "--retry-connrefused"])
        .args(["--retry-delay", "1", "-X", "POST", &directory])
        .status()?;
    anyhow::ensure!(made.success(), "the filer makes no directory");
    Story::new(world, &backend, Storage::Filer(format!("http://{filer}/examples")))?.tell()
}

/// Where the volumes are looked into: never through the mounts that are tested.
enum Storage {
    Directory(PathBuf),
    Filer(String),
}

impl Storage {
    /// The lines of a volume's `starts`, sorted; none where it is not there.
    fn read(&self, volume: &str) -> anyhow::Result<Vec<String>> {
        let text = match self {
            Self::Directory(path) => std::fs::read_to_string(path.join(volume).join("starts")).unwrap_or_default(),
            Self::Filer(url) => {
                let answer = Command::new("curl")
                    .args(["-sf", "--noproxy", "*", "--max-time", "10"])
                    .arg(format!("{url}/{volume}/starts"))
                    .output()?;
                String::from_utf8(answer.stdout)?
            }
        };
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    }
}

/// All examples in one world, side by side.
struct Story {
    world: World,
    storage: Storage,
    /// The allocations that earlier rounds have seen.
    seen: BTreeSet<String>,
    /// The lines that each volume has to hold.
    lines: BTreeMap<String, Vec<String>>,
}

impl Story {
    fn new(world: World, backend: &str, storage: Storage) -> anyhow::Result<Self> {
        // What the comments of exec.nomad.hcl and database.nomad.hcl tell the operator to register, word for word.
        let registered = registered_by("exec")? + &registered_by("database")?;
        world.start_agent(&format!("{backend}\n{registered}"))?;
        make_database_image(&world)?;
        Ok(Self { world, storage, seen: BTreeSet::new(), lines: BTreeMap::new() })
    }

    fn tell(mut self) -> anyhow::Result<()> {
        self.start_all()?;
        self.check_round("the first run")?;

        for example in EXAMPLES.iter().filter(|example| example.kind == Kind::Service) {
            for id in self.live(example)? {
                self.world.nomad(&["alloc", "stop", "-detach", &id])?;
            }
        }
        for example in EXAMPLES.iter().filter(|example| example.kind != Kind::Service) {
            if matches!(example.kind, Kind::Batch | Kind::System) {
                // Nomad does not run a batch job again that has ended well and is the same, nor replaces the stopped
                // allocation of a system job. Where the next registration comes before the stop was acted on, it keeps
                // the allocation that runs.
                self.world.stop(example.name)?;
                self.world.wait_dead(example.name)?;
            }
            self.start(example)?;
        }
        self.check_round("the next allocation")?;

        for example in &EXAMPLES {
            self.world.stop(example.name)?;
        }
        self.wait_all_over()?;
        self.start_all()?;
        self.check_round("stop and run")?;

        for example in &EXAMPLES {
            self.world.stop_purge(example.name)?;
        }
        self.wait_all_over()?;
        self.world.system_gc()?;
        for id in &self.seen {
            self.world.wait_alloc_dir_gone(id)?;
        }
        self.check_lines("a purge and a collection")?;
        self.start_all()?;
        self.check_round("purge and run")?;

        for example in &EXAMPLES {
            self.world.stop_purge(example.name)?;
        }
        self.wait_all_over()?;
        self.world.assert_no_destroy_errors()?;
        self.check_lines("the end")
    }

    fn start_all(&self) -> anyhow::Result<()> {
        EXAMPLES.iter().try_for_each(|example| self.start(example))
    }

    fn start(&self, example: &Example) -> anyhow::Result<()> {
        let path = format!("{FOLDER}/{}.nomad.hcl", example.name);
        let text = std::fs::read_to_string(&path)?;
        let values = [
            ("network_mode", "host"),
            ("storage_image", "saddlebag-test:1"),
            ("curl_image", "saddlebag-test:1"),
            // Its own of two: the path in a chroot, and what stands in for PostgreSQL.
            ("saddlebag", "/usr/local/bin/saddlebag"),
            ("image", "saddlebag-database:1"),
        ];
        let wanted = |name: &str| match name {
            "saddlebag" => example.name == "exec",
            "image" => example.name == "database",
            _ => text.contains(&format!("variable \"{name}\"")),
        };
        let values: Vec<(&str, &str)> = values.into_iter().filter(|(name, _)| wanted(name)).collect();
        self.world.run_job(&path, &values)?;
        match example.kind {
            Kind::Service | Kind::System | Kind::Batch => Ok(()),
            Kind::Periodic => self.world.nomad(&["job", "periodic", "force", "-detach", example.name]).map(drop),
            Kind::Parameterized => {
                let dispatch = ["job", "dispatch", "-detach", "-meta", "customer=acme", example.name];
                self.world.nomad(&dispatch).map(drop)
            }
        }
    }

    /// The allocations of a job and of the jobs that it has started.
    fn allocations(&self, example: &Example) -> anyhow::Result<Vec<Value>> {
        let Value::Array(all) = self.world.api("GET", "/v1/allocations")? else { anyhow::bail!("no list") };
        let child = format!("{}/", example.name);
        let is_its = |job: &str| job == example.name || job.starts_with(&child);
        Ok(all.into_iter().filter(|allocation| allocation["JobID"].as_str().is_some_and(is_its)).collect())
    }

    fn live(&self, example: &Example) -> anyhow::Result<Vec<String>> {
        let all = self.allocations(example)?;
        let live = all.iter().filter(|allocation| allocation["DesiredStatus"] == "run");
        Ok(live.filter_map(|allocation| allocation["ID"].as_str().map(str::to_owned)).collect())
    }

    /// Waits until each example has new allocations that run, or have ended well, and that all has been written.
    fn check_round(&mut self, after: &str) -> anyhow::Result<()> {
        for example in &EXAMPLES {
            let fresh =
                self.world.wait_until(&format!("{} after {after}", example.name), Duration::from_secs(120), || {
                    let all = self.allocations(example)?;
                    let fresh: Vec<Value> = all.into_iter().filter(|a| !self.seen.contains(id_of(a))).collect();
                    for allocation in &fresh {
                        let id = id_of(allocation);
                        anyhow::ensure!(allocation["ClientStatus"] != "failed", "{id}:\n{}", self.world.events(id)?);
                    }
                    let are_there =
                        fresh.len() == example.count && fresh.iter().all(|allocation| is_there(example, allocation));
                    Ok(are_there.then_some(fresh))
                })?;
            for allocation in fresh {
                let id = id_of(&allocation);
                let index = allocation["Name"].as_str().and_then(|name| name.rsplit_once('[')).context("a name")?.1;
                for (volume, line) in example.writes {
                    let volume =
                        volume.replace("INDEX", index.trim_end_matches(']')).replace("NODE", self.world_name());
                    self.lines.entry(volume).or_default().push(line.replace("ID", id));
                }
                self.seen.insert(id.to_owned());
            }
        }
        self.check_lines(after)?;
        self.check_status()
    }

    fn world_name(&self) -> &'static str {
        match self.storage {
            Storage::Directory(_) => "examples-host",
            Storage::Filer(_) => "examples-weed",
        }
    }

    /// Every volume holds the lines of every allocation that there has been, and no others.
    fn check_lines(&self, after: &str) -> anyhow::Result<()> {
        for (volume, lines) in &self.lines {
            let mut wanted = lines.clone();
            wanted.sort();
            let mut found = Vec::new();
            let written = self.world.wait_until(&format!("{volume} after {after}"), PATIENCE, || {
                found = self.storage.read(volume)?;
                Ok((found == wanted).then_some(()))
            });
            written.with_context(|| format!("wanted {wanted:#?}, found {:#?}", self.storage.read(volume)))?;
        }
        Ok(())
    }

    /// What runs is mounted, by the agent's own word, for each task that uses storage.
    fn check_status(&self) -> anyhow::Result<()> {
        let mut status = Value::Null;
        let mounted = self.world.wait_until("the volumes of all that runs, mounted", PATIENCE, || {
            status = serde_json::from_str(&self.world.saddlebag(&["status", "--json"])?)?;
            self.find_mounted(&status)
        });
        mounted.with_context(|| format!("{:#}", status["bindings"]))
    }

    fn find_mounted(&self, status: &Value) -> anyhow::Result<Option<()>> {
        for example in EXAMPLES.iter().filter(|example| example.kind == Kind::Service) {
            for id in self.live(example)? {
                let of_it =
                    status["bindings"].as_array().into_iter().flatten().filter(|binding| binding["alloc"] == id);
                let bindings: Vec<&Value> = of_it.collect();
                let tasks: BTreeSet<&str> = bindings.iter().filter_map(|binding| binding["task"].as_str()).collect();
                assert_eq!(
                    tasks,
                    example.tasks.iter().copied().collect(),
                    "the tasks of {} with volumes",
                    example.name
                );
                // A source may just be asked whether it answers, on a machine that has much to do.
                if bindings.iter().any(|binding| binding["state"] != "mounted") {
                    return Ok(None);
                }
            }
        }
        Ok(Some(()))
    }

    fn wait_all_over(&self) -> anyhow::Result<()> {
        self.world.wait_until("the end of all allocations", Duration::from_secs(120), || {
            let Value::Array(all) = self.world.api("GET", "/v1/allocations")? else { anyhow::bail!("no list") };
            let is_over = |a: &Value| matches!(a["ClientStatus"].as_str(), Some("complete" | "failed" | "lost"));
            Ok(all.iter().all(is_over).then_some(()))
        })
    }
}

fn id_of(allocation: &Value) -> &str {
    allocation["ID"].as_str().unwrap_or_default()
}

/// Whether all its main tasks run, or have ended well.
fn is_there(example: &Example, allocation: &Value) -> bool {
    match example.kind {
        Kind::Service | Kind::System => {
            example.tasks.iter().all(|task| allocation["TaskStates"][task]["State"] == "running")
        }
        _ => allocation["ClientStatus"] == "complete",
    }
}

/// The volume block in an example's comments.
fn registered_by(example: &str) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(format!("{FOLDER}/{example}.nomad.hcl"))?;
    let comments = text.lines().map_while(|line| line.strip_prefix('#'));
    let block =
        comments.skip_while(|line| !line.trim_start().starts_with("volume \"")).take_while(|line| !line.is_empty());
    let block: Vec<&str> = block.collect();
    anyhow::ensure!(
        block.last().is_some_and(|line| line.trim() == "}"),
        "{example} has a volume block in its comments"
    );
    Ok(block.join("\n") + "\n")
}

/// An image in PostgreSQL's place: the user, the directory and the habits of its server, without the server.
fn make_database_image(world: &World) -> anyhow::Result<()> {
    let docker = tool("docker").context("no docker")?;
    let run = |arguments: &[&str]| -> anyhow::Result<String> {
        let done = Command::new(&docker).arg("--host").arg(&world.lab().docker).args(arguments).output()?;
        anyhow::ensure!(done.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8(done.stdout)?.trim().to_owned())
    };
    let server = r#"cd /var/lib/postgresql/data; test "$(stat -c %a:%u:%g .)" = 700:999:999; test -n "$POSTGRES_PASSWORD"; echo "$NOMAD_ALLOC_ID" >> starts; trap "exit 0" TERM INT; sleep 1000000 & wait"#;
    let command = format!("CMD {}", serde_json::to_string(&["sh", "-ec", server])?);
    let container = run(&["create", "saddlebag-test:1", "true"])?;
    run(&["commit", "--change", &command, "--change", "USER 999:999", &container, "saddlebag-database:1"])?;
    run(&["rm", &container]).map(drop)
}
