//! Running `mount.nfs`, with a deadline.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::arguments;
use super::report;
use crate::backend::AttachError;
use crate::backend::program::{self, Running};
use crate::config::nfs::{GSSD_PATHS, MOUNT_PATHS, NfsBackend, NfsVersion, STATD_PATHS, Security};
use crate::sys::{network, process};

/// How long a program that was killed may take to end: the kernel lets a wait for a server be killed.
const END: Duration = Duration::from_secs(2);
/// Its whole environment. What it starts (start-statd) brings its own.
const ENVIRONMENT: [(&str, &str); 2] = [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C")];

/// Mounts the export at a directory.
///
/// # Errors
/// [`AttachError`]: a program that is needed is missing, it did not mount within `deadline`, or it says why not.
pub(super) fn run(settings: &NfsBackend, log: &Path, at: &Path, deadline: Duration) -> Result<(), AttachError> {
    let program = program::find_executable(settings.program.as_deref(), "mount.nfs", &MOUNT_PATHS)?;
    if settings.version == NfsVersion::V3 && settings.lock {
        program::find_executable(None, "rpc.statd", &STATD_PATHS)?;
    }
    if settings.sec != Security::Sys {
        program::find_executable(None, "rpc.gssd", &GSSD_PATHS)?;
        if process::find_processes_by_exe_name("rpc.gssd").is_empty() {
            return Err(AttachError::Refused {
                reason: format!("rpc.gssd is not running, and sec = {:?} needs it", settings.sec.as_str()),
                hint: "give this host a keytab (/etc/krb5.keytab) and start it (`systemctl start rpc-gssd`)".into(),
                passes: true,
                log: Vec::new(),
            });
        }
    }
    let name = program::name_of(&program);
    end_former(&program, at)?;
    let start = AttachError::host(format!("start {}", program.display()));
    let output = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(log)
        .map_err(AttachError::host("open the source's log"))?;
    let before = output.metadata().map(|of| of.len()).unwrap_or_default();
    let spawn = || -> io::Result<Child> {
        let mut command = Command::new(&program);
        command.args(arguments::arguments(settings, at)).env_clear().envs(ENVIRONMENT).current_dir("/");
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()
    };
    let spawned = network::in_host_network(spawn).map_err(AttachError::host("enter the host's network"))?;
    let child = spawned.map_err(start)?;
    let wrote = || written_since(log, before);
    match wait(child, deadline).map_err(AttachError::host("wait for mount.nfs"))? {
        Some(true) => Ok(()),
        Some(false) => {
            let lines = wrote();
            let cause = report::explain(settings, &lines);
            Err(AttachError::Refused { reason: cause.reason, hint: cause.hint, passes: cause.passes, log: lines })
        }
        None => Err(AttachError::TooSlow { program: name, after: deadline, log: wrote() }),
    }
}

/// Whether it has ended well; `None` where it had to be ended.
fn wait(mut child: Child, deadline: Duration) -> io::Result<Option<bool>> {
    let running = Running::watch(i32::try_from(child.id()).map_err(io::Error::other)?)?;
    if running.has_ended(deadline) {
        return Ok(Some(child.wait()?.success()));
    }
    running.kill();
    if running.has_ended(END) {
        child.wait()?;
    } else {
        // Reaped, however long the kernel keeps it.
        std::thread::Builder::new().name("reap".into()).stack_size(64 << 10).spawn(move || child.wait())?;
    }
    Ok(None)
}

/// Ends a `mount.nfs` that an agent which died has left at work for this place: two would mount one over the other.
fn end_former(program: &Path, at: &Path) -> Result<(), AttachError> {
    let name = fs::canonicalize(program).ok().and_then(|path| path.file_name().map(OsStr::to_owned));
    let Some(pid) = program::find_by_argument(at.as_os_str().as_bytes()) else { return Ok(()) };
    if process::exe_name(pid).ok() != name {
        return Ok(());
    }
    // Gone meanwhile is as good.
    let Ok(running) = Running::watch(pid) else { return Ok(()) };
    running.kill();
    if running.has_ended(END) {
        return Ok(());
    }
    Err(AttachError::Silent(format!("an earlier mount.nfs (pid {pid}) waits for its server in the kernel")))
}

fn written_since(log: &Path, before: u64) -> Vec<String> {
    let text = fs::read(log).unwrap_or_default();
    let from = usize::try_from(before).unwrap_or_default().min(text.len());
    program::tidy(&String::from_utf8_lossy(&text[from..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    /// A program in the place of mount.nfs: what is looked at is how it is run.
    fn scripted(folder: &Path, text: &str) -> NfsBackend {
        let program = folder.join("mount.nfs");
        fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        NfsBackend { program: Some(program), ..NfsBackend::new("nas", "/srv/x") }
    }

    #[test]
    fn it_is_told_the_place_and_the_options_and_nothing_of_the_agents_environment() {
        let folder = tempfile::tempdir().unwrap();
        let (log, at) = (folder.path().join("log"), folder.path().join("at"));
        let settings = scripted(folder.path(), "printf '%s\\n' \"$@\"; env");
        run(&settings, &log, &at, Duration::from_secs(20)).unwrap();
        let said = fs::read_to_string(&log).unwrap();
        assert!(said.starts_with(&format!("nas:/srv/x\n{}\n-n\n-o\nrw,vers=4,hard,", at.display())), "{said}");
        assert!(said.contains("LC_ALL=C\n") && !said.contains("CARGO"), "{said}");
    }

    #[test]
    fn one_that_waits_for_its_server_is_ended_at_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let settings = scripted(folder.path(), "echo waiting; exec sleep 600");
        let begun = Instant::now();
        let failed = run(&settings, &folder.path().join("log"), &folder.path().join("at"), Duration::from_millis(500));
        let Err(AttachError::TooSlow { log, .. }) = failed else { panic!("{failed:?}") };
        assert_eq!(log, ["waiting"]);
        // Not by itself.
        assert!(begun.elapsed() < Duration::from_secs(600));
    }

    #[test]
    fn what_it_says_is_told_and_what_it_said_before_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        fs::write(&log, "mount.nfs: Connection refused for nas:/srv/x on /mnt\n").unwrap();
        let settings =
            scripted(folder.path(), "echo 'mount.nfs: access denied by server while mounting nas:/srv/x' >&2; exit 32");
        let failed = run(&settings, &log, &folder.path().join("at"), Duration::from_secs(20));
        let Err(AttachError::Refused { reason, passes, log, .. }) = failed else { panic!("{failed:?}") };
        assert!(reason.contains("does not let this client mount") && passes && log.len() == 1, "{reason} {log:?}");
    }

    #[test]
    fn what_is_needed_and_missing_is_named() {
        let settings =
            NfsBackend { program: Some("/nonexistent/mount.nfs".into()), ..NfsBackend::new("nas", "/srv/x") };
        let failed = run(&settings, Path::new("/dev/null"), Path::new("/mnt"), Duration::from_secs(1)).unwrap_err();
        assert_eq!(failed.to_string(), "the program mount.nfs is not installed (looked for /nonexistent/mount.nfs)");
    }
}
