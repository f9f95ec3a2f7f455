//! `saddlebag doctor`: what was found as a table, and below it what mends what is not well.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use crate::api::types::Status;
use crate::check::{Check, Outcome};
use crate::cli::args::DoctorArgs;
use crate::cli::client::{self, Question};
use crate::cli::exit::{self, Failure, NOT_PERMITTED, UNAVAILABLE, USAGE, with_causes};
use crate::cli::text::{counted, one_line};
use crate::cli::{config, status};
use crate::doctor::conduct::{self, Asked};
use crate::doctor::report::Report;

/// The narrowest column of what was found that is worth breaking lines for.
const NARROWEST: usize = 24;

/// Looks, prints what was found, and gives the exit code.
pub fn run(args: &DoctorArgs) -> ExitCode {
    match look(args) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            exit::eprint(&failure.to_string());
            ExitCode::from(failure.code)
        }
    }
}

fn look(args: &DoctorArgs) -> Result<u8, Failure> {
    if !rustix::process::geteuid().is_root() {
        let failure = Failure::new(NOT_PERMITTED, "doctor mounts and looks into what is root's, and must run as root");
        return Err(failure.hint("sudo saddlebag doctor"));
    }
    let loaded = config::load(&args.config)?;
    let config = &loaded.config;
    let by_environment = || std::env::var_os("SADDLEBAG_SOCKET").filter(|path| !path.is_empty()).map(Into::into);
    let socket = args.socket.clone().or_else(by_environment).unwrap_or_else(|| config.socket());
    if let Some(part) = &args.part {
        let ask = || {
            client::ask_once::<Status>(&socket, Question::get("/v1/status"))
                .map_err(|failure| failure.message.lines().collect::<Vec<_>>().join(" "))
        };
        let not_asked = |error| Failure::new(UNAVAILABLE, format!("{part} was not looked at: {}", with_causes(&error)));
        return part.answer(config, &ask).map(|()| 0).map_err(not_asked);
    }
    if let Some(name) = &args.backend
        && !config.backends.contains_key(name)
    {
        let known: Vec<&str> = config.backends.keys().map(String::as_str).collect();
        let failure = Failure::new(USAGE, format!("the configuration has no backend {name:?}"));
        return Err(failure.hint(format!("it has: {}", known.join(", "))));
    }
    let asked = Asked { files: args.config.config.clone(), socket, backend: args.backend.clone() };
    let report = conduct::examine(&asked, &loaded);
    if args.json {
        status::print_json(&report)?;
    } else {
        exit::print(&page(&report, terminal_width()))?;
    }
    Ok(report.exit_code)
}

/// How wide the terminal is; none where the output goes elsewhere, and lines are left whole.
fn terminal_width() -> Option<usize> {
    let out = std::io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&out).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// The whole page.
fn page(report: &Report, width: Option<usize>) -> String {
    let mut page = vec![summary(report)];
    page.push(table(report, width));
    for (outcome, title) in [(Outcome::Problem, "To mend"), (Outcome::Warning, "Worth a look")] {
        let found: Vec<String> =
            report.checks.iter().filter(|check| check.outcome == outcome).map(|check| advice(check, width)).collect();
        if !found.is_empty() {
            page.push(format!("{title}\n{}", found.join("\n")));
        }
    }
    page.join("\n\n")
}

fn summary(report: &Report) -> String {
    let counts = [
        (Outcome::Problem, "problem", true),
        (Outcome::Warning, "warning", true),
        (Outcome::Ok, "ok", false),
        (Outcome::Skipped, "skipped", false),
    ];
    let said = counts.map(|(outcome, word, is_noun)| match report.count(outcome) {
        0 if outcome == Outcome::Skipped || outcome == Outcome::Warning => String::new(),
        count if is_noun => counted(count, word),
        count => format!("{count} {word}"),
    });
    let said: Vec<String> = said.into_iter().filter(|text| !text.is_empty()).collect();
    let tenths = report.milliseconds.div_ceil(100);
    format!("{} (saddlebag {}, {}.{} s)", said.join(", "), report.version, tenths / 10, tenths % 10)
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Skipped => "skipped",
        Outcome::Warning => "warning",
        Outcome::Problem => "problem",
    }
}

