//! `saddlebag doctor` on a client that is well, and on one where each thing is broken for real.

use crate::support::{Lab, Options, PATIENCE, World, require, tool, wait_until};
use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a doctor has found.
struct Seen {
    code: i32,
    report: Value,
    took: Duration,
}

impl Seen {
    fn of(mut command: Command) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let done = command.output().context("starting doctor")?;
        let report = serde_json::from_slice(&done.stdout)
            .with_context(|| format!("no report: {}", String::from_utf8_lossy(&done.stderr)))?;
        Ok(Self { code: done.status.code().context("an exit code")?, report, took: begun.elapsed() })
    }

    /// The checks of that name, each with how it is and all that is said of it.
    fn checks(&self, area: &str, name: &str) -> Vec<(String, String)> {
        let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
        let all = self.report["checks"].as_array().into_iter().flatten();
        all.filter(|check| check["area"] == area && check["name"] == name)
            .map(|check| (text(check, "outcome"), format!("{} [{}]", text(check, "detail"), text(check, "mend"))))
            .collect()
    }

    fn assert(&self, area: &str, name: &str, outcome: &str, words: &[&str]) {
        let found = self.checks(area, name);
        let says = |said: &str| words.iter().all(|word| said.contains(word));
        let is_found = found.iter().any(|(how, said)| how == outcome && says(said));
        assert!(is_found, "{area}: {name}: no {outcome} with {words:?} in {found:?}\n{:#}", self.report);
    }
}

fn doctor(world: &World, configuration: &Path, more: &[&str]) -> anyhow::Result<Seen> {
    let mut command = world.command(&world.saddlebag_path());
    command.args(["doctor", "--json", "--config"]).arg(configuration).args(more);
    Seen::of(command)
}

/// A seaweedfs backend of that name.
fn backend(name: &str, filer: &str, options: &str) -> anyhow::Result<String> {
    let weed = tool("weed").context("no weed")?;
    let program =
        if options.contains("program") { String::new() } else { format!("  program = \"{}\"\n", weed.display()) };
    Ok(format!("backend \"seaweedfs\" \"{name}\" {{\n  filer = \"{filer}\"\n{program}  {options}\n}}\n"))
}

fn host(name: &str, path: &Path) -> String {
    format!("backend \"host\" \"{name}\" {{\n  path = \"{}\"\n}}\n", path.display())
}

fn names(folder: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    Ok(std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?)
}

/// Every process of the machine, also of other pid namespaces, that has this text in its command line.
fn processes_with(text: &str) -> Vec<i32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    };
    pids.filter(has).collect()
}

/// All that a doctor could leave: mounts, programs, cgroups, and files on the host and on the filer.
fn traces(world: &World, folders: &[&Path]) -> anyhow::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let ours = world.directory().display().to_string();
    for line in std::fs::read_to_string("/proc/self/mountinfo")?.lines().filter(|line| line.contains(&ours)) {
        found.insert(line.split(' ').nth(4).unwrap_or_default().to_owned());
    }
    found.extend(processes_with(&format!("-dir={ours}")).into_iter().map(|pid| pid.to_string()));
    for folder in folders {
        found.extend(names(folder)?.into_iter().map(|path| path.display().to_string()));
    }
    for cgroup in ["/sys/fs/cgroup/saddlebag", "/sys/fs/cgroup/memory/saddlebag"] {
        let of_doctor =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("doctor"));
        let all = names(Path::new(cgroup)).unwrap_or_default();
        found.extend(all.into_iter().filter(of_doctor).map(|path| path.display().to_string()));
    }
    let filer = format!("http://{}/?limit=1000", world.lab().filer);
    let listed =
        Command::new("curl").args(["-sf", "--noproxy", "*", "-H", "Accept: application/json", &filer]).output()?;
    if String::from_utf8_lossy(&listed.stdout).contains("saddlebag-doctor") {
        found.insert("a trial's file on the filer".to_owned());
    }
    Ok(found)
}

