//! What may be left when all is over, and what must be there.

use super::storm::{LONG, Storm, folder, status};
use super::witness::{File, Kept};
use crate::guard::scene::find_guards;
use crate::load;
use crate::support::{World, mounts_below};
use anyhow::Context as _;
use nix::unistd::Pid;
use saddlebag::sys::process;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// What a process holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What each of its descriptors leads to, without the numbers of what is anonymous.
    descriptors: Vec<String>,
    /// The names of its threads.
    threads: Vec<String>,
}

/// All that a world at rest has, beside its volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    agent: Held,
    guard: Held,
    keeper: Held,
    /// Processes by their program and its first argument.
    processes: Vec<String>,
    /// Directories below state and run directory, and in Nomad's allocation root.
    directories: BTreeSet<PathBuf>,
    mounts: BTreeSet<PathBuf>,
}

/// Bytes of memory that agent and guard have of their own (`RssAnon` of proc_pid_status(5)): what the kernel holds of
/// their program's file beside that, each place of the program that was ever gone through, can be dropped at any time.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    agent: u64,
    guard: u64,
}

/// What an agent may have grown by since it had its first jobs: its heap keeps what it once needed for so many
/// allocations. Half of it for the guard.
const MARGIN: u64 = 6 << 20;

/// After so many collections Nomad does nothing about an allocation that has ended.
const NOMAD_IS_DONE: Duration = Duration::from_secs(15);

fn agent(storm: &Storm) -> anyhow::Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(storm.world.agent_pid().context("no agent")?)?))
}

fn one_guard(world: &World, keeper: bool) -> anyhow::Result<Option<Pid>> {
    let found = find_guards(&world.run_dir(), keeper);
    Ok(if let [one] = found[..] { Some(one) } else { None })
}

/// Nobody uses anything, and nobody is about to: what is there now is what is always there, or what was there `before`.
pub fn wait_at_rest(storm: &Storm, before: Option<&Rest>) -> anyhow::Result<Rest> {
    let world = &storm.world;
    let (mut last, mut same, began) = (String::new(), (None, 0), Instant::now());
    let waited = world.wait_until("a world at rest", LONG, || {
        if let Some(obstacle) = find_obstacle(world)? {
            last = obstacle;
            // What has ended since the last collection.
            world.system_gc()?;
            std::thread::sleep(Duration::from_millis(300));
            if began.elapsed() > NOMAD_IS_DONE {
                remove_left_secrets(world)?;
                remove_forgotten(world)?;
            }
            return Ok(None);
        }
        let rest = match look(storm) {
            Ok(rest) => rest,
            // What ends meanwhile cannot be read.
            Err(error) => {
                last = format!("{error:#}");
                return Ok(None);
            }
        };
        if let Some(before) = before {
            last = differences(before, &rest);
            return Ok((rest == *before).then_some(rest));
        }
        same = (Some(rest.clone()), if same.0.as_ref() == Some(&rest) { same.1 + 1 } else { 0 });
        last = format!("{rest:#?}");
        Ok((same.1 == 10).then_some(rest))
    });
    waited.with_context(|| last)
}

/// What is still in use.
fn find_obstacle(world: &World) -> anyhow::Result<Option<String>> {
    let status = status(world)?;
    let bindings = status["bindings"].as_array().context("bindings")?;
    if !bindings.is_empty() {
        return Ok(Some(format!("bindings: {bindings:#?}")));
    }
    let pages = load::pages(world)?;
    if !pages.is_empty() {
        return Ok(Some(format!("pages: {pages:#?}")));
    }
    let allocations: Vec<_> = std::fs::read_dir(world.directory().join("nomad/alloc"))?.flatten().collect();
    if !allocations.is_empty() {
        return Ok(Some(format!("directories of allocations: {allocations:#?}")));
    }
    if status["recovery"]["unexplained"].as_array().is_some_and(|all| !all.is_empty()) {
        return Ok(Some(format!("{:#}", status["recovery"])));
    }
    Ok(None)
}

fn look(storm: &Storm) -> anyhow::Result<Rest> {
    let world = &storm.world;
    let mut directories = BTreeSet::new();
    for root in [world.state_dir(), world.run_dir(), world.directory().join("nomad/alloc")] {
        find_directories(&root, &mut directories)?;
    }
    let state = world.state_dir();
    // A mount program's cache is its own.
    directories.retain(|path| !path.components().any(|part| part.as_os_str() == "cache") || !path.starts_with(&state));
    let mut agent = held(agent(storm)?)?;
    let mut guard = held(one_guard(world, false)?.context("one guard")?)?;
    forget_connections(world, &mut agent, &mut guard)?;
    Ok(Rest {
        agent,
        guard,
        keeper: held(one_guard(world, true)?.context("one keeper")?)?,
        processes: find_processes(world)?,
        directories,
        mounts: mounts_below(world.directory())?.into_iter().collect(),
    })
}

