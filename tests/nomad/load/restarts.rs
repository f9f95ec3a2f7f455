//! Agent and guard die, end and start again, a hundred times at random.

use super::*;
use crate::guard::scene;
use crate::support::{mounts_below, require};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::time::{Duration, Instant, SystemTime};

/// `ROUNDS` in the environment makes it more.
const ROUNDS: u32 = 100;
const GUESTS: usize = 3;

/// What happens in one round.
#[derive(Debug, Clone, Copy)]
enum Blow {
    AgentKilled,
    AgentStopped,
    GuardKilled,
    KeeperKilled,
    GuardAndKeeperKilled,
    GuardToldToEnd,
    AgentAndGuardKilled,
    AgentGuardAndKeeperKilled,
}

const BLOWS: [Blow; 8] = [
    Blow::AgentKilled,
    Blow::AgentStopped,
    Blow::GuardKilled,
    Blow::KeeperKilled,
    Blow::GuardAndKeeperKilled,
    Blow::GuardToldToEnd,
    Blow::AgentAndGuardKilled,
    Blow::AgentGuardAndKeeperKilled,
];

#[test]
fn tasks_under_load_see_nothing_of_a_hundred_deaths_of_agent_and_guard() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let seed = match std::env::var("SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => u64::from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.subsec_nanos()),
    };
    println!("SEED={seed} repeats this run");
    // It never leaves zero.
    let mut random = Random(seed.max(1));
    let world = World::with("restarts", options()?)?;
    let configuration = configuration(&world)?;
    world.start_agent(&configuration)?;
    let load = Load::start(&world, &DRIVERS, &BACKENDS)?;

    let began = Instant::now();
    let mut guests = [const { None::<String> }; GUESTS];
    let rounds = std::env::var("ROUNDS").map_or(Ok(ROUNDS), |rounds| rounds.parse())?;
    for round in 0..rounds {
        // Hooks are in flight, and bindings go, while it happens.
        if round % 5 == 0 {
            let number = usize::try_from(random.below(GUESTS as u64))?;
            match guests[number].take() {
                Some(job) => world.stop_purge(&job)?,
                None => {
                    let volume =
                        if random.below(2) == 0 { format!("guest-{number}") } else { format!("weed-{number}") };
                    let (job, driver) = (format!("guest-{number}-{round}"), DRIVERS[usize::try_from(random.below(3))?]);
                    world.run_job(&guest(&job, &volume, driver), &[])?;
                    guests[number] = Some(job);
                }
            }
        }
        let blow = BLOWS[usize::try_from(random.below(BLOWS.len() as u64))?];
        let moment = Duration::from_micros(random.below(250_000));
        println!("round {round}: {blow:?} after {moment:?}");
        std::thread::sleep(moment);
        strike(&world, blow, &configuration).with_context(|| format!("round {round}, {blow:?}"))?;
        load.assert_no_error()?;
    }
    println!("{rounds} rounds in {:?}", began.elapsed());

    load.assert_untouched(&world)?;
    load.assert_running(&world)?;
    for job in guests.iter().flatten() {
        // What was in flight has ended well: no prestart task has failed even once.
        let alloc = world.wait_running(job)?;
        let restarts = &world.allocation(&alloc)?["TaskStates"]["storage"]["Restarts"];
        anyhow::ensure!(*restarts == 0, "{job}: {}", world.events(&alloc)?);
        world.stop_purge(job)?;
    }
    world.wait_until("the guests' bindings to go", PATIENCE, || {
        let status: Value = serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?;
        Ok((status["bindings"].as_array().map(Vec::len) == Some(load.tasks.len())).then_some(()))
    })?;
    world.system_gc()?;
    let allocs: Vec<String> = load.tasks.iter().map(|task| task.alloc.clone()).collect();
    world.wait_until("nothing that is left of guests", PATIENCE, || {
        let left = mounts_below(&world.state_dir().join("bindings"))?;
        Ok(left.iter().all(|place| allocs.iter().any(|alloc| place.to_string_lossy().contains(alloc))).then_some(()))
    })?;
    load.end(&world)
}

/// Does it, and waits until an agent answers and a guard is there.
fn strike(world: &World, blow: Blow, configuration: &str) -> anyhow::Result<()> {
    let run_dir = world.run_dir();
    let agent = world.agent_pid().context("no agent runs")?;
    let (guard, keeper) = (scene::find_guard(&run_dir, false), scene::find_guard(&run_dir, true));
    let agent = Pid::from_raw(i32::try_from(agent)?);
    let all = |which: &[Option<Pid>]| -> anyhow::Result<()> {
        let which: Vec<Pid> = which.iter().flatten().copied().collect();
        // Stopped first: nobody may notice another's end.
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            for pid in &which {
                // A keeper that has just been replaced is gone by itself.
                let _ = kill(*pid, signal);
            }
        }
        Ok(())
    };
    match blow {
        Blow::AgentKilled => all(&[Some(agent)])?,
        Blow::AgentStopped => kill(agent, Signal::SIGTERM)?,
        Blow::GuardKilled => all(&[guard])?,
        Blow::KeeperKilled => all(&[keeper])?,
        Blow::GuardAndKeeperKilled => all(&[guard, keeper])?,
        Blow::GuardToldToEnd => {
            // A guard that has just found that it is not needed is gone by itself.
            let _ = guard.map(|guard| kill(guard, Signal::SIGTERM));
        }
        Blow::AgentAndGuardKilled => all(&[Some(agent), guard])?,
        Blow::AgentGuardAndKeeperKilled => all(&[Some(agent), guard, keeper])?,
    }
    let agent_dies = matches!(
        blow,
        Blow::AgentKilled | Blow::AgentStopped | Blow::AgentAndGuardKilled | Blow::AgentGuardAndKeeperKilled
    );
    if agent_dies {
        world.wait_until("the end of the agent", PATIENCE, || Ok(world.agent_pid().is_none().then_some(())))?;
        world.start_agent(configuration)?;
    }
    world.wait_until("a guard", PATIENCE, || Ok(scene::find_guard(&run_dir, false)))?;
    Ok(())
}

/// Marsaglia's xorshift: a run can be repeated by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
