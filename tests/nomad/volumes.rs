//! A volume that tasks use is neither changed nor deleted, whatever drives them; and what a task gets is one definition,
//! the old one or the new one.

use crate::support::{PATIENCE, World, checksums, require, tool};
use anyhow::Context as _;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Each task writes its driver's name into the volume, and what the volume is named for it.
const JOB: &str = r#"
variable "saddlebag" {}
variable "socket" {}

job "JOB" {
  group "app" {
    meta {
      storage_volume = "pg"
    }
    PRESTART
    TASKS
  }
}
"#;

const DRIVERS: [&str; 3] = ["docker", "exec", "raw_exec"];

fn task(driver: &str) -> String {
    let config = match driver {
        "docker" => "image = \"saddlebag-test:1\"\n        network_mode = \"host\"\n        command = \"sh\"",
        _ => "command = \"/bin/sh\"",
    };
    let local = if driver == "raw_exec" { "$NOMAD_TASK_DIR" } else { "/local" };
    format!(
        r#"task "{driver}" {{
      driver       = "{driver}"
      kill_timeout = "1s"
      config {{
        {config}
        args = ["-c", "echo {driver} > {local}/pg/{driver}; exec sleep 86400"]
      }}
      resources {{
        cpu    = 20
        memory = 32
      }}
    }}
"#
    )
}

fn run(world: &World, job: &str, drivers: &[&str]) -> anyhow::Result<String> {
    let tasks: String = drivers.iter().map(|driver| task(driver)).collect();
    world.run_job(&JOB.replace("JOB", job).replace("TASKS", &tasks), &[])?;
    Ok(job.to_owned())
}

fn wait_for_files(world: &World, directory: &Path, names: &[&str]) -> anyhow::Result<()> {
    world.wait_until("what each task writes", PATIENCE, || {
        let is_there =
            |name: &&str| std::fs::read_to_string(directory.join(name)).is_ok_and(|text| text.trim() == *name);
        Ok(names.iter().all(is_there).then_some(()))
    })
}

fn start(world: &World) -> anyhow::Result<PathBuf> {
    let disk = world.directory().join("volumes");
    std::fs::create_dir_all(&disk)?;
    world.start_agent(&format!("backend \"host\" \"disk\" {{\n  path = \"{}\"\n}}\n", disk.display()))?;
    Ok(disk)
}

fn definition(path: &str) -> String {
    format!("volume \"pg\" {{\n  backend = \"disk\"\n  path = \"{path}\"\n  create = true\n  mode = \"0777\"\n}}\n")
}

