//! Pieces of [`super::Backend::examine`] that every kind needs: is a program there, and of which version; do servers answer.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::AttachError;
use super::program::{Running, find_executable};
use crate::check::{Check, Outcome};

/// How long a program may take to say its version.
const VERSION: Duration = Duration::from_secs(5);
/// The most that is read of it, in bytes.
const LONGEST: u64 = 4 << 10;
/// How long servers may take to answer.
pub(super) const SERVERS: Duration = Duration::from_secs(3);

/// A program that a backend starts.
pub(super) struct Needed<'a> {
    /// Its name.
    pub name: &'a str,
    /// The path that the configuration names.
    pub configured: Option<&'a Path>,
    /// Where it is looked for otherwise.
    pub places: &'a [&'a str],
    /// What it is asked its version by; nothing where it has none to tell.
    pub version: &'a [&'a str],
    /// The command that installs it.
    pub install: &'a str,
}

impl Needed<'_> {
    /// Whether it is there, and of which version.
    pub fn look(&self) -> Check {
        let path = match find_executable(self.configured, self.name, self.places) {
            Ok(path) => path,
            Err(error) => {
                let detail = error.sentence();
                return match self.configured {
                    Some(_) => {
                        Check::misconfigured(self.name, detail, format!("program = \"…\"   # or {}", self.install))
                    }
                    None => Check::unavailable(self.name, detail, self.install),
                };
            }
        };
        if !is_executable(&path) {
            let mend = format!("chmod +x {}", path.display());
            return Check::unavailable(self.name, format!("{} cannot be executed", path.display()), mend);
        }
        if self.version.is_empty() {
            return Check::ok(self.name, path.display().to_string());
        }
        match ask_version(&path, self.version) {
            Ok(said) => Check::ok(self.name, format!("{} ({})", number_in(&said), path.display())),
            Err(why) => {
                let mend = format!(
                    "{} {}   # says what is wrong with it; or {}",
                    path.display(),
                    self.version.join(" "),
                    self.install
                );
                Check::unavailable(self.name, format!("{} does not say its version: {why}", path.display()), mend)
            }
        }
    }
}

fn is_executable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// The first line that a program says of its version.
fn ask_version(path: &PathBuf, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(path);
    command.args(args).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let pid = i32::try_from(child.id()).map_err(|error| error.to_string())?;
    let running = Running::watch(pid).map_err(|error| error.to_string())?;
    // What it says fits into a pipe, so it can end before anybody reads.
    if !running.has_ended(VERSION) {
        let _ = child.kill();
        return Err(format!("nothing within {}", humantime::format_duration(VERSION)));
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    if let Some(out) = child.stdout.take() {
        let _ = out.take(LONGEST).read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    match line {
        Some(line) if status.success() => Ok(line.chars().filter(|c| !c.is_control()).take(60).collect()),
        _ => Err(status.to_string()),
    }
}

/// The version in what a program says of itself: `4.48` of `version 8000GB 4.48 …`. Else all of it.
fn number_in(said: &str) -> &str {
    let is_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    said.split([' ', '\t', '(', ')', ',']).find(is_version).unwrap_or(said)
}

/// Whether servers answer; `names` is who they are, for people, and `mend` what to do where they do not.
pub(super) fn servers(
    what: &str,
    names: &str,
    ask: impl FnOnce(Duration) -> Result<(), AttachError>,
    mend: &str,
) -> Check {
    let begun = Instant::now();
    match ask(SERVERS) {
        Ok(()) => Check::ok(what, format!("{names} answers")).taking(begun.elapsed()),
        Err(error) => Check::unavailable(what, error.sentence(), mend).taking(begun.elapsed()),
    }
}

/// Of several servers one is enough: where one answers, that another is away is worth a word and no more.
pub(super) fn one_is_enough(mut servers: Vec<Check>) -> Vec<Check> {
    if servers.iter().any(|check| !check.is_problem()) {
        for check in servers.iter_mut().filter(|check| check.is_problem()) {
            check.outcome = Outcome::Warning;
            check.fault = None;
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed<'a>(configured: &'a Path, version: &'a [&'a str]) -> Needed<'a> {
        Needed { name: "tool", configured: Some(configured), places: &[], version, install: "apt install tool" }
    }

    #[test]
    fn one_server_of_several_is_enough() {
        let (up, down) = (|| Check::ok("server", "a"), || Check::unavailable("server", "b", "c"));
        let outcomes = |checks: Vec<Check>| checks.into_iter().map(|check| check.outcome).collect::<Vec<_>>();
        assert_eq!(outcomes(one_is_enough(vec![down(), up()])), [Outcome::Warning, Outcome::Ok]);
        assert_eq!(outcomes(one_is_enough(vec![down(), down()])), [Outcome::Problem, Outcome::Problem]);
    }

    #[test]
    fn a_program_is_missing_not_executable_broken_or_of_a_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tool");
        let missing = needed(&path, &["--version"]).look();
        assert!(missing.is_problem() && missing.mend.unwrap().contains("apt install tool"));
        std::fs::write(&path, "#!/bin/sh\necho tool 1.2\n").unwrap();
        assert_eq!(needed(&path, &["--version"]).look().mend, Some(format!("chmod +x {}", path.display())));
        let shell = needed(Path::new("/bin/sh"), &["-c", "echo tool 1.2; echo more"]).look();
        assert_eq!((shell.outcome, shell.detail.as_str()), (Outcome::Ok, "1.2 (/bin/sh)"));
        assert_eq!(number_in("version 8000GB 4.48 linux amd64"), "4.48");
        assert_eq!(number_in("mount.nfs: (linux nfs-utils 2.6.2)"), "2.6.2");
        assert_eq!(number_in("who knows"), "who knows");
        let broken = needed(Path::new("/bin/sh"), &["-c", "exit 3"]).look();
        assert!(broken.is_problem() && broken.detail.contains("exit status: 3"), "{broken:?}");
    }
}
