//! The options that may be said, held against the program that takes them.

use crate::support::{require, tool};
use anyhow::Context as _;
use saddlebag::config::seaweedfs::{Form, MOUNT_OPTIONS};
use std::collections::BTreeMap;
use std::process::Command;

/// The flags of `weed mount` that nobody can say, and why.
const NOT_SAID: [&str; 27] = [
    // saddlebag's own: where it is mounted, and how.
    "allowOthers",
    "autofs",
    "cacheCapacityMB",
    "cacheDir",
    "collection",
    "defaultPermissions",
    "dir",
    "dirAutoCreate",
    "filer",
    "filer.path",
    "localSocket",
    "memoryLimitMB",
    "nonempty",
    "options",
    "readOnly",
    "replication",
    "volumeName",
    // For who develops weed.
    "cpuprofile",
    "debug",
    "debug.fuse",
    "debug.port",
    "memprofile",
    // Of other systems.
    "sys.novncache",
    "windows.gid",
    "windows.uid",
    // Of Go's own, and of every command.
    "h",
    "help",
];

#[test]
fn every_option_of_weed_mount_may_be_said_or_is_named_as_one_that_cannot() -> anyhow::Result<()> {
    require!("weed");
    let help = Command::new(tool("weed").context("no weed")?).args(["mount", "-h"]).output()?;
    let help = [help.stdout, help.stderr].concat();
    let help = String::from_utf8_lossy(&help);
    // `  -name type`, or `  -name` of what is true or false.
    let usage = help.split("Description:").next().unwrap_or_default();
    let flags: BTreeMap<&str, &str> = usage
        .lines()
        .filter_map(|line| line.strip_prefix("  -"))
        .map(|line| line.trim().split_once(' ').unwrap_or((line.trim(), "")))
        .collect();
    assert!(flags.len() > 40, "{help}");
    for option in &MOUNT_OPTIONS {
        let kind = flags.get(option.flag).with_context(|| format!("weed mount has no -{}", option.flag))?;
        let expected = match option.form {
            Form::Bool => "",
            Form::Count(..) | Form::MiB(_) | Form::Seconds(..) => "int",
            Form::Duration(_) => "duration",
            _ => "string",
        };
        assert_eq!(*kind, expected, "-{}", option.flag);
    }
    let unknown: Vec<_> = flags
        .keys()
        .filter(|flag| !NOT_SAID.contains(flag) && MOUNT_OPTIONS.iter().all(|option| option.flag != **flag))
        .collect();
    assert!(unknown.is_empty(), "this weed has options of which nothing is known: {unknown:?}");
    Ok(())
}

#[test]
fn every_option_is_documented_with_its_flag() {
    let page = include_str!("../../docs/backends/seaweedfs.md");
    for option in &MOUNT_OPTIONS {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{}` |", option.key)));
        let row = row.unwrap_or_else(|| panic!("docs/backends/seaweedfs.md does not have {}", option.key));
        assert!(row.contains(&format!("`-{}`", option.flag)), "{row}");
    }
}
