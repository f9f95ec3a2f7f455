//! Limits of directories, by Gluster's own quota: `gluster volume quota VOLUME limit-usage DIRECTORY BYTES`.
//!
//! Only a server of the pool takes such a command. It is given by `gluster` where this host is one, else by ssh to one, with
//! a key of its own. Gluster counts on the bricks: what is written in the seconds until a brick has heard of it may go over
//! a limit (`features.soft-timeout`, `features.hard-timeout`). With `features.quota-deem-statfs`, which is on where quota
//! is, statfs(2) of the directory tells the limit as the file system's size.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use super::command::{self, Ended};
use crate::backend::{AttachError, SizeError, program};
use crate::config::{GLUSTER_PATHS, GlusterQuota, GlusterSsh, SSH_PATHS};

/// How long setting a limit may take in all: the source's worker waits meanwhile, and nothing is mounted from it.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long ssh may take to connect, in seconds.
const CONNECT_SECONDS: u32 = 5;
/// Between two tries while another command has the volume locked.
const PAUSE: Duration = Duration::from_millis(500);

/// Sets or removes the limit of a directory of the volume.
///
/// # Errors
/// [`SizeError`], with what to do about it where that is known.
pub(super) fn set(quota: &GlusterQuota, volume: &str, directory: &Path, bytes: Option<u64>) -> Result<(), SizeError> {
    let words = words(volume, directory, bytes)?;
    let (path, name, args) = match quota {
        GlusterQuota::Off => return Ok(()),
        GlusterQuota::Local { program, socket } => {
            let path = find(program.as_deref(), "gluster", &GLUSTER_PATHS)?;
            (
                path,
                "gluster".to_owned(),
                options(socket.as_deref()).chain(words).map(OsString::from).collect::<Vec<_>>(),
            )
        }
        GlusterQuota::Ssh(ssh) => {
            let path = find(None, "ssh", &SSH_PATHS)?;
            (path, format!("gluster on {}", ssh.host), over_ssh(ssh, words)?)
        }
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let host = |source| SizeError::Host { what: format!("run {}", path.display()), source };
        match command::run(&path, &args, left).map_err(host)? {
            Ended::Well => return Ok(()),
            // There was none.
            Ended::Badly(said) if bytes.is_none() && said.contains("No such attribute") => return Ok(()),
            Ended::Badly(said) if is_locked(&said) && left > PAUSE => std::thread::sleep(PAUSE),
            Ended::Badly(said) => {
                let hint = hint(&said, volume, quota);
                return Err(SizeError::Refused { program: name, reason: said, hint });
            }
            Ended::Never => return Err(SizeError::TooSlow { program: name, after: PATIENCE }),
        }
    }
}

fn find(configured: Option<&Path>, name: &str, places: &[&str]) -> Result<std::path::PathBuf, SizeError> {
    program::find_executable(configured, name, places).map_err(|error| match error {
        AttachError::ProgramMissing { program, looked } => SizeError::ProgramMissing { program, looked },
        other => SizeError::Host { what: format!("find {name}"), source: std::io::Error::other(other.sentence()) },
    })
}

fn options(socket: Option<&Path>) -> impl Iterator<Item = String> {
    // Without questions; and its own log is nothing that anybody reads.
    let own = ["--mode=script", "--log-file=/dev/null"].map(str::to_owned);
    own.into_iter().chain(socket.map(|socket| format!("--glusterd-sock={}", socket.display())))
}

fn words(volume: &str, directory: &Path, bytes: Option<u64>) -> Result<Vec<String>, SizeError> {
    let directory = directory.to_str().ok_or_else(|| SizeError::Refused {
        program: "gluster".into(),
        reason: "the directory's name is no text".into(),
        hint: None,
    })?;
    let said = |verb: &str| ["volume", "quota", volume, verb, &format!("/{directory}")].map(str::to_owned);
    Ok(match bytes {
        Some(bytes) => said("limit-usage").into_iter().chain([bytes.to_string()]).collect(),
        None => said("remove").into(),
    })
}

