//! A virtual machine: Debian's kernel, cgroups of version 2, and a disk that keeps only what was written to it.
//!
//! Its end is a kill of QEMU: what the guest's kernel had not yet written to its disk is gone, as with the power.

use crate::machine::{JOURNAL_TAIL, Machine, PROGRAMS, succeed, unpack, write, write_program};
use crate::support::{tail, tool, wait_until};
use anyhow::{Context as _, ensure};
use std::cell::RefCell;
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs scripts that come over a port of the machine. What goes either way ends with a zero byte: in come a number and
/// a script, out come that number, the script's status, and what it wrote to standard output and to standard error.
const ANSWER: &str = r#"#!/bin/bash
exec 3<>/dev/vport0p1
while :; do
    IFS= read -r -d '' -u 3 number && IFS= read -r -d '' -u 3 script || { sleep 0.1; continue; }
    status=0
    timeout 180 bash -euc "$script" </dev/null >/run/out 2>/run/err || status=$?
    { printf '%s\0' "$number" "$status"; tr -d '\0' </run/out; printf '\0'; tr -d '\0' </run/err; printf '\0'; } >&3
done
"#;

const ANSWERS: &str = "[Unit]\nAfter=basic.target\n
[Service]\nExecStart=/usr/local/sbin/answer\nEnvironment=LC_ALL=C.UTF-8 PATH=PROGRAMS\n";

/// Units, and what wants them where something does. A line to port 7000 of the machine is a line that the host has, whatever becomes of the
/// machine.
const UNITS: [(&str, &str, &str); 3] = [
    ("acks.socket", "[Socket]\nListenStream=127.0.0.1:7000\nAccept=yes\n", "sockets.target"),
    ("acks@.service", ACKS, ""),
    ("answer.service", ANSWERS, "multi-user.target"),
];

const ACKS: &str = "[Service]\nExecStart=/bin/cat\nStandardInput=socket\nStandardOutput=file:/dev/ttyS1\n";

/// Nothing here waits for terminals, which need udev, or works while a test does. Nothing but loopback: no NIC.
const KERNEL: &str = "console=ttyS0 rw panic=-1 systemd.getty_auto=no systemd.mask=getty@tty1.service \
    systemd.mask=e2scrub_reap.service systemd.mask=apt-daily.timer systemd.mask=apt-daily-upgrade.timer";

/// A virtual machine.
pub struct Qemu {
    name: String,
    accelerator: &'static str,
    // Ends before its folder goes.
    running: Option<Running>,
    folder: tempfile::TempDir,
    begun: Instant,
}

struct Running {
    qemu: Process,
    talk: RefCell<Talk>,
}

/// QEMU, which ends when this is dropped.
struct Process(Child);

