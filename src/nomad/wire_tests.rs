//! Nomad's JSON as its agents write it, cut down to a few fields.

use super::*;

const ID: &str = "57361afc-3321-9ae7-507b-be61c6fba379";

/// An allocation as Nomad 1.10 lists it, with a job that asks for storage in its group.
fn allocation() -> serde_json::Value {
    serde_json::json!({
        "ID": ID,
        "Namespace": "shop",
        "Name": "shop/dispatch-1[x].db[3]",
        "NodeID": "95416110-b76a-d00e-8afe-4bc46d977ef7",
        "JobID": "shop/dispatch-1",
        "Job": {
            "ID": "shop/dispatch-1", "Name": "shop", "ParentID": "shop", "Region": "global",
            "Meta": {"a": "job", "storage_tasks": "main"},
            "Payload": null,
            "TaskGroups": [
                {"Name": "web", "Meta": {"storage_volume": "other"}, "Tasks": null, "EphemeralDisk": null},
                {"Name": "db", "Meta": {"storage_volume": "pg-${NOMAD_ALLOC_INDEX}"},
                 "EphemeralDisk": {"Migrate": false, "SizeMB": 300, "Sticky": true},
                 "Tasks": [
                    {"Name": "pre", "Driver": "raw_exec", "Lifecycle": {"Hook": "prestart", "Sidecar": true},
                     "Meta": null, "Resources": {"CPU": 20, "MemoryMB": 10}},
                    {"Name": "main", "Driver": "docker", "Lifecycle": null, "Meta": {"c": "task"},
                     "Resources": {"CPU": 0, "Cores": 2, "MemoryMB": 64}}
                 ]}
            ]
        },
        "TaskGroup": "db",
        "AllocatedResources": {"Shared": {"DiskMB": 300}, "Tasks": {
            "main": {"Cpu": {"CpuShares": 5192, "ReservedCores": [0, 1]}, "Memory": {"MemoryMB": 64, "MemoryMaxMB": 0}}
        }},
        "DesiredStatus": "run",
        "ClientStatus": "running",
        "TaskStates": {
            "pre": {"State": "dead", "StartedAt": "2026-11-21T10:00:26Z", "FinishedAt": "2026-11-21T10:00:29Z"},
            "main": {"State": "pending", "StartedAt": null, "FinishedAt": null}
        }
    })
}

fn read(value: &serde_json::Value) -> Allocation {
    serde_json::from_value::<WireAllocation>(value.clone()).unwrap().into()
}

fn parse(text: &str) -> serde_json::Result<Listing> {
    ListingSeed::default().deserialize(&mut serde_json::Deserializer::from_str(text))
}

fn list(values: &[serde_json::Value]) -> Listing {
    parse(&serde_json::to_string(values).unwrap()).unwrap()
}

#[test]
fn an_allocation_keeps_its_group_and_all_three_levels_of_meta() {
    let alloc = read(&allocation());
    assert_eq!(alloc.id.as_str(), ID);
    assert_eq!((alloc.namespace.as_str(), alloc.group.as_str(), alloc.index), ("shop", "db", 3));
    assert_eq!((alloc.job_name.as_str(), alloc.job_parent_id.as_deref()), ("shop", Some("shop")));
    assert_eq!((alloc.desired, alloc.status), (Desired::Run, ClientStatus::Running));
    assert_eq!((alloc.sticky_disk, alloc.migrate_disk), (true, false));
    assert_eq!(alloc.job_meta["a"], "job");
    assert_eq!(alloc.group_meta["storage_volume"], "pg-${NOMAD_ALLOC_INDEX}");
    let main = alloc.task("main").unwrap();
    assert_eq!(main.meta["c"], "task");
    assert_eq!((main.hook, main.state, main.started), (Hook::Main, TaskState::Pending, false));
    assert_eq!((main.cpu_mhz, main.memory_mb), (5192, 64));
    let pre = alloc.task("pre").unwrap();
    assert_eq!((pre.hook, pre.sidecar, pre.state, pre.started), (Hook::Prestart, true, TaskState::Dead, true));
    assert_eq!((pre.cpu_mhz, pre.memory_mb), (20, 10));
}

#[test]
fn nulls_stand_for_nothing_everywhere() {
    let mut value = allocation();
    for field in ["Name", "Namespace", "JobID", "DesiredStatus", "ClientStatus", "AllocatedResources", "TaskStates"] {
        value[field] = serde_json::Value::Null;
    }
    let alloc = read(&value);
    assert_eq!(alloc.tasks.len(), 2);
    assert!(alloc.tasks.iter().all(|task| task.state == TaskState::Pending && !task.started));
    value["TaskStates"] = serde_json::json!({"main": null});
    value["Job"]["TaskGroups"][1]["Tasks"] = serde_json::Value::Null;
    value["Job"]["Meta"] = serde_json::Value::Null;
    assert!(read(&value).tasks.is_empty());
    value["Job"] = serde_json::Value::Null;
    assert!(!read(&value).asks_for_storage());
    assert_eq!(parse("null").unwrap(), Listing::default());
}

