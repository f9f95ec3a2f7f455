//! The world of a soak, and how what was planned is done to it.

use super::jobs::{self, Order};
use super::plan::{Does, Fate, Job, Moment, Settings, VOLUMES, Who};
use super::weather::Weather;
use super::witness::{NOTED_WITHIN, Witness, now};
use crate::load;
use crate::support::{Options, World, tool};
use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use saddlebag::sys::process;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant, SystemTime};

/// How long starting or mending may take at the most, on a machine that has much to do.
pub const LONG: Duration = Duration::from_secs(120);

pub struct Storm {
    pub world: World,
    pub witness: Witness,
    pub weather: Weather,
    pub order: Order,
    configuration: String,
    began: Instant,
    /// Jobs that were registered and not purged, and whether they may still run.
    pub jobs: BTreeMap<String, (Job, bool)>,
    /// The script that waits until the world's own SeaweedFS serves.
    serving: Option<Child>,
    /// Mount programs that are held up.
    held: BTreeMap<Who, Vec<Pid>>,
    /// When no agent was there: Nomad's collector may be refused then.
    without_agent: Vec<(SystemTime, Option<SystemTime>)>,
    /// When Nomad was killed, and started again.
    without_nomad: Vec<(SystemTime, Option<SystemTime>)>,
    shared: SharedLog,
}

/// What the SeaweedFS that all tests share logs from now on: nobody kills it, and yet it may end by itself.
struct SharedLog {
    path: PathBuf,
    from: u64,
}

impl SharedLog {
    /// Its lab is where its Docker daemon has its socket.
    fn begin(world: &World) -> Self {
        let socket = world.lab().docker.strip_prefix("unix://").unwrap_or_default();
        let path = Path::new(socket).with_file_name("seaweedfs.log");
        let from = std::fs::metadata(&path).map(|found| found.len()).unwrap_or_default();
        Self { path, from }
    }

    /// Nothing where it is not known.
    fn read(&self) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = std::fs::File::open(&self.path)?;
            file.seek(SeekFrom::Start(self.from))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }
}

/// For so long after its start Nomad's servers may not know what its client has ended.
const NOMAD_CATCHES_UP: Duration = Duration::from_secs(15);
/// What was refused just before the agent was there again is logged a little later.
const LOGGED_WITHIN: Duration = Duration::from_secs(3);

fn is_within(times: &[(SystemTime, Option<SystemTime>)], at: SystemTime, after: Duration) -> bool {
    times.iter().any(|(from, to)| at >= *from && to.is_none_or(|to| at <= to + after))
}

impl Storm {
    pub fn new(settings: Settings) -> anyhow::Result<Self> {
        let folder = jobs::writer_folder()?;
        let options =
            Options::default().client(&format!("chroot_env {{\n    \"{}\" = \"/opt/soak\"\n  }}", folder.display()));
        let world = World::with("soak", options)?;
        let mut serving = world.start_own_seaweedfs()?;
        anyhow::ensure!(serving.wait()?.success(), "SeaweedFS did not start");
        let configuration = configuration(&world)?;
        world.start_agent(&configuration)?;
        let witness = Witness::start()?;
        let shared = SharedLog::begin(&world);
        let order = Order { port: witness.port, pause: (settings.bindings as u64 * 6).max(100) };
        Ok(Self {
            world,
            witness,
            weather: Weather::default(),
            order,
            configuration,
            began: Instant::now(),
            jobs: BTreeMap::new(),
            serving: None,
            held: BTreeMap::new(),
            without_agent: Vec::new(),
            without_nomad: Vec::new(),
            shared,
        })
    }

    /// Does all of it, each at its time or as soon after that as what was before is done.
    pub fn rage(&mut self, moments: &[Moment]) -> anyhow::Result<()> {
        self.began = Instant::now();
        for moment in moments {
            while self.began.elapsed() < moment.at {
                std::thread::sleep(Duration::from_millis(20).min(moment.at.saturating_sub(self.began.elapsed())));
            }
            self.say(&moment.does, moment.at);
            self.act(&moment.does).with_context(|| format!("{:?} of {:?}", moment.does, moment.at))?;
            self.look()?;
        }
        Ok(())
    }

    fn say(&self, does: &Does, at: Duration) {
        let what = match does {
            Does::Launch(job) => format!("Launch {} {:?} {:?}", job.name, job.fate, job.groups),
            other => format!("{other:?}"),
        };
        let late = self.began.elapsed().saturating_sub(at).as_secs_f32();
        println!("{:8.2} +{late:.2} {} {what}", at.as_secs_f32(), now());
    }

