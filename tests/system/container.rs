//! A Debian that boots: systemd-nspawn on a root file system of the test's own.
//!
//! Its cgroups are its own in every hierarchy of the host, version 1 or 2, and it has no network but loopback.

use crate::machine::{JOURNAL_TAIL, Machine, PROGRAMS, succeed, unpack, write, write_program};
use crate::support::{PATIENCE, tail, wait_until};
use anyhow::Context as _;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What systemd-nspawn ends with when the container wants to boot again (systemd-nspawn(1), `--keep-unit`).
const REBOOT: i32 = 133;

/// Process 1 before systemd: where the host has cgroups of version 1, nspawn mounts the controllers read-only, and
/// systemd looks at its start which of them it can write to.
const INIT: &str = "#!/bin/sh
for hierarchy in /sys/fs/cgroup/*/; do mount -o remount,bind,rw \"$hierarchy\" 2>/dev/null; done
exec /usr/lib/systemd/systemd
";

/// Joins a cgroup of the machine's own in each hierarchy, and becomes nspawn. A cpuset of version 1 takes no process
/// before it has CPUs and memory; version 2 has only the controllers that the parent gives.
const START: &str = r#"
for hierarchy in $(awk '/ - cgroup2? / { print $5 }' /proc/self/mountinfo); do
    own=$hierarchy/$NAME
    mkdir -p "$own"
    if [ -e "$own/cpuset.mems" ] && [ -e "$hierarchy/cpuset.mems" ] && [ ! -e "$own/cgroup.controllers" ]; then
        cat "$hierarchy/cpuset.cpus" >"$own/cpuset.cpus"
        cat "$hierarchy/cpuset.mems" >"$own/cpuset.mems"
    fi
    if [ -e "$hierarchy/cgroup.subtree_control" ]; then
        for controller in $(cat "$hierarchy/cgroup.controllers"); do
            echo "+$controller" >"$hierarchy/cgroup.subtree_control" || true
        done
    fi
    echo $$ >"$own/cgroup.procs"
done 2>/dev/null
exec setpriv --pdeathsig KILL systemd-nspawn "$@" -- /usr/local/sbin/start-systemd
"#;

/// A container with systemd.
pub struct Container {
    name: String,
    folder: PathBuf,
    read_only: Vec<(PathBuf, String)>,
    running: Option<Running>,
    begun: Instant,
}

struct Running {
    nspawn: Child,
    leader: i32,
}

impl Container {
    fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// A command in the machine, as root.
    fn command(&self, script: &str) -> Command {
        let leader = self.running.as_ref().expect("the machine runs").leader;
        let mut command = Command::new("nsenter");
        command.args(["-t", &leader.to_string(), "-a", "--", "/usr/bin/timeout", "180", "/bin/bash", "-euc"]);
        command.arg(script).env_clear().stdin(Stdio::null()).env("PATH", PROGRAMS).env("LC_ALL", "C.UTF-8");
        command
    }

    /// Reboots as an administrator does, and comes back when systemd answers again.
    pub fn reboot(&mut self) -> anyhow::Result<()> {
        // Its own connection to the bus may go before its answer comes.
        let _ = self.command("systemctl reboot").output();
        let mut running = self.running.take().context("the machine runs")?;
        let status =
            wait_until("the machine goes down", Self::PATIENCE, &[self.console()], || Ok(running.nspawn.try_wait()?));
        let Ok(status) = status else {
            self.running = Some(running);
            anyhow::bail!("the machine does not go down: {}", self.journal_tail());
        };
        anyhow::ensure!(status.code() == Some(REBOOT), "nspawn ended with {status}");
        self.boot()
    }
}

impl Machine for Container {
    const PATIENCE: Duration = Duration::from_secs(2 * PATIENCE.as_secs());

    const PAUSE: Duration = Duration::ZERO;

    const ACKNOWLEDGE: &str = ">/dev/null";

    /// The files are bound into it, read-only.
    fn prepare(image: &str, files: &[(PathBuf, &str)]) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("saddlebag-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&name);
        let read_only = files.iter().map(|(from, to)| (from.clone(), (*to).to_owned())).collect();
        let machine = Self { name, folder, read_only, running: None, begun: Instant::now() };
        unpack(image, &machine.root())?;
        write_program(&machine.root(), "/usr/local/sbin/start-systemd", INIT)?;
        Ok(machine)
    }

    fn boot(&mut self) -> anyhow::Result<()> {
        let console = fs::File::options().create(true).append(true).open(self.console())?;
        let mut command = Command::new("/bin/bash");
        command.args(["-c", START, "start", "--quiet", "--register=no", "--keep-unit", "--private-network"]);
        command.args([
            "--capability=all",
            "--system-call-filter=@known",
            "--bind=/dev/fuse",
            "--console=pipe",
            "--link-journal=no",
        ]);
        // Debian's systemd takes cgroups of version 1 only with this word.
        command.arg("--setenv=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1").arg("-D").arg(self.root());
        for (from, to) in &self.read_only {
            command.arg(format!("--bind-ro={}:{to}", from.display()));
        }
        command.env("NAME", &self.name).stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
        let mut nspawn = command.spawn().context("systemd-nspawn")?;
        let supervisor = nspawn.id();
        let leader = wait_until("a process 1 of the machine", PATIENCE, &[self.console()], || {
            anyhow::ensure!(nspawn.try_wait()?.is_none(), "nspawn has ended");
            Ok(find_leader(supervisor))
        });
        let leader = match leader {
            Ok(leader) => leader,
            Err(error) => {
                let _ = nspawn.kill();
                let _ = nspawn.wait();
                return Err(error);
            }
        };
        self.running = Some(Running { nspawn, leader });
        self.wait_for("systemd answers", "systemctl is-active --quiet basic.target")
    }

    /// Kills its process 1 and thereby all others. What they have written stays.
    fn cut_power(&mut self) -> anyhow::Result<()> {
        let mut running = self.running.take().context("the machine runs")?;
        kill(running.leader)?;
        let status = running.nspawn.wait()?;
        anyhow::ensure!(status.code() != Some(REBOOT), "it went down in order: {status}, {:?}", status.signal());
        Ok(())
    }

    fn write(&self, inside: &str, text: &str) -> anyhow::Result<()> {
        write(&self.root(), inside, text)
    }

    fn run(&self, script: &str) -> anyhow::Result<String> {
        succeed(&mut self.command(script)).with_context(|| format!("in the machine: {script}"))
    }

    fn journal_tail(&self) -> String {
        self.run(JOURNAL_TAIL).unwrap_or_else(|_| tail(&self.console(), 60))
    }

    fn begun(&self) -> (&str, Instant) {
        (&self.name, self.begun)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("KEEP_LOGS").is_some() {
            eprintln!(
                "{}: the journal of this boot\n{}",
                self.name,
                self.running.as_ref().map_or_else(String::new, |_| self.journal_tail())
            );
        }
        if let Some(mut running) = self.running.take() {
            let _ = kill(running.leader);
            let _ = running.nspawn.wait();
        }
        // Every mount went with the machine's namespace. Beneath them are directories that refuse removal.
        let _ = Command::new("chattr").args(["-R", "-f", "-i"]).arg(&self.folder).status();
        let removed = Command::new("rm").args(["-rf", "--one-file-system"]).arg(&self.folder).status();
        if !removed.is_ok_and(|status| status.success()) {
            eprintln!("{} is left", self.folder.display());
        }
        remove_cgroups(&self.name);
    }
}

fn kill(pid: i32) -> anyhow::Result<()> {
    let pid = rustix::process::Pid::from_raw(pid).context("a process")?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
}

/// The child of nspawn that is process 1 of a namespace of its own.
fn find_leader(supervisor: u32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).ok()?;
    children.split_whitespace().find_map(|child| {
        let status = fs::read_to_string(format!("/proc/{child}/status")).ok()?;
        let ids: Vec<&str> = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().collect();
        (ids.len() > 1 && ids.last() == Some(&"1")).then(|| child.parse().ok())?
    })
}

/// Empty ones only: rmdir(2) of a cgroup takes no process with it.
fn remove_cgroups(name: &str) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let hierarchies = table.lines().filter(|line| line.contains(" - cgroup ") || line.contains(" - cgroup2 "));
    for hierarchy in hierarchies.filter_map(|line| line.split(' ').nth(4)) {
        remove_folders(&Path::new(hierarchy).join(name));
    }
}

fn remove_folders(folder: &Path) {
    for inner in fs::read_dir(folder).into_iter().flatten().flatten() {
        if inner.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_folders(&inner.path());
        }
    }
    let _ = fs::remove_dir(folder);
}
