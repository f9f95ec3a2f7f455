//! Skipping a test, so that nobody takes a skipped test for a passed one.

use super::tool;
use std::io::Write as _;

/// What of `wanted` this machine lacks, as a sentence; `None` where all is there.
///
/// `root` asks for the effective user; any other word is a program.
pub fn missing(wanted: &[&str]) -> Option<String> {
    let lacking: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|what| match *what {
            "root" => !rustix::process::geteuid().is_root(),
            program => tool(program).is_none(),
        })
        .collect();
    (!lacking.is_empty()).then(|| format!("no {} here (make tools installs what tests need)", lacking.join(", ")))
}

/// Says that the running test is skipped and why.
///
/// The line also goes to the file that `SADDLEBAG_SKIPPED` names: the test runner counts a skipped test as passed,
/// and `make test` corrects its sum by that file. Panics with `REQUIRE_ALL=1`.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    let line = format!("SKIPPED {}: {why}", thread.name().unwrap_or("unnamed test"));
    assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "{line}; REQUIRE_ALL=1 allows no skip");
    println!("{line}");
    if let Some(path) = std::env::var_os("SADDLEBAG_SKIPPED") {
        let written = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| writeln!(file, "{line}"));
        if let Err(error) = written {
            panic!("{line}, and {} cannot be written: {error}", path.display());
        }
    }
}
