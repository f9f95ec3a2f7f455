//! A world with two sources of SeaweedFS and a directory of the host, and tasks that write and never stop.

use crate::guard::fleet::{self, Plan};
use crate::support::{PATIENCE, World, tool};
use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long what a storage server has to find its way back to may take: connections that were cut are tried again ever
/// more slowly.
const LONG: Duration = PATIENCE.saturating_mul(2);

/// Appends numbered records, each of which is on the storage before the next one is written. A write that fails ends it.
const WRITES: &str = "trap 'exit 0' TERM INT
n=$(wc -l < $V/log 2>/dev/null || echo 0)
while :; do
  n=$((n+1))
  echo $n | dd of=$V/log oflag=append conv=notrunc,fsync 2>/dev/null
  sleep 0.1
done
";

/// The same of one that goes on when a write fails, with the next record; which have not failed it notes on the local disk.
const TRIES: &str = "trap 'exit 0' TERM INT
n=0
while :; do
  n=$((n+1))
  echo $n | dd of=$V/log oflag=append conv=notrunc,fsync 2>/dev/null && echo $n >> $NOMAD_TASK_DIR/kept || true
  sleep 0.1
done
";

/// A seaweedfs backend of that name with volumes `NAME-0` to `NAME-5`, made at first use.
pub fn seaweedfs(world: &World, filer: &str, name: &str, options: &str) -> anyhow::Result<String> {
    let weed = tool("weed").context("no weed")?;
    let unique = world.directory().file_name().and_then(|name| name.to_str()).context("a name")?;
    let mut text = format!(
        "backend \"seaweedfs\" \"{name}\" {{\n  filer = \"{filer}\"\n  program = \"{}\"\n{options}\n}}\n",
        weed.display()
    );
    for number in 0..6 {
        text.push_str(&format!(
            "volume \"{name}-{number}\" {{\n  backend = \"{name}\"\n  path = \"/{unique}/{name}-{number}\"\n  create = true\n}}\n"
        ));
    }
    Ok(text)
}

/// A dynamic backend in a directory of the world.
pub fn local(world: &World) -> anyhow::Result<String> {
    let path = world.directory().join("disk");
    std::fs::create_dir_all(&path)?;
    Ok(format!("backend \"host\" \"disk\" {{\n  path = \"{}\"\n  dynamic = true\n}}\n", path.display()))
}

/// One job whose main task writes.
pub struct Writer {
    pub job: String,
    driver: &'static str,
    pub alloc: String,
}

impl Writer {
    /// Registers it; does not wait.
    pub fn launch(world: &World, driver: &'static str, volume: &str) -> anyhow::Result<Self> {
        Self::launch_with(world, driver, volume, WRITES)
    }

    /// One that goes on when a write fails.
    pub fn launch_patient(world: &World, driver: &'static str, volume: &str) -> anyhow::Result<Self> {
        Self::launch_with(world, driver, volume, TRIES)
    }

    fn launch_with(world: &World, driver: &'static str, volume: &str, script: &str) -> anyhow::Result<Self> {
        let job = format!("{driver}-{volume}");
        let plan = Plan { script, ..Plan::default() };
        world.run_job(&fleet::text(&job, driver, volume, &plan), &[])?;
        Ok(Self { job, driver, alloc: String::new() })
    }

    /// Waits until it has written.
    pub fn wait(mut self, world: &World) -> anyhow::Result<Self> {
        self.alloc = world.wait_running(&self.job)?;
        self.wait_for_more(world, 0)?;
        Ok(self)
    }

    /// Waits until it has written some records more than `before`.
    pub fn wait_for_more(&self, world: &World, before: usize) -> anyhow::Result<()> {
        world.wait_until(&format!("records of {}", self.job), LONG, || {
            Ok((self.records(world).unwrap_or_default().len() > before + 3).then_some(()))
        })
    }

    /// Where its volume is mounted on the host.
    pub fn place(&self, world: &World) -> PathBuf {
        let root = match self.driver {
            "raw_exec" => world.state_dir().join("bindings").join(&self.alloc),
            _ => world.alloc_dir(&self.alloc),
        };
        root.join("main/local/x")
    }

    /// The id of its mount in the host's mount table.
    pub fn mount_id(&self, world: &World) -> anyhow::Result<String> {
        let (place, table) = (self.place(world), std::fs::read_to_string("/proc/self/mountinfo")?);
        let mut found = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let found = found.rfind(|words| place.to_str() == Some(words[4])).map(|words| words[0].to_owned());
        found.with_context(|| format!("{} is not mounted", self.job))
    }

    pub fn records(&self, world: &World) -> anyhow::Result<Vec<usize>> {
        let text = std::fs::read_to_string(self.place(world).join("log"))?;
        // The last one may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| line.parse().with_context(|| format!("{}: {line:?}", self.job))).collect()
    }

