use super::*;

#[test]
fn a_task_that_is_not_there_cannot_call() {
    let refusal = read(&allocation(&[("storage_volume", "x")]), "storag", &node()).unwrap_err();
    assert_eq!(refusal.kind, Kind::Usage);
    assert_eq!(said(&refusal), "group \"db\" has no task \"storag\" (did you mean \"storage\"?)");
    let refusal = read(&allocation(&[]), "nothing-like-it", &node()).unwrap_err();
    assert_eq!(said(&refusal), "group \"db\" has no task \"nothing-like-it\" (its tasks are storage, postgres)");
}

#[test]
fn no_words_at_all_say_which_to_write() {
    let refusal = asked(&allocation(&[])).unwrap_err();
    assert_eq!(refusal.kind, Kind::Configuration);
    assert_eq!(
        said(&refusal),
        "the job says nothing of storage for group \"db\" (write meta { storage_volume = \"NAME\" } in the group, with the name of a volume)"
    );
}

#[test]
fn unknown_keys_are_refused_wherever_they_are() {
    assert_eq!(
        refused(&[("storage_volum", "x")]),
        "unknown key \"storage_volum\" in the meta of group \"db\" (did you mean \"storage_volume\"?)"
    );
    let mut allocation = allocation(&[("storage_volume", "x")]);
    allocation.job_meta = map(&[("storage_quota_of_it", "1")]);
    assert_eq!(
        refused_of(&allocation),
        "unknown key \"storage_quota_of_it\" in the meta of job \"shop\" (the keys are storage_volume, storage_destination, storage_read_only, storage_tasks)"
    );
    allocation.job_meta.clear();
    allocation.tasks[1].meta = map(&[("storage_readonly", "true")]);
    assert_eq!(
        refused_of(&allocation),
        "unknown key \"storage_readonly\" in the meta of task \"postgres\" (did you mean \"storage_read_only\"?)"
    );
}

#[test]
fn scalar_words_are_checked() {
    for (meta, sentence) in [
        (
            &[("storage_destination", "local/x")] as Meta<'_>,
            "storage_destination is set for group \"db\", and storage_volume is not (add storage_volume = \"NAME\" to the same meta)",
        ),
        (&[("storage_volume", " \n")], "storage_volume is empty for group \"db\" (write the name of a volume)"),
        (
            &[("storage_volume", "x"), ("storage_read_only", "1")],
            "storage_read_only is \"1\", which is neither true nor false (write storage_read_only = \"true\" or \"false\")",
        ),
        (
            &[("storage_volume", "x"), ("storage_tasks", "postgre")],
            "storage_volume names the task \"postgre\", which group \"db\" does not have (did you mean \"postgres\"?)",
        ),
        (
            &[("storage_volume", "x"), ("storage_tasks", "storage")],
            "storage_volume names the task \"storage\", which calls for it and cannot get it (name the tasks that use the volume)",
        ),
        (
            &[("storage_volume", "x"), ("storage_tasks", " , ")],
            "the list of tasks of storage_volume is empty (name a task, or leave the list out for all tasks)",
        ),
        (
            &[("storage_volume", "my volume")],
            "storage_volume is neither one name or URL nor volume blocks: \"my volume\" (write one name, or for several volumes a block volume \"NAME\" { } for each, each on lines of its own)",
        ),
        (
            &[("storage_volume", "a,b")],
            "storage_volume \"a,b\" is neither a volume's name nor a URL (a name is 1 to 128 letters, digits, `.`, `_` and `-`, the first a letter or digit; a URL has ://)",
        ),
        (
            &[("storage_volume", "volume \"x\" {\n  source = \"/srv\"\n}")],
            "the source \"/srv\" of volume \"x\" is neither a volume's name nor a URL (a name is 1 to 128 letters, digits, `.`, `_` and `-`, the first a letter or digit; a URL has ://)",
        ),
        (
            &[("storage_volume", "volume \"x\" {\n  source = \"host:///a b\"\n}")],
            "volume \"x\" holds spaces or control characters, or is too long for a URL: \"host:///a b\"",
        ),
        (
            &[("storage_volume", "host:///srv/")],
            "the URL \"host:///srv/\" does not end in a name for its volume (give it one in the block form: volume \"NAME\" { source = \"URL\" }, each key on a line of its own)",
        ),
        (
            &[("storage_volume", "volume \"x\" {\n  tasks = [\"db\"]\n}")],
            "volume \"x\" names the task \"db\", which group \"db\" does not have (its tasks are storage, postgres)",
        ),
        (
            &[("storage_volume", "volume \"x\" {\n  tasks = []\n}")],
            "the list of tasks of volume \"x\" is empty (name a task, or leave the list out for all tasks)",
        ),
    ] {
        assert_eq!(refused(meta), sentence);
    }
}

#[test]
fn a_driver_that_would_not_show_it_is_refused_by_name() {
    let mut allocation = allocation(&[("storage_volume", "x")]);
    allocation.tasks[1].driver = "exec2".to_owned();
    assert_eq!(
        refused_of(&allocation),
        "task \"postgres\" has the driver \"exec2\", which does not show a task what is mounted below its directory (run it under docker, podman, exec, java, raw_exec or qemu, or list the other tasks in storage_tasks)"
    );
}

#[test]
fn a_group_without_a_task_for_it_is_refused() {
    let mut allocation = allocation(&[("storage_volume", "x")]);
    allocation.tasks[1].hook = Hook::Poststop;
    assert_eq!(
        refused_of(&allocation),
        "group \"db\" has no task that could get its volume (add the task that needs it: \"storage\" only calls for it, and poststop tasks have to be named)"
    );
}

#[test]
fn words_of_64_kib_are_refused() {
    let just = "x".repeat(64 * 1024 - 1);
    assert_eq!(refused(&[("storage_volume", &just)]), "storage_volume comes to more than 4096 bytes");
    let mut allocation = allocation(&[("storage_volume", &just)]);
    allocation.tasks[1].meta = map(&[("storage_tasks", "y")]);
    assert_eq!(
        refused_of(&allocation),
        "the storage words of this job have 65536 bytes, and fewer than 65536 are read (say it shorter)"
    );
}