#[test]
fn a_client_that_is_well_is_told_so_and_nothing_of_doctor_is_left() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut world = World::new("doctor")?;
    let (disk, kept) = (world.directory().join("disk"), world.directory().join("cache"));
    std::fs::create_dir(&disk)?;
    std::fs::write(disk.join("precious"), "as it was")?;
    let filer = world.lab().filer.clone();
    let caching = format!("cache_dir = \"{}\"", kept.display());
    let configuration = [
        host("disk", &disk),
        backend("main", &filer, &caching)?,
        backend("frozen", &filer, "read_only = true\n  attach = \"demand\"")?,
        "volume \"later\" {\n  backend = \"main\"\n  create = true\n}\n".to_owned(),
    ];
    world.start_agent(&configuration.concat())?;
    world.wait_until("a mounted source", PATIENCE, || {
        let status: Value = serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?;
        let sources = status["sources"].as_array().context("sources")?.clone();
        Ok(sources.iter().any(|source| source["name"] == "main" && source["state"] == "attached").then_some(()))
    })?;
    let file = world.directory().join("agent.hcl");
    let folders = [world.run_dir(), world.state_dir(), disk.clone(), kept.clone()];
    let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
    let before = traces(&world, &folders)?;

    let seen = doctor(&world, &file, &[])?;
    assert_eq!(seen.code, 0, "{:#}", seen.report);
    for (area, name) in [
        ("host", "mount API"),
        ("host", "fanotify"),
        ("host", "/dev/fuse"),
        ("agent", "agent"),
        ("agent", "guard"),
        ("agent", "mounts seen"),
        ("agent", "sockets"),
        ("nomad", "address"),
        ("nomad", "node"),
        ("nomad", "node:read"),
        ("nomad", "drivers"),
        ("nomad", "immutable flag"),
        ("nomad", "namespaces"),
        ("backend main", "weed"),
        ("backend main", "filer"),
        ("backend main", "agent's mount"),
        ("backend main", "trial mount"),
        ("backend main", "trial write"),
        ("backend main", "trial read"),
        ("backend main", "trial remove"),
        ("backend main", "trial unmount"),
        ("backend disk", "trial write"),
        ("backend disk", "trial read"),
    ] {
        seen.assert(area, name, "ok", &[]);
    }
    seen.assert("backend main", "volumes", "ok", &["1 made at first use"]);
    seen.assert("backend main", "weed", "ok", &["4."]);
    seen.assert("backend frozen", "trial read", "ok", &["nothing written"]);
    assert!(seen.checks("backend frozen", "trial write").is_empty(), "what is read-only is not written to");
    assert_eq!(traces(&world, &folders)?, before, "nothing is left, and nothing is gone");
    assert_eq!(std::fs::read_to_string(disk.join("precious"))?, "as it was");

    // The table has a line for each check, and `--backend` looks at nothing else.
    let page = world.saddlebag(&["doctor", "--config", file.to_str().context("UTF-8")?, "--backend", "disk"])?;
    assert!(page.contains("\nBackend disk\n  directory") && !page.contains("Nomad"), "{page}");
    let unknown = world.try_saddlebag(&["doctor", "--config", file.to_str().context("UTF-8")?, "--backend", "disc"])?;
    assert_eq!(unknown.status.code(), Some(64), "{}", String::from_utf8_lossy(&unknown.stderr));

    world.kill_agent()?;
    world.kill_nomad()?;
    let seen = doctor(&world, &file, &[])?;
    assert_eq!(seen.code, 69, "{:#}", seen.report);
    seen.assert("agent", "agent", "problem", &["no agent answers", "saddlebag agent"]);
    seen.assert("nomad", "address", "problem", &["connection refused", "systemctl start nomad"]);
    seen.assert("backend main", "trial read", "ok", &["the same"]);

    // A Nomad whose node has not one driver whose tasks see a volume.
    let none = "client {\n  options = {\n    \"driver.allowlist\" = \"none\"\n  }\n}\n";
    std::fs::write(world.directory().join("nomad.d/without-drivers.hcl"), none)?;
    world.start_nomad_as_another_node()?;
    let seen = world.wait_until("a Nomad that answers", PATIENCE, || {
        let seen = doctor(&world, &file, &[])?;
        let is_read = seen.checks("nomad", "node:read").iter().any(|(how, _)| how == "ok");
        let has_drivers = seen.checks("nomad", "drivers").iter().any(|(how, _)| how == "ok");
        Ok((is_read && !has_drivers).then_some(seen))
    })?;
    seen.assert("nomad", "drivers", "problem", &["no driver", "raw_exec", "apt install docker.io"]);
    Ok(())
}

