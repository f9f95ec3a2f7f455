//! Agent and guard are killed, hang, stop and start, as units; what is mounted stays as it is.

use crate::machine::Machine as _;
use crate::node::{ALLOCS, Node, With};
use crate::support::require;
use anyhow::ensure;

#[test]
fn an_agent_that_hangs_is_started_again_by_the_watchdog_and_no_mount_changes() -> anyhow::Result<()> {
    require!("root", "systemd-nspawn", "nomad");
    let node = Node::ready(With::Host)?;
    // Two minutes in the unit.
    node.machine.write("/etc/systemd/system/saddlebag.service.d/soon.conf", "[Service]\nWatchdogSec=10s\n")?;
    node.machine.run("systemctl daemon-reload; systemctl restart saddlebag")?;
    node.run_writer("exec-near", "exec", "near")?;
    node.run_writer("raw-close", "raw_exec", "close")?;
    let before = node.look()?;
    let agent = node.property("saddlebag", "MainPID")?;

    node.machine.run(&format!("kill -STOP {agent}"))?;
    node.machine.wait("another agent is ready", || {
        let is_another = node.property("saddlebag", "MainPID")? != agent;
        Ok((is_another && node.property("saddlebag", "ActiveState")? == "active").then_some(()))
    })?;
    node.machine.wait_for(
        "the journal says that it was the watchdog",
        "journalctl -b -u saddlebag --no-pager | grep -q 'Watchdog timeout'",
    )?;
    node.wait_for_mounted(2)?;
    node.assert_unchanged(&before)
}

#[test]
fn a_guard_that_is_killed_while_a_purge_is_pending_loses_nothing() -> anyhow::Result<()> {
    require!("root", "systemd-nspawn", "nomad");
    let node = Node::ready(With::Host)?;
    node.run_writer("exec-near", "exec", "near")?;
    let lineage = node.lineage()?;
    let guard = node.property("saddlebag-guard", "MainPID")?;
    // With the agent gone nobody unmounts when the task ends, and with the guard asleep what Nomad opens waits.
    node.machine.run(&format!("systemctl stop saddlebag; kill -STOP {guard}"))?;
    node.machine.run("nomad job stop -purge -detach exec-near; nomad system gc")?;
    // Until then Nomad may wait in another open, for its disk.
    node.machine.wait_for("the task has ended", "! pgrep -f '^/bin/sh /opt/tasks/writer'")?;
    node.machine.wait_for(
        "Nomad's collection waits for the guard",
        "grep -q '^257 ' /proc/$(systemctl show --value --property=MainPID nomad)/task/*/syscall",
    )?;
    let written = node.records("near").len();

    node.machine.run(&format!("kill -KILL {guard}"))?;
    node.machine.wait("another guard answers", || {
        let is_another = node.property("saddlebag-guard", "MainPID")? != guard;
        Ok((is_another && node.property("saddlebag-guard", "ActiveState")? == "active").then_some(()))
    })?;
    node.machine.wait_for(
        "Nomad's collection goes on",
        "! grep -q '^257 ' /proc/$(systemctl show --value --property=MainPID nomad)/task/*/syscall",
    )?;
    ensure!(node.lineage()? == lineage, "no mark was lost");
    ensure!(node.records("near").len() == written, "nothing was deleted");
    node.assert_whole("near")?;

    node.machine.run("systemctl start saddlebag")?;
    node.machine.wait_for("the allocation's directory is gone", &format!("test -z \"$(ls -A {ALLOCS})\""))?;
    node.assert_whole("near")
}

#[test]
fn stops_and_restarts_of_agent_and_guard_change_no_mount() -> anyhow::Result<()> {
    require!("root", "systemd-nspawn", "nomad");
    let node = Node::ready(With::Host)?;
    node.run_writer("exec-near", "exec", "near")?;
    node.run_writer("raw-close", "raw_exec", "close")?;
    let before = node.look()?;
    for command in [
        "systemctl restart saddlebag-guard",
        "systemctl stop saddlebag-guard; systemctl start saddlebag-guard",
        "systemctl restart saddlebag",
        "systemctl stop saddlebag; systemctl start saddlebag",
        "systemctl restart saddlebag saddlebag-guard",
    ] {
        node.machine.run(command)?;
        node.wait_for_mounted(2)?;
        node.assert_unchanged(&before)?;
    }

    // There is nothing to reload, and systemd says so; a SIGHUP ends nobody.
    for unit in ["saddlebag", "saddlebag-guard"] {
        let said = node.machine.run(&format!("systemctl reload {unit} 2>&1 || true"))?;
        ensure!(said.contains("not applicable") || said.contains("does not support reload"), "{unit}: {said}");
    }
    let agent = node.property("saddlebag", "MainPID")?;
    node.machine.run("systemctl kill --signal=HUP saddlebag")?;
    node.machine.wait_for(
        "the agent says what SIGHUP does",
        "journalctl -b -u saddlebag --no-pager | grep -q 'SIGHUP changes nothing'",
    )?;
    ensure!(node.property("saddlebag", "MainPID")? == agent, "the same agent");
    node.assert_unchanged(&before)?;

    // The marks are what they were: without an agent, a collection finds no way in.
    node.machine.run("systemctl stop saddlebag; nomad job stop -purge -detach exec-near; nomad system gc")?;
    node.machine.wait_for(
        "the guard has kept Nomad out",
        "journalctl -b -u saddlebag-guard --no-pager | grep -q 'denied .*opener=nomad'",
    )?;
    node.assert_whole("near")
}