    /// It never saw an error, every record is there once, and it still writes.
    pub fn assert_whole(&self, world: &World) -> anyhow::Result<()> {
        let records = self.records(world)?;
        assert!(records.iter().copied().eq(1..=records.len()), "{}: {records:?}", self.job);
        self.assert_unbroken(world)
    }

    /// The same of a patient one: every record whose write and fsync have not failed is there, and there are some.
    pub fn assert_kept(&self, world: &World) -> anyhow::Result<()> {
        let noted = world.alloc_dir(&self.alloc).join("main/local/kept");
        let kept: Vec<usize> = std::fs::read_to_string(&noted)?.lines().map(str::parse).collect::<Result<_, _>>()?;
        let records = self.records(world)?;
        assert!(!kept.is_empty(), "{} has kept nothing", self.job);
        assert!(kept.iter().all(|one| records.binary_search(one).is_ok()), "{}: {kept:?} of {records:?}", self.job);
        self.assert_unbroken(world)
    }

    /// It still writes, in the task that it began in, and what it wrote is there in its order.
    fn assert_unbroken(&self, world: &World) -> anyhow::Result<()> {
        let records = self.records(world)?;
        assert!(records.is_sorted_by(|one, next| one < next), "{}: {records:?}", self.job);
        let starts = std::fs::read_to_string(self.place(world).join("starts"))?;
        assert_eq!(starts.lines().count(), 1, "{} started again:\n{}", self.job, world.events(&self.alloc)?);
        self.wait_for_more(world, records.len())
    }
}

/// A writer of each driver, on volumes 0 to 2 of a backend, made by this.
pub fn writers(
    world: &World,
    backend: &str,
    launch: impl Fn(&World, &'static str, &str) -> anyhow::Result<Writer>,
) -> anyhow::Result<Vec<Writer>> {
    let launched: Vec<_> = ["docker", "exec", "raw_exec"]
        .iter()
        .enumerate()
        .map(|(number, driver)| launch(world, driver, &format!("{backend}-{number}")))
        .collect::<Result<_, _>>()?;
    launched.into_iter().map(|writer| writer.wait(world)).collect()
}

/// What `status` says of a source.
pub fn source(world: &World, backend: &str) -> anyhow::Result<Value> {
    let status: Value = serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?;
    let mut sources = status["sources"].as_array().context("status lists sources")?.iter();
    Ok(sources.find(|source| source["name"] == backend).with_context(|| format!("no {backend}: {status:#}"))?.clone())
}

/// Waits until `status` says that of a source.
pub fn wait_source(world: &World, backend: &str, states: &[&str]) -> anyhow::Result<Value> {
    let mut last = Value::Null;
    let seen = world.wait_until(&format!("source {backend} that is {states:?}"), LONG, || {
        last = source(world, backend)?;
        Ok(last["state"].as_str().is_some_and(|state| states.contains(&state)).then(|| last.clone()))
    });
    seen.with_context(|| format!("{last:#}"))
}

/// What `status` says of the bindings of an allocation.
pub fn bindings(world: &World, alloc: &str) -> anyhow::Result<Vec<Value>> {
    let status: Value = serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?;
    let all = status["bindings"].as_array().context("status lists bindings")?;
    Ok(all.iter().filter(|binding| binding["alloc"] == alloc).cloned().collect())
}

pub fn wait_mounted(world: &World, writer: &Writer) -> anyhow::Result<()> {
    world.wait_until(&format!("{} mounted", writer.job), LONG, || {
        Ok(bindings(world, &writer.alloc)?.iter().all(|binding| binding["state"] == "mounted").then_some(()))
    })
}

pub fn pid_of(source: &Value) -> anyhow::Result<Pid> {
    let pid = source["pid"].as_i64().with_context(|| format!("no program in {source:#}"))?;
    Ok(Pid::from_raw(i32::try_from(pid)?))
}

/// A process that is stopped until this is dropped: what is stopped cannot be unmounted when the world ends.
pub struct Stopped(Pid);

impl Stopped {
    pub fn stop(pid: Pid) -> anyhow::Result<Self> {
        kill(pid, Signal::SIGSTOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// The probe processes of this world's agent.
pub fn probes(world: &World) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&str> = line.split(|byte| *byte == 0).flat_map(std::str::from_utf8).collect();
        if words.get(1) == Some(&"probe") && words.get(2).is_some_and(|at| Path::new(at).starts_with(world.directory()))
        {
            found.push(pid);
        }
    }
    Ok(found)
}

/// How often the agent has logged that a source hangs: once each time that it begins.
pub fn hangs(world: &World, backend: &str) -> anyhow::Result<usize> {
    let (text, of) = (std::fs::read_to_string(world.log("agent"))?, format!("backend=\"{backend}\""));
    Ok(text.lines().filter(|line| line.contains("the source hangs") && line.contains(&of)).count())
}

/// How often the agent has logged that.
pub fn logged(world: &World, text: &str) -> anyhow::Result<usize> {
    Ok(std::fs::read_to_string(world.log("agent"))?.lines().filter(|line| line.contains(text)).count())
}
