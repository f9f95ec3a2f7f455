//! What doctor found, whole. Pure.

use serde::{Deserialize, Serialize};

use crate::check::{Check, Fault, Outcome};
use crate::job::Kind;

/// All that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The version of the program that looked.
    pub version: String,
    /// The worst outcome of all.
    pub outcome: Outcome,
    /// What the program ends with.
    pub exit_code: u8,
    /// How long everything took, in milliseconds.
    pub milliseconds: u64,
    /// What was looked at, area by area.
    pub checks: Vec<Check>,
}

impl Report {
    /// The report of these checks.
    pub fn new(checks: Vec<Check>, milliseconds: u64) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            outcome: worst(&checks),
            exit_code: exit_code(&checks),
            milliseconds,
            checks,
        }
    }

    /// How many checks have that outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.checks.iter().filter(|check| check.outcome == outcome).count()
    }

    /// The areas in the order in which they first come.
    pub fn areas(&self) -> Vec<&str> {
        let mut areas: Vec<&str> = Vec::new();
        for check in &self.checks {
            if !areas.contains(&check.area.as_str()) {
                areas.push(&check.area);
            }
        }
        areas
    }
}

/// What was skipped says nothing, and so is no better and no worse than what is well.
fn worst(checks: &[Check]) -> Outcome {
    let said = checks.iter().map(|check| check.outcome).filter(|outcome| *outcome != Outcome::Skipped);
    said.max().unwrap_or(Outcome::Ok)
}

/// 0 where nothing is a problem. Else 69 where a program, a server or the host is part of it, since nothing works until
/// that is there; 78 where all that is wrong is written in some configuration.
fn exit_code(checks: &[Check]) -> u8 {
    let faults: Vec<Fault> = checks.iter().filter(|check| check.is_problem()).filter_map(|check| check.fault).collect();
    match faults.as_slice() {
        [] => 0,
        faults if faults.contains(&Fault::Unavailable) => Kind::Unavailable.exit_code(),
        _ => Kind::Configuration.exit_code(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_and_what_was_skipped_end_with_0_and_problems_by_their_kind() {
        let (ok, skipped) = (Check::ok("a", "b"), Check::skipped("a", "b"));
        let (warning, config) = (Check::warning("a", "b", "c"), Check::misconfigured("a", "b", "c"));
        let server = Check::unavailable("a", "b", "c");
        let of = |checks: &[&Check]| {
            let report = Report::new(checks.iter().map(|check| (*check).clone()).collect(), 1);
            (report.exit_code, report.outcome)
        };
        assert_eq!(of(&[]), (0, Outcome::Ok));
        assert_eq!(of(&[&ok, &skipped]), (0, Outcome::Ok));
        assert_eq!(of(&[&skipped, &warning, &ok]), (0, Outcome::Warning));
        assert_eq!(of(&[&warning, &config]), (78, Outcome::Problem));
        assert_eq!(of(&[&config, &server]), (69, Outcome::Problem));
    }

    #[test]
    fn areas_keep_the_order_in_which_they_come() {
        let checks = ["host", "nomad", "host", "backend a"].map(|area| Check::ok("x", "y").of(area)).to_vec();
        assert_eq!(Report::new(checks, 0).areas(), ["host", "nomad", "backend a"]);
    }
}
