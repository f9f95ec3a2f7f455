//! One part of doctor, in a process of its own (`saddlebag doctor --part`): says what it finds, and ends.

use std::fmt;
use std::io;
use std::str::FromStr;

use rustix::process::{Signal, set_parent_process_death_signal};

use super::conduct::area_of;
use super::say::Teller;
use super::{agent, host, nomad, trial, units};
use crate::api::types::Status;
use crate::backend;
use crate::config::Config;

/// Asks the agent for its status; the error is a sentence.
pub type AskAgent<'a> = &'a dyn Fn() -> Result<Status, String>;

/// What is looked at in one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The kernel, limits and disks.
    Host,
    /// systemd and its units.
    Units,
    /// The agent and its guard.
    Agent,
    /// Nomad, the token's rights and the allocation root.
    Nomad,
    /// The programs and servers of a backend.
    Backend(String),
    /// A mount of it: the process is the first one of a pid namespace of its own, and has the next one do it.
    Trial(String),
    /// The trial itself, which may wait in the kernel for the mount program.
    Tried(String),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Units => f.write_str("systemd"),
            Self::Agent => f.write_str("agent"),
            Self::Nomad => f.write_str("nomad"),
            Self::Backend(name) => write!(f, "backend:{name}"),
            Self::Trial(name) => write!(f, "trial:{name}"),
            Self::Tried(name) => write!(f, "tried:{name}"),
        }
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "host" => Ok(Self::Host),
            None if text == "systemd" => Ok(Self::Units),
            None if text == "agent" => Ok(Self::Agent),
            None if text == "nomad" => Ok(Self::Nomad),
            Some(("backend", name)) => Ok(Self::Backend(name.to_owned())),
            Some(("trial", name)) => Ok(Self::Trial(name.to_owned())),
            Some(("tried", name)) => Ok(Self::Tried(name.to_owned())),
            _ => Err(format!("no part is called {text:?}")),
        }
    }
}

impl Part {
    /// The area of its checks.
    pub(super) fn area(&self) -> String {
        match self {
            Self::Backend(name) | Self::Trial(name) | Self::Tried(name) => area_of(name),
            other => other.to_string(),
        }
    }

    /// What it is called where it has said nothing yet.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Backend(_) => "servers".to_owned(),
            Self::Trial(_) | Self::Tried(_) => "trial".to_owned(),
            other => other.to_string(),
        }
    }

    /// What to do where it does not end.
    pub(super) fn mend_of_silence(&self) -> &'static str {
        match self {
            Self::Host => "findmnt; dmesg | tail   # a disk or a mounted server hangs",
            Self::Units => "systemctl is-system-running; journalctl -b -p err   # systemd does not answer",
            Self::Agent => "systemctl restart saddlebag   # costs no task anything",
            Self::Nomad => "nomad agent-info; journalctl -u nomad -n 50",
            Self::Backend(_) | Self::Trial(_) | Self::Tried(_) => {
                "look at its servers and at the network to them: they hang"
            }
        }
    }

    /// Looks, and says what it finds on standard output. May hang for as long as what it looks at.
    ///
    /// # Errors
    /// It was asked for what the configuration has not, or whoever asked is gone.
    pub fn answer(&self, config: &Config, ask: AskAgent<'_>) -> io::Result<()> {
        // Who asked may be killed, also before this is said: its end of the pipe is gone then, and it reads nothing.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if is_listener_gone()? {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut tell = Teller::of(self.area());
        match self {
            Self::Host => host::look(config, &mut tell),
            Self::Units => units::look(&mut tell),
            Self::Agent => agent::look(config, ask, &mut tell),
            Self::Nomad => nomad::look(config, &mut tell)?,
            Self::Backend(name) => {
                let definition = config.backends.get(name).ok_or(io::ErrorKind::NotFound)?;
                tell.begin("servers");
                for check in backend::of(definition).examine() {
                    tell.found(check);
                }
            }
            Self::Trial(name) => trial::watch_over(&Self::Tried(name.clone()))?,
            Self::Tried(name) => {
                let definition = config.backends.get(name).ok_or(io::ErrorKind::NotFound)?;
                trial::run(config, definition, &mut tell);
            }
        }
        Ok(())
    }
}

/// Whether nobody holds the other end of standard output any more.
fn is_listener_gone() -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let out = io::stdout();
    let mut polled = [PollFd::new(&out, PollFlags::OUT)];
    poll(&mut polled, Some(&Timespec::default()))?;
    Ok(polled[0].revents().contains(PollFlags::ERR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_what_its_name_says() {
        let named = [Part::Backend, Part::Trial, Part::Tried].map(|part| part("a".into()));
        let parts = [Part::Host, Part::Units, Part::Agent, Part::Nomad].into_iter().chain(named);
        for part in parts {
            assert_eq!(part.to_string().parse::<Part>(), Ok(part));
        }
        assert!("".parse::<Part>().is_err() && "disk:a".parse::<Part>().is_err());
    }
}
