//! Start order, readiness, and reboots.

use crate::machine::Machine;
use crate::node::{Node, With};
use crate::support::require;
use anyhow::ensure;

#[test]
fn after_a_reboot_and_after_a_power_cut_each_task_finds_its_own_volume() -> anyhow::Result<()> {
    require!("root", "systemd-nspawn", "nomad", "weed");
    let mut node = Node::ready(With::Seaweedfs)?;
    node.run_writer("exec-near", "exec", "near")?;
    node.run_writer("raw-close", "raw_exec", "close")?;
    node.run_writer("exec-far", "exec", "far")?;
    node.assert_nothing_beneath()?;
    for boot in 2..4 {
        if boot == 2 {
            node.machine.reboot()?;
            assert_mounts_went_last(&node)?;
        } else {
            node.machine.cut_power()?;
            node.machine.boot()?;
        }
        for volume in ["near", "close", "far"] {
            node.machine.wait(&format!("the task of {volume} has started again"), || {
                Ok((node.starts(volume) >= boot).then_some(()))
            })?;
            node.wait_for_records(volume)?;
            node.assert_whole(volume)?;
            // The first write of each start came here, and there was no start whose write did not.
            ensure!(node.starts(volume) == boot, "{volume}: {} starts", node.starts(volume));
        }
        assert_nomad_came_last(&node)?;
        node.assert_nothing_beneath()?;
    }
    Ok(())
}

#[test]
fn a_filer_that_is_away_at_boot_holds_up_its_own_volume_only() -> anyhow::Result<()> {
    require!("root", "systemd-nspawn", "nomad", "weed");
    let mut node = Node::ready(With::Seaweedfs)?;
    node.run_writer("exec-near", "exec", "near")?;
    node.run_writer("exec-far", "exec", "far")?;
    let written = node.records("far").len();
    // A task that cannot write to its volume has to say so with its end.
    node.machine.run("systemctl disable --quiet seaweedfs-filer")?;
    node.machine.reboot()?;

    node.machine.wait("the task beside it writes", || Ok((node.starts("near") == 2).then_some(())))?;
    node.wait_for_records("near")?;
    ensure!(node.property("saddlebag", "ActiveState")? == "active", "the agent is ready without the filer");
    assert_nomad_came_last(&node)?;
    node.machine.wait("the task without its volume fails", || {
        let Ok(alloc) = node.allocation("exec-far") else { return Ok(None) };
        let events = alloc["TaskStates"]["main"]["Events"].as_array().cloned().unwrap_or_default();
        let failed = events.iter().any(|event| event["Type"] == "Terminated" && event["ExitCode"] == 9);
        Ok(failed.then_some(()))
    })?;
    let place = node.place_of("exec-far")?;
    let beneath = node
        .machine
        .run(&format!("stat -c %a {place}; lsattr -d {place} | cut -d' ' -f1 | tr -dc i; ls -A {place}"))?;
    ensure!(beneath == "0\ni", "where the volume is missing: {beneath:?}");

    node.machine.run("systemctl start seaweedfs-filer")?;
    node.wait_for_mounted(2)?;
    node.machine.wait("the task that failed runs on its volume", || Ok((node.starts("far") == 2).then_some(())))?;
    node.wait_for_more_than(written, "far")?;
    node.assert_whole("far")?;
    node.assert_nothing_beneath()
}

/// The guard was ready before the agent began, and the agent before Nomad began.
pub fn assert_nomad_came_last<M: Machine>(node: &Node<M>) -> anyhow::Result<()> {
    let time = |unit, name| Ok::<u64, anyhow::Error>(node.property(unit, name)?.parse()?);
    let guard = time("saddlebag-guard", "ActiveEnterTimestampMonotonic")?;
    let begins = time("saddlebag", "InactiveExitTimestampMonotonic")?;
    let ready = time("saddlebag", "ActiveEnterTimestampMonotonic")?;
    let nomad = time("nomad", "InactiveExitTimestampMonotonic")?;
    ensure!(0 < guard && guard <= begins && begins <= ready && ready <= nomad, "{guard} {begins} {ready} {nomad}");
    Ok(())
}

/// At the shutdown before this boot Nomad was gone before the agent, the agent before the guard and the mount program,
/// and that before the filer.
fn assert_mounts_went_last(node: &Node) -> anyhow::Result<()> {
    let journal = node.machine.run("journalctl -b -1 --no-pager -o cat _PID=1")?;
    let line = |text: &str| journal.lines().position(|line| line.starts_with(text));
    let order = [
        line("Stopped nomad.service"),
        line("Stopped saddlebag.service"),
        line("Stopping saddlebag-source-"),
        line("Stopped saddlebag-source-"),
        line("Stopping seaweedfs-filer.service"),
    ];
    ensure!(order.iter().all(Option::is_some) && order.is_sorted(), "{order:?}\n{journal}");
    ensure!(line("Stopping saddlebag-guard.service") > order[0], "the guard goes after Nomad\n{journal}");
    Ok(())
}
