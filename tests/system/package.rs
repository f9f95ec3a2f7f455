//! The Debian package: installed, upgraded under load, removed under load, purged.

use crate::machine::Machine as _;
use crate::node::{Node, With};
use crate::support::require;
use anyhow::ensure;

#[test]
fn an_upgrade_under_load_is_noticed_by_no_task() -> anyhow::Result<()> {
    require!("root", "systemd-nspawn", "nomad", "weed", "cargo-deb");
    let node = Node::ready(With::Seaweedfs)?;
    assert_installed(&node)?;
    node.run_writer("exec-near", "exec", "near")?;
    node.run_writer("raw-close", "raw_exec", "close")?;
    node.run_writer("exec-far", "exec", "far")?;
    let program = node.property(&node.mount_program()?, "MainPID")?;
    let processes = |node: &Node| {
        Ok::<_, anyhow::Error>((node.property("saddlebag", "MainPID")?, node.property("saddlebag-guard", "MainPID")?))
    };
    let former = processes(&node)?;
    node.machine.run("echo '# mine' >>/etc/saddlebag/agent.hcl")?;
    let before = node.look()?;

    node.install("1.1.0")?;
    ensure!(node.machine.run("dpkg-query -W -f '${Version}' saddlebag")? == "1.1.0", "the version");
    let now = processes(&node)?;
    ensure!(now.0 != former.0 && now.1 != former.1, "agent and guard are new ones: {former:?} {now:?}");
    node.wait_for_mounted(3)?;
    node.assert_unchanged(&before)?;
    ensure!(node.property(&node.mount_program()?, "MainPID")? == program, "the mount program is the same");
    node.machine.run("grep -qx '# mine' /etc/saddlebag/agent.hcl")?;
    for volume in ["near", "close", "far"] {
        node.wait_for_records(volume)?;
        node.assert_whole(volume)?;
        ensure!(node.starts(volume) == 1, "{volume}");
    }
    Ok(())
}

#[test]
fn a_removal_leaves_what_tasks_use_and_its_guard_and_a_purge_leaves_volumes() -> anyhow::Result<()> {
    require!("root", "systemd-nspawn", "nomad", "cargo-deb");
    let node = Node::ready(With::Default)?;
    node.run_writer("exec-near", "exec", "near")?;
    let before = node.look()?;
    let guard = node.property("saddlebag-guard", "MainPID")?;

    node.machine.run("dpkg -r saddlebag 2>&1")?;
    ensure!(
        !node.machine.holds("test -e /usr/bin/saddlebag || systemctl is-active saddlebag"),
        "program and agent are gone"
    );
    ensure!(node.property("saddlebag-guard", "MainPID")? == guard, "the guard is the same");
    node.assert_unchanged(&before)?;
    // It goes on as a unit does, with the program that it had.
    node.machine.run(&format!("kill -KILL {guard}"))?;
    node.machine.wait("another guard answers", || {
        let is_another = node.property("saddlebag-guard", "MainPID")? != guard;
        Ok((is_another && node.property("saddlebag-guard", "ActiveState")? == "active").then_some(()))
    })?;
    node.assert_unchanged(&before)?;
    // Purged all the same: what is in use stays.
    let said = node.machine.run("dpkg -P saddlebag 2>&1")?;
    ensure!(said.contains("left as it is"), "{said}");
    ensure!(!node.machine.holds("test -e /etc/saddlebag/agent.hcl"), "the configuration is gone");
    node.assert_unchanged(&before)?;
    // And still Nomad's collection does not get in.
    node.machine.run("nomad job stop -purge -detach exec-near; nomad system gc; sleep 3")?;
    node.assert_whole("near")?;

    // Installed again, it takes over from the guard that went on, and clears up.
    node.install("1.1.0")?;
    ensure!(node.lineage()? == before.lineage, "no mark was lost");
    ensure!(
        !node.machine.holds("test -e /run/systemd/system/saddlebag-guard.service"),
        "the unit is the package's again"
    );
    node.machine.wait("the binding is gone", || Ok(node.bindings()?.is_empty().then_some(())))?;
    let said = node.machine.run("dpkg -P saddlebag 2>&1")?;
    ensure!(said.contains("holds volumes and is kept"), "{said}");
    ensure!(!node.machine.holds("systemctl is-active saddlebag-guard"), "nothing is guarded, and no guard runs");
    let left = node
        .machine
        .run("cd /var/lib/saddlebag; find . -mindepth 1 | sort; ls -A /etc/saddlebag 2>/dev/null || true")?;
    ensure!(left == "./volumes\n./volumes/near\n./volumes/near/log\n./volumes/near/starts\n", "{left}");
    node.assert_whole("near")
}

/// The figures of docs/security.md, in tenths, of systemd 257: no unit gets laxer unnoticed.
const EXPOSURE: [(&str, u32); 2] = [("saddlebag", 50), ("saddlebag-guard", 41)];

/// Units run and are enabled, the configuration is valid, pages and completions are where shells and man look.
fn assert_installed(node: &Node) -> anyhow::Result<()> {
    node.machine.run(
        "systemctl is-active saddlebag saddlebag-guard
         systemctl is-enabled saddlebag saddlebag-guard
         saddlebag config validate
         test -e /usr/share/man/man1/saddlebag-mount.1.gz
         test -e /usr/share/zsh/vendor-completions/_saddlebag
         test -e /usr/share/fish/vendor_completions.d/saddlebag.fish
         . /usr/share/bash-completion/completions/saddlebag
         complete -p saddlebag
         systemctl show --property=After nomad | grep -q 'saddlebag.service'
         dpkg --verify saddlebag",
    )?;
    for (unit, most) in EXPOSURE {
        node.machine.run(&format!("systemd-analyze security --no-pager --threshold={most} {unit} >/dev/null"))?;
        let pid = node.property(unit, "MainPID")?;
        node.machine.run(&format!("test $(readlink /proc/{pid}/ns/mnt) = $(readlink /proc/1/ns/mnt)"))?;
    }
    Ok(())
}
