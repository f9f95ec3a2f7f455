//! What cannot be is refused in one sentence, wherever the job's author looks, and leaves nothing behind.

mod cases;

use crate::support::{Options, PATIENCE, World, mounts_below, require};
use anyhow::Context as _;
use cases::{Case, cases};
use serde_json::Value;
use std::process::Command;

#[test]
fn what_cannot_be_is_refused_in_one_sentence_and_leaves_nothing() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "lsattr");
    let world = World::with("refusals", Options::default().gc_max_allocs(200))?;
    let volumes = world.directory().join("volumes");
    std::fs::create_dir(&volumes)?;
    world.start_agent(&format!(
        "backend \"host\" \"disk\" {{\n path = \"{}\"\n}}\n\
         volume \"letters\" {{\n backend = \"disk\"\n create = true\n}}\n\
         volume \"notes\" {{\n backend = \"disk\"\n create = true\n}}\n\
         volume \"absent\" {{\n backend = \"disk\"\n}}\n",
        volumes.display()
    ))?;
    // Where the planted links lead. Nobody else makes anything there.
    let elsewhere = world.directory().join("elsewhere");
    std::fs::create_dir(&elsewhere)?;
    std::fs::write(elsewhere.join("treasure"), "gold")?;

    let mut wrong = Vec::new();
    let cases = cases(elsewhere.to_str().context("a path in UTF-8")?);
    for is_logged in [false, true] {
        for case in &cases {
            world.run_job(&case.job(is_logged), &[])?;
        }
        for case in &cases {
            if let Err(error) = check(&world, case, is_logged) {
                wrong.push(format!("{}: {error:#}", case.id(is_logged)));
            }
        }
    }
    if let Err(error) = find_nothing(&world) {
        wrong.push(format!("{error:#}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert_eq!(names_in(&elsewhere)?, ["treasure"], "nothing was made where the planted links lead");
    let mut allocations = Vec::new();
    for id in cases.iter().flat_map(|case| [case.id(false), case.id(true)]) {
        for allocation in world.allocations(&id)? {
            allocations.push(allocation["ID"].as_str().context("an id")?.to_owned());
        }
        world.stop_purge(&id)?;
    }
    world.system_gc()?;
    for allocation in allocations {
        world.wait_alloc_dir_gone(&allocation)?;
    }
    world.assert_no_destroy_errors()
}

fn check(world: &World, case: &Case, is_logged: bool) -> anyhow::Result<()> {
    let allocation = world.wait_for_status(&case.id(is_logged), &["failed"])?;
    let events = world.events(&allocation)?;
    let wanted = format!("Exit Code: {}", case.code);
    anyhow::ensure!(events.contains(&wanted), "no {wanted:?} in the events of its tasks:\n{events}");
    // The log's collector may be a moment behind the task.
    let mut said = String::new();
    let shown = world.wait_until("the task's words", PATIENCE, || {
        said = world
            .nomad(&["alloc", "logs", "-stderr", &allocation, "storage"])
            .unwrap_or_else(|error| format!("{error:#}\n"));
        Ok((said == case.said()).then_some(()))
    });
    shown.map_err(|error| error.context(format!("nomad alloc logs -stderr says\n{said}and not\n{}", case.said())))?;

    let text = world.saddlebag(&["explain", &allocation])?;
    anyhow::ensure!(text.contains(&case.message), "explain says\n{text}");
    let hint = case.hint.as_ref().is_none_or(|hint| text.contains(&format!("hint: {hint}")));
    anyhow::ensure!(hint, "explain has no such hint:\n{text}");
    let json: Value = serde_json::from_str(&world.saddlebag(&["explain", "--json", &allocation])?)?;
    let steps = json["steps"].as_array().context("steps")?;
    let failed: Vec<&Value> = steps.iter().filter(|step| step["state"] == "failed").collect();
    anyhow::ensure!(failed.len() == 1, "not one failed step: {json:#}");
    anyhow::ensure!(failed.iter().all(|step| step["detail"] == case.message.as_str()), "{json:#}");
    anyhow::ensure!(json["summary"] == format!("failed: {}", case.message), "{json:#}");
    Ok(())
}

/// No mount, no page of the ledger, no immutable directory.
fn find_nothing(world: &World) -> anyhow::Result<()> {
    let ledger = world.state_dir().join("ledger");
    world.wait_until("an empty ledger", PATIENCE, || {
        Ok(names_in(&ledger)?.iter().all(|name| !name.ends_with(".json")).then_some(()))
    })?;
    // Nomad's own file systems for secrets are still there.
    let mut mounts = mounts_below(&world.directory().join("nomad/alloc"))?;
    mounts.retain(|point| !point.ends_with("secrets") && !point.ends_with("private"));
    mounts.extend(mounts_below(&world.state_dir().join("bindings")).unwrap_or_default());
    anyhow::ensure!(mounts.is_empty(), "mounts of refused jobs: {mounts:?}");
    let listed = Command::new("lsattr").arg("-Rad").arg(world.directory().join("nomad/alloc")).output()?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let is_immutable = |line: &&str| line.split(' ').next().is_some_and(|flags| flags.contains('i'));
    let left: Vec<&str> = listed.lines().filter(is_immutable).collect();
    anyhow::ensure!(left.is_empty(), "immutable directories of refused jobs: {left:?}");
    Ok(())
}

fn names_in(directory: impl AsRef<std::path::Path>) -> anyhow::Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// A task may put anything into its own directory, also while it runs: what it plants is not followed by the next start.
#[test]
fn a_link_that_a_running_task_plants_is_refused_at_the_next_start() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed");
    let world = World::new("planted")?;
    world.start_agent("")?;
    world.run_job(
        r#"
job "planter" {
  group "app" {
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    meta {
      storage_volume = "letters"
    }
    task "storage" {
      driver = "raw_exec"
      lifecycle {
        hook = "prestart"
      }
      config {
        command = "saddlebag"
        args    = ["mount"]
      }
    }
    task "main" {
      driver = "raw_exec"
      config {
        command = "/bin/sh"
        args    = ["-ec", "rm local/letters; ln -s /etc local/letters; touch local/planted; exec sleep 600"]
      }
    }
  }
}
"#,
        &[],
    )?;
    let id = world.wait_running("planter")?;
    let planted = world.alloc_dir(&id).join("main/local/planted");
    world.wait_until("the planted link", PATIENCE, || Ok(planted.exists().then_some(())))?;
    world.nomad(&["alloc", "restart", "-all-tasks", &id])?;
    world.wait_for_status("planter", &["failed"])?;
    let events = world.events(&id)?;
    assert!(events.contains("Exit Code: 77"), "{events}");
    let sentence = "volume letters: local/letters of task main is a symbolic link";
    assert!(events.contains(sentence), "{events}");
    assert!(world.saddlebag(&["explain", &id])?.contains(sentence));
    world.wait_until("an empty ledger", PATIENCE, || {
        let mut pages = std::fs::read_dir(world.state_dir().join("ledger"))?.flatten();
        Ok((!pages.any(|page| page.path().extension().is_some_and(|end| end == "json"))).then_some(()))
    })?;
    assert_eq!(mounts_below(&world.state_dir().join("bindings"))?, Vec::<std::path::PathBuf>::new());
    world.stop_purge("planter")?;
    world.system_gc()?;
    world.wait_alloc_dir_gone(&id)?;
    assert!(std::fs::exists("/etc/passwd")?);
    world.assert_no_destroy_errors()
}