/// A file system of so many KiB at a directory, until this is dropped.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf, options: &str) -> anyhow::Result<Self> {
        std::fs::create_dir(&at)?;
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(&at).status()?;
        anyhow::ensure!(done.success(), "mounting {}", at.display());
        Ok(Self(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Writes an executable script.
fn script(folder: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let (written, path) = (folder.join(format!("{name}.sh")), folder.join(name));
    std::fs::write(&written, format!("#!/bin/sh\n{text}\n"))?;
    // By another process: one of this test's that is being started elsewhere would have it open for writing for a moment
    // (ETXTBSY).
    let done = Command::new("install").args(["-m", "755"]).args([&written, &path]).status()?;
    anyhow::ensure!(done.success(), "installing {}", path.display());
    Ok(path)
}

/// A `weed` that is stopped, as a debugger or a dying disk stops one, by the very call that mounts. Its tracer has nothing of
/// the trial in its own command line.
fn weed_that_stops(folder: &Path) -> anyhow::Result<PathBuf> {
    let weed = tool("weed").context("no weed")?;
    let text = format!(
        "[ \"$1\" != version ] || exec {0} version\n\
         export ARGUMENTS=\"$*\"\n\
         exec strace -D -f -o /dev/null -e signal=none -e trace=mount -e inject=mount:signal=SIGSTOP \
         sh -c 'exec {0} $ARGUMENTS'",
        weed.display(),
    );
    script(folder, "stopping-weed", &text)
}

#[test]
fn each_broken_backend_is_named_with_what_mends_it_and_holds_up_no_other() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3", "strace");
    let world = World::new("doctor-faults")?;
    let mut seaweedfs = world.start_own_seaweedfs()?;
    let folder = world.directory();
    let full = Small::mount(folder.join("full"), "size=16k")?;
    // Whatever fits, so that not one page is left.
    let _ = std::fs::write(full.0.join("filling"), vec![0_u8; 1 << 20]);
    let frozen = Small::mount(folder.join("frozen"), "ro,size=16k")?;
    let filer = world.lab().filer.clone();
    let silent = script(folder, "silent", "echo 'no licence for this filer'; [ \"$1\" = version ] || exit 3")?;
    let program = |path: &Path| format!("program = \"{}\"", path.display());
    anyhow::ensure!(seaweedfs.wait()?.success(), "SeaweedFS did not start");
    let hung = world.own_filer()?;
    let stopped: Vec<i32> = processes_with(&format!("-dir={}/seaweedfs", folder.display()));
    let weeds: Vec<i32> = stopped
        .into_iter()
        .filter(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "weed"))
        .collect();
    anyhow::ensure!(!weeds.is_empty(), "no weed to stop");
    for pid in &weeds {
        kill(Pid::from_raw(*pid), Signal::SIGSTOP)?;
    }
    let configuration = [
        "status_group = \"nobodys-group\"\n".to_owned(),
        backend("good", &filer, "")?,
        backend("absent", &filer, &program(&folder.join("no-weed")))?,
        backend("wrong-port", "127.0.0.1:1", "")?,
        backend("hung", &hung, "")?,
        backend("one-of-two", &format!("127.0.0.1:1.2,{filer}"), "")?,
        backend("ends", &filer, &program(&silent))?,
        backend("stops", &filer, &format!("{}\n  attach_timeout = \"5s\"", program(&weed_that_stops(folder)?)))?,
        backend("misspelt", &filer, "path = \"/no/such/directory\"")?,
        host("full", &full.0),
        host("frozen", &frozen.0),
        host("missing", &folder.join("nowhere")),
        "volume \"strict\" {\n  backend = \"good\"\n  path = \"not/there\"\n}\n".to_owned(),
    ];
    let file = world.configure_agent(&configuration.concat())?;

    let seen = doctor(&world, &file, &[])?;
    for pid in &weeds {
        kill(Pid::from_raw(*pid), Signal::SIGCONT)?;
    }
    println!("doctor took {:?}", seen.took);
    assert!(seen.took < Duration::from_secs(40), "no server that hangs holds doctor up: {:?}", seen.took);
    assert_eq!(seen.code, 69, "{:#}", seen.report);
    seen.assert("configuration", "status_group", "problem", &["nobodys-group", "groupadd"]);
    seen.assert("backend good", "trial read", "ok", &["the same"]);
    seen.assert("backend good", "volumes", "problem", &["volume strict", "create = true"]);
    seen.assert("backend absent", "weed", "problem", &["no-weed", "not installed", "program = "]);
    seen.assert("backend absent", "trial", "skipped", &[]);
    seen.assert("backend wrong-port", "filer", "problem", &["127.0.0.1:1", "refused", "filer = \"HOST:PORT\""]);
    seen.assert("backend hung", "filer", "problem", &[&hung, "has not answered for", "systemctl"]);
    seen.assert("backend one-of-two", "filer", "warning", &["127.0.0.1:1"]);
    seen.assert("backend ends", "trial mount", "problem", &["ended before its mount was there", "no licence"]);
    seen.assert("backend stops", "trial mount", "problem", &["has not"]);
    seen.assert("backend misspelt", "trial directory", "problem", &["/no/such/directory", "curl -X POST"]);
    seen.assert("backend full", "trial write", "problem", &["No space left", "df -h"]);
    seen.assert("backend frozen", "trial write", "problem", &["Read-only file system", "read_only = true"]);
    seen.assert("backend missing", "directory", "problem", &["nowhere", "mkdir -p"]);
    assert!(processes_with(&folder.join("run").display().to_string()).is_empty(), "no program of a trial is left");

    // Without FUSE, as in a container that was not given it; what else is missing there is not the point.
    let hidden = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && exec \"$@\"";
    let mut command = world.command(Path::new("unshare"));
    command.args(["--mount", "sh", "-c", hidden, "sh"]).arg(world.saddlebag_path());
    command.args(["doctor", "--json", "--config"]).arg(&file).stdin(Stdio::null());
    let seen = Seen::of(command)?;
    seen.assert("host", "/dev/fuse", "problem", &["No such file", "modprobe fuse"]);
    seen.assert("nomad", "namespaces", "problem", &["mount namespace of its own"]);
    Ok(())
}

