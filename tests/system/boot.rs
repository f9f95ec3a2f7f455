//! Start order, readiness, and reboots.

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
        } else {
            node.machine.cut_power()?;
            node.machine.boot()?;
        }
        node.wait_for_nomad()?;
        assert_nomad_came_last(&node)?;
        for (job, volume) in [("exec-near", "near"), ("raw-close", "close"), ("exec-far", "far")] {
            node.wait_for_records(job, volume)?;
            node.assert_whole(volume)?;
            ensure!(node.starts(volume) == boot, "{volume}: {} starts", node.starts(volume));
        }
        node.assert_nothing_beneath()?;
    }
    Ok(())
}

/// The guard was ready before the agent began, and the agent before Nomad began.
fn assert_nomad_came_last(node: &Node) -> anyhow::Result<()> {
    let time = |unit, name| Ok::<u64, anyhow::Error>(node.property(unit, name)?.parse()?);
    let guard = time("saddlebag-guard", "ActiveEnterTimestampMonotonic")?;
    let begins = time("saddlebag", "InactiveExitTimestampMonotonic")?;
    let ready = time("saddlebag", "ActiveEnterTimestampMonotonic")?;
    let nomad = time("nomad", "InactiveExitTimestampMonotonic")?;
    ensure!(0 < guard && guard <= begins && begins <= ready && ready <= nomad, "{guard} {begins} {ready} {nomad}");
    Ok(())
}

#[test]
#[ignore]
fn hold() -> anyhow::Result<()> {
    let node = Node::ready(With::Seaweedfs)?;
    std::fs::write("/tmp/sys/leader", node.machine.leader().to_string())?;
    while !std::path::Path::new("/tmp/sys/stop").exists() {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    Ok(())
}
