//! No data may be lost on any path, so the product has no recursive delete at all: what is removed is named, one entry
//! at a time, and a directory only when it is empty.

use std::path::{Path, PathBuf};

/// Words of every usual way to delete a tree.
const WAYS: [&str; 9] =
    ["remove_dir_all", "rm -r", "rm -fr", "rm -R", "\"-rf\"", "nftw", "fts_open", "shutil.rmtree", "RemoveAll("];

#[test]
fn the_product_has_no_recursive_delete() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "systemd", "examples"] {
        collect(&root.join(folder), &mut files)?;
    }
    assert!(files.len() > 80, "the product's files are where they are looked for: {}", files.len());
    let mut found = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file)?;
        for (number, line) in text.lines().enumerate() {
            // A comment may say what is not done.
            let code = line.split("//").next().unwrap_or_default();
            if WAYS.iter().any(|way| code.contains(way)) {
                found.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
