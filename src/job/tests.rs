//! What a job's author writes, and what comes out or is said.

use std::collections::BTreeMap;

use super::*;
use crate::nomad::model::{AllocId, Allocation, ClientStatus, Desired, Hook, Node, Task, TaskState};

mod blocks;
mod destinations;
mod hostile;
mod interpolation;
mod merging;
mod refusals;
mod wishes;

type Meta<'a> = &'a [(&'a str, &'a str)];

fn map(meta: Meta<'_>) -> BTreeMap<String, String> {
    meta.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn task(name: &str, driver: &str, hook: Hook, meta: Meta<'_>) -> Task {
    Task {
        name: name.to_owned(),
        driver: driver.to_owned(),
        hook,
        sidecar: false,
        meta: map(meta),
        cpu_mhz: 500,
        memory_mb: 256,
        state: TaskState::Pending,
        started: false,
        restarts: 0,
    }
}

/// Job "shop", group "db": a prestart task "storage" and the main task "postgres".
fn allocation(group_meta: Meta<'_>) -> Allocation {
    Allocation {
        id: AllocId::parse("12345678-9abc-def0-1234-56789abcdef0").unwrap(),
        name: "shop.db[3]".to_owned(),
        index: 3,
        namespace: "default".to_owned(),
        region: "global".to_owned(),
        job_id: "shop".to_owned(),
        job_name: "shop".to_owned(),
        job_parent_id: None,
        group: "db".to_owned(),
        desired: Desired::Run,
        status: ClientStatus::Pending,
        sticky_disk: false,
        migrate_disk: false,
        job_meta: BTreeMap::new(),
        group_meta: map(group_meta),
        tasks: vec![task("storage", "raw_exec", Hook::Prestart, &[]), task("postgres", "docker", Hook::Main, &[])],
    }
}

fn node() -> Node {
    Node {
        id: "node-id".to_owned(),
        name: "alpha".to_owned(),
        datacenter: "dc1".to_owned(),
        pool: "default".to_owned(),
        class: "big".to_owned(),
        attributes: map(&[("kernel.name", "linux")]),
        meta: map(&[("rack", "r7")]),
    }
}

fn asked(allocation: &Allocation) -> Result<Vec<Request>, Refusal> {
    read(allocation, "storage", &node())
}

/// `task: label from source at destination`, one line for each request.
fn lines(requests: &[Request]) -> Vec<String> {
    requests
        .iter()
        .map(|request| {
            let source = match &request.source {
                SourceName::Named(name) | SourceName::Url(name) => name,
            };
            let at = request.destination.as_path().display();
            let read_only = if request.read_only { " read-only" } else { "" };
            format!("{}: {} from {source} at {at}{read_only}", request.task, request.label)
        })
        .collect()
}

fn got(allocation: &Allocation) -> Vec<String> {
    match asked(allocation) {
        Ok(requests) => lines(&requests),
        Err(refusal) => vec![said(&refusal)],
    }
}

/// A refusal as its author reads it: `sentence (hint)`.
fn said(refusal: &Refusal) -> String {
    match &refusal.hint {
        Some(hint) => format!("{refusal} ({hint})"),
        None => refusal.to_string(),
    }
}

fn refused(group_meta: Meta<'_>) -> String {
    refused_of(&allocation(group_meta))
}

fn refused_of(allocation: &Allocation) -> String {
    match asked(allocation) {
        Ok(requests) => panic!("not refused: {:?}", lines(&requests)),
        Err(refusal) => said(&refusal),
    }
}

#[test]
fn one_word_is_enough() {
    let requests = asked(&allocation(&[("storage_volume", "pgdata")])).unwrap();
    assert_eq!(
        requests,
        [Request {
            label: "pgdata".to_owned(),
            source: SourceName::Named("pgdata".to_owned()),
            task: "postgres".to_owned(),
            destination: Destination("local/pgdata".into()),
            placement: Placement::Mount,
            read_only: false,
            on_failure: OnFailure::Reattach,
        }]
    );
}

#[test]
fn the_scalar_form_takes_all_keys() {
    let allocation = allocation(&[
        ("storage_volume", "pgdata\n"),
        ("storage_destination", "data/pg"),
        ("storage_read_only", "true"),
        ("storage_tasks", "postgres,"),
    ]);
    assert_eq!(got(&allocation), ["postgres: pgdata from pgdata at data/pg read-only"]);
}

#[test]
fn a_url_names_its_volume_by_its_last_component() {
    let allocation = allocation(&[("storage_volume", "seaweedfs://filer:8888/buckets/x")]);
    assert_eq!(got(&allocation), ["postgres: x from seaweedfs://filer:8888/buckets/x at local/x"]);
}

#[test]
fn drivers_that_see_the_host_get_links() {
    for (driver, placement) in [
        ("docker", Placement::Mount),
        ("podman", Placement::Mount),
        ("exec", Placement::Mount),
        ("java", Placement::Mount),
        ("raw_exec", Placement::Link),
        ("qemu", Placement::Link),
    ] {
        let mut allocation = allocation(&[("storage_volume", "pgdata")]);
        allocation.tasks[1].driver = driver.to_owned();
        assert_eq!(asked(&allocation).unwrap()[0].placement, placement, "{driver}");
    }
}

#[test]
fn the_hook_is_guessed_where_it_can_be() {
    let mut allocation = allocation(&[]);
    assert_eq!(likely_hook_task(&allocation), Some("storage"));
    allocation.tasks.push(task("migrate", "docker", Hook::Prestart, &[]));
    assert_eq!(likely_hook_task(&allocation), Some("storage"));
    allocation.tasks[0].name = "one".to_owned();
    assert_eq!(likely_hook_task(&allocation), None);
    allocation.tasks[0].sidecar = true;
    assert_eq!(likely_hook_task(&allocation), Some("migrate"));
    allocation.tasks.clear();
    assert_eq!(likely_hook_task(&allocation), None);
}