/// The arguments of ssh(1): no password is asked for, no other key is tried, and a host that is not known is not trusted.
fn over_ssh(ssh: &GlusterSsh, words: Vec<String>) -> Result<Vec<OsString>, SizeError> {
    let mut args: Vec<OsString> = ["-F", "none", "-T"].map(OsString::from).into();
    for option in [
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "PreferredAuthentications=publickey",
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=none",
        "UpdateHostKeys=no",
        "ForwardAgent=no",
        "ClearAllForwardings=yes",
        "ServerAliveInterval=5",
    ] {
        args.extend(["-o".into(), option.into()]);
    }
    args.extend(["-o".into(), format!("ConnectTimeout={CONNECT_SECONDS}").into()]);
    let mut known = OsString::from("UserKnownHostsFile=");
    known.push(&ssh.known_hosts);
    args.extend(["-o".into(), known, "-i".into(), ssh.key.clone().into_os_string()]);
    args.extend(["-p".into(), ssh.port.to_string().into(), "-l".into(), ssh.user.clone().into(), "--".into()]);
    args.push(ssh.host.clone().into());
    // A shell on the other side reads the words again.
    let all = std::iter::once(ssh.program.display().to_string()).chain(options(ssh.socket.as_deref())).chain(words);
    args.push(all.map(|word| quoted(&word)).collect::<Vec<_>>().join(" ").into());
    Ok(args)
}

/// One word to any POSIX shell, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Another command has the volume, for a moment.
fn is_locked(said: &str) -> bool {
    said.contains("Another transaction") || said.contains("Locking failed")
}

fn hint(said: &str, volume: &str, quota: &GlusterQuota) -> Option<String> {
    if said.contains("Quota is disabled") || said.contains("please enable quota") {
        return Some(format!("on one of its servers: gluster volume quota {volume} enable"));
    }
    if said.contains("Host key verification failed") {
        let GlusterQuota::Ssh(ssh) = quota else { return None };
        return Some(format!("write the server's key to {}: ssh-keyscan {}", ssh.known_hosts.display(), ssh.host));
    }
    if said.contains("Permission denied") {
        let GlusterQuota::Ssh(ssh) = quota else { return None };
        return Some(format!("let the key {} in as {} on {}", ssh.key.display(), ssh.user, ssh.host));
    }
    if said.contains("Connection failed") {
        return Some("start glusterd on this host, or have quotas set by another: quota \"ssh\" { … }".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn what_the_other_shell_reads_is_what_was_meant() {
        let ssh = GlusterSsh {
            host: "gluster1".into(),
            port: 2222,
            user: "saddlebag".into(),
            key: PathBuf::from("/etc/saddlebag/key"),
            known_hosts: PathBuf::from("/etc/saddlebag/known"),
            program: PathBuf::from("/usr/sbin/gluster"),
            socket: None,
        };
        let words = words("gv0", Path::new("it's; rm"), Some(1 << 20)).unwrap();
        let args = over_ssh(&ssh, words).unwrap();
        let last = args.last().unwrap().to_str().unwrap();
        assert_eq!(
            last,
            r"'/usr/sbin/gluster' '--mode=script' '--log-file=/dev/null' 'volume' 'quota' 'gv0' 'limit-usage' '/it'\''s; rm' '1048576'"
        );
        let Ended::Badly(said) =
            command::run(Path::new("/bin/sh"), &["-c".into(), format!("printf '%s,' {last}; exit 1").into()], PATIENCE)
                .unwrap()
        else {
            panic!("a shell read it");
        };
        assert!(said.ends_with("limit-usage,/it's; rm,1048576,"), "{said}");
        let text: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
        for wanted in ["BatchMode=yes", "StrictHostKeyChecking=yes", "UserKnownHostsFile=/etc/saddlebag/known"] {
            assert!(text.contains(&wanted), "{wanted}");
        }
    }

    #[test]
    fn a_whole_volumes_limit_is_of_its_root() {
        assert_eq!(words("gv0", Path::new(""), None).unwrap(), ["volume", "quota", "gv0", "remove", "/"]);
    }
}
