use proptest::prelude::*;

use super::*;
use crate::job::words::merge;

#[test]
fn the_deepest_meta_wins() {
    let mut allocation = allocation(&[("storage_volume", "of-group"), ("storage_read_only", "true")]);
    allocation.job_meta = map(&[("storage_volume", "of-job"), ("storage_destination", "data")]);
    assert_eq!(got(&allocation), ["postgres: of-group from of-group at data read-only"]);
    allocation.tasks[0].meta = map(&[("storage_volume", "of-hook")]);
    assert_eq!(got(&allocation), ["postgres: of-hook from of-hook at data read-only"]);
}

#[test]
fn every_task_gets_it_but_the_hook_and_poststop_tasks() {
    let mut allocation = allocation(&[("storage_volume", "pgdata")]);
    allocation.tasks.push(task("init", "docker", Hook::Prestart, &[]));
    allocation.tasks.push(task("warm", "docker", Hook::Poststart, &[]));
    allocation.tasks.push(task("clean", "docker", Hook::Poststop, &[]));
    assert_eq!(
        got(&allocation),
        [
            "postgres: pgdata from pgdata at local/pgdata",
            "init: pgdata from pgdata at local/pgdata",
            "warm: pgdata from pgdata at local/pgdata",
        ]
    );
}

#[test]
fn a_poststop_task_that_is_named_gets_it() {
    let mut allocation = allocation(&[("storage_volume", "pgdata"), ("storage_tasks", "postgres clean")]);
    allocation.tasks.push(task("clean", "docker", Hook::Poststop, &[]));
    assert_eq!(got(&allocation).len(), 2);
}

#[test]
fn a_task_with_words_of_its_own_gets_what_these_say() {
    let mut allocation = allocation(&[("storage_volume", "pgdata")]);
    allocation.tasks.push(task("backup", "docker", Hook::Main, &[("storage_read_only", "true")]));
    allocation.tasks.push(task("other", "docker", Hook::Main, &[("storage_volume", "cache")]));
    assert_eq!(
        got(&allocation),
        [
            "postgres: pgdata from pgdata at local/pgdata",
            "backup: pgdata from pgdata at local/pgdata read-only",
            "other: cache from cache at local/cache",
        ]
    );
}

#[test]
fn a_list_of_the_group_does_not_reach_into_a_task_with_words_of_its_own() {
    let mut allocation = allocation(&[("storage_volume", "pgdata"), ("storage_tasks", "postgres, backup")]);
    allocation.tasks.push(task("backup", "docker", Hook::Main, &[("storage_destination", "old")]));
    assert_eq!(got(&allocation), ["postgres: pgdata from pgdata at local/pgdata", "backup: pgdata from pgdata at old"]);
}

#[test]
fn words_of_the_task_alone_are_enough() {
    let mut allocation = allocation(&[]);
    allocation.tasks[1].meta = map(&[("storage_volume", "pgdata")]);
    assert_eq!(got(&allocation), ["postgres: pgdata from pgdata at local/pgdata"]);
}

fn meta() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[a-d]", "[a-z]{0,3}", 0..5)
}

proptest! {
    #[test]
    fn merging_is_nomads_rule(job in meta(), group in meta(), own in meta()) {
        let mut allocation = allocation(&[]);
        allocation.job_meta = job.clone();
        allocation.group_meta = group.clone();
        allocation.tasks[1].meta = own.clone();
        let merged = merge(&allocation, &allocation.tasks[1]);
        for key in ["a", "b", "c", "d"] {
            prop_assert_eq!(merged.get(key), own.get(key).or(group.get(key)).or(job.get(key)));
        }
    }
}
