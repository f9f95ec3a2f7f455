//! Volumes come to tasks that run and go again, without a restart of any; by the rules that a job's words have.

use crate::support::{PATIENCE, World, checksums, require, tool};
use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::PathBuf;

/// Each task appends its driver's name to `local/late/<driver>` while there is such a directory, and holds open what
/// `hold` in it says. `META` and `HOOK` are what a job that has volumes of its own says.
const JOB: &str = r#"
variable "saddlebag" {}
variable "socket" {}

job "hot" {
  group "app" {
    META
    HOOK
    TASKS
  }
}
"#;

const META: &str = r#"meta {
      storage_volume = "own"
    }"#;

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
        args = ["-c", "cd {local}; while :; do [ ! -d late ] || echo {driver} >> late/{driver}; if [ -e late/hold ]; then exec 3< late/hold && : > held; elif [ -e drop ]; then exec 3<&-; fi; sleep 0.1; done"]
      }}
      resources {{
        cpu    = 20
        memory = 32
      }}
    }}
"#
    )
}

const DRIVERS: [&str; 3] = ["docker", "exec", "raw_exec"];

fn run(world: &World, has_volumes: bool) -> anyhow::Result<String> {
    let tasks: String = DRIVERS.iter().map(|driver| task(driver)).collect();
    let (meta, hook) = if has_volumes { (META, "PRESTART") } else { ("", "") };
    world.run_job(&JOB.replace("META", meta).replace("HOOK", hook).replace("TASKS", &tasks), &[])?;
    let alloc = world.wait_running("hot")?;
    // Nomad calls an allocation running as soon as one task of it does.
    world.wait_until("tasks that all run", PATIENCE, || {
        let states = &world.allocation(&alloc)?["TaskStates"];
        Ok(DRIVERS.iter().all(|task| states[task]["State"] == "running").then_some(()))
    })?;
    Ok(alloc)
}

fn configuration(world: &World) -> anyhow::Result<String> {
    let weed = tool("weed").context("no weed")?;
    let name = world.directory().file_name().context("a world has a name")?.to_string_lossy().into_owned();
    let volumes = world.directory().join("volumes");
    std::fs::create_dir_all(&volumes)?;
    let far = |volume: &str| {
        format!(
            "volume \"{volume}\" {{\n  backend = \"far\"\n  path = \"{name}-{volume}\"\n  create = true\n  mode = \"0777\"\n}}\n"
        )
    };
    Ok(format!(
        "backend \"seaweedfs\" \"far\" {{\n  filer = \"{}\"\n  program = \"{}\"\n  attach = \"start\"\n}}\n\
         backend \"host\" \"near\" {{\n  path = \"{}\"\n}}\n\
         volume \"near\" {{\n  backend = \"near\"\n  path = \"near\"\n  create = true\n  mode = \"0777\"\n}}\n{}{}",
        world.lab().filer,
        weed.display(),
        volumes.display(),
        far("own"),
        far("late"),
    ))
}

fn status(world: &World) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?)
}

/// Has a file in the volume that each task opens, and returns when all have it open.
fn have_held(world: &World, alloc: &str) -> anyhow::Result<PathBuf> {
    let hold = volume(world, "late")?.join("hold");
    std::fs::write(&hold, "x")?;
    for task in DRIVERS {
        let held = world.alloc_dir(alloc).join(task).join("local/held");
        world.wait_until(&format!("{task} that holds a file"), PATIENCE, || Ok(held.exists().then_some(())))?;
    }
    Ok(hold)
}

/// The state of each binding of a volume.
fn states(world: &World, volume: &str) -> anyhow::Result<Vec<String>> {
    let status = status(world)?;
    let bindings = status["bindings"].as_array().context("bindings")?.iter();
    Ok(bindings
        .filter(|one| one["volume"] == volume)
        .map(|one| one["state"].as_str().unwrap_or_default().to_owned())
        .collect())
}

