//! What volumes with a `format` need: programs that make, check and grow file systems, and loop devices.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::path::Path;

use crate::backend::program::find_executable;
use crate::check::Check;
use crate::config::Config;

/// Where the programs are looked for; the image volumes' own list.
const DIRECTORIES: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];

/// Looks at all of it, where a registered volume has a format.
pub(super) fn look(config: &Config) -> Vec<Check> {
    let formats: BTreeSet<&str> =
        config.volumes.values().filter_map(|volume| volume.format).map(|format| format.name()).collect();
    if formats.is_empty() {
        return Vec::new();
    }
    let mut checks = vec![loop_control(Path::new("/dev/loop-control"))];
    for format in formats {
        let missing = needed(format).iter().filter(|(program, _)| !is_there(program)).collect::<Vec<_>>();
        let names: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
        let packages: BTreeSet<&str> = missing.iter().map(|(_, package)| *package).collect();
        checks.push(if missing.is_empty() {
            Check::ok("images", format!("the programs of {format} are there"))
        } else {
            let install = format!("apt install {}", packages.into_iter().collect::<Vec<_>>().join(" "));
            Check::unavailable("images", format!("{format} needs {}, not installed", names.join(", ")), install)
        });
    }
    checks
}

/// The programs of a format, each with Debian's package of it.
fn needed(format: &str) -> &'static [(&'static str, &'static str)] {
    match format {
        "xfs" => &[("blkid", "util-linux"), ("mkfs.xfs", "xfsprogs"), ("xfs_growfs", "xfsprogs")],
        _ => {
            &[("blkid", "util-linux"), ("mkfs.ext4", "e2fsprogs"), ("e2fsck", "e2fsprogs"), ("resize2fs", "e2fsprogs")]
        }
    }
}

fn is_there(program: &str) -> bool {
    let places: Vec<String> = DIRECTORIES.iter().map(|directory| format!("{directory}/{program}")).collect();
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    find_executable(None, program, &places).is_ok()
}

fn loop_control(device: &Path) -> Check {
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Check::ok("loop devices", "can be made"),
        Err(error) => {
            let detail = format!("{} cannot be opened: {error}", device.display());
            Check::unavailable("loop devices", detail, "modprobe loop")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_or_program_is_found() {
        assert!(loop_control(Path::new("/dev/no-such-device")).is_problem());
        assert!(!is_there("no-such-program") && is_there("sh"));
        assert_ne!(needed("ext4"), needed("xfs"));
    }
}
