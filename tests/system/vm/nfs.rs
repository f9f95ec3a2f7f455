//! NFS by the kernel's own client and server, under a real Nomad: one machine, in which the server and a second client are
//! hosts of their own, with networks, mount tables and names that nobody else has (`nfs-host`).
//!
//! A machine takes minutes to boot where nothing accelerates it, so all of it is one story.

use crate::machine::Machine as _;
use crate::node::{Node, With};
use crate::qemu::Qemu;
use crate::support::require;
use anyhow::{Context as _, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the exports of backends are mounted.
type Places = BTreeMap<String, String>;

/// Appends numbered records to the volume's log, and says of each that it is on disk. Each opens the file anew, and one
/// that could not be written is written again.
const WRITER: &str = r#"
volume="$NOMAD_TASK_DIR/vol"
echo start >>"$volume/starts"
number=$(wc -l <"$volume/log" 2>/dev/null || echo 0)
write_records() {
    while :; do
        if echo "$((number + 1))" | dd of="$volume/log" oflag=append conv=notrunc,fsync 2>/dev/null; then
            number=$((number + 1))
            echo "$NOMAD_JOB_NAME $number"
        fi
        sleep 0.3
    done
}
"#;

const CONFIGURATION: &str = r#"
hook_timeout   = "25s"
probe_interval = "3s"
backend "nfs" "nas" {
  server         = "198.51.100.2"
  export         = "/srv/export"
  version        = "4.2"
  attach_timeout = "60s"
}
volume "raw" {
  backend = "nas"
  create  = true
  owner   = "65534:65534"
}
volume "inside" {
  backend = "nas"
  create  = true
  owner   = "65534:65534"
}
volume "leaver" {
  backend = "nas"
  create  = true
}
volume "late" {
  backend = "nas"
  create  = true
}
"#;

/// One more backend of an export, only to be mounted.
fn backend(name: &str, server: &str, export: &str, more: &str) -> String {
    format!(
        "backend \"nfs\" \"{name}\" {{\n  server = \"{server}\"\n  export = \"{export}\"\n  attach_timeout = \"60s\"\n  linger = \"1s\"\n  {more}\n}}\n"
    )
}

const NAS: &str = "198.51.100.2";
const OLD: &str = "198.51.100.6";

#[test]
fn an_nfs_export_is_mounted_as_it_was_asked_for_and_its_walk_through_runs_as_it_stands() -> anyhow::Result<()> {
    require!("root", "qemu-system-x86_64", "nomad", "cargo-deb");
    let commands = read_walk_through()?;
    ensure!(commands.len() == 13, "{commands:?}");
    let node = boot()?;
    the_walk_through_runs_as_it_stands(&node, commands)?;
    every_version_is_mounted_as_it_was_asked_for_and_what_cannot_be_says_why(&node).map(drop)
}

fn boot() -> anyhow::Result<Node<Qemu>> {
    let mut node = Node::<Qemu>::prepare(With::Nfs)?;
    let machine = &node.machine;
    machine.write("/usr/local/sbin/nfs-host", include_str!("nfs-host"))?;
    machine.write("/etc/modprobe.d/lockd.conf", "options lockd nlm_grace_period=10\n")?;
    machine.write("/opt/tasks/writer", &format!("{WRITER}write_records {}\n", Qemu::ACKNOWLEDGE))?;
    let modules = crate::support::tool("weed").context("make tools")?.with_file_name("../kernel/modules/lib/modules");
    machine.copy(&modules, "/usr/lib/modules")?;
    machine.copy(&example(), "/root/walkthrough")?;
    machine.change_image(
        "chmod 0755 /usr/local/sbin/nfs-host
         mkdir -p /srv/volumes
         DEBIAN_FRONTEND=noninteractive dpkg -i /opt/packages/saddlebag_1.0.0_*.deb
         systemctl enable nomad
         systemctl disable nfs-server nfs-blkmap rpc-statd-notify 2>&1
         systemctl mask nfs-blkmap rpc-statd-notify proc-fs-nfsd.mount",
    )?;
    node.machine.boot()?;
    node.machine.run(&format!(
        "nfs-host nas make 198.51.100.1 {NAS}
         nfs-host old make 198.51.100.5 {OLD}
         nfs-host other make 198.51.100.9 198.51.100.10
         nfs-host nas start first 1
         nfs-host old start old 7 4.2",
    ))?;
    node.machine.note("the servers serve");
    node.wait_for_nomad()?;
    node.machine.run("sync")?;
    Ok(node)
}

/// The folder of the walk-through.
fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/walkthroughs/nfs")
}