#[test]
fn a_binding_that_goes_takes_none_from_another_task() -> anyhow::Result<()> {
    require!("root", "systemd-nspawn", "nomad");
    let node = Node::ready(With::Host)?;
    let propagation = node.machine.run("findmnt -no PROPAGATION /")?;
    ensure!(propagation.trim() == "shared", "the machine's mounts are as systemd makes them: {propagation}");
    node.run_writer("exec-near", "exec", "near")?;
    node.run_writer("exec-close", "exec", "close")?;
    let seen = node.seen_by_task("exec-close")?;
    ensure!(seen.len() == 1, "an exec task sees its own volume and no other: {seen:?}");

    node.machine.run("nomad job stop -detach exec-near")?;
    node.machine.wait("its binding is gone", || Ok((node.bindings()?.len() == 1).then_some(())))?;
    node.wait_for_records("close")?;
    ensure!(node.seen_by_task("exec-close")? == seen, "the other task's mount is the same");
    ensure!(node.restarts("exec-close")? == 0, "and it noticed nothing");
    node.assert_whole("near")?;
    node.assert_whole("close")
}

#[test]
fn a_mount_program_is_a_unit_of_its_own_and_is_never_started_twice() -> anyhow::Result<()> {
    require!("root", "systemd-nspawn", "nomad", "weed");
    let node = Node::ready(With::Seaweedfs)?;
    node.run_writer("exec-far", "exec", "far")?;
    let unit = node.mount_program()?;
    let program = node.property(&unit, "MainPID")?;
    ensure!(node.property(&unit, "MemoryMax")? == (512_u64 << 20).to_string(), "its limit of memory");
    ensure!(node.property(&unit, "Slice")? == "saddlebag.slice", "outside agent and guard");
    let limit =
        "cat /sys/fs/cgroup/memory/$path/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/$path/memory.max";
    let limit = node.machine.run(&format!("path=$(systemctl show --value --property=ControlGroup {unit}); {limit}"))?;
    ensure!(limit.trim() == (512_u64 << 20).to_string(), "the kernel's limit: {limit}");
    let before = node.look()?;

    let kill = "systemctl kill --signal=KILL --kill-whom=main saddlebag; sleep 0.2";
    for command in [
        "systemctl restart saddlebag",
        "systemctl stop saddlebag; systemctl start saddlebag",
        kill,
        "systemctl restart saddlebag-guard",
    ] {
        node.machine.run(command)?;
        node.wait_for_mounted(1)?;
        node.assert_unchanged(&before)?;
        ensure!(node.mount_program()? == unit && node.property(&unit, "MainPID")? == program, "the same mount program");
        ensure!(node.machine.run("pgrep -fc '^/usr/local/bin/weed mount'")?.trim() == "1", "and no other");
    }

    // Doctor looks at the units, and mounts the filer for a moment beside it: in no unit, and nothing of it is left.
    let report: serde_json::Value = serde_json::from_str(&node.machine.run("saddlebag doctor --json || true")?)?;
    for (area, name) in [
        ("systemd", "systemd"),
        ("systemd", "saddlebag"),
        ("systemd", "saddlebag-guard"),
        ("systemd", "order"),
        ("systemd", "nomad.service"),
        ("agent", "mounts seen"),
        ("agent", "descriptors"),
        ("backend main", "trial mount"),
        ("backend main", "trial read"),
        ("backend main", "trial unmount"),
    ] {
        let mut checks = report["checks"].as_array().into_iter().flatten();
        let is_well = checks.any(|check| check["area"] == area && check["name"] == name && check["outcome"] == "ok");
        ensure!(is_well, "{area}: {name} is not well: {report:#}");
    }
    node.assert_unchanged(&before)?;
    ensure!(node.property(&unit, "MainPID")? == program, "the same mount program");
    ensure!(node.machine.run("pgrep -fc '^/usr/local/bin/weed mount'")?.trim() == "1", "and no other");

    // Its output, its start, and where it is shown.
    node.machine.run(&format!(
        "test -s /var/lib/saddlebag/logs/{}.log",
        unit.trim_start_matches("saddlebag-source-").trim_end_matches(".service")
    ))?;
    node.machine.run(&format!("systemctl status {unit} --no-pager | grep -q 'weed mount'; journalctl -b -u {unit} --no-pager | grep -q Started"))?;
    node.assert_whole("far")
}
