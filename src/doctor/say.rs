//! What a part of doctor says to the one who waits for it: a line of JSON for each word, on standard output.

use std::io::{self, Write};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::check::Check;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Word {
    /// This is looked at from now on: what is meant where nothing more is heard.
    Begun(String),
    /// This was found.
    Found(Check),
    /// A file of this name is on the backend from now on; none: it is there no longer.
    Holds(Option<String>),
}

/// Says it. Who listens may have given up; then there is nobody left to tell.
#[derive(Debug)]
pub struct Teller {
    area: String,
    begun: Instant,
}

impl Teller {
    /// Tells of what belongs to an area.
    pub fn of(area: impl Into<String>) -> Self {
        Self { area: area.into(), begun: Instant::now() }
    }

    /// This is looked at now.
    pub fn begin(&mut self, name: &str) {
        self.begun = Instant::now();
        say(&Word::Begun(name.to_owned()));
    }

    /// This was found.
    pub fn found(&self, check: Check) {
        let check = if check.area.is_empty() { check.of(self.area.clone()) } else { check };
        say(&Word::Found(check));
    }

    /// This was found, in the time since it was begun.
    pub fn found_timed(&self, check: Check) {
        self.found(check.taking(self.begun.elapsed()));
    }

    /// A file is on the backend, or is not any more.
    pub fn holds(&self, name: Option<&str>) {
        say(&Word::Holds(name.map(str::to_owned)));
    }
}

fn say(word: &Word) {
    let Ok(mut line) = serde_json::to_vec(word) else { return };
    line.push(b'\n');
    let mut out = io::stdout().lock();
    let _ = out.write_all(&line).and_then(|()| out.flush());
}