/// The commands of the walk-through, each with the lines that it shows.
fn read_walk_through() -> anyhow::Result<Vec<(String, Vec<String>)>> {
    let text = std::fs::read_to_string(example().join("README.md"))?;
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for block in text.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap_or_default().lines() {
            match (line.strip_prefix("# "), found.last_mut()) {
                (Some(command), _) => found.push((command.to_owned(), Vec::new())),
                (None, Some((_, shown))) => shown.push(line.to_owned()),
                (None, None) => anyhow::bail!("output of no command: {line}"),
            }
        }
    }
    Ok(found)
}

/// Whether a text has what is shown, in which `…` stands for anything.
fn has_shown(said: &str, shown: &str) -> bool {
    let mut rest = said;
    shown.split('…').all(|part| {
        let found = rest.find(part);
        rest = found.map_or("", |at| &rest[at + part.len()..]);
        found.is_some()
    })
}

fn the_walk_through_runs_as_it_stands(node: &Node<Qemu>, commands: Vec<(String, Vec<String>)>) -> anyhow::Result<()> {
    node.machine.run("mkdir -p /srv/disks/first/media; echo film >/srv/disks/first/media/catalogue")?;
    for (command, shown) in commands {
        node.machine.note(&format!("# {command}"));
        let is_refused = shown.first().is_some_and(|line| line.starts_with("saddlebag: "));
        let outcome = if is_refused { "!" } else { "" };
        let said = node.machine.run(&format!("cd /root/walkthrough; {outcome} {{ {command}; }} 2>&1"))?;
        for line in shown {
            ensure!(has_shown(&said, &line), "# {command}\n{said}is not as shown: {line}");
        }
        if command.starts_with("nomad job run") {
            let played = "test \"$(wc -l </srv/disks/first/media/played)\" = 1";
            node.machine.wait_for("the job has written to the export", played)?;
            let places = "awk '$5 ~ \"^/var/lib/saddlebag/bindings/\" { print $6 }' /proc/1/mountinfo";
            ensure!(
                node.machine.run(places)?.split(',').any(|option| option == "noexec"),
                "as the definition was changed to"
            );
        }
        if command.starts_with("nomad job stop") {
            node.machine
                .wait_for("the volume is taken away", "! grep -q /var/lib/saddlebag/bindings/ /proc/1/mountinfo")?;
        }
    }
    let data = node.machine.run("cat /srv/disks/first/media/catalogue; wc -l </srv/disks/first/media/played")?;
    ensure!(data == "film\n1\n", "{data}");
    node.machine.run("rm /etc/saddlebag/conf.d/filer.hcl").map(drop)
}

/// Gives the agent another configuration.
fn configure(node: &Node<Qemu>, more: &str) -> anyhow::Result<()> {
    node.machine.write("/etc/saddlebag/conf.d/nas.hcl", &format!("{CONFIGURATION}{more}"))?;
    node.machine.run("saddlebag config validate; systemctl restart saddlebag").map(drop)
}

/// The line of the mount table at a place: device, type and options.
fn listed(node: &Node<Qemu>, at: &str) -> anyhow::Result<(String, String, String)> {
    let line = node.machine.run(&format!("awk '$5 == \"{at}\"' /proc/1/mountinfo | tail -n 1"))?;
    let (before, after) = line.trim().split_once(" - ").with_context(|| format!("{at} in the mount table"))?;
    let device = before.split(' ').nth(2).context("a device")?.to_owned();
    let mut after = after.split(' ');
    let fs_type = after.next().context("a type")?.to_owned();
    Ok((device, fs_type, after.nth(1).context("options")?.to_owned()))
}