/// The volume itself, through its source.
fn volume(world: &World, name: &str) -> anyhow::Result<PathBuf> {
    let status = status(world)?;
    let sources = status["sources"].as_array().context("sources")?;
    let source = sources.iter().find(|one| one["name"] == "far").context("no source far")?;
    let mount_point = source["mount_point"].as_str().context("not mounted")?;
    let world = world.directory().file_name().context("a world has a name")?.to_string_lossy().into_owned();
    Ok(PathBuf::from(mount_point).join(format!("{world}-{name}")))
}

fn wait_more(world: &World, tasks: &[&str]) -> anyhow::Result<()> {
    let lines = |task: &str| -> anyhow::Result<usize> {
        let text = std::fs::read_to_string(volume(world, "late")?.join(task)).unwrap_or_default();
        Ok(text.lines().count())
    };
    for task in tasks {
        let before = lines(task)?;
        world.wait_until(&format!("more lines of {task} than {before}"), PATIENCE, || {
            Ok((lines(task)? > before + 2).then_some(()))
        })?;
    }
    Ok(())
}

fn restarts(world: &World, alloc: &str) -> anyhow::Result<Vec<u64>> {
    let states = &world.allocation(alloc)?["TaskStates"];
    DRIVERS.iter().map(|task| states[task]["Restarts"].as_u64().context("no count of restarts")).collect()
}

const ALL: [&str; 6] = ["--task", "docker", "--task", "exec", "--task", "raw_exec"];

fn attach(world: &World, alloc: &str, more: &[&str]) -> anyhow::Result<String> {
    world.saddlebag(&[&["volume", "attach", alloc], more].concat())
}

/// Exit code and what is said on stderr.
fn refused(world: &World, arguments: &[&str]) -> anyhow::Result<(i32, String)> {
    let output = world.try_saddlebag(&[&["volume"], arguments].concat())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code().context("it was killed")?, said))
}

fn end(world: &World, alloc: &str) -> anyhow::Result<()> {
    world.stop_purge("hot")?;
    world.wait_dead("hot")?;
    world.system_gc()?;
    world.wait_alloc_dir_gone(alloc)?;
    world.assert_no_destroy_errors()
}

