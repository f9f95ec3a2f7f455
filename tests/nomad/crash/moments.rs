//! Killed at random moments, while tasks write and jobs come and go.

use super::*;
use crate::support::{PATIENCE, require};
use std::time::{Duration, SystemTime};

const KILLS: u32 = 20;

/// Numbered records, each on the disk before the next; the task ends with its first failed write.
const WRITE: &str = "f=$data/records-$NOMAD_TASK_NAME; i=0; while true; do i=$((i+1)); echo $i >> $f; sync $f; done";

#[test]
fn running_tasks_keep_their_mounts_while_the_agent_is_killed_again_and_again() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed");
    let seed = match std::env::var("SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => u64::from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.subsec_nanos()),
    };
    println!("SEED={seed} repeats this run");
    // It never leaves zero.
    let mut random = Random(seed.max(1));
    let world = World::new("moments")?;
    let configuration = configuration(&world, 3)?;
    let volume = |number: u64| world.directory().join(format!("volumes/v{number}"));
    world.start_agent(&configuration)?;
    world.run_job(&job("writer", "v0", WRITE), &[])?;
    let writer = world.wait_running("writer")?;
    world.wait_until("the first records", PATIENCE, || {
        let both = ["records-mounted", "records-linked"];
        Ok((both.iter().all(|name| volume(0).join(name).exists()) && is_recorded(&world, &writer)?).then_some(()))
    })?;
    let before = seen_mounts(&writer, &volume(0))?;

    let mut runs = [false; 3];
    for kill in 1..=KILLS {
        let number = 1 + random.below(2);
        let (name, runs) = (format!("guest{number}"), &mut runs[usize::try_from(number)?]);
        if *runs {
            world.stop_purge(&name)?;
        } else {
            world.run_job(&job(&name, &format!("v{number}"), "exec sleep 1000"), &[])?;
        }
        *runs = !*runs;
        let moment = Duration::from_micros(random.below(400_000));
        println!("kill {kill}: {moment:?} after {name} {}", if *runs { "starts" } else { "stops" });
        std::thread::sleep(moment);
        world.kill_agent()?;
        world.start_agent(&configuration)?;
    }

    assert_eq!(seen_mounts(&writer, &volume(0))?, before, "the same mounts on the host and in the task's namespace");
    let allocation = world.allocation(&writer)?;
    for task in ["mounted", "linked"] {
        assert_eq!(allocation["TaskStates"][task]["State"], "running", "{task}: {}", world.events(&writer)?);
        assert_eq!(allocation["TaskStates"][task]["Restarts"], 0, "{task}: {}", world.events(&writer)?);
    }
    for number in [1, 2] {
        if runs[number] {
            let guest = format!("guest{number}");
            let alloc = world.wait_running(&guest)?;
            world.wait_until("a complete page", PATIENCE, || Ok(is_recorded(&world, &alloc)?.then_some(())))?;
            world.stop_purge(&guest)?;
        }
    }
    world.stop_purge("writer")?;
    for name in ["writer", "guest1", "guest2"] {
        world.wait_dead(name)?;
    }
    world.system_gc()?;
    world.wait_alloc_dir_gone(&writer)?;
    for number in 0..3 {
        wait_nothing_left(&world, &volume(number))?;
    }
    for task in ["mounted", "linked"] {
        let records = std::fs::read_to_string(volume(0).join(format!("records-{task}")))?;
        let whole = records.lines().enumerate().all(|(number, line)| line == (number + 1).to_string());
        assert!(whole && records.lines().count() > 10, "{task} lost a record: {records}");
    }
    Ok(())
}

/// The volume's mounts on the host, and those that the task in a namespace of its own sees.
fn seen_mounts(alloc: &str, volume: &Path) -> anyhow::Result<[Vec<(u64, PathBuf)>; 2]> {
    let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", process_of(alloc, "mounted")?))?;
    let inside = mounts_of(&table, volume);
    let host = host_mounts_of(volume)?;
    assert_eq!((host.len(), inside.is_empty()), (2, false), "mounted once for each task: {host:?}, {inside:?}");
    Ok([host, inside])
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
