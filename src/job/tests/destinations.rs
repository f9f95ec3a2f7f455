use proptest::prelude::*;

use super::*;
use crate::job::destination::check;

fn at(destination: &str) -> Allocation {
    allocation(&[("storage_volume", "pgdata"), ("storage_destination", destination)])
}

#[test]
fn destinations_below_the_task_are_taken() {
    for destination in ["local/x", "local/a/b/c", "data", "volumes/x", "local/..x", "mnt/a b", "localx", "é"] {
        assert_eq!(got(&at(destination)), [format!("postgres: pgdata from pgdata at {destination}")]);
    }
}

#[test]
fn every_other_destination_is_refused_with_what_to_write() {
    const BELOW: &str = "(write local/pgdata; docker can show it elsewhere by volumes = [\"local/pgdata:/data\"])";
    for (destination, rest) in [
        (
            "/var/lib/pg",
            "is absolute, and has to be below the task's directory (write local/pg; docker can show it elsewhere by volumes = [\"local/pg:/var/lib/pg\"])".to_owned(),
        ),
        (
            "/../x",
            "is absolute, and has to be below the task's directory (write local/x; docker can show it elsewhere by volumes = [\"local/x:/data\"])".to_owned(),
        ),
        ("", format!("is empty {BELOW}")),
        ("local", format!("is the directory that Nomad makes for the task {BELOW}")),
        ("alloc/data", format!("is in alloc/, which belongs to Nomad {BELOW}")),
        ("secrets/x", format!("is in secrets/, which belongs to Nomad {BELOW}")),
        ("private", format!("is in private/, which belongs to Nomad {BELOW}")),
        ("tmp/x", format!("is in tmp/, which belongs to Nomad {BELOW}")),
        ("usr/share/x", format!("is in usr, which belongs to the task's driver {BELOW}")),
        ("executor.out", format!("is in executor.out, which belongs to the task's driver {BELOW}")),
        ("local/../../x", format!("has a component \"..\", and may not leave the task's directory {BELOW}")),
        ("local/./x", "has a component \".\" (leave it out)".to_owned()),
        ("local//x", "has an empty component (write one / between components and none at the end)".to_owned()),
        ("local/x/", "has an empty component (write one / between components and none at the end)".to_owned()),
        ("local/a\u{0}b", "holds a control character".to_owned()),
        ("local/a\nb", "holds a control character".to_owned()),
    ] {
        assert_eq!(
            refused_of(&at(destination)),
            format!("the destination {destination:?} of volume \"pgdata\" {rest}")
        );
    }
    let long = format!("local/{}", "x".repeat(256));
    assert!(refused_of(&at(&long)).ends_with("has a component of more than 255 bytes"));
    let long = format!("local{}", "/x".repeat(600));
    assert!(refused_of(&at(&long)).ends_with("is longer than 1024 bytes"));
}

#[test]
fn what_interpolation_brings_is_checked_like_what_is_written() {
    let mut allocation = at("local/${meta.rack}");
    let mut node = node();
    node.meta = map(&[("rack", "../../../etc")]);
    let refusal = read(&allocation, "storage", &node).unwrap_err();
    assert_eq!(
        refusal.message,
        "the destination \"local/../../../etc\" of volume \"pgdata\" has a component \"..\", and may not leave the task's directory"
    );
    allocation.group_meta = map(&[("storage_volume", "pg-${meta.rack}")]);
    let refusal = read(&allocation, "storage", &node).unwrap_err();
    assert_eq!(refusal.message, "storage_volume \"pg-../../../etc\" is neither a volume's name nor a URL");
}

#[test]
fn a_disk_that_nomad_moves_takes_no_volume_below_local() {
    let mut allocation = allocation(&[("storage_volume", "pgdata")]);
    allocation.migrate_disk = true;
    assert_eq!(
        refused_of(&allocation),
        "group \"db\" has ephemeral_disk { migrate = true }, with which Nomad would move the files of volume \"pgdata\" out of local/pgdata (write the destination volumes/pgdata, which Nomad leaves alone; docker shows it by volumes = [\"volumes/pgdata:/data\"])"
    );
    allocation.sticky_disk = true;
    assert!(refused_of(&allocation).contains("ephemeral_disk { sticky = true }"));
    allocation.group_meta.insert("storage_destination".to_owned(), "volumes/pgdata".to_owned());
    assert_eq!(got(&allocation), ["postgres: pgdata from pgdata at volumes/pgdata"]);
}

#[test]
fn two_volumes_need_two_places() {
    let two = |one: &str, other: &str| {
        let block = |label: &str, at: &str| format!("volume \"{label}\" {{\n  destination = \"{at}\"\n}}\n");
        refused(&[("storage_volume", &format!("{}{}", block("a", one), block("b", other)))])
    };
    const HINT: &str = "(give each a label and a destination of its own)";
    assert_eq!(
        two("local/x", "local/x"),
        format!("volumes \"a\" and \"b\" are both at local/x of task \"postgres\" {HINT}")
    );
    let inside = format!("volume \"b\" at local/x/y of task \"postgres\" is inside volume \"a\" at local/x {HINT}");
    assert_eq!(two("local/x", "local/x/y"), inside);
    let inside = format!("volume \"a\" at local/x/y of task \"postgres\" is inside volume \"b\" at local/x {HINT}");
    assert_eq!(two("local/x/y", "local/x"), inside);
}

#[test]
fn one_label_is_one_volume_of_a_task() {
    let mut allocation = allocation(&[("storage_volume", "x")]);
    allocation.tasks.push(task(
        "web",
        "docker",
        Hook::Main,
        &[("storage_volume", "x"), ("storage_destination", "other"), ("storage_tasks", "web postgres")],
    ));
    assert_eq!(
        refused_of(&allocation),
        "task \"postgres\" gets two volumes with the label \"x\" (give each a label and a destination of its own)"
    );
}

#[test]
fn two_tasks_may_have_their_volumes_at_the_same_place() {
    let mut allocation = allocation(&[("storage_volume", "x")]);
    allocation.tasks.push(task("web", "docker", Hook::Main, &[]));
    assert_eq!(got(&allocation).len(), 2);
}

proptest! {
    #[test]
    fn a_destination_that_is_taken_stays_beneath_and_is_normal(
        text in prop_oneof!["\\PC{0,40}", "(local|\\.|\\.\\.|alloc|x|tmp|é|)(/(local|\\.|\\.\\.|alloc|x|)){0,4}"],
    ) {
        if let Ok(destination) = check(&text, "x") {
            let components: Vec<_> = destination.as_path().components().collect();
            prop_assert!(!components.is_empty());
            prop_assert!(components.iter().all(|part| matches!(part, std::path::Component::Normal(_))));
            let joined: std::path::PathBuf = components.iter().collect();
            prop_assert_eq!(joined.as_os_str(), std::ffi::OsStr::new(&text));
            prop_assert!(!text.chars().any(char::is_control));
            for owned in ["alloc", "secrets", "private", "tmp"] {
                prop_assert!(!destination.as_path().starts_with(owned));
            }
            prop_assert_ne!(text, "local");
        }
    }
}