#[test]
fn a_doctor_that_is_killed_in_a_trial_leaves_no_mount_and_no_mount_program() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3", "strace");
    let lab = Lab::shared()?;
    let folder = tempfile::tempdir()?;
    let weed = weed_that_stops(folder.path())?;
    let patient = format!("program = \"{}\"\n  attach_timeout = \"5m\"", weed.display());
    let file = folder.path().join("agent.hcl");
    let run_dir = folder.path().join("run");
    std::fs::create_dir(&run_dir)?;
    let places = format!("state_dir = \"{0}/state\"\nrun_dir = \"{0}/run\"\n", folder.path().display());
    std::fs::write(&file, format!("{places}{}", backend("stops", &lab.filer, &patient)?))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_saddlebag"));
    command
        .args(["doctor", "--backend", "stops", "--config"])
        .arg(&file)
        .stdout(std::fs::File::create(folder.path().join("said"))?);
    let mut doctor = command.spawn()?;

    // The mount program is there, has mounted, and waits stopped.
    let mark = format!("-dir={}/mount", run_dir.display());
    let is_stopped = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['T', 't']))
    };
    wait_until("a mount program in the middle of a trial", PATIENCE, &[], || {
        anyhow::ensure!(
            doctor.try_wait()?.is_none(),
            "it ended: {}",
            std::fs::read_to_string(folder.path().join("said"))?
        );
        Ok(processes_with(&mark).iter().any(is_stopped).then_some(()))
    })?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    assert!(!table.contains(&*run_dir.to_string_lossy()), "nobody else sees the trial's mount: {table}");

    kill(Pid::from_raw(i32::try_from(doctor.id())?), Signal::SIGKILL)?;
    doctor.wait()?;
    wait_until("the end of all that the doctor has started", PATIENCE, &[], || {
        Ok(processes_with(&folder.path().to_string_lossy()).is_empty().then_some(()))
    })?;
    assert!(names(&run_dir)?.is_empty(), "nothing is left below the run directory");
    Ok(())
}