/// What is there more or less often than before.
fn differences(before: &Rest, now: &Rest) -> String {
    fn count(all: &[String]) -> BTreeMap<&str, i64> {
        all.iter().fold(BTreeMap::new(), |mut counts, one| {
            *counts.entry(one.as_str()).or_default() += 1;
            counts
        })
    }
    let paths = |all: &BTreeSet<PathBuf>| all.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    let mut text = String::new();
    let mut compare = |name: &str, before: &[String], now: &[String]| {
        let (before, now) = (count(before), count(now));
        for one in before.keys().chain(now.keys()).collect::<BTreeSet<_>>() {
            let times = |counts: &BTreeMap<&str, i64>| counts.get(*one).copied().unwrap_or_default();
            if times(&before) != times(&now) {
                text.push_str(&format!("{name}: {} times {one}, before {}\n", times(&now), times(&before)));
            }
        }
    };
    let held = [("agent", &before.agent, &now.agent), ("guard", &before.guard, &now.guard)];
    for (name, before, now) in held.into_iter().chain([("keeper", &before.keeper, &now.keeper)]) {
        compare(&format!("descriptors of the {name}"), &before.descriptors, &now.descriptors);
        compare(&format!("threads of the {name}"), &before.threads, &now.threads);
    }
    compare("processes", &before.processes, &now.processes);
    compare("directories", &paths(&before.directories), &paths(&now.directories));
    compare("mounts", &paths(&before.mounts), &paths(&now.mounts));
    text
}

/// Each socket of this network namespace, by its inode, in words.
fn read_sockets() -> anyhow::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for line in std::fs::read_to_string("/proc/net/unix")?.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        found.insert(words[6].to_owned(), format!("socket: unix {}", words.get(7).copied().unwrap_or("unnamed")));
    }
    // proc_pid_net(5): the remote address, and the state.
    for line in std::fs::read_to_string("/proc/net/tcp")?.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = words[2].rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok()).unwrap_or_default();
        found.insert(words[9].to_owned(), format!("socket: tcp to port {port}, state {}", words[3]));
    }
    Ok(found)
}

fn held(pid: Pid) -> anyhow::Result<Held> {
    let mut descriptors = Vec::new();
    let sockets = read_sockets()?;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        // One that is closed meanwhile is none.
        let Ok(to) = std::fs::read_link(entry.path()) else { continue };
        let to = to.to_string_lossy().into_owned();
        if let Some(inode) = to.strip_prefix("socket:[").and_then(|to| to.strip_suffix(']')) {
            descriptors.push(sockets.get(inode).cloned().unwrap_or_else(|| "socket: of another kind".to_owned()));
            continue;
        }
        let is_named = to.starts_with('/') && !to.starts_with("/proc/");
        descriptors.push(if is_named { to } else { to.replace(|c: char| c.is_ascii_digit(), "") });
    }
    let mut threads = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        threads.push(std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim().to_owned());
    }
    // Threads that look into containers end when nothing has had to be looked into for a while: those of before, too.
    threads.retain(|name: &String| !name.starts_with("look-"));
    descriptors.sort_unstable();
    threads.sort_unstable();
    Ok(Held { descriptors, threads })
}

/// The agent keeps connections for its next calls: to the guard as many as it has once made at a time and at most 8, for
/// each of which the guard has a thread; and to Nomad at most 2 for a while, beside the one that waits for news. Exactly
/// these are left out.
fn forget_connections(world: &World, agent: &mut Held, guard: &mut Held) -> anyhow::Result<()> {
    let port = world.variable("NOMAD_ADDR")?.rsplit(':').next().context("a port")?.to_owned();
    let all = agent.descriptors.len();
    agent.descriptors.retain(|to| !to.starts_with(&format!("socket: tcp to port {port},")));
    let connections = all - agent.descriptors.len();
    anyhow::ensure!((1..=3).contains(&connections), "{connections} connections to Nomad");
    let all = guard.threads.len();
    guard.threads.retain(|name| name != "control");
    let connections = all - guard.threads.len();
    anyhow::ensure!(connections <= 8, "{connections} connections");
    for held in [agent, guard] {
        for _ in 0..connections {
            let socket =
                held.descriptors.iter().position(|to| to == "socket: unix unnamed" || to.ends_with("guard.sock"));
            held.descriptors.remove(socket.context("fewer sockets than connections")?);
        }
    }
    Ok(())
}