    /// Nothing has been seen that may not be; faults that are over by now are known to be.
    pub fn look(&mut self) -> anyhow::Result<()> {
        if self.weather.is_rough() && self.world.agent_pid().is_some() {
            let serves = self.serves()?;
            self.weather.look(&self.world, &self.witness, serves)?;
        }
        self.weather.note_ends("main", &std::fs::read_to_string(self.world.log("seaweedfs"))?)?;
        self.weather.note_ends("beside", &self.shared.read())?;
        self.weather.judge(&self.witness)
    }

    /// Whether the world's own SeaweedFS stores files.
    fn serves(&mut self) -> anyhow::Result<bool> {
        let Some(serving) = &mut self.serving else { return Ok(!self.weather.is_filer_away) };
        let Some(status) = serving.try_wait()? else { return Ok(false) };
        anyhow::ensure!(status.success(), "SeaweedFS did not start again");
        self.serving = None;
        Ok(true)
    }

    pub fn act(&mut self, does: &Does) -> anyhow::Result<()> {
        match does {
            Does::Launch(job) => {
                self.jobs.insert(job.name.clone(), (job.clone(), true));
                jobs::register(&self.world, job, &self.order)
            }
            Does::Stop(name) => {
                self.check_job(name)?;
                if let Some((_, may_run)) = self.jobs.get_mut(name) {
                    *may_run = false;
                }
                self.world.api("DELETE", &format!("/v1/job/{name}")).map(drop)
            }
            Does::Purge(name) => {
                self.check_job(name)?;
                self.jobs.remove(name);
                self.world.api("DELETE", &format!("/v1/job/{name}?purge=true")).map(drop)
            }
            Does::Collect => self.world.system_gc(),
            Does::Kill(whom) => self.kill(whom),
            Does::Start(who) => self.start(*who),
            Does::Hold(who) => {
                let pids = self.processes(*who)?;
                pids.iter().try_for_each(|pid| kill(*pid, Signal::SIGSTOP))?;
                self.held.insert(*who, pids);
                Ok(())
            }
            Does::Release(who) => {
                for pid in self.held.remove(who).unwrap_or_default() {
                    // It may have been killed meanwhile.
                    let _ = kill(pid, Signal::SIGCONT);
                }
                Ok(())
            }
        }
    }

    /// What Nomad says of a job that nobody has stopped so far: nothing has failed that was not meant to.
    pub fn check_job(&self, name: &str) -> anyhow::Result<()> {
        let Some((job, true)) = self.jobs.get(name) else { return Ok(()) };
        for alloc in self.world.allocations(name)? {
            let id = alloc["ID"].as_str().context("an allocation has an id")?;
            let (status, prestart) = (alloc["ClientStatus"].as_str(), &alloc["TaskStates"]["storage"]);
            let is_wrong = match job.fate {
                Fate::Runs => matches!(status, Some("failed" | "lost" | "complete")),
                Fate::Ends { .. } => matches!(status, Some("failed" | "lost")),
                Fate::Fails { .. } => matches!(status, Some("lost" | "complete")) || prestart["Failed"] == true,
                // Its prestart task runs, and fails.
                Fate::AsksForNothing | Fate::Misspells => matches!(status, Some("lost" | "complete")),
            };
            anyhow::ensure!(
                !is_wrong,
                "{name} ({:?}) has an allocation {id} that is {status:?}:\n{}",
                job.fate,
                self.world.events(id)?
            );
            if matches!(job.fate, Fate::Runs | Fate::Ends { .. }) {
                self.check_restarts(name, id, &alloc["TaskStates"])?;
            }
        }
        let starts = self.witness.seen().starts.get(name).cloned();
        anyhow::ensure!(!job.is_refused() || starts.is_none(), "{name} was refused, and has started: {starts:?}");
        Ok(())
    }

    /// No task has ended but those that were told to go, and no prestart task has failed even once.
    fn check_restarts(&self, name: &str, alloc: &str, states: &Value) -> anyhow::Result<()> {
        for (task, state) in states.as_object().into_iter().flatten() {
            let who = (alloc.to_owned(), task.clone());
            let may = self.witness.seen().disowned.get(&who).copied().unwrap_or_default();
            let restarts = state["Restarts"].as_u64().unwrap_or_default();
            anyhow::ensure!(
                restarts <= may,
                "{name}: {task} was started again {restarts} times, {may} were due:\n{}",
                self.world.events(alloc)?
            );
        }
        Ok(())
    }

