//! A task in small: a source with a mount program that can die, a binding in an allocation's directory, and containers
//! that hold clones of it, as Docker makes them: a root of their own, and no /proc.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use nix::sys::signal::Signal;
use saddlebag::guard::GuardClient;
use saddlebag::nomad::model::AllocId;
use saddlebag::reconcile::binding::Binding;
use saddlebag::reconcile::execute::Host;
use saddlebag::reconcile::execute::inside::{Cache, Found, InsideError, Place, SwapBy, mend_inside_by};
use saddlebag::sys::mount::{self, Flags};
use saddlebag::sys::{process, resolve, table};

use crate::scene::{signal, stop, wait_until};

pub const ALLOC: &str = "0b4e1d6e-0000-4000-8000-00000000000a";

/// A container's way to its clones: the task's own directory, the volume elsewhere, read-only, and a directory of it.
const CONTAINER: &str = r#"
root=$1 local=$2 name=$3
mount -t tmpfs container "$root"
for made in bin dev local data ro sub file tmp old; do mkdir "$root/$made"; done
# Without it a shell starts nothing in the background.
mknod "$root/dev/null" c 1 3
cp /bin/busybox "$root/bin/"
mount --rbind "$local" "$root/local"
if mountpoint -q "$local/x"; then
    mount --bind "$local/x" "$root/data"
    mount --bind "$local/x" "$root/ro"
    mount -o remount,bind,ro "$root/ro"
    mount --bind "$local/x/sub" "$root/sub"
fi
cd "$root"
/bin/busybox pivot_root . old
/bin/busybox mount --make-rslave /old
/bin/busybox umount -l /old
exec /bin/busybox sh
"#;

pub struct Source {
    program: Option<Child>,
    point: PathBuf,
    volume: PathBuf,
}

impl Source {
    fn start(directory: &Path) -> Self {
        let (point, volume) = (directory.join("source"), directory.join("volume"));
        std::fs::create_dir_all(volume.join("vol/sub")).unwrap();
        std::fs::create_dir(&point).unwrap();
        std::fs::write(volume.join("vol/one"), "acknowledged").unwrap();
        std::fs::write(volume.join("vol/sub/two"), "acknowledged").unwrap();
        let mut source = Self { program: None, point, volume };
        source.start_program();
        source
    }

    fn start_program(&mut self) {
        let program = Command::new("bindfs")
            .args(["-f", "-o", "attr_timeout=0,entry_timeout=0"])
            .args([&self.volume, &self.point])
            .spawn()
            .expect("bindfs is installed");
        self.program = Some(program);
        wait_until("the FUSE mount", || self.point.join("vol/one").exists());
    }

    pub fn point(&self) -> &Path {
        &self.point
    }

    pub fn signal(&self, which: Signal) {
        signal(self.program.as_ref().unwrap().id(), which);
    }

    /// Has its program hang.
    pub fn stop(&self) {
        stop(self.program.as_ref().unwrap().id());
    }

    fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.program.take().unwrap().wait().unwrap();
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if self.program.is_some() {
            self.signal(Signal::SIGCONT);
            self.kill();
        }
        let _ = nix::mount::umount2(&self.point, nix::mount::MntFlags::MNT_DETACH);
    }
}

pub struct Task {
    pub source: Source,
    pub host: Host,
    pub alloc: AllocId,
    pub binding: Binding,
    pub cache: Arc<Cache>,
    pub directory: tempfile::TempDir,
}

impl Task {
    /// With the volume bound at `local/x`.
    pub fn bound() -> Self {
        let task = Self::unbound();
        task.bind();
        task
    }

    pub fn unbound() -> Self {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let source = Source::start(directory.path());
        let alloc_root = directory.path().join("alloc");
        std::fs::create_dir_all(alloc_root.join(ALLOC).join("web/local/x")).unwrap();
        let host = Host {
            alloc_root,
            links: directory.path().join("links"),
            guard: GuardClient::of_run_dir(&directory.path().join("run")),
        };
        let binding = serde_json::json!({
            "task": "web", "destination": "local/x", "label": "x", "source": "test", "placement": "mount",
            "read_only": false, "on_failure": "reattach",
            "volume": { "name": "x", "backend": "test", "path": "vol", "read_only": false, "create": false,
                "owner": null, "mode": null, "nosuid": true, "nodev": true, "noexec": false },
        });
        let binding = serde_json::from_value(binding).unwrap();
        let alloc = AllocId::parse(ALLOC).unwrap();
        Self { source, host, alloc, binding, cache: Arc::default(), directory }
    }