/// Those below it on the same file system.
fn find_directories(root: &Path, found: &mut BTreeSet<PathBuf>) -> anyhow::Result<()> {
    let device = root.metadata()?.dev();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory)?.flatten() {
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                found.insert(entry.path());
                if metadata.dev() == device {
                    open.push(entry.path());
                }
            }
        }
    }
    Ok(())
}

/// All of this world, and zombies that nobody of it has asked for.
fn find_processes(world: &World) -> anyhow::Result<Vec<String>> {
    let place = world.directory().to_str().context("UTF-8")?;
    let mut found = BTreeMap::new();
    let mut zombies = Vec::new();
    for pid in process::find_processes()? {
        let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let (line, environment) = (read("cmdline"), read("environ"));
        let names = |bytes: &[u8]| bytes.windows(place.len()).any(|window| window == place.as_bytes());
        if process::is_zombie(pid) {
            let stat = String::from_utf8_lossy(&read("stat")).into_owned();
            let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<i32>().ok());
            zombies.push((parent.unwrap_or_default(), stat));
        } else if names(&line) || names(&environment) {
            let words: Vec<String> =
                line.split(|byte| *byte == 0).take(2).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            let program = words.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
            found.insert(pid, format!("{program} {}", words.get(1).map_or("", String::as_str)));
        }
    }
    let left = zombies.into_iter().filter(|(parent, _)| found.contains_key(parent)).map(|(_, stat)| stat);
    let mut all: Vec<String> = left.chain(found.values().cloned()).collect();
    all.sort_unstable();
    Ok(all)
}

pub fn memory(storm: &Storm) -> anyhow::Result<Memory> {
    let guard = one_guard(&storm.world, false)?.context("one guard")?;
    Ok(Memory { agent: own_memory(agent(storm)?)?, guard: own_memory(guard)? })
}

fn own_memory(pid: Pid) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next());
    Ok(kilobytes.context("RssAnon")?.parse::<u64>()? * 1024)
}

/// They have not grown by more than a margin.
pub fn assert_no_growth(before: Memory, now: Memory) -> anyhow::Result<()> {
    println!("memory before {before:?}, now {now:?}");
    anyhow::ensure!(now.agent <= before.agent + MARGIN, "the agent: {before:?}, {now:?}");
    anyhow::ensure!(now.guard <= before.guard + MARGIN / 2, "the guard: {before:?}, {now:?}");
    Ok(())
}

/// What Nomad could not remove, it could not for a reason that is known: there was no agent, Nomad's servers had just
/// begun and could not say yet what had ended, the volume's source was dead, which says so to whoever opens it, or the
/// mounts were only being made. (What it leaves is swept all the same: [`wait_at_rest`].)
pub fn assert_no_destroy_errors(storm: &Storm) -> anyhow::Result<()> {
    let (mut at, mut unexplained) = (SystemTime::UNIX_EPOCH, Vec::new());
    for line in storm.world.nomad_log()?.lines() {
        if line.contains("error running destroy hooks") {
            let time = line.split_whitespace().next().unwrap_or_default();
            at = time_of(time).with_context(|| format!("the time of {line}"))?;
        }
        // Each of a task's directories that it could not remove is named in a line of its own.
        if line.contains("* failed to remove") && !is_nomads_own(line) && !storm.is_excused(at, line) {
            unexplained.push(format!("{}: {line}", humantime::format_rfc3339_millis(at)));
        }
    }
    anyhow::ensure!(unexplained.is_empty(), "Nomad could not remove:\n{}", unexplained.join("\n"));
    Ok(())
}

/// The time of a line of Nomad's log, which is the machine's own: with its distance from UTC where there is one.
fn time_of(text: &str) -> Option<SystemTime> {
    if text.ends_with('Z') {
        return humantime::parse_rfc3339(text).ok();
    }
    // `2026-11-21T20:24:36.123+0100`
    let (time, distance) = text.split_at_checked(text.len().checked_sub(5)?)?;
    let time = humantime::parse_rfc3339(&format!("{time}Z")).ok()?;
    let (hours, minutes) = distance.get(1..)?.split_at_checked(2)?;
    let distance_is = Duration::from_secs(hours.parse::<u64>().ok()? * 3600 + minutes.parse::<u64>().ok()? * 60);
    if distance.starts_with('-') { time.checked_add(distance_is) } else { time.checked_sub(distance_is) }
}

/// Nomad serves its API to each task at a socket in `secrets`. A process that it is just starting has a copy of the
/// socket for an instant, and keeps it from unmounting that directory: also without any saddlebag.
fn is_nomads_own(line: &str) -> bool {
    line.contains("/secrets") && line.contains("device or resource busy")
}