    fn kill(&mut self, whom: &[Who]) -> anyhow::Result<()> {
        let mut pids = Vec::new();
        for who in whom {
            pids.extend(self.processes(*who)?);
            match who {
                Who::Agent => self.without_agent.push((SystemTime::now(), None)),
                Who::Filer => {
                    self.weather.is_filer_away = true;
                    self.weather.begin("main", &[]);
                }
                Who::Main => self.weather.begin("main", &self.processes(Who::Main)?),
                Who::Beside => self.weather.begin("beside", &self.processes(Who::Beside)?),
                Who::Guard | Who::Nomad => {}
            }
        }
        for pid in &pids {
            // Whoever has just ended by himself is as dead.
            let _ = kill(*pid, Signal::SIGKILL);
        }
        for (who, name) in [(Who::Agent, "agent"), (Who::Nomad, "nomad"), (Who::Filer, "seaweedfs")] {
            if whom.contains(&who) {
                self.world.end(name, "KILL")?;
            }
        }
        if whom.contains(&Who::Nomad) {
            self.witness.seen().lose_nomad();
            self.without_nomad.push((SystemTime::now(), None));
        }
        Ok(())
    }

    fn start(&mut self, who: Who) -> anyhow::Result<()> {
        match who {
            Who::Agent => {
                self.world.start_agent(&self.configuration)?;
                if let Some((_, end)) = self.without_agent.last_mut() {
                    *end = Some(SystemTime::now());
                }
            }
            // Its node need not be ready: Nomad places what it is told when it is.
            Who::Nomad => {
                self.witness.seen().find_nomad();
                self.world.start_nomad_as_another_node()?;
                if let Some((_, end)) = self.without_nomad.last_mut() {
                    *end = Some(SystemTime::now());
                }
            }
            Who::Filer => {
                self.serving = Some(self.world.start_own_seaweedfs()?);
                self.weather.is_filer_away = false;
            }
            Who::Guard | Who::Main | Who::Beside => anyhow::bail!("{who:?} comes back by itself"),
        }
        Ok(())
    }

