//! What boots and can be asked: a container or a virtual machine.

use crate::support::{tool, wait_until};
use anyhow::Context as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A Debian with systemd as process 1 and no network but loopback.
pub trait Machine: Sized {
    /// How long something may take in it.
    const PATIENCE: Duration;

    /// How long it is left in peace between two questions.
    const PAUSE: Duration;

    /// What follows the writer's loop in tasks, whose output is each record that is on disk.
    const ACKNOWLEDGE: &str;

    /// Makes one that is not booted yet, of an image. `files` are files and folders of this host and where they are in it.
    fn prepare(image: &str, files: &[(PathBuf, &str)]) -> anyhow::Result<Self>;

    /// Boots until systemd answers.
    fn boot(&mut self) -> anyhow::Result<()>;

    /// Ends it at once, without a word to anything in it.
    fn cut_power(&mut self) -> anyhow::Result<()>;

    /// Writes a file of its root file system, before or after it was booted.
    fn write(&self, inside: &str, text: &str) -> anyhow::Result<()>;

    /// Runs a script as root and gives what it wrote; fails where it fails.
    fn run(&self, script: &str) -> anyhow::Result<String>;

    /// The end of what it has said of this boot.
    fn journal_tail(&self) -> String;

    /// Its name and its beginning.
    fn begun(&self) -> (&str, Instant);

    /// Says in the test's output how far it is, and since when.
    fn note(&self, what: &str) {
        let (name, begun) = self.begun();
        println!("{name} {:6.1} s  {what}", begun.elapsed().as_secs_f32());
    }

    /// Whether a script ends with 0.
    fn holds(&self, script: &str) -> bool {
        self.run(script).is_ok()
    }

    /// Waits until a script ends with 0; where it does not, the error has the machine's journal.
    fn wait_for(&self, what: &str, script: &str) -> anyhow::Result<()> {
        self.wait(what, || Ok(self.holds(script).then_some(())))
    }

    /// Waits for something in the machine; where it does not come, the error has the machine's journal.
    fn wait<T>(&self, what: &str, mut condition: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
        let came = wait_until(what, Self::PATIENCE, &[], || {
            let found = condition()?;
            if found.is_none() {
                std::thread::sleep(Self::PAUSE);
            }
            Ok(found)
        });
        self.note(what);
        came.map_err(|error| error.context(format!("the machine's journal ends with\n{}", self.journal_tail())))
    }

    /// The mounts that its process 1 sees: id and mount point.
    fn mounts(&self) -> anyhow::Result<Vec<(u64, String)>> {
        let table = self.run("cat /proc/1/mountinfo")?;
        let words = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        words.map(|words| Ok((words[0].parse()?, words[4].to_owned()))).collect()
    }
}

/// What scripts in a machine find their programs by.
pub const PROGRAMS: &str = "/opt/nomad:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What shows a boot's journal where something has failed.
pub const JOURNAL_TAIL: &str = "journalctl -b --no-pager -o short-monotonic | grep -v ' weed\\[' | tail -n 120";

/// The Debian of most machines.
pub const DEBIAN: &str = "machine";

/// One with the programs of an NFS client and server.
pub const DEBIAN_WITH_NFS: &str = "machine-nfs";

/// Unpacks a Debian that `make tools` has made.
pub fn unpack(image: &str, root: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(root)?;
    let tar = tool("weed").context("make tools")?.with_file_name(format!("../{image}.tar"));
    succeed(Command::new("tar").arg("-xpf").arg(tar).arg("-C").arg(root).arg("--numeric-owner"))?;
    // At shutdown systemd waits this long for Nomad's tasks, which do not hear its SIGTERM.
    write(root, "/etc/systemd/system.conf.d/tests.conf", "[Manager]\nDefaultTimeoutStopSec=3s\n")?;
    // What a test asks of the journal after a reboot is there.
    Ok(fs::create_dir_all(root.join("var/log/journal"))?)
}

/// Writes a file below a machine's root.
pub fn write(root: &Path, inside: &str, text: &str) -> anyhow::Result<()> {
    let path = root.join(inside.trim_start_matches('/'));
    fs::create_dir_all(path.parent().context("a folder")?)?;
    fs::write(&path, text).with_context(|| path.display().to_string())
}

/// Writes a program below a machine's root.
pub fn write_program(root: &Path, inside: &str, text: &str) -> anyhow::Result<()> {
    write(root, inside, text)?;
    succeed(Command::new("chmod").arg("0755").arg(root.join(inside.trim_start_matches('/')))).map(drop)
}

/// Runs a command of this host and gives what it wrote; fails where it fails.
pub fn succeed(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(
        output.status.success(),
        "{:?}: {}\n{said}{}",
        command.get_program(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}
