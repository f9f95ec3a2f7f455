//! All of it at random: jobs start, stop, fail, are refused, purged and collected, while agent, guard, mount programs,
//! Nomad's agent and a SeaweedFS are killed.
//!
//! `SADDLEBAG_SOAK_SEED` repeats what a run has decided, `SADDLEBAG_SOAK_SECONDS` and `SADDLEBAG_SOAK_BINDINGS` make it
//! longer and larger (`make soak` does). What comes, and when, follows from these three alone; how the machine answers
//! does not.
//!
//! **May be seen by a task:** a call that takes longer; and a call that fails, where it was made between the death of its
//! own source's mount program, or of the SeaweedFS behind it, and the moment from which the agent calls its binding
//! mounted again. The same call succeeds after that. (A container that is made in that time gets the dead mount, and keeps
//! it until Nomad has said that its task runs.) **May not be seen:** any other error; a record that is missing or another.
//!
//! **What holds for a record whose fsync has completed:** it is there and unchanged at the end, read through a mount that
//! was made after everything; on a directory of the host and on SeaweedFS alike, whether its mount program, its filer and
//! volume server, or all of saddlebag were killed by SIGKILL in any moment after that. (A power cut is another matter:
//! SeaweedFS does not sync its own files before it answers.)
//!
//! **Afterwards** nothing is left but what was there before: mounts, pages of the ledger, directories, descriptors,
//! threads and processes are compared one by one.

mod after;
mod jobs;
mod plan;
mod storm;
mod weather;
mod witness;

use crate::support::require;
use anyhow::Context as _;
use plan::{Does, Fate, Group, Job, Settings, VOLUMES};
use std::time::Instant;
use storm::Storm;

/// What it is where the environment says nothing: for a run among all other tests, which decides the same each time.
const SEED: u64 = 4;
const SECONDS: u64 = 30;
const BINDINGS: usize = 50;

fn settings() -> anyhow::Result<Settings> {
    let read = |name: &str| match std::env::var(name) {
        Ok(text) => text.parse::<u64>().map(Some).with_context(|| format!("{name}={text}")),
        Err(_) => Ok(None),
    };
    Ok(Settings {
        seed: read("SADDLEBAG_SOAK_SEED")?.unwrap_or(SEED),
        seconds: read("SADDLEBAG_SOAK_SECONDS")?.unwrap_or(SECONDS),
        bindings: read("SADDLEBAG_SOAK_BINDINGS")?.map_or(Ok(BINDINGS), usize::try_from)?,
    })
}

#[test]
fn a_storm_of_everything_at_random_loses_nothing_and_leaves_nothing() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let Settings { seed, seconds, bindings } = settings()?;
    let again = format!(
        "SADDLEBAG_SOAK_SEED={seed} SADDLEBAG_SOAK_SECONDS={seconds} SADDLEBAG_SOAK_BINDINGS={bindings} repeats it"
    );
    println!("{again}");
    soak(Settings { seed, seconds, bindings }).context(again)
}

fn soak(settings: Settings) -> anyhow::Result<()> {
    let began = Instant::now();
    let say = |what: &str| println!("{:8.2} {what}", began.elapsed().as_secs_f32());
    let mut storm = Storm::new(settings)?;
    say("a world");
    warm_up(&mut storm)?;
    let rest = after::wait_at_rest(&storm, None)?;
    let memory = after::memory(&storm)?;

    say("warm, and at rest");
    storm.rage(&plan::plan(settings))?;
    say("the last blow");
    storm.settle()?;
    storm.end()?;

    say("all tasks have ended");
    after::wait_at_rest(&storm, Some(&rest))?;
    let memory_at_rest = after::memory(&storm)?;
    after::assert_no_destroy_errors(&storm)?;
    // What a mount program remembers proves nothing of what is stored.
    say("at rest");
    storm.mount_anew()?;
    let records = after::assert_whole(&storm)?;
    println!("{records} records are whole; {} calls have failed while they might", storm.weather.excused);
    after::wait_at_rest(&storm, Some(&rest))?;
    // Last, for it says the least.
    after::assert_no_growth(memory, memory_at_rest)?;
    say("the end");
    Ok(())
}

/// A task of each driver on each volume that there is: what is needed for any of them is there from now on.
fn warm_up(storm: &mut Storm) -> anyhow::Result<()> {
    let groups = VOLUMES.map(|(kind, count)| Group {
        volumes: (0..count.min(5)).map(|number| format!("{kind}-{number}")).collect(),
        tasks: vec!["raw_exec", "exec", "docker"],
    });
    storm.act(&Does::Launch(Job { name: "job-0".to_owned(), groups: groups.into(), fate: Fate::Runs }))?;
    storm.settle()?;
    storm.end()
}
