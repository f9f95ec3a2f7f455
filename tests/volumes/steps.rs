//! An agent killed right before one system call of a change: what it leaves is the old state or the new one, and the
//! verb, which goes on asking, is answered by the next agent.

use crate::node::{Node, contents, said};
use crate::skip::{missing, skip};
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command};

/// A system call, and how often it comes before in its thread.
type Step = (&'static str, u32);

/// On the way of `create`: the ledger's thread writes the definition, the source's makes the directory.
const CREATE: [Step; 8] = [
    ("write", 1),
    ("fsync", 1),
    ("rename", 1),
    ("fsync", 2),
    ("mkdirat", 1),
    ("fchownat", 1),
    ("fchmodat", 1),
    ("renameat2", 1),
];
/// On the way of `register` with another text.
const CHANGE: [Step; 4] = [("write", 1), ("fsync", 1), ("rename", 1), ("fsync", 2)];
/// On the way of `delete`: the source's thread moves the directory, the ledger's removes the definition.
const DELETE: [Step; 5] = [("renameat2", 1), ("fsync", 1), ("fsync", 2), ("unlink", 1), ("fchmodat", 1)];

fn text(name: &str, size: &str) -> String {
    format!(
        "volume \"{name}\" {{\n  backend = \"disk\"\n  owner = \"70:70\"\n  mode = \"2770\"\n  size = \"{size}\"\n}}\n"
    )
}

#[test]
fn an_agent_killed_before_any_step_of_a_change_leaves_the_old_or_the_new() -> anyhow::Result<()> {
    if let Some(why) = missing(&["root", "strace"]) {
        skip(&why);
        return Ok(());
    }
    let mut node = Node::new("")?;
    for (number, step) in CREATE.iter().enumerate() {
        create(&mut node, &format!("v{number}"), *step).with_context(|| format!("create, killed before {step:?}"))?;
    }
    for (number, step) in CHANGE.iter().enumerate() {
        change(&mut node, &format!("v{number}"), *step).with_context(|| format!("register, killed before {step:?}"))?;
    }
    for (number, step) in DELETE.iter().enumerate() {
        delete(&mut node, &format!("v{number}"), *step).with_context(|| format!("delete, killed before {step:?}"))?;
    }
    Ok(())
}

fn create(node: &mut Node, name: &str, step: Step) -> anyhow::Result<()> {
    let (text, directory) = (text(name, "1GiB"), node.disk().join(name));
    let is_whole = || -> anyhow::Result<()> {
        let told = std::fs::metadata(&directory)?;
        anyhow::ensure!((told.uid(), told.gid(), told.mode() & 0o7777) == (70, 70, 0o2770), "{told:?}");
        Ok(())
    };
    let killer = Killer::attach(node, step)?;
    let verb = node.begin("create", &text)?;
    killer.wait(node)?;
    if node.definition(name).exists() {
        assert_eq!(std::fs::read_to_string(node.definition(name))?, text, "whole, or not there");
    }
    if directory.exists() {
        is_whole()?;
        assert!(node.definition(name).exists(), "no directory without a definition");
    }
    node.start()?;
    let answer = said(verb.wait_with_output()?).json()?;
    assert!(matches!(answer["outcome"].as_str(), Some("registered" | "unchanged")), "{answer}");
    is_whole()?;
    assert_eq!(node.listed(name)?["size"], 1 << 30);
    std::fs::write(directory.join("data"), name)?;
    Ok(())
}

fn change(node: &mut Node, name: &str, step: Step) -> anyhow::Result<()> {
    let (old, new) = (text(name, "1GiB"), text(name, "2GiB"));
    let killer = Killer::attach(node, step)?;
    let verb = node.begin("register", &new)?;
    killer.wait(node)?;
    let found = std::fs::read_to_string(node.definition(name))?;
    assert!(found == old || found == new, "{found}");
    node.start()?;
    let answer = said(verb.wait_with_output()?).json()?;
    assert!(matches!(answer["outcome"].as_str(), Some("changed" | "unchanged")), "{answer}");
    assert_eq!(node.listed(name)?["size"], 2_u64 << 30);
    node.restart()?;
    assert_eq!(node.listed(name)?["size"], 2_u64 << 30);
    Ok(())
}

fn delete(node: &mut Node, name: &str, step: Step) -> anyhow::Result<()> {
    let directory = node.disk().join(name);
    let before = contents(&directory)?;
    let killer = Killer::attach(node, step)?;
    let verb = node.begin_named("delete", name)?;
    killer.wait(node)?;
    let lies = |node: &Node| -> anyhow::Result<Vec<BTreeMap<String, String>>> {
        let kept = node.kept()?.into_iter().filter(|kept| kept.starts_with(&format!("{name}.")));
        let kept = kept.map(|kept| node.disk().join(".saddlebag-deleted").join(kept));
        kept.chain(directory.exists().then(|| directory.clone())).map(|at| contents(&at)).collect()
    };
    assert_eq!(lies(node)?, std::slice::from_ref(&before), "it lies in one place, whole");
    assert!(node.definition(name).exists() || !directory.exists(), "known for as long as it is at its place");
    node.start()?;
    let answer = said(verb.wait_with_output()?).json()?;
    assert!(matches!(answer["outcome"].as_str(), Some("deleted" | "absent")), "{answer}");
    assert!(!directory.exists() && !node.definition(name).exists());
    assert_eq!(lies(node)?, [before]);
    assert!(node.listed(name)?.is_null());
    Ok(())
}

/// A tracer that kills the agent at the entry of one of its system calls: the call does not happen.
struct Killer(Child);

impl Killer {
    fn attach(node: &Node, (call, count): Step) -> anyhow::Result<Self> {
        let pid = node.agent_pid()?;
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o"]).arg(node.path("strace.log"));
        command.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:signal=SIGKILL:when={count}")]);
        let killer = Self(command.args(["-p", &pid.to_string()]).spawn().context("starting strace")?);
        node.wait_until("a traced agent", || {
            // It may have come to its end before it was traced whole: by a call of its own that is the first of that kind.
            if is_dead(pid) {
                return Ok(true);
            }
            let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Ok(true) };
            let status = threads.flatten().map(|thread| std::fs::read_to_string(thread.path().join("status")));
            Ok(status.flatten().all(|status| !status.contains("TracerPid:\t0\n")))
        })?;
        Ok(killer)
    }

    fn wait(mut self, node: &mut Node) -> anyhow::Result<()> {
        let pid = node.agent_pid()?;
        node.wait_until("the agent's death", || Ok(is_dead(pid)))?;
        node.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

/// A child that nobody has waited for is a zombie.
fn is_dead(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.starts_with('Z') || rest.is_empty())
}

impl Drop for Killer {
    fn drop(&mut self) {
        // Where the step was never reached it still traces; both fail where it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