#[test]
fn unknown_words_of_a_newer_nomad_are_taken_carefully() {
    let mut value = allocation();
    value["ClientStatus"] = "dreaming".into();
    value["DesiredStatus"] = "levitate".into();
    value["TaskStates"]["main"] = serde_json::json!({"State": "hovering", "StartedAt": "0001-01-01T00:00:00Z"});
    let alloc = read(&value);
    assert_eq!((alloc.desired, alloc.status), (Desired::Run, ClientStatus::Unknown));
    assert_eq!(alloc.task("main").map(|task| (task.state, task.started)), Some((TaskState::Pending, false)));
    value["DesiredStatus"] = "evict".into();
    assert_eq!(read(&value).desired, Desired::Stop);
}

#[test]
fn what_asks_for_no_storage_leaves_only_its_id() {
    let mut plain = allocation();
    plain["ID"] = "00000000-0000-0000-0000-000000000001".into();
    plain["TaskGroup"] = "db".into();
    plain["Job"]["Meta"] = serde_json::Value::Null;
    plain["Job"]["TaskGroups"][1]["Meta"] = serde_json::json!({"storagevolume": "x"});
    let mut by_task = plain.clone();
    by_task["ID"] = "00000000-0000-0000-0000-000000000002".into();
    by_task["Job"]["TaskGroups"][1]["Tasks"][1]["Meta"]["storage_volume"] = "x".into();
    let listing = list(&[allocation(), plain, by_task]);
    assert_eq!((listing.others, listing.ids.len()), (1, 3));
    assert_eq!(listing.allocations.len(), 2);
    assert!(listing.allocations.iter().all(Allocation::asks_for_storage));
}

#[test]
fn what_somebody_wants_to_hear_of_is_kept_whole() {
    let mut plain = allocation();
    plain["TaskGroup"] = "db".into();
    plain["Job"]["Meta"] = serde_json::Value::Null;
    plain["Job"]["TaskGroups"][1]["Meta"] = serde_json::Value::Null;
    let text = serde_json::to_string(&[&plain]).unwrap();
    assert_eq!(parse(&text).unwrap().allocations, []);
    let seed = ListingSeed { kept: Arc::new(HashSet::from([read(&plain).id])) };
    let listing = seed.deserialize(&mut serde_json::Deserializer::from_str(&text)).unwrap();
    assert_eq!((listing.others, listing.allocations), (0, vec![read(&plain)]));
}

#[test]
fn an_id_that_could_leave_the_allocation_root_spoils_the_whole_listing() {
    for bad in ["../../etc", "", "57361AFC-3321-9ae7-507b-be61c6fba379"] {
        let mut value = allocation();
        value["ID"] = bad.into();
        let body = serde_json::to_string(&[value]).unwrap();
        assert!(parse(&body).is_err(), "{bad}");
    }
    assert!(parse("[{}]").is_err());
    assert!(parse("{}").is_err());
}

#[test]
fn the_allocation_root_is_below_the_data_directory_unless_it_is_set() {
    let agent = |config: serde_json::Value, stats: serde_json::Value| -> AgentSelf {
        serde_json::from_value::<WireSelf>(serde_json::json!({"config": config, "stats": stats, "member": {}}))
            .unwrap()
            .into()
    };
    let client = serde_json::json!({"client": {"node_id": "n", "num_allocations": "7"}, "nomad": {"leader": "true"}});
    let version = serde_json::json!({"Version": "1.10.5", "BuildDate": null});
    let mut config = serde_json::json!({"DataDir": "/var/lib/nomad", "Region": "global", "Version": version,
        "Client": {"Enabled": true, "AllocDir": ""}});
    let found = agent(config.clone(), client.clone());
    assert_eq!(found.alloc_dir, Some("/var/lib/nomad/alloc".into()));
    assert_eq!((found.node_id.as_deref(), found.allocations, found.is_client), (Some("n"), Some(7), true));
    assert_eq!((found.version.as_str(), found.region.as_str()), ("1.10.5", "global"));
    config["Client"]["AllocDir"] = "/mnt/alloc".into();
    assert_eq!(agent(config.clone(), client.clone()).alloc_dir, Some("/mnt/alloc".into()));
    config["Client"]["AllocDir"] = "".into();
    config["DataDir"] = "".into();
    assert_eq!(agent(config.clone(), client).alloc_dir, None);
    config["Client"] = serde_json::json!({"Enabled": false});
    let server = agent(config, serde_json::json!({"nomad": {}}));
    assert_eq!((server.is_client, server.node_id), (false, None));
}
