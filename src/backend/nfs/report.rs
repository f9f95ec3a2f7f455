//! What `mount.nfs` says when it does not mount, in words that say what to do. Pure.

use crate::config::nfs::{NfsBackend, NfsVersion, Security};

/// Why there is no mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cause {
    /// One sentence, without a dot.
    pub reason: String,
    /// What to do.
    pub hint: String,
    /// Whether it may pass with nobody's help.
    pub passes: bool,
}

/// Explains the lines that a run of `mount.nfs` has written. The strings are those of nfs-utils (utils/mount/error.c).
pub(super) fn explain(settings: &NfsBackend, lines: &[String]) -> Cause {
    let said: Vec<&str> = lines.iter().map(String::as_str).filter(|line| line.contains("mount.nfs")).collect();
    let says = |words: &str| said.iter().any(|line| line.to_lowercase().contains(words));
    let (server, export) = (&settings.server, &settings.export);
    let cause = |reason: String, hint: String, passes: bool| Cause { reason, hint, passes };
    if says("rpc.statd is not running") {
        return cause(
            "rpc.statd is not running, and locks of NFS 3 need it".into(),
            "start it (`systemctl start rpc-statd`), or write lock = false if one node at a time uses the export"
                .into(),
            true,
        );
    }
    if says("access denied by server") || says("permission denied") {
        let is_kerberos = settings.sec != Security::Sys;
        return cause(
            format!("server {server} does not let this client mount {export}"),
            if is_kerberos {
                "check the export's sec= and client list (`exportfs -v` there), and this host's keytab (`klist -k`)"
                    .into()
            } else {
                "check that the server exports it to this client's address (`exportfs -v` there)".into()
            },
            // A server that has just started may not have its exports yet.
            true,
        );
    }
    if says("no such file or directory") || says("no such device") && says("reason given by server") {
        return cause(
            format!("server {server} has no export {export}"),
            "check its path on the server (`exportfs -v` there)".into(),
            true,
        );
    }
    if says("not a directory") {
        return cause(format!("{export} on server {server} is not a directory"), "export a directory".into(), false);
    }
    if says("protocol not supported") || says("requested nfs version or transport protocol is not supported") {
        return cause(
            format!(
                "server {server} does not serve NFS {} over {}",
                settings.version.as_str(),
                settings.proto.as_str()
            ),
            match settings.version {
                NfsVersion::V4 => "the server may have NFS 3 only: write version = \"3\"".into(),
                _ => "leave `version` out for the highest of NFS 4 that the server has, or enable it there".to_owned(),
            },
            false,
        );
    }
    if says("incorrect mount option") {
        return cause(
            "the kernel does not take these options".into(),
            "this kernel may be too old for one of them, or lack the module of NFS or of its security".into(),
            false,
        );
    }
    if says("unknown filesystem type") || says("no such device") {
        return cause(
            "this kernel has no NFS client".into(),
            "load its module (`modprobe nfs`), or install a kernel that has it".into(),
            false,
        );
    }
    if says("connection refused") {
        return cause(format!("server {server} refuses connections"), "check that its NFS server runs".into(), true);
    }
    if says("timed out") || says("no route to host") || says("unreachable") {
        return cause(format!("server {server} cannot be reached"), "check the network between".into(), true);
    }
    if says("failed to resolve") || says("resource temporarily unavailable") {
        return cause(
            format!("the name {server} cannot be resolved"),
            "check the name, and this host's DNS".into(),
            true,
        );
    }
    if says("stale file handle") {
        return cause(
            format!("server {server} does not know its own export {export} any more"),
            "export it anew there (`exportfs -ra`)".into(),
            true,
        );
    }
    let last = said.last().or(lines.last().map(String::as_str).as_ref()).copied().unwrap_or_default();
    let last = last.trim_start_matches("mount.nfs: ");
    cause(
        if last.is_empty() { "mount.nfs ended without a word".into() } else { format!("mount.nfs says: {last}") },
        "see the source's log, and the kernel's (`dmesg`)".into(),
        true,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(settings: &NfsBackend, line: &str) -> Cause {
        explain(settings, &[line.to_owned()])
    }

    #[test]
    fn what_mount_nfs_says_is_told_with_what_to_do() {
        // As nfs-utils 2.8 writes them.
        let settings = NfsBackend::new("nas", "/srv/x");
        for (line, reason, hint, passes) in [
            (
                "mount.nfs: access denied by server while mounting nas:/srv/x",
                "does not let this client mount /srv/x",
                "exportfs",
                true,
            ),
            (
                "mount.nfs: mounting nas:/srv/x failed, reason given by server: No such file or directory",
                "has no export /srv/x",
                "path",
                true,
            ),
            (
                "mount.nfs: an incorrect mount option was specified for /mnt",
                "does not take these options",
                "kernel",
                false,
            ),
            (
                "mount.nfs: requested NFS version or transport protocol is not supported for /mnt",
                "does not serve NFS 4 over tcp",
                "version = \"3\"",
                false,
            ),
            ("mount.nfs: Protocol not supported for nas:/srv/x on /mnt", "does not serve NFS 4", "version", false),
            ("mount.nfs: Connection refused for nas:/srv/x on /mnt", "refuses connections", "runs", true),
            ("mount.nfs: Connection timed out for nas:/srv/x on /mnt", "cannot be reached", "network", true),
            ("mount.nfs: No route to host for nas:/srv/x on /mnt", "cannot be reached", "network", true),
            (
                "mount.nfs: Failed to resolve server nas: Name or service not known",
                "nas cannot be resolved",
                "DNS",
                true,
            ),
            (
                "mount.nfs: rpc.statd is not running but is required for remote locking.",
                "rpc.statd is not running",
                "lock = false",
                true,
            ),
            ("mount.nfs: No such device", "no NFS client", "modprobe", false),
            ("mount.nfs: Stale file handle", "does not know its own export", "exportfs", true),
            ("mount.nfs: Input/output error", "mount.nfs says: Input/output error", "dmesg", true),
        ] {
            let found = of(&settings, line);
            assert!(found.reason.contains(reason), "{line}: {found:?}");
            assert!(found.hint.contains(hint) && found.passes == passes, "{line}: {found:?}");
        }
        assert!(explain(&settings, &[]).reason.contains("without a word"));
    }

    #[test]
    fn kerberos_points_at_the_keytab() {
        let settings = NfsBackend { sec: Security::Krb5, ..NfsBackend::new("nas", "/srv/x") };
        let found = of(&settings, "mount.nfs: access denied by server while mounting nas:/srv/x");
        assert!(found.hint.contains("keytab"), "{found:?}");
    }
}
