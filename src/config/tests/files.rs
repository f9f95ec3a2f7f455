use std::fs;
use std::os::unix::fs::symlink;

use super::*;

#[test]
fn files_and_folders_are_read_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("conf.d");
    fs::create_dir(&conf).unwrap();
    let main = folder.path().join("agent.hcl");
    fs::write(&main, "volume \"x\" {\n  backend = \"d\"\n}\n").unwrap();
    fs::write(conf.join("b.hcl"), "backend \"host\" \"d\" {\n  path = \"/srv\"\n}\n").unwrap();
    fs::write(conf.join("a.hcl"), "hook_timeout = \"5s\"\n").unwrap();
    fs::write(conf.join("ignored.txt"), "{{{").unwrap();
    let loaded = Config::load(&[main.clone(), conf.clone()]).unwrap();
    assert_eq!(loaded.files, [main, conf.join("a.hcl"), conf.join("b.hcl")]);
    assert_eq!(loaded.config.volumes.len(), 1);
    assert_eq!(loaded.config.hook_timeout, Duration::from_secs(5));
}

#[test]
fn what_is_named_has_to_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.hcl");
    let error = Config::load(std::slice::from_ref(&missing)).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot read the configuration {}", missing.display()));
    let error = Config::load(&[folder.path().to_owned()]).unwrap_err();
    assert_eq!(error.to_string(), format!("the folder {} has no file *.hcl", folder.path().display()));
    symlink("nowhere", folder.path().join("dangling.hcl")).unwrap();
    let error = Config::load(&[folder.path().to_owned()]).unwrap_err();
    assert!(matches!(error, LoadError::Read { .. }), "{error}");
}

#[test]
fn what_is_no_text_or_too_long_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.hcl");
    fs::write(&file, b"\xff\xfe").unwrap();
    let error = Config::load(std::slice::from_ref(&file)).unwrap_err();
    assert_eq!(error.to_string(), format!("the configuration {} is not UTF-8 text", file.display()));
    fs::write(&file, "#".repeat(2 << 20)).unwrap();
    let error = Config::load(std::slice::from_ref(&file)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{}:1:1: the text has 1048577 bytes, and at most 1048576 are read", file.display())
    );
    let error = Config::load(&[PathBuf::from("/dev/null")]).unwrap_err();
    assert_eq!(error.to_string(), "the configuration /dev/null is neither a file nor a folder");
}
