//! The units of `systemd/` as systemd itself reads them.
#![allow(clippy::expect_used)] // helpers of tests, which clippy.toml does not count as tests

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const UNITS: [&str; 5] = [
    "saddlebag-guard.service",
    "saddlebag.service",
    "seaweedfs-master.service",
    "seaweedfs-volume.service",
    "seaweedfs-filer.service",
];

/// The first systemd that knows `FileDescriptorStorePreserve=`; older ones say that they ignore it.
const KNOWS_PRESERVE: u32 = 254;

fn systemd() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn unit(name: &str) -> String {
    fs::read_to_string(systemd().join(name)).expect("the unit")
}

/// The version of systemd-analyze, or the word that this cannot be tested here.
fn systemd_version() -> Option<u32> {
    let asked = Command::new("systemd-analyze").arg("--version").output();
    let version = asked.ok().and_then(|output| {
        let said = String::from_utf8(output.stdout).ok()?;
        said.split_whitespace().nth(1)?.split('.').next()?.parse().ok()
    });
    if version.is_none() {
        let required = std::env::var_os("REQUIRE_ALL").is_some_and(|value| value == "1");
        assert!(!required, "systemd-analyze is missing and REQUIRE_ALL=1");
        println!("SKIPPED units are not verified: systemd-analyze is missing (Debian: apt install systemd)");
    }
    version
}

/// What `systemd-analyze verify` says of our units in a folder of the test's own, where the programs that they start
/// exist and a nomad.service as a package would install it is beside them.
fn verify(change: impl Fn(String) -> String) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    for name in UNITS {
        let text = change(unit(name)).replace("/usr/bin/saddlebag ", "/bin/true ");
        fs::write(folder.path().join(name), text.replace("/usr/local/bin/weed ", "/bin/true ")).expect("written");
    }
    fs::write(folder.path().join("nomad.service"), "[Service]\nExecStart=/bin/true\n").expect("written");
    let drop_in = folder.path().join("nomad.service.d");
    fs::create_dir(&drop_in).expect("a folder");
    let text = change(unit("nomad.service.d/saddlebag.conf"));
    fs::write(drop_in.join("saddlebag.conf"), text).expect("written");

    let path = |name: &str| folder.path().join(name);
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(UNITS.iter().chain(&["nomad.service"]).map(|name| path(name)))
        .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
        .env("SYSTEMD_LOG_LEVEL", "notice")
        .output()
        .expect("systemd-analyze runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // It also reads the machine's own units and may find fault with those.
    let is_ours = |line: &&str| {
        line.contains(&*folder.path().to_string_lossy())
            || UNITS.iter().any(|name| line.contains(name))
            || line.contains("nomad.service")
    };
    said.lines().filter(is_ours).map(str::to_owned).collect()
}

#[test]
fn systemd_finds_no_fault_with_the_units() {
    let Some(version) = systemd_version() else { return };
    let mut faults = verify(|text| text);
    if version < KNOWS_PRESERVE {
        let before = faults.len();
        faults.retain(|line| !line.contains("'FileDescriptorStorePreserve'"));
        assert_eq!(before - faults.len(), 1, "an old systemd says once that it ignores it");
    }
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn a_fault_in_any_of_the_files_would_be_found() {
    if systemd_version().is_none() {
        return;
    }
    let faults = verify(|text| text.replacen("[Unit]", "[Unit]\nNoSuchKey=yes", 1));
    for name in UNITS.iter().chain(&["saddlebag.conf"]) {
        let is_found = faults.iter().any(|line| line.contains(name) && line.contains("'NoSuchKey'"));
        assert!(is_found, "{name}: {faults:?}");
    }
}

/// The value of a key, from its one line.
fn setting<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

#[test]
fn nothing_hides_mounts_from_nomad() {
    // What gives a unit a mount namespace of its own (systemd.exec(5)).
    let hiding = [
        "PrivateMounts",
        "PrivateTmp",
        "PrivateDevices",
        "PrivateUsers",
        "PrivateNetwork",
        "PrivateIPC",
        "ProtectSystem",
        "ProtectHome",
        "ProtectProc",
        "ProcSubset",
        "ProtectHostname",
        "ProtectControlGroups",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ReadWritePaths",
        "ReadOnlyPaths",
        "InaccessiblePaths",
        "ExecPaths",
        "NoExecPaths",
        "TemporaryFileSystem",
        "BindPaths",
        "BindReadOnlyPaths",
        "RootDirectory",
        "RootImage",
        "MountFlags",
        "MountImages",
        "ExtensionImages",
        "ExtensionDirectories",
        "MountAPIVFS",
        "LogNamespace",
        "DynamicUser",
    ];
    for name in ["saddlebag.service", "saddlebag-guard.service"] {
        let text = unit(name);
        for key in hiding {
            assert_eq!(setting(&text, key), None, "{name}: {key}");
        }
    }
}

#[test]
fn what_must_live_is_spared_and_nomad_comes_last() {
    for name in ["saddlebag.service", "saddlebag-guard.service"] {
        let text = unit(name);
        for (key, value) in [
            ("Type", "notify"),
            ("KillMode", "process"),
            ("Restart", "always"),
            ("StartLimitIntervalSec", "0"),
            ("Before", "nomad.service"),
            ("RuntimeDirectory", "saddlebag"),
            ("RuntimeDirectoryPreserve", "yes"),
            ("NoNewPrivileges", "yes"),
        ] {
            assert_eq!(setting(&text, key), Some(value), "{name}: {key}");
        }
        // Either would end the one with the other.
        for key in ["Requires", "BindsTo", "PartOf", "StopWhenUnneeded"] {
            assert_eq!(setting(&text, key), None, "{name}: {key}");
        }
    }
    let guard = unit("saddlebag-guard.service");
    assert_eq!(setting(&guard, "FileDescriptorStorePreserve"), Some("yes"));
    assert_eq!(setting(&guard, "FileDescriptorStoreMax"), Some("1024"));
    assert_eq!(setting(&guard, "OOMScoreAdjust"), Some("-1000"));
}

#[test]
fn the_units_start_the_program_with_words_that_it_knows() {
    for name in ["saddlebag.service", "saddlebag-guard.service"] {
        let text = unit(name);
        let command = setting(&text, "ExecStart").expect("a command");
        let args = command.strip_prefix("/usr/bin/saddlebag ").expect("our program").split(' ');
        let help = Command::new(env!("CARGO_BIN_EXE_saddlebag")).args(args).arg("--help").output().expect("it runs");
        assert!(help.status.success(), "{name}: {}", String::from_utf8_lossy(&help.stderr));
    }
}
