//! Starts the parts, hears them, and gives none more time than it has.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::configuration;
use super::part::Part;
use super::report::Report;
use super::say::Word;
use crate::check::{Check, Outcome};
use crate::config::{self, Loaded};
use crate::sys::apart;

/// How long this machine's own parts may take.
const LOCAL: Duration = Duration::from_secs(20);
/// How long everything that is asked of Nomad may take; one answer has ten seconds.
const NOMAD: Duration = Duration::from_secs(40);
/// How long a backend's programs and servers may take.
const SERVERS: Duration = Duration::from_secs(15);
/// How long a trial may take beyond its backend's `attach_timeout`.
const TRIAL: Duration = Duration::from_secs(15);
/// The most that is read of one part, in bytes.
const LONGEST: usize = 1 << 20;

/// What doctor is asked to look at.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The files of the configuration, as they were named.
    pub files: Vec<PathBuf>,
    /// The agent's socket.
    pub socket: PathBuf,
    /// This backend and nothing else.
    pub backend: Option<String>,
}

/// Looks at everything that is asked for, side by side.
pub fn examine(asked: &Asked, loaded: &Loaded) -> Report {
    let begun = Instant::now();
    let config = &loaded.config;
    let made = fs::create_dir(&config.run_dir).is_ok();
    let mut lanes: Vec<Lane> = Vec::new();
    if asked.backend.is_none() {
        let local = [(Part::Host, LOCAL), (Part::Units, LOCAL), (Part::Nomad, NOMAD)];
        lanes.extend(local.map(|(part, deadline)| Lane::One(part, deadline)));
    }
    let is_wanted = |name: &str| asked.backend.as_ref().is_none_or(|wanted| wanted == name);
    lanes.extend(config.backends.values().filter(|backend| is_wanted(&backend.name)).map(Lane::Backend));
    if asked.backend.is_none() {
        // Last, since it has a word on each backend, too.
        lanes.push(Lane::One(Part::Agent, LOCAL));
    }
    let checks = std::thread::scope(|scope| {
        let running: Vec<_> = lanes.iter().map(|lane| scope.spawn(|| lane.run(asked))).collect();
        let ended = running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| vec![broken()]));
        let mut checks: Vec<Check> = ended.flatten().collect();
        if asked.backend.is_none() {
            checks.extend(configuration::look(loaded));
        }
        checks.sort_by_cached_key(|check| rank(&check.area));
        checks
    });
    if made {
        // Only what this call made, and only while it is empty.
        let _ = fs::remove_dir(&config.run_dir);
    }
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Report::new(checks, milliseconds)
}

/// In which order areas are shown: from what everything stands on upwards, and then the backends by their names.
fn rank(area: &str) -> (usize, String) {
    let place = ["configuration", "host", "systemd", "nomad", "agent"].iter().position(|known| *known == area);
    (place.unwrap_or(usize::MAX), area.to_owned())
}

fn broken() -> Check {
    Check::unavailable("doctor", "a part of doctor itself has failed", "saddlebag doctor").of("host")
}

/// What is done one after another, beside the others.
enum Lane<'a> {
    One(Part, Duration),
    Backend(&'a config::Backend),
}

impl Lane<'_> {
    fn run(&self, asked: &Asked) -> Vec<Check> {
        match self {
            Self::One(part, deadline) => run(asked, part, *deadline),
            Self::Backend(backend) => run_backend(asked, backend),
        }
    }
}

/// Its programs and servers first: where these are not well a trial would only wait for them.
fn run_backend(asked: &Asked, backend: &config::Backend) -> Vec<Check> {
    let area = area_of(&backend.name);
    let mut checks = run(asked, &Part::Backend(backend.name.clone()), SERVERS);
    let why = match checks.iter().map(|check| check.outcome).max() {
        Some(Outcome::Problem) => "what it needs is not there, see above",
        Some(Outcome::Skipped) => "there is nothing yet to try it on, see above",
        _ => {
            checks.extend(run(asked, &Part::Trial(backend.name.clone()), backend.attach_timeout + TRIAL));
            return checks;
        }
    };
    checks.push(Check::skipped("trial", why).of(area));
    checks
}