fn every_version_is_mounted_as_it_was_asked_for_and_what_cannot_be_says_why(
    node: &Node<Qemu>,
) -> anyhow::Result<Places> {
    let wanted = [
        ("any", NAS, "", "4.2"),
        ("v41", NAS, "version = \"4.1\"", "4.1"),
        ("v40", NAS, "version = \"4.0\"", "4.0"),
        ("v3", NAS, "version = \"3\"", "3"),
        ("v3-local", NAS, "version = \"3\"\n  lock = false", "3"),
        (
            "careful",
            NAS,
            "version = \"4.2\"\n  noac = true\n  lookupcache = \"none\"\n  write = \"wait\"\n  read_only = true\n  timeo = \"5s\"\n  rsize = \"64KiB\"",
            "4.2",
        ),
        ("old", OLD, "", "4.1"),
    ];
    let refused = [
        ("old42", backend("old42", OLD, "/srv/export", "version = \"4.2\""), "does not serve NFS 4.2"),
        ("missing", backend("missing", NAS, "/srv/none", ""), "has no export /srv/none"),
        (
            "nobody",
            backend("nobody", NAS, "/srv/export", "port = 2050"),
            "no connection to NFS server 198.51.100.2 (port 2050)",
        ),
        ("secret", backend("secret", NAS, "/srv/export", "sec = \"krb5\""), "rpc.gssd is not running"),
    ];
    let more: String = wanted
        .iter()
        .map(|(name, server, more, _)| backend(name, server, "/srv/export", more))
        .chain(refused.iter().map(|(_, text, _)| text.clone()))
        .collect();
    configure(node, &more)?;
    // One question for all of them: a slow machine takes seconds for an answer.
    let status = node.machine.wait("what can be mounted is, and what cannot says why", || {
        let Ok(status) = node.status() else { return Ok(None) };
        let find = |name: &str| {
            let sources = status["sources"].as_array().into_iter().flatten();
            sources.clone().find(|source| source["name"] == name).cloned().unwrap_or_default()
        };
        let are_mounted = wanted.iter().all(|(name, ..)| find(name)["state"] == "attached");
        let are_refused = refused.iter().all(|(name, ..)| find(name)["reason"].is_string());
        Ok((are_mounted && are_refused).then_some(status))
    })?;
    let sources: Vec<&Value> = status["sources"].as_array().into_iter().flatten().collect();
    let of =
        |name: &str| sources.iter().find(|source| source["name"] == name).with_context(|| format!("the source {name}"));
    let mut places = BTreeMap::new();
    for (name, ..) in wanted {
        places.insert(name.to_owned(), of(name)?["mount_point"].as_str().context("a mount point")?.to_owned());
    }
    let mut devices = Vec::new();
    for (name, _, _, version) in wanted {
        let (device, fs_type, options) = listed(node, &places[name])?;
        let has = |option: &str| options.split(',').any(|found| found == option);
        ensure!(has(&format!("vers={version}")), "{name}: {options}");
        ensure!(fs_type == if version == "3" { "nfs" } else { "nfs4" }, "{name}: {fs_type}");
        ensure!(has("hard") && has("proto=tcp") && has("nosharecache"), "{name}: {options}");
        ensure!(has("nolock") == (name == "v3-local"), "{name}: {options}");
        if name == "careful" {
            for option in ["ro", "noac", "sync", "lookupcache=none", "write=wait", "timeo=50", "rsize=65536"] {
                ensure!(has(option), "{name} without {option}: {options}");
            }
        }
        devices.push(device);
    }
    devices.sort();
    devices.dedup();
    ensure!(devices.len() == wanted.len(), "each has a superblock of its own: {devices:?}");
    for (name, _, reason) in refused {
        let source = of(name)?;
        let said = source["reason"].as_str().unwrap_or_default();
        ensure!(source["state"] != "attached" && said.contains(reason), "{name}: {said}");
    }
    Ok(places)
}