#[test]
fn a_volume_comes_to_running_tasks_and_goes_again_and_none_is_restarted() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("hot")?;
    let configuration = configuration(&world)?;
    world.start_agent(&configuration)?;
    // Its job knows nothing of storage.
    let alloc = run(&world, false)?;
    let said = attach(&world, &alloc, &[&["late"], &ALL[..]].concat())?;
    for task in DRIVERS {
        assert!(said.contains(&format!("late mounted at local/late for task {task} (read-write)")), "{said}");
    }
    wait_more(&world, &DRIVERS)?;
    let again = attach(&world, &alloc[..8], &[&["late"], &ALL[..]].concat())?;
    assert_eq!(again.matches("was already mounted").count(), 3, "{again}");
    assert_eq!(states(&world, "late")?, ["mounted", "mounted", "mounted"]);
    let table = world.saddlebag(&["status"])?;
    assert!(table.contains("late (by hand)"), "{table}");
    let explained = world.saddlebag(&["explain", &alloc])?;
    assert!(explained.contains("an operator has attached it") && !explained.contains("last fault"), "{explained}");

    // It is one like any other: it outlives the agent, and is mended when it is lost.
    world.kill_agent()?;
    world.start_agent(&configuration)?;
    world.wait_until("bindings that are found again", PATIENCE, || {
        Ok((states(&world, "late")? == ["mounted", "mounted", "mounted"]).then_some(()))
    })?;
    wait_more(&world, &DRIVERS)?;
    let program = status(&world)?["sources"].as_array().context("sources")?.iter().find_map(|one| one["pid"].as_i64());
    kill(Pid::from_raw(i32::try_from(program.context("no mount program")?)?), Signal::SIGKILL)?;
    world.wait_until("a loss that is noticed", PATIENCE, || {
        let explained = world.saddlebag(&["explain", &alloc])?;
        Ok(explained.contains("files that were open through it are lost").then_some(()))
    })?;
    world.wait_until("bindings that are whole again", PATIENCE, || {
        Ok((states(&world, "late")? == ["mounted", "mounted", "mounted"]).then_some(()))
    })?;
    wait_more(&world, &DRIVERS)?;
    assert_eq!(restarts(&world, &alloc)?, [0, 0, 0]);
    // A task that is restarted finds it.
    for task in DRIVERS {
        world.nomad(&["alloc", "restart", &alloc, task])?;
    }
    wait_more(&world, &DRIVERS)?;

    // While it is in use it stays, and who uses it is named.
    let hold = have_held(&world, &alloc)?;
    for task in DRIVERS {
        let (code, said) = refused(&world, &["detach", &alloc, "late", "--task", task])?;
        assert!(code == 75 && said.contains("still has it open"), "{task}: {code}: {said}");
        wait_more(&world, &[task])?;
    }
    assert_eq!(states(&world, "late")?.len(), 3);
    std::fs::remove_file(&hold)?;
    for task in DRIVERS {
        std::fs::write(world.alloc_dir(&alloc).join(task).join("local/drop"), "")?;
    }
    // A task that writes ten times in a second uses it now and then: who asks again finds a moment when it does not.
    for task in DRIVERS {
        world.wait_until(&format!("{task} without the volume"), PATIENCE, || {
            let (code, said) = refused(&world, &["detach", &alloc, "local/late", "--task", task])?;
            anyhow::ensure!(code == 0 || said.contains("still has it open"), "{task}: {code}: {said}");
            Ok((code == 0).then_some(()))
        })?;
        let place = world.alloc_dir(&alloc).join(task).join("local/late");
        assert!(place.symlink_metadata().is_err(), "{} is still there", place.display());
    }
    assert_eq!(states(&world, "late")?, [""; 0]);
    let before = checksums(&volume(&world, "late")?)?;
    assert_eq!(before.len(), 3, "{before:?}");
    let (code, said) = refused(&world, &["detach", &alloc, "late"])?;
    assert!(code == 69 && said.contains("has no attached volume"), "{code}: {said}");

    // What is attached when the job is purged is lost to nobody.
    attach(&world, &alloc, &["near", "--task", "docker", "--read-only"])?;
    attach(&world, &alloc, &["late", "--task", "exec", "--destination", "local/more/of/it"])?;
    end(&world, &alloc)?;
    world.wait_until("an agent that has nothing left", PATIENCE, || {
        Ok((status(&world)?["bindings"] == serde_json::json!([])).then_some(()))
    })?;
    assert_eq!(checksums(&volume(&world, "late")?)?, before);
    Ok(())
}

#[test]
fn a_forced_detach_takes_a_volume_from_under_a_task_that_has_it_open() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("hot-force")?;
    world.start_agent(&configuration(&world)?)?;
    let alloc = run(&world, true)?;
    attach(&world, &alloc, &[&["late"], &ALL[..]].concat())?;
    wait_more(&world, &DRIVERS)?;
    have_held(&world, &alloc)?;
    for task in DRIVERS {
        let (code, said) = refused(&world, &["detach", &alloc, "late", "--task", task])?;
        assert!(code == 75 && said.contains("still has it open"), "{task}: {code}: {said}");
    }
    let said = world.saddlebag(&["volume", "detach", &alloc, "late", "--force"])?;
    assert_eq!(said.lines().count(), 3, "{said}");
    assert_eq!(states(&world, "late")?, [""; 0]);
    let log = std::fs::read_to_string(world.log("agent"))?;
    assert_eq!(log.matches("forced=true").count(), 6, "each is logged when it is asked for and when it is done");
    // The job's own are not touched by any of it, and cannot be detached.
    assert_eq!(states(&world, "own")?, ["mounted", "mounted", "mounted"]);
    let (code, said) = refused(&world, &["detach", &alloc, "own", "--force"])?;
    assert!(code == 78 && said.contains("is the job's own"), "{code}: {said}");
    assert_eq!(restarts(&world, &alloc)?, [0, 0, 0]);
    let lines = |task: &str| anyhow::Ok(std::fs::read_to_string(volume(&world, "late")?.join(task))?.lines().count());
    let counts: Vec<usize> = DRIVERS.iter().map(|task| lines(task)).collect::<Result<_, _>>()?;
    attach(&world, &alloc, &[&["late"], &ALL[..]].concat())?;
    wait_more(&world, &DRIVERS)?;
    for (task, count) in DRIVERS.iter().zip(counts) {
        assert!(lines(task)? > count, "{task} goes on in the same file");
    }
    end(&world, &alloc)
}