    /// The processes of one: none where it is about to come back.
    pub fn processes(&self, who: Who) -> anyhow::Result<Vec<Pid>> {
        let filer = match who {
            Who::Agent => return Ok(self.world.agent_pid().and_then(pid).into_iter().collect()),
            Who::Guard => return Ok(crate::guard::scene::find_guards(&self.world.run_dir(), false)),
            Who::Nomad => return self.started("nomad"),
            // First who would start it again.
            Who::Filer => {
                let mut all = self.started("seaweedfs")?;
                let children: Vec<_> = all.iter().flat_map(|pid| find_children(pid.as_raw())).collect();
                for child in children {
                    all.push(Pid::from_raw(child.parse()?));
                }
                return Ok(all);
            }
            Who::Main => self.world.own_filer()?,
            Who::Beside => self.world.lab().filer.clone(),
        };
        let wanted = format!("-filer={filer}");
        let programs = load::mount_programs(&self.world)?.into_iter().filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == wanted.as_bytes())
        });
        Ok(programs.map(Pid::from_raw).collect())
    }

    fn started(&self, name: &str) -> anyhow::Result<Vec<Pid>> {
        let path = self.world.directory().join(format!("{name}.pid"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(vec![Pid::from_raw(text.split(' ').next().context("a pid")?.parse()?)])
    }

    /// After the last blow: every fault is mended, and every task that nobody has ended goes on in all its volumes.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        while self.weather.is_rough() {
            anyhow::ensure!(start.elapsed() < LONG, "not mended: {}", self.weather.explain(&self.world, &self.witness));
            self.look()?;
            std::thread::sleep(Duration::from_millis(200));
        }
        self.wait_for_progress()?;
        self.jobs.keys().try_for_each(|name| self.check_job(name))?;
        self.weather.judge(&self.witness)
    }

    /// Every task of every job that runs writes a record in each of its volumes, begun from now on.
    fn wait_for_progress(&self) -> anyhow::Result<()> {
        let since = now();
        let mut missing = Vec::new();
        let waited = self.world.wait_until("records of all tasks", LONG, || {
            missing = self.find_silent(since);
            Ok(missing.is_empty().then_some(()))
        });
        waited
            .with_context(|| format!("silent: {missing:#?}\n{}", self.world.saddlebag(&["status"]).unwrap_or_default()))
    }

    fn find_silent(&self, since: u64) -> Vec<String> {
        let seen = self.witness.seen();
        let mut silent = Vec::new();
        for (name, (job, _)) in self.jobs.iter().filter(|(_, (job, may_run))| *may_run && job.fate == Fate::Runs) {
            let starts = seen.starts.get(name).cloned().unwrap_or_default();
            let wanted: usize = job.groups.iter().map(|group| group.tasks.len()).sum();
            if starts.len() != wanted {
                silent.push(format!("{name}: {wanted} tasks, started are {starts:?}"));
            }
            for who in starts {
                if !seen.connected.contains_key(&who) {
                    silent.push(format!("{name}: {who:?} has ended"));
                }
                let file = format!("{}.{}", who.0, who.1);
                let of_it = seen.files.iter().filter(|(of, _)| of.name == file);
                silent.extend(
                    of_it.filter(|(_, kept)| kept.began < since).map(|(of, kept)| format!("{name}: {of:?} {kept:?}")),
                );
            }
        }
        silent
    }

    /// Stops and purges all, and has everything collected.
    pub fn end(&mut self) -> anyhow::Result<()> {
        for name in self.jobs.keys().cloned().collect::<Vec<_>>() {
            self.act(&Does::Purge(name))?;
        }
        self.world.system_gc()?;
        self.world
            .wait_until("the end of all tasks", LONG, || Ok(self.witness.seen().connected.is_empty().then_some(())))?;
        self.end_lost_executors()
    }

    /// Whether Nomad may have failed to remove then what a line of its log names.
    pub fn is_excused(&self, at: SystemTime, line: &str) -> bool {
        is_within(&self.without_agent, at, LOGGED_WITHIN)
            || is_within(&self.without_nomad, at, NOMAD_CATCHES_UP)
            || self.is_purged_in_the_making(line)
            || ["main", "beside"].iter().any(|source| {
                line.contains(&format!("/local/{source}-")) && self.weather.was_rough(source, at, LOGGED_WITHIN)
            })
    }

    /// Whether it is of an allocation that was purged while its volumes were being mounted: what is made while Nomad
    /// removes the same directory is in its way.
    fn is_purged_in_the_making(&self, line: &str) -> bool {
        let seen = self.witness.seen();
        let has_started = seen.starts.values().flatten().any(|(alloc, _)| line.contains(alloc));
        line.contains("directory not empty") && !has_started
    }

    /// A Nomad that is killed leaves the executors that it had not noted, for ever.
    fn end_lost_executors(&self) -> anyhow::Result<()> {
        let place = self.world.directory().to_str().context("UTF-8")?;
        for pid in process::find_processes()? {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            let is_executor = line.split('\0').nth(1) == Some("executor") && line.contains(place);
            let Ok(age) = process::age(pid) else { continue };
            let started = SystemTime::now() - age;
            let margin = Duration::from_millis(NOTED_WITHIN);
            let is_lost = self.without_nomad.iter().any(|(killed, _)| (*killed - margin..*killed).contains(&started));
            if is_executor && is_lost && find_children(pid).is_empty() {
                println!("an executor that a killed Nomad had not noted: {pid}");
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        Ok(())
    }

    /// Kills a mount program for good reason, and waits for the next one.
    pub fn mount_anew(&mut self) -> anyhow::Result<()> {
        self.kill(&[Who::Main, Who::Beside])?;
        self.settle()
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        for pid in self.held.values().flatten() {
            let _ = kill(*pid, Signal::SIGCONT);
        }
        if let Some(mut serving) = self.serving.take() {
            let _ = serving.wait();
        }
    }
}

fn find_children(pid: i32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

fn pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().map(Pid::from_raw)
}

/// `disk` of the host, `main` of the world's own SeaweedFS, and `beside` of the one that all tests share.
fn configuration(world: &World) -> anyhow::Result<String> {
    let (disk, weed) = (world.directory().join("disk"), tool("weed").context("no weed")?);
    std::fs::create_dir_all(&disk)?;
    let mut text = format!("backend \"host\" \"disk\" {{\n  path = \"{}\"\n  dynamic = true\n}}\n", disk.display());
    for (name, filer) in [("main", world.own_filer()?), ("beside", world.lab().filer.clone())] {
        text.push_str(&format!(
            "backend \"seaweedfs\" \"{name}\" {{\n  filer = \"{filer}\"\n  program = \"{}\"\n}}\n",
            weed.display()
        ));
    }
    for (kind, count) in VOLUMES.iter().filter(|(kind, _)| *kind != "disk") {
        for number in 0..*count {
            text.push_str(&format!(
                "volume \"{kind}-{number}\" {{\n  backend = \"{kind}\"\n  path = \"/{}/{kind}-{number}\"\n  create = true\n}}\n",
                folder(world)?
            ));
        }
    }
    Ok(text)
}

/// The folder of the world's volumes in each SeaweedFS.
pub fn folder(world: &World) -> anyhow::Result<&str> {
    world.directory().file_name().and_then(|name| name.to_str()).context("a name")
}

/// What `status --json` says.
pub fn status(world: &World) -> anyhow::Result<Value> {
    load::status(world)
}