/// Removes what Nomad has left of an allocation where it failed on a directory of its own: see [`is_nomads_own`].
/// Whatever else there is stays, and is found.
fn remove_left_secrets(world: &World) -> anyhow::Result<()> {
    for point in mounts_below(&world.directory().join("nomad/alloc"))? {
        if point.ends_with("secrets") {
            // On a slow machine Nomad may still be at it.
            if nix::mount::umount2(&point, nix::mount::MntFlags::empty()).is_err() {
                continue;
            }
            for directory in point.ancestors().take(3) {
                // Not empty where something else is left.
                let _ = std::fs::remove_dir(directory);
            }
        }
    }
    Ok(())
}

/// Removes the directories of allocations that Nomad says it has no state of: it was killed while it removed them, with or
/// without any saddlebag. One with a mount in it stays, and is found; so does what is immutable.
fn remove_forgotten(world: &World) -> anyhow::Result<()> {
    let log = world.nomad_log()?;
    for directory in std::fs::read_dir(world.directory().join("nomad/alloc"))?.flatten() {
        let name = directory.file_name().to_string_lossy().into_owned();
        let is_of_it = |line: &str| line.contains("found an alloc without any local state") && line.contains(&name);
        if log.lines().any(is_of_it) && mounts_below(&directory.path())?.is_empty() {
            println!("Nomad was killed while it removed {name}, and has forgotten it");
            std::fs::remove_dir_all(directory.path()).context("a directory that Nomad has forgotten")?;
        }
    }
    Ok(())
}

/// Every record that a completed fsync has promised is in its volume, in order and unchanged, and nothing else is.
/// Returns how many there are.
pub fn assert_whole(storm: &Storm) -> anyhow::Result<u64> {
    let kept = storm.witness.seen().files.clone();
    let mut missing: BTreeSet<&File> = kept.iter().filter(|(_, kept)| kept.count > 0).map(|(file, _)| file).collect();
    let mut wrong = Vec::new();
    for root in volume_roots(&storm.world)? {
        for volume in std::fs::read_dir(&root).with_context(|| format!("listing {}", root.display()))? {
            let volume = volume?;
            let name = volume.file_name().to_string_lossy().into_owned();
            for entry in std::fs::read_dir(volume.path())? {
                let file = File { volume: name.clone(), name: entry?.file_name().to_string_lossy().into_owned() };
                let known = kept.get(&file).copied().unwrap_or_default();
                let path = volume.path().join(&file.name);
                if let Err(error) = assert_file(&path, &file, known) {
                    wrong.push(format!("{error:#}"));
                }
                missing.remove(&file);
            }
        }
    }
    anyhow::ensure!(missing.is_empty() && wrong.is_empty(), "missing: {missing:#?}\nwrong: {wrong:#?}");
    Ok(kept.values().map(|kept| kept.count).sum())
}

fn volume_roots(world: &World) -> anyhow::Result<Vec<PathBuf>> {
    let mut roots = vec![world.directory().join("disk")];
    for source in status(world)?["sources"].as_array().context("sources")? {
        if source["kind"] == "seaweedfs" {
            let mount = source["mount_point"].as_str().with_context(|| format!("not attached: {source:#}"))?;
            roots.push(Path::new(mount).join(folder(world)?));
        }
    }
    Ok(roots)
}

const RECORD: usize = 64;

fn assert_file(path: &Path, file: &File, kept: Kept) -> anyhow::Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let whole = usize::try_from(kept.count)?;
    let length = bytes.len();
    anyhow::ensure!(length >= whole * RECORD, "{file:?}: {length} bytes of {whole} records that were promised");
    // The next one may have become durable, or half of it, with nobody left to hear of it.
    anyhow::ensure!(length <= (whole + 1) * RECORD, "{file:?}: {length} bytes where {whole} records were promised");
    let identity = hash(&format!("{}/{}", file.volume, file.name));
    for (number, record) in bytes.chunks(RECORD).take(whole).enumerate() {
        let wanted = make_record(identity, number as u64);
        anyhow::ensure!(
            record == wanted.as_bytes(),
            "{file:?}: record {number} of {whole} is {:?} in place of {wanted:?}",
            String::from_utf8_lossy(record)
        );
    }
    Ok(())
}

/// FNV-1a, as in `soak.c`.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn make_record(identity: u64, number: u64) -> String {
    let mix = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ identity;
    let text = format!("{number:016} {mix:016x} {:016x}", !mix);
    format!("{text:.<63}\n")
}