#[test]
fn what_cannot_be_attached_is_refused_in_one_sentence_and_leaves_nothing() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("hot-no")?;
    world.start_agent(&configuration(&world)?)?;
    let alloc = run(&world, true)?;
    world.wait_until("the job's own volumes", PATIENCE, || {
        Ok((states(&world, "own")? == ["mounted", "mounted", "mounted"]).then_some(()))
    })?;
    let local = |task: &str| world.alloc_dir(&alloc).join(task).join("local");
    std::os::unix::fs::symlink("/etc", local("exec").join("planted"))?;
    std::fs::create_dir(local("exec").join("full"))?;
    std::fs::write(local("exec").join("full/file"), "of the task")?;
    let before = crate::support::mounts_below(&world.alloc_dir(&alloc))?;
    let to = |more: &[&'static str]| [&["late", "--task", "exec"], more].concat();
    let cases: &[(Vec<&str>, i32, &str)] = &[
        (vec!["lat", "--task", "exec"], 78, "did you mean \"late\"?"),
        (vec!["late"], 64, "name those that are meant with --task"),
        (vec!["late", "--task", "exce"], 64, "did you mean \"exec\"?"),
        (vec!["late", "--task", "storage"], 69, "does not run"),
        (to(&["--destination", "../../x"]), 78, ".."),
        (to(&["--destination", "/etc"]), 78, "/etc"),
        (to(&["--destination", "secrets/x"]), 78, "secrets"),
        (to(&["--destination", "local/planted/x"]), 77, "symbolic link"),
        (to(&["--destination", "local/full"]), 78, "not empty"),
        (to(&["--destination", "local/own"]), 78, "both at local/own"),
        (to(&["--destination", "local/own/x"]), 78, "is inside volume"),
        (to(&["--name", "own", "--destination", "local/y"]), 78, "two volumes with the label"),
        (to(&["--name", "a b"]), 64, "is no name for a volume"),
        (vec!["seaweedfs://127.0.0.1:1/x", "--task", "exec"], 77, "seaweedfs://127.0.0.1:1/x"),
        (vec!["late", "--task", "docker", "--destination", "volumes/late"], 78, "no container of task docker shows"),
    ];
    for (arguments, code, sentence) in cases {
        let (ended, said) = refused(&world, &[&["attach", &alloc][..], arguments].concat())?;
        assert!(ended == *code && said.contains(sentence), "{arguments:?}: {ended}: {said}");
        assert!(said.starts_with("saddlebag: ") && said.lines().count() <= 2, "{arguments:?}: {said}");
        world.wait_until(&format!("nothing left of {arguments:?}"), PATIENCE, || {
            let bindings = status(&world)?["bindings"].as_array().context("bindings")?.len();
            Ok((bindings == 3 && crate::support::mounts_below(&world.alloc_dir(&alloc))? == before).then_some(()))
        })?;
    }
    let (code, said) = refused(&world, &["attach", "abc", "late"])?;
    assert!(code == 64 && said.contains("is not an allocation's id"), "{code}: {said}");
    let (code, said) = refused(&world, &["attach", "00000000", "late"])?;
    assert!(code == 69 && said.contains("no allocation of this node"), "{code}: {said}");
    assert_eq!(std::fs::read_to_string(local("exec").join("full/file"))?, "of the task");
    end(&world, &alloc)
}