impl Process {
    /// It has ended, or has stopped the machine for good: an accelerator that is there and does not work does both.
    fn has_failed(&mut self, log: &Path) -> anyhow::Result<bool> {
        Ok(self.0.try_wait()?.is_some() || fs::read_to_string(log)?.contains("KVM internal error"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Talk {
    stream: BufReader<UnixStream>,
    /// What has come of an answer that is not whole yet.
    heard: Vec<u8>,
    asked: u64,
}

/// What a script in the machine has come to.
struct Answer {
    status: String,
    output: String,
    errors: String,
}

impl Talk {
    fn ask(&mut self, script: &str) -> anyhow::Result<()> {
        self.asked += 1;
        Ok(write!(self.stream.get_mut(), "{}\0{script}\0", self.asked)?)
    }

    /// The answer to what was asked last, if it comes in a moment.
    fn hear(&mut self) -> anyhow::Result<Option<Answer>> {
        while self.heard.iter().filter(|byte| **byte == 0).count() < 4 {
            match self.stream.read_until(0, &mut self.heard) {
                Ok(0) => anyhow::bail!("the machine is gone"),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        let heard = std::mem::take(&mut self.heard);
        let mut words = heard.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let mut next = || words.next().context("four words");
        let (number, status, output, errors) = (next()?, next()?, next()?, next()?);
        // Or to a former one, which was not waited for to the end.
        Ok((number == self.asked.to_string()).then_some(Answer { status, output, errors }))
    }
}

impl Qemu {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What tasks have said that they have on disk: whole lines only.
    pub fn acknowledged(&self) -> anyhow::Result<Vec<String>> {
        let text = fs::read_to_string(self.path("acks"))?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        Ok(whole.lines().map(|line| line.trim_end().to_owned()).collect())
    }

    /// Copies a file or folder of this host into what is going to be the disk.
    pub fn copy(&self, from: &Path, to: &str) -> anyhow::Result<()> {
        let to = self.path("root").join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a folder")?)?;
        succeed(Command::new("cp").arg("-a").arg(from).arg(to)).map(drop)
    }

    /// Runs a script in what is going to be the disk.
    pub fn change_image(&self, script: &str) -> anyhow::Result<String> {
        let mut command = Command::new("chroot");
        command.arg(self.path("root")).args(["/bin/bash", "-euc", script]).env_clear();
        succeed(command.env("PATH", PROGRAMS).env("LC_ALL", "C.UTF-8"))
    }

    /// Makes the disk out of the files.
    fn make_disk(&self) -> anyhow::Result<()> {
        let disk = self.path("disk");
        fs::File::create(&disk)?.set_len(6 << 30)?;
        succeed(Command::new("/sbin/mkfs.ext4").args(["-q", "-d"]).arg(self.path("root")).arg(&disk))?;
        Ok(fs::remove_dir_all(self.path("root"))?)
    }

    /// Starts QEMU and waits until the machine answers; `None` where the accelerator fails.
    fn start(&self) -> anyhow::Result<Option<Running>> {
        let kernel = tool("weed").context("make tools")?.with_file_name("../kernel");
        let file = |name: &str| self.path(name).display().to_string();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", self.accelerator, "-cpu", "max"]);
        command.args(["-smp", "2", "-m", "2048", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.arg("-kernel").arg(kernel.join("vmlinuz")).arg("-initrd").arg(kernel.join("initrd"));
        command.args(["-append", KERNEL, "-serial", "chardev:console", "-serial", "chardev:acks"]);
        // A disk with a cache of its own: what the guest flushes is in the file, and nothing else has to be.
        command.arg("-drive").arg(format!("file={},format=raw,if=virtio,cache=writeback", file("disk")));
        command.arg("-chardev").arg(format!("file,id=console,append=on,path={}", file("console")));
        command.arg("-chardev").arg(format!("file,id=acks,append=on,path={}", file("acks")));
        command.arg("-chardev").arg(format!("socket,id=talk,server=on,wait=off,path={}", file("talk")));
        command.args(["-device", "virtio-serial", "-device", "virtserialport,nr=1,chardev=talk"]);
        let log = self.path("qemu");
        let errors = fs::File::create(&log)?;
        let _ = fs::remove_file(self.path("talk"));
        let mut qemu = Process(command.stdin(Stdio::null()).stdout(errors.try_clone()?).stderr(errors).spawn()?);

        let stream = wait_until("QEMU takes connections", Self::PATIENCE, std::slice::from_ref(&log), || {
            Ok(match UnixStream::connect(self.path("talk")) {
                Ok(stream) => Some(Some(stream)),
                Err(_) => qemu.has_failed(&log)?.then_some(None),
            })
        })?;
        let Some(stream) = stream else { return Ok(None) };
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut talk = Talk { stream: BufReader::new(stream), heard: Vec::new(), asked: 0 };
        let asked = talk.ask("true").is_ok();
        let answers = wait_until("the machine answers", Self::PATIENCE, &[self.path("console"), log.clone()], || {
            Ok(match talk.hear() {
                Ok(Some(_)) => Some(true),
                Ok(None) if asked => qemu.has_failed(&log)?.then_some(false),
                // The connection ends with QEMU.
                _ => Some(false),
            })
        })?;
        Ok(answers.then_some(Running { qemu, talk: RefCell::new(talk) }))
    }
}

impl Machine for Qemu {
    /// Without an accelerator everything takes ten times as long.
    const PATIENCE: Duration = Duration::from_secs(600);

    const PAUSE: Duration = Duration::from_secs(2);

    const ACKNOWLEDGE: &str = "| PATH=/bin:/opt/rootfs/bin busybox nc 127.0.0.1 7000; exit 9";

    /// The files are copied into it.
    fn prepare(image: &str, files: &[(PathBuf, &str)]) -> anyhow::Result<Self> {
        let accelerator = match std::env::var("VM_ACCELERATOR").as_deref() {
            Ok("tcg") => "tcg",
            _ if fs::File::options().read(true).write(true).open("/dev/kvm").is_ok() => "kvm",
            _ => "tcg",
        };
        let folder = tempfile::Builder::new().prefix("saddlebag-vm-").tempdir()?;
        let name = folder.path().file_name().context("a name")?.to_string_lossy().into_owned();
        let machine = Self { name, folder, accelerator, running: None, begun: Instant::now() };
        let root = machine.path("root");
        unpack(image, &root)?;
        for (from, to) in files {
            machine.copy(from, to)?;
        }
        write_program(&root, "/usr/local/sbin/answer", ANSWER)?;
        for (unit, text, target) in UNITS {
            write(&root, &format!("/etc/systemd/system/{unit}"), &text.replace("PROGRAMS", PROGRAMS))?;
            if !target.is_empty() {
                let wants = root.join(format!("etc/systemd/system/{target}.wants"));
                fs::create_dir_all(&wants)?;
                symlink(format!("../{unit}"), wants.join(unit))?;
            }
        }
        Ok(machine)
    }

    fn boot(&mut self) -> anyhow::Result<()> {
        if !self.path("disk").exists() {
            self.make_disk()?;
            self.note("the disk is made");
        }
        self.running = self.start()?;
        if self.running.is_none() && self.accelerator == "kvm" {
            self.note("KVM is here and does not work");
            self.accelerator = "tcg";
            self.running = self.start()?;
        }
        ensure!(self.running.is_some(), "QEMU has failed: {}", tail(&self.path("qemu"), 20));
        self.note(&format!("systemd answers ({})", self.accelerator));
        Ok(())
    }

    /// What the guest's kernel had not written to its disk is gone.
    fn cut_power(&mut self) -> anyhow::Result<()> {
        let mut running = self.running.take().context("the machine runs")?;
        running.qemu.0.kill()?;
        let status = running.qemu.0.wait()?;
        ensure!(status.signal() == Some(9), "QEMU ended before: {status}");
        Ok(())
    }

    fn write(&self, inside: &str, text: &str) -> anyhow::Result<()> {
        if self.running.is_none() {
            ensure!(!self.path("disk").exists(), "between two boots it is a disk");
            return write(&self.path("root"), inside, text);
        }
        let folder = Path::new(inside).parent().context("a folder")?.display();
        self.run(&format!("mkdir -p {folder}; cat >{inside} <<'THE END'\n{}\nTHE END\n", text.trim_end())).map(drop)
    }

    fn run(&self, script: &str) -> anyhow::Result<String> {
        let running = self.running.as_ref().context("the machine runs")?;
        let mut talk = running.talk.borrow_mut();
        talk.ask(script)?;
        let answer = wait_until("an answer", Self::PATIENCE, &[self.path("console")], || talk.hear())?;
        ensure!(
            answer.status == "0",
            "in the machine: {script}\nended with {}\n{}{}",
            answer.status,
            answer.output,
            answer.errors
        );
        Ok(answer.output)
    }

    fn journal_tail(&self) -> String {
        self.run(JOURNAL_TAIL).unwrap_or_else(|_| tail(&self.path("console"), 60))
    }

    fn begun(&self) -> (&str, Instant) {
        (&self.name, self.begun)
    }
}
