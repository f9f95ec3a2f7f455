//! NFS by the kernel's own client and server, under a real Nomad: one machine, in which the server and a second client are
//! hosts of their own, with networks, mount tables and names that nobody else has (`nfs-host`).
//!
//! A machine takes minutes to boot where nothing accelerates it, so all of it is one story.

mod figures;
mod image;

use super::{assert_all_there, wait_for_acknowledged};
use crate::machine::Machine as _;
use crate::node::{Node, With};
use crate::qemu::Qemu;
use crate::support::require;
use anyhow::{Context as _, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the exports of backends are mounted.
type Places = BTreeMap<String, String>;

/// The lease is 10 s: whoever is away for longer has lost it.
const LONGER_THAN_THE_LEASE: Duration = Duration::from_secs(15);

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

/// The job that writes to an image on the export.
const WRITER_OF_IMAGE: &str = "raw-disk";

/// One more backend of an export, only to be mounted.
fn backend(name: &str, server: &str, export: &str, more: &str) -> String {
    format!(
        "backend \"nfs\" \"{name}\" {{\n  server = \"{server}\"\n  export = \"{export}\"\n  attach_timeout = \"60s\"\n  linger = \"1s\"\n  {more}\n}}\n"
    )
}

/// The one that stays to hold a lock.
fn one_more_mount() -> String {
    backend("any", NAS, "/srv/export", "version = \"4\"")
}

const NAS: &str = "198.51.100.2";
const OLD: &str = "198.51.100.6";

#[test]
fn an_nfs_server_may_be_away_rebooted_or_replaced_and_nothing_that_was_acknowledged_is_lost() -> anyhow::Result<()> {
    require!("root", "qemu-system-x86_64", "nomad", "cargo-deb");
    let commands = read_walk_through()?;
    ensure!(commands.len() == 13, "{commands:?}");
    let node = boot()?;
    if std::env::var_os("SADDLEBAG_VM_FIGURES").is_some() {
        return figures::measure(&node);
    }
    let mut failures = Vec::new();
    // A boot is dear: what fails is noted, and the rest is looked at too.
    let mut note = |outcome: anyhow::Result<()>| failures.extend(outcome.err().map(|error| format!("{error:#}")));
    note(the_walk_through_runs_as_it_stands(&node, commands));
    let places = every_version_is_mounted_as_it_was_asked_for_and_what_cannot_be_says_why(&node)?;
    note(locks_are_seen_by_another_client_unless_they_are_local(&node, &places));
    note(doctor_finds_it_well(&node));
    jobs_share_one_mount_of_the_export(&node)?;
    note(image::it_grows_while_it_is_written_to(&node));
    note(a_dead_server_holds_up_its_own_volumes_only(&node));
    note(a_server_that_was_away_for_longer_than_the_lease_finds_its_clients_and_their_locks(&node, &places));
    note(a_replaced_server_is_mounted_anew_under_its_tasks(&node));
    note(an_agent_in_another_network_mounts_in_the_hosts(&node));
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    Ok(())
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
    if std::env::var_os("SADDLEBAG_VM_FIGURES").is_some() {
        let load = crate::support::tool("weed").context("make tools")?.with_file_name("../load").canonicalize()?;
        machine.copy(&load, "/opt/load")?;
    }
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

/// Gives the agent another configuration: with an image of that size, and more.
fn configure(node: &Node<Qemu>, size: &str, more: &str) -> anyhow::Result<()> {
    let text = format!("{CONFIGURATION}{}{more}", image::volume(size));
    node.machine.write("/etc/saddlebag/conf.d/nas.hcl", &text)?;
    node.machine.run("saddlebag config validate; systemctl restart saddlebag").map(drop)
}

/// What `status` says of the source of a backend.
fn source(node: &Node<Qemu>, name: &str) -> anyhow::Result<Value> {
    let status = node.status()?;
    let found = status["sources"].as_array().into_iter().flatten().find(|source| source["name"] == name).cloned();
    found.with_context(|| format!("the source {name}: {status:#}"))
}

/// Where a backend's export is mounted, once it is.
fn mounted(node: &Node<Qemu>, name: &str) -> anyhow::Result<String> {
    node.machine.wait(&format!("{name} is mounted"), || {
        let Ok(source) = source(node, name) else { return Ok(None) };
        Ok((source["state"] == "attached").then(|| source["mount_point"].as_str().unwrap_or_default().to_owned()))
    })
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
        ("portmapper", backend("portmapper", NAS, "/srv/export", "port = 111"), "is no NFS server"),
        ("secret", backend("secret", NAS, "/srv/export", "sec = \"krb5\""), "rpc.gssd is not running"),
    ];
    let more: String = wanted
        .iter()
        .map(|(name, server, more, _)| backend(name, server, "/srv/export", more))
        .chain(refused.iter().map(|(_, text, _)| text.clone()))
        .collect();
    configure(node, image::SIZES[0], &more)?;
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

/// Whether another client gets a lock that this one holds, by the mount of a backend.
fn is_had_by_another(node: &Node<Qemu>, places: &Places, name: &str, version: &str) -> anyhow::Result<bool> {
    let at = &places[name];
    let unit = format!("lock-{name}");
    node.machine.run(&format!(
        "touch {at}/{unit}
         systemd-run --quiet --unit={unit} flock {at}/{unit} sleep infinity
         while flock --nonblock {at}/{unit} true; do sleep 0.2; done"
    ))?;
    let script = format!(
        "mkdir -p /mnt/{name}
         mountpoint -q /mnt/{name} || mount -t nfs -o vers={version},nosharecache,retry=0 {NAS}:/srv/export /mnt/{name}
         if flock --nonblock /mnt/{name}/{unit} true; then echo free; else echo held; fi"
    );
    let found = node.machine.run(&format!("nfs-host other run bash -euc '{script}'"))?;
    node.machine.note(&format!("another client finds the lock of {name} {}", found.trim()));
    Ok(found.ends_with("free\n"))
}

fn let_go(node: &Node<Qemu>, name: &str) -> anyhow::Result<()> {
    node.machine.run(&format!("systemctl stop lock-{name}")).map(drop)
}

fn locks_are_seen_by_another_client_unless_they_are_local(node: &Node<Qemu>, places: &Places) -> anyhow::Result<()> {
    node.machine.run("nfs-host other run bash -euc 'rpcbind; rpc.statd --no-notify'")?;
    for (name, version) in [("any", "4.2"), ("v3", "3")] {
        ensure!(!is_had_by_another(node, places, name, version)?, "{name}: a lock is one for all clients");
        let_go(node, name)?;
        node.machine.run(&format!("nfs-host other run flock --timeout 30 /mnt/{name}/lock-{name} true"))?;
    }
    ensure!(is_had_by_another(node, places, "v3-local", "3")?, "with lock = false a lock is this client's affair");
    let_go(node, "v3-local")?;
    // What is no longer configured, and used by nobody, is unmounted. One that holds a lock later stays.
    configure(node, image::SIZES[0], &one_more_mount())?;
    node.machine.wait("what is not configured any more is unmounted", || Ok((node.sources()?.len() == 2).then_some(())))
}

/// Doctor mounts the export for a trial, writes and reads.
fn doctor_finds_it_well(node: &Node<Qemu>) -> anyhow::Result<()> {
    // What else is not well in this machine is not the point.
    let said = node.machine.run("saddlebag doctor --json --backend nas || true")?;
    let report: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    for name in ["mount.nfs", "server", "trial mount", "trial write", "trial read", "trial remove", "trial unmount"] {
        let is_ok = |check: &Value| check["area"] == "backend nas" && check["name"] == name && check["outcome"] == "ok";
        ensure!(report["checks"].as_array().into_iter().flatten().any(is_ok), "{name}: {report:#}");
    }
    node.machine.note("doctor finds the export well");
    Ok(())
}

/// The log of a volume on the server's own disk.
fn stored(node: &Node<Qemu>, disk: &str, volume: &str) -> anyhow::Result<String> {
    node.machine.run(&format!("cat /srv/disks/{disk}/{volume}/log"))
}

fn count(node: &Node<Qemu>, disk: &str, volume: &str) -> usize {
    stored(node, disk, volume).unwrap_or_default().lines().count()
}

fn jobs_share_one_mount_of_the_export(node: &Node<Qemu>) -> anyhow::Result<()> {
    for (job, driver, volume) in [
        ("raw-nas", "raw_exec", "raw"),
        ("exec-nas", "exec", "inside"),
        ("leaver-nas", "raw_exec", "leaver"),
        (WRITER_OF_IMAGE, "raw_exec", "disk"),
        ("raw-near", "raw_exec", "near"),
    ] {
        node.register(job, driver, volume)?;
    }
    for job in ["raw-nas", "exec-nas", "leaver-nas", WRITER_OF_IMAGE, "raw-near"] {
        wait_for_acknowledged(node, job, 5)?;
    }
    node.wait_for_mounted(5)?;
    let at = mounted(node, "nas")?;
    let (device, ..) = listed(node, &at)?;
    let seen = node.machine.run(&format!("awk '$3 == \"{device}\" {{ print $5 }}' /proc/1/mountinfo | sort -u"))?;
    ensure!(seen.lines().count() == 4, "the export and three bindings of it: {seen}");
    node.assert_nothing_beneath()?;
    for (volume, job) in [("raw", "raw-nas"), ("inside", "exec-nas")] {
        let acknowledged = node.machine.acknowledged()?;
        assert_all_there(job, volume, &acknowledged, &stored(node, "first", volume)?)?;
    }
    // Not more than the one mount of its own volume.
    ensure!(node.seen_by_task("exec-nas")?.len() == 1, "{:?}", node.seen_by_task("exec-nas")?);
    Ok(())
}

fn a_dead_server_holds_up_its_own_volumes_only(node: &Node<Qemu>) -> anyhow::Result<()> {
    node.machine.run("nfs-host nas cut")?;
    node.machine.wait("the source is said to hang", || Ok((source(node, "nas")?["state"] == "hung").then_some(())))?;
    let (before, near) = (count(node, "first", "raw"), node.records("near").len());
    // A hook ends at its deadline, with the reason.
    node.register("late-nas", "raw_exec", "late")?;
    let alloc = node.machine.wait("the hook of a new job ends", || {
        let Ok(alloc) = node.allocation("late-nas") else { return Ok(None) };
        let has_ended = alloc["TaskStates"]["storage"]["Events"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|event| event["Type"] == "Terminated");
        Ok(has_ended.then(|| alloc["ID"].as_str().unwrap_or_default().to_owned()))
    })?;
    let said = node.machine.run(&format!("cat /var/lib/nomad/alloc/{alloc}/alloc/logs/storage.stderr.0"))?;
    ensure!(said.contains("did not answer within") && said.contains("nas"), "{said}");
    node.ask_nomad("DELETE", "/job/late-nas?purge=true", "")?;
    // A task that waits for it can be ended, and its volume is taken away without asking anybody.
    node.ask_nomad("DELETE", "/job/leaver-nas?purge=true", "")?;
    node.machine
        .wait("the volume of an ended task is unmounted", || Ok((node.bindings()?.len() == 4).then_some(())))?;
    // All that time the agent answers at once, and other volumes are written to.
    node.machine.run("timeout 20 saddlebag status >/dev/null; timeout 20 saddlebag volume --help >/dev/null")?;
    ensure!(node.records("near").len() > near + 5, "the volume of another backend goes on");
    ensure!(count(node, "first", "raw") == before, "nothing can have come to the server");
    node.machine.run("nfs-host nas join")?;
    for volume in ["raw", "inside"] {
        let before = count(node, "first", volume);
        node.machine.wait(&format!("{volume} is written to again"), || {
            Ok((count(node, "first", volume) > before + 3).then_some(()))
        })?;
    }
    image::wait_for_more(node, "after the server has come back")?;
    node.machine
        .wait("the source is sound again", || Ok((source(node, "nas")?["state"] == "attached").then_some(())))?;
    assert_nothing_lost(node, "first")
}

/// What tasks know to be on disk is on the server's, and no task was restarted.
fn assert_nothing_lost(node: &Node<Qemu>, disk: &str) -> anyhow::Result<()> {
    let acknowledged = node.machine.acknowledged()?;
    for (job, volume) in [("raw-nas", "raw"), ("exec-nas", "inside")] {
        let log = stored(node, disk, volume)?;
        assert_all_there(job, volume, &acknowledged, &log)?;
        assert_in_order(volume, &log)?;
        ensure!(node.restarts(job)? == 0, "{job} was restarted");
    }
    image::assert_nothing_lost(node)
}

/// Numbers only, and none before a lesser one.
fn assert_in_order(volume: &str, log: &str) -> anyhow::Result<()> {
    let numbers: Vec<u64> = log.lines().filter_map(|line| line.parse().ok()).collect();
    ensure!(numbers.len() == log.lines().count() && numbers.is_sorted(), "{volume}: {log}");
    Ok(())
}

fn a_server_that_was_away_for_longer_than_the_lease_finds_its_clients_and_their_locks(
    node: &Node<Qemu>,
    places: &Places,
) -> anyhow::Result<()> {
    ensure!(!is_had_by_another(node, places, "any", "4.2")?, "the lock is held");
    node.machine.run("nfs-host nas stop")?;
    std::thread::sleep(LONGER_THAN_THE_LEASE);
    node.machine.run("nfs-host nas start first 1")?;
    for volume in ["raw", "inside"] {
        let before = count(node, "first", volume);
        node.machine.wait(&format!("{volume} is written to after the server's reboot"), || {
            Ok((count(node, "first", volume) > before + 3).then_some(()))
        })?;
    }
    image::wait_for_more(node, "after the server's reboot")?;
    let held = "if flock --nonblock /mnt/any/lock-any true; then echo free; else echo held; fi";
    let found = node.machine.run(&format!("nfs-host other run bash -c '{held}'"))?;
    ensure!(found == "held\n", "the lock was not reclaimed");
    let_go(node, "any")?;
    assert_nothing_lost(node, "first")
}

fn a_replaced_server_is_mounted_anew_under_its_tasks(node: &Node<Qemu>) -> anyhow::Result<()> {
    let at = mounted(node, "nas")?;
    let (former, ..) = listed(node, &at)?;
    // The same address and the same path, another file system: what was on the old disks was brought there.
    node.machine.run(
        "nfs-host nas stop
         cp -a /srv/disks/first /srv/disks/second
         nfs-host nas start second 2",
    )?;
    for volume in ["raw", "inside"] {
        let before = count(node, "second", volume);
        node.machine.wait(&format!("{volume} is written to on the new server"), || {
            Ok((count(node, "second", volume) > before + 3).then_some(()))
        })?;
    }
    let (now, ..) = listed(node, &mounted(node, "nas")?)?;
    ensure!(former != now, "another superblock: {former} {now}");
    // On the host and in the container every binding is of the new one.
    for table in ["/proc/1/mountinfo".to_owned(), format!("/proc/{}/mountinfo", writer_of(node, "exec-nas")?)] {
        let script = format!("awk '$5 ~ /\\/vol$/ && / - nfs4 / {{ print $3 }}' {table} | sort -u");
        let found = node.machine.run(&script)?;
        ensure!(found.trim() == now, "{table}: {found}, not {now}");
    }
    ensure!(!node.machine.holds("test -e /var/lib/saddlebag/sources/*.new"), "what was beside is taken away");
    image::wait_for_more(node, "on the new server")?;
    node.wait_for_mounted(4)?;
    node.assert_nothing_beneath()?;
    assert_nothing_lost(node, "second")?;
    let alloc = node.allocation("exec-nas")?["ID"].as_str().context("an id")?.to_owned();
    let explained = node.machine.run(&format!("saddlebag explain {alloc}"))?;
    ensure!(explained.contains("mended after: its mount died"), "{explained}");
    Ok(())
}

/// A process of a job's task.
fn writer_of(node: &Node<Qemu>, job: &str) -> anyhow::Result<String> {
    let script = format!(
        "for pid in $(pgrep -f /opt/tasks/writer); do
           if tr '\\0' '\\n' </proc/$pid/environ | grep -qx NOMAD_JOB_NAME={job}; then echo $pid; break; fi; done"
    );
    Ok(node.machine.run(&script)?.trim().to_owned())
}

fn an_agent_in_another_network_mounts_in_the_hosts(node: &Node<Qemu>) -> anyhow::Result<()> {
    let configuration = format!(
        "state_dir = \"/var/lib/elsewhere\"\nrun_dir = \"/run/elsewhere\"\n{}",
        backend("elsewhere", NAS, "/srv/export", "")
    );
    node.machine.write("/root/elsewhere.hcl", &configuration)?;
    // There is no way from there to the server.
    node.machine.run(
        "ip netns add elsewhere
         ! nsenter --net=/run/netns/elsewhere ip route get 198.51.100.2 2>/dev/null
         systemd-run --quiet --unit=elsewhere nsenter --net=/run/netns/elsewhere saddlebag agent --config /root/elsewhere.hcl",
    )?;
    let is_mounted = "awk '$5 ~ \"^/var/lib/elsewhere/sources/\" { print $5 }' /proc/1/mountinfo | grep -q .";
    node.machine.wait_for("it is mounted by way of the host's network", is_mounted)?;
    node.machine.wait_for("it answers", "ls /var/lib/elsewhere/sources/*/raw/log")?;
    node.machine.run("systemctl stop elsewhere").map(drop)
}
