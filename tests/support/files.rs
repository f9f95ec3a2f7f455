//! What tests look at on disk and in the mount table.

use anyhow::Context as _;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The SHA-256 of every file below `directory` by its path relative to it; a directory or symlink is listed by its kind.
///
/// Two equal maps mean that nothing was lost, added or changed.
///
/// # Errors
/// Where `find` or `sha256sum` fails: a file that vanishes meanwhile is a failure too.
pub fn checksums(directory: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let listed =
        output(std::process::Command::new("find").arg(directory).args(["-mindepth", "1", "-printf", r"%y %P\0"]))?;
    for entry in listed.split('\0').filter(|entry| !entry.is_empty()) {
        let (kind, path) = entry.split_once(' ').context("find prints a kind and a path")?;
        let sum = match kind {
            "f" => output(std::process::Command::new("sha256sum").arg("-z").arg(directory.join(path)))?
                .chars()
                .take_while(char::is_ascii_hexdigit)
                .collect(),
            other => format!("({other})"),
        };
        found.insert(path.to_owned(), sum);
    }
    Ok(found)
}

/// The mount points below `directory` in this process's mount namespace, as `/proc/self/mountinfo` lists them.
///
/// # Errors
/// Where mountinfo cannot be read.
pub fn mounts_below(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("reading mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| {
        // mountinfo writes these four as octal (proc_pid_mountinfo(5)).
        let plain = point.replace(r"\040", " ").replace(r"\011", "\t").replace(r"\012", "\n").replace(r"\134", r"\");
        PathBuf::from(plain)
    });
    Ok(points.filter(|point| point.starts_with(directory) && point != directory).collect())
}

/// Runs a command and returns what it printed.
pub(super) fn output(command: &mut std::process::Command) -> anyhow::Result<String> {
    let done = command.output().with_context(|| format!("starting {command:?}"))?;
    anyhow::ensure!(
        done.status.success(),
        "{command:?}: {}\n{}{}",
        done.status,
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
