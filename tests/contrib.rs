//! What `contrib/` says agrees with the documentation and with itself.
#![allow(clippy::expect_used)] // helpers of tests, which clippy.toml does not count as tests

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

/// The alerts' names, each with where it says what to do.
fn alerts() -> Vec<(String, String)> {
    let text = read("contrib/prometheus/alerts.yml");
    let rules = text.split("- alert: ").skip(1).map(|rule| {
        let name = rule.lines().next().expect("a name");
        let url = rule.lines().find_map(|line| line.trim().strip_prefix("runbook_url: ")).expect(name);
        (name.to_owned(), url.to_owned())
    });
    rules.collect()
}

#[test]
fn each_alert_says_where_to_read_what_to_do_and_it_is_there() {
    let operations = read("docs/operations.md");
    let alerts = alerts();
    assert!(alerts.len() > 10, "{alerts:?}");
    for (name, url) in &alerts {
        assert_eq!(*url, format!("docs/operations.md#{}", name.to_ascii_lowercase()));
        let heading = format!("\n### {name}\n");
        let (_, section) = operations.split_once(&heading).unwrap_or_else(|| panic!("no heading for {name}"));
        let section = section.split("\n#").next().unwrap_or_default();
        assert!(section.trim().len() > 80, "nothing is said of {name}");
    }
    let known: BTreeSet<String> = alerts.into_iter().map(|(name, _)| name).collect();
    let told = operations.lines().filter_map(|line| line.strip_prefix("### Saddlebag"));
    let told: BTreeSet<String> = told.map(|rest| format!("Saddlebag{rest}")).collect();
    assert_eq!(told, known, "no heading without its alert");
}

#[test]
fn every_metric_of_the_dashboard_and_the_alerts_is_documented() {
    let operations = read("docs/operations.md");
    let texts = ["contrib/prometheus/alerts.yml", "contrib/grafana/saddlebag.json"].map(read).concat();
    let words = texts.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names: BTreeSet<&str> = words.filter(|word| word.starts_with("saddlebag_")).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        let name = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        assert!(operations.contains(&format!("`{name}")), "{name} is not in docs/operations.md");
    }
}