/// Begins a verb with that definition.
fn begin(world: &World, verb: &str, text: &str) -> anyhow::Result<Child> {
    let file = world.directory().join("pg.hcl");
    std::fs::write(&file, text)?;
    let mut command = world.command(&world.saddlebag_path());
    command.args(["volume", verb, "--json"]).arg(file).env("SADDLEBAG_SOCKET", world.run_dir().join("saddlebag.sock"));
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

fn end(verb: Child) -> anyhow::Result<(i32, String)> {
    let output = verb.wait_with_output()?;
    let text = if output.status.success() { output.stdout } else { output.stderr };
    Ok((output.status.code().unwrap_or(-1), String::from_utf8(text)?))
}

fn outcome(world: &World, verb: &str, text: &str) -> anyhow::Result<String> {
    let (code, said) = end(begin(world, verb, text)?)?;
    anyhow::ensure!(code == 0, "{code} {said}");
    let answer: Value = serde_json::from_str(&said)?;
    Ok(answer["outcome"].as_str().context("an outcome")?.to_owned())
}

fn users(world: &World) -> anyhow::Result<Vec<String>> {
    let list: Value = serde_json::from_str(&world.saddlebag(&["volume", "list", "--json"])?)?;
    let pg = list["volumes"].as_array().context("volumes")?.iter().find(|volume| volume["name"] == "pg");
    let users = pg.context("pg")?["used_by"].as_array().context("users")?.clone();
    Ok(users.iter().map(|user| user["task"].as_str().unwrap_or_default().to_owned()).collect())
}

/// The size of each binding that has one, and whether it is enforced.
fn sizes(world: &World) -> anyhow::Result<Vec<(u64, String)>> {
    let status: Value = serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?;
    let bindings = status["bindings"].as_array().context("bindings")?.iter();
    let told = |one: &Value| Some((one["size"].as_u64()?, one["size_enforced"].as_str()?.to_owned()));
    Ok(bindings.filter_map(told).collect())
}

#[test]
fn a_volume_in_use_is_neither_changed_nor_deregistered_nor_deleted_and_it_is_said_by_whom() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed");
    let world = World::new("volumes")?;
    let disk = start(&world)?;
    assert_eq!(outcome(&world, "create", &definition("one"))?, "registered");
    let job = run(&world, "shop", &DRIVERS)?;
    wait_for_files(&world, &disk.join("one"), &DRIVERS)?;
    let alloc = world.wait_running(&job)?;

    assert_eq!(users(&world)?, DRIVERS);
    let who = format!("is in use by task docker of job shop (allocation {}) and 2 others", &alloc[..8]);
    let refused = |code: i32, said: &str, what: &str| {
        assert_eq!(code, 75, "{said}");
        assert!(said.contains(&who) && said.contains(what), "{said}");
    };
    for verb in ["register", "create"] {
        let (code, said) = end(begin(&world, verb, &definition("two"))?)?;
        refused(code, &said, "its definition cannot be changed");
    }
    for (verb, what) in [("deregister", "it cannot be deregistered"), ("delete", "it cannot be deleted")] {
        let output = world.try_saddlebag(&["volume", verb, "pg"])?;
        refused(output.status.code().unwrap_or(-1), &String::from_utf8_lossy(&output.stderr), what);
    }
    // Said once more, or in other words that mean the same, it is no change.
    assert_eq!(outcome(&world, "register", &definition("one"))?, "unchanged");
    assert_eq!(outcome(&world, "create", &format!("# the shop's\n{}", definition("one")))?, "changed");
    // Nor is any of it done by an agent that has just come and knows the tasks from its ledger.
    world.kill_agent()?;
    // Which has another size in its definition than the ledger: the definition counts.
    let sized = definition("one").replace("  create", "  size = \"1GiB\"\n  create");
    std::fs::write(world.state_dir().join("volumes.d/pg.hcl"), sized)?;
    start(&world)?;
    assert_eq!(users(&world)?, DRIVERS);
    assert_eq!(sizes(&world)?, vec![(1 << 30, "advisory".to_owned()); 3]);
    let output = world.try_saddlebag(&["volume", "delete", "pg"])?;
    refused(output.status.code().unwrap_or(-1), &String::from_utf8_lossy(&output.stderr), "it cannot be deleted");
    assert!(disk.join("one").is_dir() && !disk.join("two").exists() && !disk.join(".saddlebag-deleted").exists());

    world.stop_purge(&job)?;
    world.wait_until("a volume that nobody uses", PATIENCE, || Ok(users(&world)?.is_empty().then_some(())))?;
    assert_eq!(outcome(&world, "register", &definition("two"))?, "changed");
    let job = run(&world, "again", &["exec"])?;
    wait_for_files(&world, &disk.join("two"), &["exec"])?;
    world.stop_purge(&job)?;
    world.wait_until("a volume that nobody uses", PATIENCE, || Ok(users(&world)?.is_empty().then_some(())))?;

    let before = checksums(&disk.join("two"))?;
    let deleted: Value = serde_json::from_str(&world.saddlebag(&["volume", "delete", "--json", "pg"])?)?;
    let kept = PathBuf::from(deleted["kept"].as_str().context("kept")?);
    assert!(kept.starts_with(disk.join(".saddlebag-deleted")) && !disk.join("two").exists());
    assert_eq!(checksums(&kept)?, before);
    assert!(disk.join("one/docker").exists(), "what the former definition named is where it was");
    // A job that asks for it now is refused.
    let job = run(&world, "late", &["exec"])?;
    world.wait_until("a refusal", PATIENCE, || {
        let Some(newest) = world.allocations(&job)?.into_iter().next() else { return Ok(None) };
        let id = newest["ID"].as_str().context("an id")?;
        let said = world.alloc_logs(id, "storage").unwrap_or_default();
        Ok(said.contains("no volume \"pg\" is registered on this node").then_some(()))
    })?;
    world.stop_purge(&job)?;
    world.system_gc()?;
    world.assert_no_destroy_errors()
}

