//! The ledger is lost, torn, of another version, or another machine's.

use super::*;
use crate::guard::scene;
use crate::support::require;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

const SOME: [&str; 2] = ["docker", "raw_exec"];

/// Kills guard and keeper in one instant, so that nobody keeps the marks.
fn kill_guard_and_keeper(world: &World) -> anyhow::Result<()> {
    let run_dir = world.run_dir();
    let pids = [scene::find_guard(&run_dir, false), scene::find_guard(&run_dir, true)];
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in pids.iter().flatten() {
            kill(*pid, signal)?;
        }
    }
    Ok(())
}

fn remove_pages(world: &World) -> anyhow::Result<()> {
    for path in pages(world)?.keys() {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

fn wait_recovery(world: &World, what: &str, met: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let mut last = Value::Null;
    let waited = world.wait_until(what, PATIENCE, || {
        last = status(world)?["recovery"].clone();
        Ok(met(&last).then(|| last.clone()))
    });
    waited.with_context(|| format!("{last:#}"))
}

fn count(of: &Value) -> usize {
    of.as_array().map_or(0, Vec::len)
}

#[test]
fn a_lost_ledger_is_rebuilt_from_the_mounts_and_from_nomad() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut world = World::with("lost", options()?)?;
    let configuration = configuration(&world)?;
    world.start_agent(&configuration)?;
    let load = Load::start(&world, &DRIVERS, &BACKENDS)?;
    let before = wait_recorded(&world, &load)?;

    // Everybody who knew of the mounts is gone, and Nomad is away.
    world.kill_nomad()?;
    world.kill_agent()?;
    kill_guard_and_keeper(&world)?;
    remove_pages(&world)?;
    world.start_agent(&configuration)?;
    wait_recovery(&world, "every mount unexplained", |recovery| count(&recovery["unexplained"]) == load.tasks.len())?;
    for task in load.tasks.iter().filter(|task| task.driver != "raw_exec") {
        let place = place(&world, task.driver, &task.alloc);
        world.wait_until(&format!("a mark on the mount of {}", task.name()), PATIENCE, || {
            Ok(is_marked(&world, &place)?.then_some(()))
        })?;
    }
    load.assert_untouched(&world)?;
    let text = world.saddlebag(&["status"])?;
    assert!(text.contains("Unexplained") && text.contains("6 mounts, left alone"), "{text}");
    let text = world.saddlebag(&["explain", &load.tasks[0].alloc])?;
    assert!(text.contains("it is left alone: Nomad has not named its allocation yet"), "{text}");

    // By itself, once Nomad is back.
    world.start_nomad_again()?;
    let recovery = wait_recovery(&world, "every mount adopted", |recovery| recovery["adopted"] == load.tasks.len())?;
    assert_eq!(count(&recovery["unexplained"]), 0, "{recovery:#}");
    let after = wait_recorded(&world, &load)?;
    let plain = |pages: &BTreeMap<PathBuf, String>| -> anyhow::Result<Vec<Value>> {
        pages
            .values()
            .map(|page| {
                let mut page: Value = serde_json::from_str(page)?;
                for binding in page["bindings"].as_array_mut().context("bindings")? {
                    binding["since"].take();
                }
                page["bindings"].as_array_mut().context("bindings")?.sort_by_key(ToString::to_string);
                Ok(page)
            })
            .collect()
    };
    assert_eq!(plain(&after)?, plain(&before)?, "the same pages as were lost, but for their time");
    let text = world.saddlebag(&["status"])?;
    assert!(text.contains("Adopted") && text.contains("6 mounts found in place"), "{text}");
    let text = world.saddlebag(&["explain", &load.tasks[0].alloc])?;
    assert!(text.contains("it was found in place, on no page of the ledger"), "{text}");
    let log = std::fs::read_to_string(world.log("agent"))?;
    assert_eq!(log.matches("adopted: a mount that no page named").count(), load.tasks.len());
    load.assert_untouched(&world)?;

    // The whole folder, under an agent that runs: the next page makes it anew.
    remove_pages(&world)?;
    std::fs::remove_dir(world.state_dir().join("ledger"))?;
    world.run_job(&guest("guest", "guest-disk", "exec"), &[])?;
    let alloc = world.wait_running("guest")?;
    world.wait_until("the guest's page", PATIENCE, || {
        Ok(pages(&world)?.keys().any(|path| path.to_string_lossy().contains(&alloc)).then_some(()))
    })?;
    world.stop_purge("guest")?;

    // What was adopted goes like everything else.
    load.assert_untouched(&world)?;
    let allocs: Vec<String> = load.tasks.iter().map(|task| task.alloc.clone()).collect();
    load.end(&world)?;
    world.system_gc()?;
    for alloc in &allocs {
        world.wait_alloc_dir_gone(alloc)?;
    }
    world.assert_no_destroy_errors()?;
    world.wait_until("no mount and no page", PATIENCE, || {
        let mounts = crate::support::mounts_below(&world.state_dir().join("bindings"))?;
        Ok((mounts.is_empty() && pages(&world)?.is_empty()).then_some(()))
    })
}

#[test]
fn a_torn_page_and_one_of_a_newer_version_are_left_as_they_are_and_so_are_their_mounts() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::with("torn", options()?)?;
    let configuration = configuration(&world)?;
    world.start_agent(&configuration)?;
    let load = Load::start(&world, &SOME, &BACKENDS)?;
    let pages_before = wait_recorded(&world, &load)?;
    world.kill_agent()?;
    let mut spoilt = BTreeMap::new();
    for ((path, page), is_first) in pages_before.iter().zip([true, false]) {
        let page =
            if is_first { page[..page.len() / 2].to_owned() } else { page.replace("\"version\": 1", "\"version\": 2") };
        std::fs::write(path, &page)?;
        spoilt.insert(path.clone(), page);
    }
    world.start_agent(&configuration)?;
    let recovery = wait_recovery(&world, "every mount adopted", |recovery| recovery["adopted"] == load.tasks.len())?;
    assert_eq!(count(&recovery["unreadable_pages"]), 2, "{recovery:#}");
    load.assert_untouched(&world)?;
    let text = world.saddlebag(&["status"])?;
    assert!(text.contains("cannot be read and is kept") && text.contains("it has form 2"), "{text}");
    let text = world.saddlebag(&["explain", &load.tasks[0].alloc])?;
    assert!(text.contains("is left as it is: its mounts are known from the mount table"), "{text}");
    // The prestart task may ask again, and is told that all is there.
    for task in load.tasks.iter().filter(|task| task.driver == "docker") {
        let told = world.saddlebag(&["mount", "--alloc", &task.alloc, "--task", "storage"]);
        told.with_context(|| format!("the mount of {}", task.name()))?;
    }
    load.assert_untouched(&world)?;
    assert_eq!(pages(&world)?, spoilt, "no page was touched");

    // The next agent does the same again.
    world.kill_agent()?;
    world.start_agent(&configuration)?;
    wait_recovery(&world, "every mount adopted", |recovery| recovery["adopted"] == load.tasks.len())?;
    load.assert_untouched(&world)?;
    // And one that can read them has no need to.
    world.kill_agent()?;
    for (path, page) in &pages_before {
        std::fs::write(path, page)?;
    }
    world.start_agent(&configuration)?;
    let recovery = wait_recovery(&world, "an agent that knows all", |_| true)?;
    assert_eq!((count(&recovery["unexplained"]), &recovery["adopted"]), (0, &Value::from(0)), "{recovery:#}");
    load.assert_untouched(&world)?;
    load.end(&world)
}

