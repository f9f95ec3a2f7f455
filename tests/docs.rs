//! What the documents name is there.
#![allow(clippy::expect_used)] // helpers of tests, which clippy.toml does not count as tests

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// All files below a folder with that ending.
fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
}

/// The functions that are tests: the name after each `#[test]` or its like.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for folder in ["src", "tests"] {
        files(&root.join(folder), "rs", &mut sources);
    }
    let mut found = BTreeSet::new();
    for source in sources {
        let text = std::fs::read_to_string(&source).expect("a source");
        let mut is_next = false;
        for line in text.lines().map(str::trim) {
            // What the shared suite runs for a kind of storage stands in a list, a line each.
            if text.contains("macro_rules! conform")
                && let Some(name) = line.strip_suffix(',').filter(|name| name.matches('_').count() >= 4)
            {
                found.insert(name.to_owned());
            }
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_next = true;
            } else if let Some(at) = line.find("fn ").filter(|_| is_next || text.contains("proptest!")) {
                let name = line.get(at + 3..).unwrap_or_default();
                found.insert(name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
                is_next = false;
            }
        }
    }
    found
}

#[test]
fn each_test_that_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = tests();
    let mut documents = vec![root.join("README.md")];
    files(&root.join("docs"), "md", &mut documents);
    let (mut named, mut missing) = (0, Vec::new());
    for document in documents {
        let text = std::fs::read_to_string(&document).expect("a document");
        for word in text.split('`').skip(1).step_by(2) {
            // A sentence in snake case, as no identifier but a metric's is.
            let is_snake = word.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_'));
            if is_snake && word.matches('_').count() >= 4 && !word.starts_with("saddlebag_") {
                named += 1;
                if !tests.contains(word) {
                    missing.push(format!("{}: {word}", document.display()));
                }
            }
        }
    }
    assert!(named > 50, "only {named} names were found");
    assert!(missing.is_empty(), "no such test:\n{}", missing.join("\n"));
}
