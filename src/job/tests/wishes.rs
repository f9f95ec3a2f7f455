//! What an operator asks for is read by the rules of a job's words.

use super::*;

fn running() -> Allocation {
    let mut allocation = allocation(&[]);
    allocation.tasks[0].state = TaskState::Dead;
    allocation.tasks[1].state = TaskState::Running;
    allocation
}

fn wish(volume: &str) -> Wish {
    Wish { volume: volume.to_owned(), ..Wish::default() }
}

fn wished(allocation: &Allocation, wish: &Wish) -> Vec<String> {
    match read_wish(allocation, wish, &node()) {
        Ok(requests) => lines(&requests),
        Err(refusal) => vec![said(&refusal)],
    }
}

#[test]
fn the_only_task_that_runs_is_meant_where_none_is_named() {
    assert_eq!(wished(&running(), &wish("dumps")), ["postgres: dumps from dumps at local/dumps"]);
    let read_only = Wish { read_only: true, destination: Some("data/${node.class}".into()), ..wish("dumps") };
    assert_eq!(wished(&running(), &read_only), ["postgres: dumps from dumps at data/big read-only"]);
    let mut two = running();
    two.tasks.push(Task { state: TaskState::Running, ..task("proxy", "exec", Hook::Main, &[]) });
    assert_eq!(
        wished(&two, &wish("dumps")),
        ["several tasks of allocation 12345678 run: postgres, proxy (name those that are meant with --task)"]
    );
    let both = Wish { tasks: vec!["proxy".into(), "postgres".into(), "proxy".into()], ..wish("dumps") };
    assert_eq!(
        wished(&two, &both),
        ["proxy: dumps from dumps at local/dumps", "postgres: dumps from dumps at local/dumps"]
    );
}

#[test]
fn what_a_job_may_not_have_an_operator_may_not_either() {
    for (destination, sentence) in
        [("../x", ".."), ("/etc", "/etc"), ("secrets/x", "secrets"), ("alloc/x", "alloc"), ("local", "local")]
    {
        let wish = Wish { destination: Some(destination.into()), ..wish("dumps") };
        let said = wished(&running(), &wish);
        assert!(said.len() == 1 && said[0].contains(sentence) && said[0].contains('('), "{destination}: {said:?}");
    }
    let mut sticky = running();
    sticky.sticky_disk = true;
    assert!(wished(&sticky, &wish("dumps"))[0].contains("sticky = true"));
    let mut qemu = running();
    qemu.tasks[1].driver = "firecracker".into();
    assert!(wished(&qemu, &wish("dumps"))[0].contains("firecracker"));
    let url = wish("seaweedfs://filer:8888/a b");
    assert!(wished(&running(), &url)[0].contains("holds spaces"));
}

#[test]
fn a_url_needs_a_name_where_it_does_not_end_in_one() {
    let url = wish("seaweedfs://filer:8888/backups");
    assert_eq!(wished(&running(), &url), ["postgres: backups from seaweedfs://filer:8888/backups at local/backups"]);
    let named = Wish { label: Some("old".into()), ..wish("seaweedfs://filer:8888/") };
    assert_eq!(wished(&running(), &named), ["postgres: old from seaweedfs://filer:8888/ at local/old"]);
}

#[test]
fn tasks_that_do_not_run_get_nothing() {
    let over = Wish { tasks: vec!["storage".into()], ..wish("dumps") };
    assert!(wished(&running(), &over)[0].starts_with("task \"storage\" of allocation 12345678 does not run"));
    let mistyped = Wish { tasks: vec!["postgre".into()], ..wish("dumps") };
    assert!(wished(&running(), &mistyped)[0].contains("did you mean \"postgres\"?"));
    assert_eq!(wished(&allocation(&[]), &wish("dumps")), ["no task of allocation 12345678 runs"]);
}