    pub fn local(&self) -> PathBuf {
        self.host.alloc_root.join(ALLOC).join("web/local")
    }

    /// What the agent does for a binding on the host.
    pub fn bind(&self) {
        self.bind_at("x");
    }

    pub fn bind_at(&self, place: &str) {
        let volume = resolve::open_root(&self.source.point.join("vol")).unwrap();
        let clone = mount::clone_detached(volume.as_fd()).unwrap();
        mount::set_flags(clone.as_fd(), Flags { nosuid: true, nodev: true, ..Flags::default() }).unwrap();
        let directory = resolve::open_root(&self.local().join(place)).unwrap();
        mount::place(clone.as_fd(), directory.as_fd()).unwrap();
    }

    pub fn unbind(&self) {
        self.unbind_at("x");
    }

    pub fn unbind_at(&self, place: &str) {
        nix::mount::umount2(&self.local().join(place), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }

    /// Kills the mount program, and mends all on the host.
    pub fn renew(&mut self) {
        self.source.kill();
        self.unbind();
        nix::mount::umount2(&self.source.point, nix::mount::MntFlags::MNT_DETACH).unwrap();
        self.source.start_program();
        self.bind();
    }

    pub fn try_mend(&self, by: SwapBy, seen: &[Place]) -> Result<Found, InsideError> {
        mend_inside_by(by, &self.host, &self.alloc, &self.binding, seen, &[], &self.cache.ask())
    }

    /// Mends beside other sources, which are on these devices.
    pub fn try_mend_beside(&self, devices: &[(u32, u32)]) -> Result<Found, InsideError> {
        let by = SwapBy::Beneath;
        mend_inside_by(by, &self.host, &self.alloc, &self.binding, &[], devices, &self.cache.ask())
    }

    /// Mends; nothing may fail.
    pub fn mend(&self, seen: &[Place]) -> Found {
        let found = self.try_mend(SwapBy::Beneath, seen).unwrap();
        assert!(found.failures.is_empty(), "{:?}", found.failures);
        found
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.local().join("x"), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// A container; its shell lives as long as this.
pub struct Container {
    pid: i32,
    shell: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Container {
    pub fn start(task: &Task) -> Self {
        Self::start_with("private", task)
    }

    /// With this propagation of all that the host has.
    pub fn start_with(propagation: &str, task: &Task) -> Self {
        let root = tempfile::tempdir_in(task.directory.path()).unwrap().keep();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", propagation, "sh", "-ec", CONTAINER, "container"]);
        command.arg(&root).arg(task.local());
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (shell.stdin.take(), BufReader::new(shell.stdout.take().unwrap()));
        let pid = i32::try_from(shell.id()).unwrap();
        let mut container = Self { pid, shell, input, output };
        container.sh("true");
        container
    }

    /// In a user namespace of its own, where its shell may do what root may: below `folder` the task's directory is at
    /// `local`, and the volume read-only at `ro`.
    pub fn start_in_user_namespace(task: &Task, folder: &Path) -> Self {
        let script = "cd \"$1\"; mkdir local ro; mount --rbind \"$2\" local; mount --bind local/x ro; \
                      mount -o remount,bind,ro,nosuid,nodev ro; exec /bin/busybox sh";
        let mut command = Command::new("unshare");
        command.args([
            "--user",
            "--map-root-user",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-ec",
            script,
            "container",
        ]);
        command.arg(folder).arg(task.local());
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (shell.stdin.take(), BufReader::new(shell.stdout.take().unwrap()));
        let pid = i32::try_from(shell.id()).unwrap();
        let mut container = Self { pid, shell, input, output };
        container.sh("true");
        container
    }

    /// By the runtime that Docker uses, with the same mounts.
    pub fn start_by_runc(task: &Task) -> Self {
        let bundle = tempfile::tempdir_in(task.directory.path()).unwrap().keep();
        for made in ["bin", "proc", "local", "data", "ro", "sub"] {
            std::fs::create_dir_all(bundle.join("rootfs").join(made)).unwrap();
        }
        std::fs::copy("/bin/busybox", bundle.join("rootfs/bin/busybox")).unwrap();
        let bind = |at: &str, source: PathBuf, flags: &[&str]| {
            let options: Vec<&str> = ["rbind", "rprivate"].iter().chain(flags).copied().collect();
            serde_json::json!({ "destination": at, "type": "bind", "source": source, "options": options })
        };
        let volume = task.local().join("x");
        let configuration = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": { "user": { "uid": 0, "gid": 0 }, "args": ["/bin/busybox", "sh"], "cwd": "/", "env": [] },
            "root": { "path": "rootfs" },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                bind("/local", task.local(), &[]), bind("/data", volume.clone(), &[]),
                bind("/ro", volume.clone(), &["ro"]), bind("/sub", volume.join("sub"), &[]),
            ],
            "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }] },
        });
        std::fs::write(bundle.join("config.json"), configuration.to_string()).unwrap();
        let pid_file = bundle.join("pid");
        let name = bundle.file_name().unwrap().to_str().unwrap().replace('.', "t");
        let mut command = Command::new("/usr/sbin/runc");
        command.arg("--root").arg(task.directory.path().join("runc")).arg("run").arg("--bundle").arg(&bundle);
        command.arg("--pid-file").arg(&pid_file).arg(name).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.spawn().expect("runc is installed");
        let (input, output) = (shell.stdin.take(), BufReader::new(shell.stdout.take().unwrap()));
        let mut container = Self { pid: 0, shell, input, output };
        container.sh("true");
        // Written after the shell has begun.
        wait_until("the container's pid", || {
            container.pid = std::fs::read_to_string(&pid_file).ok().and_then(|pid| pid.parse().ok()).unwrap_or(0);
            container.pid > 0
        });
        container
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub fn namespace(&self) -> u64 {
        process::mount_namespace(self.pid()).unwrap()
    }

    /// Runs a line in the container's one shell, which lives on; its exit code and what it said.
    pub fn run(&mut self, line: &str) -> (i32, String) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{{ {line}\n}} 2>&1; /bin/busybox echo \"<<$?>>\"").unwrap();
        let mut said = String::new();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the container's shell has ended: {said}");
            if let Some((before, code)) = line.split_once("<<") {
                said.push_str(before);
                return (code.trim_end().trim_end_matches(">>").parse().unwrap(), said);
            }
            said.push_str(&line);
        }
    }

    /// Executes a shell below another root in place of this one.
    pub fn change_root(&mut self, root: &str) {
        writeln!(self.input.as_mut().unwrap(), "exec /bin/busybox chroot {root} /bin/busybox sh").unwrap();
        // The old shell would swallow what is said to the new one.
        let link = format!("/proc/{}/root", self.pid());
        wait_until("the other root", || std::fs::read_link(&link).is_ok_and(|found| found == Path::new(root)));
        self.sh("true");
    }

    /// A line that must succeed.
    pub fn sh(&mut self, line: &str) -> String {
        let (code, said) = self.run(&line.replace('!', "/bin/busybox "));
        assert_eq!(code, 0, "{line}: {said}");
        said
    }

    /// Whether a line succeeds.
    pub fn can(&mut self, line: &str) -> bool {
        self.run(&line.replace('!', "/bin/busybox ")).0 == 0
    }

    pub fn table(&self) -> Vec<table::Entry> {
        table::read_of(self.pid()).unwrap()
    }

    /// How many mounts there are at a path, hidden ones too.
    pub fn mounts_at(&self, path: &str) -> usize {
        self.table().iter().filter(|entry| entry.mount_point == Path::new(path)).count()
    }

    pub fn end(&mut self) {
        drop(self.input.take());
        self.shell.wait().unwrap();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // A runtime cleans up after a shell that ends by itself.
        drop(self.input.take());
        if self.pid == i32::try_from(self.shell.id()).unwrap() {
            let _ = self.shell.kill();
        }
        let _ = self.shell.wait();
    }
}
