//! The agent and its guard, where they run: that they answer, are of one version, and see the same mounts.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use super::conduct::area_of;
use super::part::AskAgent;
use super::say::Teller;
use crate::api::types::{SourceStatus, Status};
use crate::backend::program::is_under_systemd;
use crate::check::Check;
use crate::config::Config;
use crate::guard::GuardClient;
use crate::sys::process;

/// How long the guard may take to say who it is.
const HELLO: Duration = Duration::from_secs(2);
/// What the agent's unit allows it: a descriptor for each allocation and hook.
const DESCRIPTORS: u64 = 16_384;
/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Looks at all of it.
pub(super) fn look(config: &Config, ask: AskAgent<'_>, tell: &mut Teller) {
    tell.begin("agent");
    let status = match ask() {
        Ok(status) => status,
        Err(message) => {
            let detail = format!("no agent answers: {message}");
            let mend = if is_under_systemd() {
                "systemctl enable --now saddlebag   # saddlebag agent without systemd"
            } else {
                "saddlebag agent   # by whatever starts services on this host, before Nomad"
            };
            return tell.found_timed(Check::unavailable("agent", detail, mend));
        }
    };
    tell.found_timed(of_version("agent", &status.version, status.pid, "systemctl restart saddlebag"));
    tell.begin("guard");
    guard(config, tell);
    let pids = [i32::try_from(status.pid).ok(), status.guard.pid];
    tell.begin("mounts seen");
    tell.found(namespaces(&pids.into_iter().flatten().collect::<Vec<_>>()));
    tell.begin("sockets");
    tell.found(sockets(config));
    tell.begin("descriptors");
    tell.found(descriptors(status.pid));
    tell.begin("ledger");
    tell.found(ledger(&status));
    for name in config.backends.keys() {
        tell.found(source(name, &status.sources).of(area_of(name)));
    }
}

fn of_version(name: &str, version: &str, pid: u32, mend: &str) -> Check {
    let detail = format!("{version} runs (pid {pid})");
    if version == VERSION {
        Check::ok(name, detail)
    } else {
        Check::warning(name, format!("{detail}, and this program is {VERSION}"), mend)
    }
}

fn guard(config: &Config, tell: &Teller) {
    const RESTART: &str = "systemctl restart saddlebag-guard   # costs no task anything";
    tell.found_timed(match GuardClient::of_run_dir(&config.run_dir).hello(HELLO) {
        Ok(hello) => of_version("guard", &hello.version, hello.pid, RESTART),
        Err(error) => Check::unavailable("guard", format!("it does not answer: {error}"), RESTART),
    });
}

fn namespaces(pids: &[i32]) -> Check {
    const NAME: &str = "mounts seen";
    let Ok(own) = process::own_mount_namespace() else { return Check::skipped(NAME, "the kernel does not say") };
    match pids.iter().find(|pid| process::mount_namespace(**pid).is_ok_and(|found| found != own)) {
        Some(pid) => {
            let detail =
                format!("process {pid} of saddlebag is in another mount namespace: Nomad does not see its mounts");
            let mend =
                "systemctl cat saddlebag saddlebag-guard   # remove Private…=, Protect…= and …Paths= of drop-ins";
            Check::misconfigured(NAME, detail, mend)
        }
        None => Check::ok(NAME, "agent and guard are in this host's mount namespace"),
    }
}

/// Who may connect is decided by credentials, and for root's sockets by their mode too.
fn sockets(config: &Config) -> Check {
    const NAME: &str = "sockets";
    let wanted = [
        (config.run_dir.clone(), 0o022),
        (config.guard_socket(), 0o077),
        (config.question_socket(), 0o077),
        (config.state_dir.clone(), 0o026),
        (config.sources_dir(), 0o077),
    ];
    for (path, forbidden) in &wanted {
        let Ok(of) = std::fs::symlink_metadata(path) else { continue };
        if of.mode() & forbidden != 0 || of.uid() != 0 {
            let mend = format!("chown root: {0} && chmod {1:o} {0}", path.display(), of.mode() & 0o777 & !forbidden);
            let detail = format!("{} has mode {:o} and owner {}", path.display(), of.mode() & 0o777, of.uid());
            return Check::misconfigured(NAME, detail, mend);
        }
    }
    if let Ok(of) = std::fs::symlink_metadata(config.socket())
        && of.mode() & 0o666 != 0o666
    {
        let mend = format!("chmod 666 {}   # the agent asks the kernel who connects", config.socket().display());
        return Check::warning(NAME, format!("{} is not open to all", config.socket().display()), mend);
    }
    Check::ok(NAME, "only root reaches what is root's")
}

fn descriptors(pid: u32) -> Check {
    const NAME: &str = "descriptors";
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    match open_files(&limits) {
        Some(most) if most < DESCRIPTORS => Check::warning(
            NAME,
            format!("the agent may have {most} open; it has one for each allocation and hook"),
            "systemctl edit saddlebag   # [Service] LimitNOFILE=65536",
        ),
        Some(most) => Check::ok(NAME, format!("the agent may have {most} open")),
        None => Check::ok(NAME, "no limit"),
    }
}

/// The hard limit of a `/proc/PID/limits`; none where there is no limit.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn ledger(status: &Status) -> Check {
    const NAME: &str = "ledger";
    let recovery = &status.recovery;
    if let Some(error) = &recovery.ledger_error {
        return Check::unavailable(
            NAME,
            format!("nothing new is mounted: {error}"),
            "df -h /var/lib/saddlebag; dmesg | tail",
        );
    }
    if let Some(page) = recovery.unreadable_pages.first() {
        let mend = format!("mv {} /root/   # while the agent is stopped; its mounts are adopted", page.path);
        return Check::warning(NAME, format!("{} cannot be read: {}", page.path, page.reason), mend);
    }
    if let Some(mount) = recovery.unexplained.first() {
        let detail = format!(
            "{} mounts are left alone, the first at {}: {}",
            recovery.unexplained.len(),
            mount.path,
            mount.reason
        );
        return Check::warning(NAME, detail, format!("umount {}   # if no task needs it", mount.path));
    }
    Check::ok(NAME, format!("{} volumes", status.bindings.len()))
}

/// How the agent's own mount of a backend is.
fn source(name: &str, sources: &[SourceStatus]) -> Check {
    const NAME: &str = "agent's mount";
    let Some(source) = sources.iter().find(|source| source.name == name) else {
        return Check::ok(NAME, "none now; it is made when a job needs it");
    };
    let reason = source.reason.clone().unwrap_or_default();
    match source.state.as_str() {
        "attached" => Check::ok(NAME, format!("attached, {} volumes in use", source.bindings)),
        "attaching" | "detached" => Check::ok(NAME, format!("{} now", source.state)),
        "degraded" => Check::warning(NAME, format!("degraded: {reason}"), "saddlebag status"),
        state => {
            let mend = match source.pid {
                Some(pid) => format!("kill {pid}   # only if its servers are well: the agent mounts it anew"),
                None => "journalctl -u saddlebag -n 50".to_owned(),
            };
            Check::unavailable(NAME, format!("{state}: {reason}"), mend)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Outcome;

    #[test]
    fn another_version_and_a_low_limit_are_warned_of() {
        assert_eq!(of_version("agent", VERSION, 1, "x").outcome, Outcome::Ok);
        assert_eq!(of_version("agent", "0.0.9", 1, "x").outcome, Outcome::Warning);
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files\n";
        assert_eq!(open_files(limits), Some(524_288));
        assert_eq!(open_files("Max open files            unlimited            unlimited            files"), None);
    }
}