#[test]
fn pages_of_another_machine_and_mounts_of_somebody_else_change_nothing() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::with("foreign", options()?)?;
    let configuration = configuration(&world)?;
    world.start_agent(&configuration)?;
    let load = Load::start(&world, &SOME, &["disk"])?;
    let pages_before = wait_recorded(&world, &load)?;
    world.kill_agent()?;

    // Copied from elsewhere: allocations of which nothing is here, one of a volume that would be made.
    let own = load.tasks[0].alloc.clone();
    let page = pages_before.values().next().context("a page")?;
    let elsewhere = ["deadbeef-0000-4000-8000-000000000001", "deadbeef-0000-4000-8000-000000000002"];
    for (alloc, is_intended) in elsewhere.iter().zip([false, true]) {
        let mut copy: Value = serde_json::from_str(&page.replace(&own, alloc))?;
        for binding in copy["bindings"].as_array_mut().context("bindings")? {
            binding["binding"]["volume"]["path"] = "not-here".into();
            binding["binding"]["volume"]["create"] = true.into();
            if is_intended {
                binding["stage"] = "intended".into();
            }
        }
        std::fs::write(world.state_dir().join("ledger").join(format!("{alloc}.json")), copy.to_string())?;
    }
    // And by hand, in the directory of a task that runs.
    let strange = world.alloc_dir(&own).join("docker/local/strange");
    let treasure = world.directory().join("treasure");
    std::fs::create_dir(&strange)?;
    std::fs::create_dir(&treasure)?;
    std::fs::write(treasure.join("chest"), "gold")?;
    nix::mount::mount(Some(&treasure), &strange, None::<&str>, nix::mount::MsFlags::MS_BIND, None::<&str>)?;
    let log = std::fs::read_to_string(world.log("agent"))?.len();
    world.start_agent(&configuration)?;
    world.wait_until("an agent that is ready", PATIENCE, || {
        let said = std::fs::read_to_string(world.log("agent"))?;
        Ok(said[log..].contains(" ready").then_some(()))
    })?;
    let said = std::fs::read_to_string(world.log("agent"))?;
    assert!(!said[log..].contains("not everything that was mounted"), "nobody waits for what is not here");

    let recovery = wait_recovery(&world, "a mount that its job did not ask for", |recovery| {
        recovery["unexplained"][0]["reason"] == "its job asks for nothing there"
    })?;
    assert_eq!(count(&recovery["unexplained"]), 1, "{recovery:#}");
    world.wait_until("no page of another machine", PATIENCE, || {
        Ok((pages(&world)?.len() == pages_before.len()).then_some(()))
    })?;
    assert!(!world.directory().join("disk/not-here").exists(), "no volume was made");
    for alloc in elsewhere {
        assert!(!world.alloc_dir(alloc).exists() && !world.state_dir().join("bindings").join(alloc).exists());
    }
    load.assert_untouched(&world)?;

    // Nomad does not get into it either.
    world.wait_until("a mark on what somebody mounted", PATIENCE, || Ok(is_marked(&world, &strange)?.then_some(())))?;
    load.end(&world)?;
    world.stop_purge("load-disk")?;
    world.system_gc()?;
    world.wait_until("Nomad's removal of what it could", PATIENCE, || {
        Ok((!world.alloc_dir(&own).join("alloc").exists()).then_some(()))
    })?;
    assert_eq!(std::fs::read_to_string(treasure.join("chest"))?, "gold");
    assert!(host_mount(&strange)?.is_some(), "it is left alone");
    // Nomad may try again, or the agent look at it, just then.
    let unmount = || nix::mount::umount2(&strange, nix::mount::MntFlags::empty());
    world.wait_until("an unmounting by hand", PATIENCE, || match unmount() {
        Ok(()) => Ok(Some(())),
        Err(nix::Error::EBUSY) => Ok(None),
        Err(error) => Err(error.into()),
    })?;
    // Whoever looks next is told that it is gone.
    wait_recovery(&world, "nothing unexplained", |recovery| count(&recovery["unexplained"]) == 0)?;
    Ok(())
}