/// Three columns below the name of each area. Only the last one is broken into lines, and only for a terminal: what goes
/// into a pipe has a line for each check.
fn table(report: &Report, width: Option<usize>) -> String {
    let longest = report.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let indent = 2 + longest + 2 + "problem".len() + 2;
    let room = width.map(|width| width.saturating_sub(indent).max(NARROWEST));
    let areas = report.areas().into_iter().map(|area| {
        let rows = report.checks.iter().filter(|check| check.area == area).map(|check| {
            let found = broken(&found(check), room).join(&format!("\n{:indent$}", ""));
            format!("  {:longest$}  {:7}  {found}", one_line(&check.name), word(check.outcome))
        });
        format!("{}\n{}", title(area), rows.collect::<Vec<_>>().join("\n"))
    });
    areas.collect::<Vec<_>>().join("\n\n")
}

/// An area's name as a heading.
fn title(area: &str) -> String {
    match area {
        "configuration" => "Configuration".to_owned(),
        "host" => "Host".to_owned(),
        "nomad" => "Nomad".to_owned(),
        "systemd" => "systemd".to_owned(),
        "agent" => "Agent and guard".to_owned(),
        other => other.strip_prefix("backend ").map_or_else(|| other.to_owned(), |name| format!("Backend {name}")),
    }
}

fn found(check: &Check) -> String {
    let detail = one_line(&check.detail);
    match check.milliseconds {
        Some(time) if time >= 1000.0 => format!("{detail} ({:.1} s)", time / 1000.0),
        Some(time) if time >= 10.0 => format!("{detail} ({time:.0} ms)"),
        Some(time) => format!("{detail} ({time:.1} ms)"),
        None => detail.into_owned(),
    }
}

/// What is wrong, and on a line of its own, never broken, what mends it: so it can be copied.
fn advice(check: &Check, width: Option<usize>) -> String {
    let what = format!("{}: {}: {}", title(&check.area), check.name, check.detail);
    let room = width.map(|width| width.saturating_sub(2).max(NARROWEST));
    let what = broken(&one_line(&what), room).join("\n  ");
    let mend = check.mend.as_deref().map(|mend| format!("\n      {}", one_line(mend))).unwrap_or_default();
    format!("  {what}{mend}")
}

/// A text in lines of at most so many characters, broken at spaces. A word that is longer stands alone.
fn broken(text: &str, room: Option<usize>) -> Vec<String> {
    let Some(room) = room else { return vec![text.to_owned()] };
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let used = lines.last().map_or(0, |line| line.chars().count());
        match lines.last_mut() {
            Some(line) if used == 0 || used + 1 + word.chars().count() <= room => {
                if used > 0 {
                    line.push(' ');
                }
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn report() -> Report {
        let checks = vec![
            Check::ok("kernel", "Linux 6.12.48").of("host"),
            Check::unavailable(
                "/dev/fuse",
                "cannot be opened: No such file or directory (os error 2)",
                "modprobe fuse",
            )
            .of("host"),
            Check::ok("trial mount", "mounted, and it answers")
                .taking(Duration::from_micros(341_200))
                .of("backend main"),
            Check::warning("clock", "nothing keeps it in step", "timedatectl set-ntp true").of("host"),
        ];
        Report::new(checks, 1_234)
    }

    #[test]
    fn what_goes_into_a_pipe_has_a_line_for_each_check_and_a_command_for_each_problem() {
        let page = page(&report(), None);
        let expected = "\
1 problem, 1 warning, 2 ok (saddlebag 0.1.0, 1.3 s)

Host
  kernel       ok       Linux 6.12.48
  /dev/fuse    problem  cannot be opened: No such file or directory (os error 2)
  clock        warning  nothing keeps it in step

Backend main
  trial mount  ok       mounted, and it answers (341 ms)

To mend
  Host: /dev/fuse: cannot be opened: No such file or directory (os error 2)
      modprobe fuse

Worth a look
  Host: clock: nothing keeps it in step
      timedatectl set-ntp true";
        assert_eq!(page, expected.replace("0.1.0", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn a_narrow_terminal_breaks_what_was_found_and_never_a_command() {
        let page = page(&report(), Some(50));
        assert!(page.contains("cannot be opened: No such\n                        file or directory"), "{page}");
        let fitting = |line: &&str| line.chars().count() <= 50 || !line.contains(' ');
        assert!(page.lines().skip(1).all(|line| fitting(&line)), "{page}");
        assert_eq!(broken("a bb ccc", Some(4)), ["a bb", "ccc"]);
        assert_eq!(broken("longerthanthat b", Some(4)), ["longerthanthat", "b"]);
    }
}