/// A job that has nothing to do with storage.
const PLAIN: &str = r#"
job "plain" {
  group "app" {
    task "main" {
      driver = "raw_exec"
      config {
        command = "sleep"
        args    = ["1000"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
"#;

#[test]
fn a_token_that_lacks_a_right_is_told_which_and_a_wrong_one_that_it_is_unknown() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed");
    let world = World::with("doctor-acl", Options::default().acl())?;
    world.nomad(&["job", "run", "-detach", &job_file(&world)?])?;
    world.wait_running("plain")?;
    let file = world.configure_agent("")?;
    let token = world.directory().join("token");
    std::fs::write(
        &file,
        format!("{}\nnomad {{\n  token_file = \"{}\"\n}}\n", std::fs::read_to_string(&file)?, token.display()),
    )?;
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/nomad/saddlebag-policy.hcl");
    let policies: [(&str, String); 5] = [
        ("all", std::fs::read_to_string(shipped)?),
        ("no-agent", "namespace \"*\" {\n capabilities = [\"read-job\", \"alloc-lifecycle\"]\n}\nnode {\n policy = \"read\"\n}\n".into()),
        ("no-node", "namespace \"*\" {\n capabilities = [\"read-job\", \"alloc-lifecycle\"]\n}\nagent {\n policy = \"read\"\n}\n".into()),
        ("no-job", "namespace \"*\" {\n capabilities = [\"list-jobs\"]\n}\nagent {\n policy = \"read\"\n}\nnode {\n policy = \"read\"\n}\n".into()),
        ("no-acts", "namespace \"*\" {\n capabilities = [\"read-job\"]\n}\nagent {\n policy = \"read\"\n}\nnode {\n policy = \"read\"\n}\n".into()),
    ];
    let look = |policy: &str, text: &str| -> anyhow::Result<Seen> {
        let path = world.directory().join("policy.hcl");
        std::fs::write(&path, text)?;
        world.nomad(&["acl", "policy", "apply", policy, path.to_str().context("UTF-8")?])?;
        let made = world.nomad(&["acl", "token", "create", "-type=client", &format!("-policy={policy}"), "-json"])?;
        let made: Value = serde_json::from_str(&made)?;
        std::fs::write(&token, made["SecretID"].as_str().context("a secret")?)?;
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600))?;
        doctor(&world, &file, &[])
    };
    let [all, agent, node, job, acts] = policies.map(|(name, text)| look(name, &text));

    let all = all?;
    for name in ["address", "token", "node:read", "read-job", "alloc-lifecycle", "allocations"] {
        all.assert("nomad", name, "ok", &[]);
    }
    agent?.assert("nomad", "address", "problem", &["agent { policy = \"read\" }", "nomad acl policy apply"]);
    node?.assert("nomad", "node:read", "problem", &["node { policy = \"read\" }", "nomad acl policy apply"]);
    job?.assert("nomad", "read-job", "problem", &["in no namespace", "read-job", "nomad acl policy apply"]);
    acts?.assert("nomad", "alloc-lifecycle", "warning", &["on_failure", "alloc-lifecycle", "nomad acl policy apply"]);
    // The question whether it may restart a task has restarted none.
    let alloc = world.wait_running("plain")?;
    assert_eq!(world.allocation(&alloc)?["TaskStates"]["main"]["Restarts"], 0);

    std::fs::write(&token, "00000000-0000-0000-0000-00000000dead")?;
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644))?;
    let wrong = doctor(&world, &file, &[])?;
    wrong.assert("nomad", "address", "problem", &["does not know saddlebag's ACL token", "nomad acl token create"]);
    let text = wrong.report.to_string();
    assert!(!text.contains("00000000dead"), "a secret is in no report: {text}");
    Ok(())
}

fn job_file(world: &World) -> anyhow::Result<String> {
    let path = world.directory().join("plain.nomad.hcl");
    std::fs::write(&path, PLAIN)?;
    Ok(path.display().to_string())
}
