//! Where a volume may be: below a task's own directory, where neither Nomad nor a driver puts anything of its own.

use std::path::PathBuf;

use super::form::shorten;
use super::{Destination, Refusal};

/// The longest destination, and the longest component of one (that of every Linux file system), in bytes.
const LONGEST: usize = 1024;
const LONGEST_COMPONENT: usize = 255;

/// First components that Nomad makes in a task's directory itself.
const OF_NOMAD: [&str; 4] = ["alloc", "secrets", "private", "tmp"];

/// First components that the chroot of the `exec` and `java` drivers fills.
const OF_CHROOT: [&str; 13] =
    ["bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "sys", "usr"];

/// Checks a destination, as it is after interpolation, of the volume with that label.
pub(super) fn check(text: &str, label: &str) -> Result<Destination, Refusal> {
    let shown = shorten(text);
    let refuse = |why: &str| Refusal::configuration(format!("the destination {shown:?} of volume {label:?} {why}"));
    let instead = |below: &str| {
        format!("write local/{below}; docker can show it elsewhere by volumes = [\"local/{below}:/data\"]")
    };
    if text.is_empty() {
        return Err(refuse("is empty").hint(instead(label)));
    }
    if text.len() > LONGEST {
        return Err(refuse(&format!("is longer than {LONGEST} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(refuse("holds a control character"));
    }
    if let Some(inside) = text.strip_prefix('/') {
        let last = inside.rsplit('/').find(|component| !matches!(*component, "" | "." | ".."));
        let last = shorten(last.unwrap_or(label));
        let target = if is_plain(inside) { shown.as_str() } else { "/data" };
        return Err(refuse("is absolute, and has to be below the task's directory").hint(format!(
            "write local/{last}; docker can show it elsewhere by volumes = [\"local/{last}:{target}\"]"
        )));
    }
    let components: Vec<&str> = text.split('/').collect();
    for component in &components {
        match *component {
            "" => {
                return Err(refuse("has an empty component").hint("write one / between components and none at the end"));
            }
            "." => return Err(refuse("has a component \".\"").hint("leave it out")),
            ".." => {
                return Err(
                    refuse("has a component \"..\", and may not leave the task's directory").hint(instead(label))
                );
            }
            long if long.len() > LONGEST_COMPONENT => {
                return Err(refuse(&format!("has a component of more than {LONGEST_COMPONENT} bytes")));
            }
            _ => {}
        }
    }
    let first = components.first().copied().unwrap_or_default();
    if components.len() == 1 && first == "local" {
        return Err(refuse("is the directory that Nomad makes for the task").hint(instead(label)));
    }
    if OF_NOMAD.contains(&first) {
        return Err(refuse(&format!("is in {first}/, which belongs to Nomad")).hint(instead(label)));
    }
    if OF_CHROOT.contains(&first) || first.ends_with("executor.out") {
        let why = format!("is in {first}, which belongs to the task's driver");
        return Err(refuse(&why).hint(instead(label)));
    }
    Ok(Destination(PathBuf::from(text)))
}

fn is_plain(text: &str) -> bool {
    text.split('/').all(|component| !matches!(component, "" | "." | ".."))
}

/// Whether Nomad moves this destination with a sticky or migrating disk: it takes `local/` of every task along.
pub(super) fn is_moved_with_disk(destination: &Destination) -> bool {
    destination.as_path().starts_with("local")
}
