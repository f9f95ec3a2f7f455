//! What the former version left is taken over.

use super::*;
use crate::support::require;
use serde_json::Value;

/// A page of two tasks exactly as 0.1.0 wrote it, with placeholders for what is of a machine.
const PAGE: &str = include_str!("../../fixtures/ledger-0.1.0/page.json.in");

/// The page that 0.1.0 would have written in place of this one.
fn as_the_former_version_wrote_it(page: &Value) -> anyhow::Result<String> {
    let mut bindings: BTreeMap<&str, &Value> = BTreeMap::new();
    for binding in page["bindings"].as_array().context("bindings")? {
        bindings.insert(binding["binding"]["task"].as_str().context("a task")?, binding);
    }
    let first = bindings.get("docker").context("the docker task's binding")?;
    let mounted = |task: &str| &bindings[task]["stage"]["mounted"];
    let (volume, device) = (&first["binding"]["volume"], &mounted("docker")["device"]);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let filled = [
        ("ALLOC", &page["alloc"]),
        ("JOB", &page["job"]),
        ("VOLUME", &volume["name"]),
        ("BACKEND", &volume["backend"]),
        ("PATH", &volume["path"]),
        ("SOURCE", &first["binding"]["source"]),
        ("DOCKER_MOUNT", &mounted("docker")["mount_id"]),
        ("RAW_EXEC_MOUNT", &mounted("raw_exec")["mount_id"]),
        ("MAJOR", &device[0]),
        ("MINOR", &device[1]),
        ("INODE", &mounted("docker")["inode"]),
        ("SINCE", &first["since"]),
    ];
    let page =
        filled.iter().fold(PAGE.to_owned(), |page, (name, value)| page.replace(&format!("@{name}@"), &text(value)));
    anyhow::ensure!(!page.contains('@'), "{page}");
    Ok(page)
}

/// Everything of `former` is in `present` with the same value: what a later version writes, a former one can read.
fn assert_holds(present: &Value, former: &Value, at: &str) {
    match (present, former) {
        (Value::Object(present), Value::Object(former)) => {
            for (key, value) in former {
                assert_holds(present.get(key).unwrap_or(&Value::Null), value, &format!("{at}.{key}"));
            }
        }
        (Value::Array(present), Value::Array(former)) => {
            assert_eq!(present.len(), former.len(), "{at}");
            for (number, (present, former)) in present.iter().zip(former).enumerate() {
                assert_holds(present, former, &format!("{at}[{number}]"));
            }
        }
        _ => assert_eq!(present, former, "{at}"),
    }
}

#[test]
fn the_former_versions_ledger_is_taken_over_and_nothing_is_mounted_anew() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::with("former", options()?)?;
    let configuration = configuration(&world)?;
    world.start_agent(&configuration)?;
    let load = Load::start(&world, &["docker", "raw_exec"], &BACKENDS)?;
    let present = wait_recorded(&world, &load)?;
    world.kill_agent()?;
    for (path, page) in &present {
        let page: Value = serde_json::from_str(page)?;
        let former = as_the_former_version_wrote_it(&page)?;
        assert_holds(&page, &serde_json::from_str(&former)?, "the page");
        std::fs::write(path, former)?;
    }
    world.start_agent(&configuration)?;
    let known = world.wait_until("an agent that knows all", PATIENCE, || {
        let status = status(&world)?;
        let mounted = status["bindings"].as_array().context("bindings")?.iter().all(|one| one["state"] == "mounted");
        Ok((mounted && status["nomad"]["connected"] == true).then_some(status))
    })?;
    assert_eq!(known["bindings"].as_array().map(Vec::len), Some(load.tasks.len()), "{known:#}");
    let recovery = &known["recovery"];
    assert_eq!(
        (recovery["adopted"].as_u64(), recovery["unexplained"].as_array().map(Vec::len)),
        (Some(0), Some(0)),
        "by its pages, not by the mount table: {recovery:#}"
    );
    assert_eq!(recovery["unreadable_pages"].as_array().map(Vec::len), Some(0), "{recovery:#}");
    load.assert_untouched(&world)?;
    load.end(&world)
}
