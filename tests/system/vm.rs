//! A hard power-off of a machine with Debian's kernel, cgroups of version 2, and a disk of its own.

mod nfs;

use crate::boot::assert_nomad_came_last;
use crate::machine::Machine as _;
use crate::node::{ALLOCS, Node};
use crate::qemu::Qemu;
use crate::support::require;
use anyhow::{Context as _, ensure};
use serde_json::Value;

/// The jobs, their drivers and volumes.
const JOBS: [(&str, &str, &str); 2] = [("raw-near", "raw_exec", "near"), ("exec-far", "exec", "far")];

#[test]
fn a_hard_power_off_loses_nothing_that_was_acknowledged_and_each_task_finds_its_own_volume() -> anyhow::Result<()> {
    require!("root", "qemu-system-x86_64", "nomad", "weed", "cargo-deb");
    let mut node = Node::imaged()?;
    let cgroups = node.machine.run("stat -fc %T /sys/fs/cgroup")?;
    ensure!(cgroups == "cgroup2fs\n", "cgroups of version 2: {cgroups}");
    for (job, driver, volume) in JOBS {
        node.register(job, driver, volume)?;
    }
    for (job, ..) in JOBS {
        wait_for_acknowledged(&node, job, 20)?;
    }
    node.assert_nothing_beneath()?;
    let before = JOBS.map(|(job, ..)| wait_for_start(&node, job, 0));

    node.machine.cut_power()?;
    let acknowledged = node.machine.acknowledged()?;
    node.machine.boot()?;

    for ((job, _, volume), before) in JOBS.into_iter().zip(before) {
        node.machine.wait(&format!("the task of {volume} has started again"), || {
            Ok((node.starts(volume) >= 2).then_some(()))
        })?;
        node.wait_for_records(volume)?;
        node.assert_whole(volume)?;
        // The first write of each start came here, and there was no start whose write did not.
        ensure!(node.starts(volume) == 2, "{volume}: {} starts", node.starts(volume));
        assert_all_there(job, volume, &acknowledged, &node.log(volume)?)?;
        let before = before?;
        let now = wait_for_start(&node, job, starts(&before, "main"))?;
        assert_started_without_prestart(&before, &now)?;
    }
    node.wait_for_mounted(JOBS.len())?;
    assert_nomad_came_last(&node)?;
    node.assert_nothing_beneath()?;
    assert_a_lack_of_memory_is_said(&node)?;
    assert_a_purge_leaves_the_data(&node)
}

/// Waits until so many records of a job are known outside the machine.
pub fn wait_for_acknowledged(node: &Node<Qemu>, job: &str, count: usize) -> anyhow::Result<()> {
    node.machine.wait(&format!("{count} records of {job} are acknowledged"), || {
        let lines = node.machine.acknowledged()?;
        Ok((lines.iter().filter(|line| line.starts_with(job)).count() >= count).then_some(()))
    })
}

/// Every record that its task knew to be on disk is in the volume's log.
pub fn assert_all_there(job: &str, volume: &str, acknowledged: &[String], log: &str) -> anyhow::Result<()> {
    let found: Vec<&str> = log.lines().collect();
    let records = acknowledged.iter().filter_map(|line| line.strip_prefix(job)?.strip_prefix(' '));
    let lost: Vec<&str> = records.filter(|record| !found.contains(record)).collect();
    ensure!(lost.is_empty(), "{volume} has lost {lost:?}, and has\n{log}");
    Ok(())
}

/// How often Nomad has started a task of an allocation.
fn starts(alloc: &Value, task: &str) -> usize {
    let events = alloc["TaskStates"][task]["Events"].as_array().cloned().unwrap_or_default();
    events.iter().filter(|event| event["Type"] == "Started").count()
}

/// Waits until Nomad's servers say that the main task of a job has started more often than this. A task writes before
/// they hear of it: after a boot Nomad's client starts it without them.
fn wait_for_start(node: &Node<Qemu>, job: &str, before: usize) -> anyhow::Result<Value> {
    node.machine.wait(&format!("Nomad's servers know of the start of {job}"), || {
        let Ok(alloc) = node.allocation(job) else { return Ok(None) };
        Ok((starts(&alloc, "main") > before).then_some(alloc))
    })
}

/// Nomad has started the allocation's main task once more, and its prestart task not again.
fn assert_started_without_prestart(before: &Value, now: &Value) -> anyhow::Result<()> {
    ensure!(before["ID"] == now["ID"], "the same allocation: {} {}", before["ID"], now["ID"]);
    let states = &now["TaskStates"];
    ensure!(starts(before, "storage") == starts(now, "storage"), "the prestart task: {states:#}");
    ensure!(before["TaskStates"]["storage"]["StartedAt"] == states["storage"]["StartedAt"], "{states:#}");
    ensure!(starts(before, "main") + 1 == starts(now, "main"), "the main task: {states:#}");
    Ok(())
}

/// The mount program's unit has its limit of memory in cgroups of version 2; killed at it, it is mounted anew, and that
/// it was the kernel for want of memory is said.
fn assert_a_lack_of_memory_is_said(node: &Node<Qemu>) -> anyhow::Result<()> {
    let unit = node.mount_program()?;
    let limit = format!("/sys/fs/cgroup{}/memory.max", node.property(&unit, "ControlGroup")?);
    let found = node.machine.run(&format!("cat {limit}"))?;
    ensure!(found.trim() == (512_u64 << 20).to_string(), "the limit: {found}");
    let source = || {
        let status = node.status()?;
        let found = status["sources"].as_array().into_iter().flatten().find(|source| source["name"] == "main").cloned();
        found.context("the source")
    };
    let program = source()?["pid"].clone();
    // What it holds already is more than this.
    node.machine.run(&format!("echo 16M >{limit}"))?;
    node.machine.wait("the source is mounted anew, and why", || {
        let now = source()?;
        let is_back = now["state"] == "attached" && now["pid"] != program;
        Ok((is_back && now["reason"].to_string().contains("out of memory")).then_some(()))
    })?;
    let alloc = node.allocation("exec-far")?["ID"].as_str().context("an id")?.to_owned();
    let explained = node.machine.run(&format!("saddlebag explain {alloc}"))?;
    ensure!(explained.contains("out of memory"), "{explained}");
    node.wait_for_mounted(JOBS.len())
}

/// What is collected is the allocations' directories, and nothing of the volumes.
fn assert_a_purge_leaves_the_data(node: &Node<Qemu>) -> anyhow::Result<()> {
    for (job, ..) in JOBS {
        node.ask_nomad("DELETE", &format!("/job/{job}?purge=true"), "")?;
    }
    node.machine.wait("no task is left", || Ok(node.bindings()?.is_empty().then_some(())))?;
    node.ask_nomad("PUT", "/system/gc", "")?;
    node.machine.wait_for("the allocations' directories are gone", &format!("test -z \"$(ls -A {ALLOCS})\""))?;
    let acknowledged = node.machine.acknowledged()?;
    for (job, _, volume) in JOBS {
        assert_all_there(job, volume, &acknowledged, &node.stored(volume)?)?;
    }
    Ok(())
}