#[test]
fn a_task_that_asks_while_a_definition_is_changed_gets_the_new_one() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "strace");
    let world = World::new("changed")?;
    let disk = start(&world)?;
    assert_eq!(outcome(&world, "create", &definition("old"))?, "registered");
    // The new definition is on its way to the disk for three seconds.
    let pid = world.agent_pid().context("an agent runs")?.to_string();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o"]).arg(world.log("strace"));
    strace.args(["-e", "trace=rename", "-e", "inject=rename:delay_enter=3000000:when=1", "-p", &pid]);
    let mut tracer = strace.spawn()?;
    world.wait_until("a traced agent", PATIENCE, || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
        let mut status =
            threads.map(|thread| std::fs::read_to_string(thread.path().join("status")).unwrap_or_default());
        Ok(status.all(|status| !status.contains("TracerPid:\t0\n")).then_some(()))
    })?;
    let job = {
        let change = begin(&world, "register", &definition("new"))?;
        let started = std::time::Instant::now();
        let job = run(&world, "shop", &["exec"])?;
        world.wait_until("a task that asks", PATIENCE, || {
            Ok(std::fs::read_to_string(world.log("agent"))?.contains("a task asks for its volumes").then_some(()))
        })?;
        assert!(started.elapsed().as_secs_f32() < 3.0, "it asked while the definition was being changed");
        let (code, said) = end(change)?;
        assert_eq!(code, 0, "{said}");
        job
    };
    wait_for_files(&world, &disk.join("new"), &["exec"])?;
    assert_eq!(checksums(&disk.join("old"))?.len(), 0);
    tracer.kill()?;
    tracer.wait()?;
    world.stop_purge(&job)?;
    Ok(())
}

#[test]
fn a_volume_of_seaweedfs_is_created_and_set_aside_whole_in_a_bucket_too() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed");
    let world = World::new("set-aside")?;
    let weed = tool("weed").context("no weed")?;
    world.start_agent(&format!(
        "backend \"seaweedfs\" \"far\" {{\n  filer = \"{}\"\n  program = \"{}\"\n}}\n",
        world.lab().filer,
        weed.display()
    ))?;
    let name = world.directory().file_name().context("a world has a name")?.to_string_lossy().to_lowercase();
    let name = name.replace(['.', '_'], "-");
    // The filer moves nothing out of a bucket.
    for path in [format!("{name}/plain"), format!("buckets/{name}/pg")] {
        let text = definition(&path).replace("\"disk\"", "\"far\"");
        let (code, said) = end(begin(&world, "create", &text)?)?;
        assert_eq!(code, 0, "{said}");
        let created: Value = serde_json::from_str(&said)?;
        let directory = PathBuf::from(created["directory"].as_str().context("a directory")?);
        std::fs::create_dir(directory.join("base"))?;
        for file in ["base/empty", "other"] {
            // In a bucket a byte would cost the small cluster a collection.
            std::fs::write(directory.join(file), if path.starts_with("buckets") { "" } else { "bytes" })?;
        }
        let before = checksums(&directory)?;
        let deleted: Value = serde_json::from_str(&world.saddlebag(&["volume", "delete", "--json", "pg"])?)?;
        let kept = PathBuf::from(deleted["kept"].as_str().context("kept")?);
        assert!(!directory.exists());
        assert_eq!(checksums(&kept)?, before);
        let is_in_bucket = kept.to_string_lossy().contains(&format!("buckets/{name}/.saddlebag-deleted/pg."));
        assert_eq!(is_in_bucket, path.starts_with("buckets"), "{}", kept.display());
    }
    Ok(())
}