/// The area of a backend's checks.
pub(super) fn area_of(backend: &str) -> String {
    format!("backend {backend}")
}

/// Runs one part and hears it to its end, or to its deadline.
fn run(asked: &Asked, part: &Part, deadline: Duration) -> Vec<Check> {
    // A thread of its own: what it starts is told of this thread's end, and it may leave for other namespaces.
    let conducted = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("part".into());
        let running = thread.spawn_scoped(scope, || conduct(asked, part, deadline));
        running.map(|running| running.join())
    });
    match conducted {
        Ok(Ok(checks)) => checks,
        _ => vec![broken()],
    }
}

fn conduct(asked: &Asked, part: &Part, deadline: Duration) -> Vec<Check> {
    let area = part.area();
    let until = Instant::now() + deadline;
    if matches!(part, Part::Trial(_))
        && let Err(error) = apart::leave_with_processes()
    {
        let detail = format!("no mount and pid namespaces to try it in: {error}");
        let mend = "sysctl user.max_mnt_namespaces user.max_pid_namespaces   # both over 0; and run doctor on the host";
        return vec![Check::unavailable("trial", detail, mend).of(area)];
    }
    let (mut child, output) = match start(asked, part) {
        Ok(started) => started,
        Err(error) => {
            let detail = format!("doctor cannot start a process for it: {error}");
            return vec![Check::unavailable("doctor", detail, "ulimit -u; free -m").of(area)];
        }
    };
    let mut heard = Heard::default();
    let is_over = heard.listen(output, until);
    if !is_over {
        // It ends now, or when the kernel lets it: nobody waits for that.
        let _ = child.kill();
    }
    let status = if is_over { child.wait().ok() } else { child.try_wait().ok().flatten() };
    let begun = heard.begun.clone().unwrap_or_else(|| part.name());
    if !is_over {
        let detail = format!("has not ended within {}", humantime::format_duration(deadline));
        heard.checks.push(Check::unavailable(begun, detail, part.mend_of_silence()).of(area.clone()));
    } else if !status.is_some_and(|status| status.success()) {
        let ended = status.map_or_else(|| "unseen".to_owned(), |status| status.to_string());
        let detail = format!("doctor's own process for it ended ({ended})");
        heard.checks.push(Check::unavailable(begun, detail, "dmesg | tail").of(area.clone()));
    }
    if let Some(name) = heard.holds {
        let detail = format!("the trial was cut short and may have left its file {name:?} there");
        heard.checks.push(Check::warning("trial file", detail, format!("rm {name}   # in that directory")).of(area));
    }
    heard.checks
}

fn start(asked: &Asked, part: &Part) -> io::Result<(Child, ChildStdout)> {
    // Not by its path: an upgrade may have put another program there.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("saddlebag").arg("doctor").arg("--part").arg(part.to_string());
    for file in &asked.files {
        command.arg("--config").arg(file);
    }
    command.arg("--socket").arg(&asked.socket);
    // The working directory stays: a configuration's file may be named from there.
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    Ok((child, output))
}

/// What a part has said so far.
#[derive(Default)]
struct Heard {
    checks: Vec<Check>,
    begun: Option<String>,
    holds: Option<String>,
}

impl Heard {
    /// Hears to the end; false where the deadline came first.
    fn listen(&mut self, mut output: ChildStdout, until: Instant) -> bool {
        let mut text = Vec::new();
        let mut buffer = [0_u8; 4096];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || text.len() > LONGEST {
                return false;
            }
            let mut poll = [PollFd::new(&output, PollFlags::IN)];
            if !matches!(rustix::event::poll(&mut poll, Timespec::try_from(left).ok().as_ref()), Ok(1)) {
                continue;
            }
            match output.read(&mut buffer) {
                Ok(0) => return true,
                Ok(length) => text.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(Word::Begun(name)) => self.begun = Some(name),
                    Ok(Word::Found(check)) => self.checks.push(check),
                    Ok(Word::Holds(name)) => self.holds = name,
                    Err(_) => {}
                }
            }
        }
    }
}
