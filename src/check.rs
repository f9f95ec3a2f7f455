//! A check: one thing that was looked at, how it is, and what mends it. Pure.
//!
//! [`crate::doctor`] collects them; each backend makes those of its own programs and servers
//! ([`crate::backend::Backend::examine`]).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Not looked at, for the reason that is given.
    Skipped,
    /// It works, and something about it may hurt.
    Warning,
    /// It does not work.
    Problem,
}

/// What kind of thing a problem is in; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// A program, a server or this host: something that is needed is not there or does not answer.
    Unavailable,
    /// A configuration: saddlebag's, Nomad's, or the rights of a token.
    Configuration,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What it belongs to: `host`, `nomad`, `systemd`, `agent`, `backend NAME`.
    #[serde(default)]
    pub area: String,
    /// What was looked at, in a word or two.
    pub name: String,
    /// How it is.
    pub outcome: Outcome,
    /// What was found; of a problem, what is wrong.
    pub detail: String,
    /// The command or the line of a configuration that mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
    /// What kind of thing a problem is in; none where there is no problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// How long it took, in milliseconds, where that says something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<f64>,
}

impl Check {
    fn new(name: impl Into<String>, outcome: Outcome, detail: impl Into<String>) -> Self {
        Self {
            area: String::new(),
            name: name.into(),
            outcome,
            detail: detail.into(),
            mend: None,
            fault: None,
            milliseconds: None,
        }
    }

    /// As it should be.
    pub fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(name, Outcome::Ok, detail)
    }

    /// Not looked at, and why.
    pub fn skipped(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(name, Outcome::Skipped, why)
    }

    /// It works, and something about it may hurt.
    pub fn warning(name: impl Into<String>, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { mend: Some(mend.into()), ..Self::new(name, Outcome::Warning, detail) }
    }

    /// A program, a server or this host fails.
    pub fn unavailable(name: impl Into<String>, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        let fault = Some(Fault::Unavailable);
        Self { mend: Some(mend.into()), fault, ..Self::new(name, Outcome::Problem, detail) }
    }

    /// A configuration is wrong.
    pub fn misconfigured(name: impl Into<String>, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        let fault = Some(Fault::Configuration);
        Self { mend: Some(mend.into()), fault, ..Self::new(name, Outcome::Problem, detail) }
    }

    /// The same with the time that it took.
    #[must_use]
    pub fn taking(self, time: Duration) -> Self {
        Self { milliseconds: Some((time.as_secs_f64() * 1e4).round() / 10.0), ..self }
    }

    /// The same as one of another area.
    #[must_use]
    pub fn of(self, area: impl Into<String>) -> Self {
        Self { area: area.into(), ..self }
    }

    /// Whether something does not work.
    pub fn is_problem(&self) -> bool {
        self.outcome == Outcome::Problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_always_has_what_mends_it_and_a_check_survives_its_way_between_processes() {
        let check = Check::unavailable("program", "weed is not installed", "install weed")
            .taking(Duration::from_micros(1_250))
            .of("backend main");
        assert!(check.is_problem() && check.mend.is_some());
        assert_eq!(check.milliseconds, Some(1.3));
        let json = serde_json::to_string(&check).unwrap();
        assert_eq!(serde_json::from_str::<Check>(&json).unwrap(), check);
    }
}
