//! What is lost under running tasks is mended on the host and inside their containers, and nothing is called whole
//! before. Each task appends a number to a file of its own, opening it anew each time, and goes on where that fails.

use crate::support::{Options, PATIENCE, PRESTART, Relay, Reserved, World, require, tool};
use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Three drivers; docker sees the volume at a second place, and a directory of it at a third.
const JOB: &str = r#"
variable "saddlebag" {}
variable "socket" {}

job "mend" {
  group "app" {
    reschedule {
      attempts  = 0
      unlimited = false
    }
    meta {
      storage_volume = <<EOT
volume "mended" {
  destination = "local/data"
  on_failure  = "ON_FAILURE"
}
EOT
    }
    PRESTART
    TASKS
  }
}
"#;

fn task(driver: &str) -> String {
    let (config, places) = match driver {
        "docker" => (
            "image = \"saddlebag-test:1\"\n        network_mode = \"host\"\n        command = \"sh\"\n        volumes = [\"local/data:/second\", \"local/data/sub:/third\"]",
            "/local/data /second /third",
        ),
        "exec" => ("command = \"/bin/sh\"", "/local/data"),
        _ => ("command = \"/bin/sh\"", "$NOMAD_TASK_DIR/data"),
    };
    format!(
        r#"task "{driver}" {{
      driver       = "{driver}"
      kill_timeout = "1s"
      config {{
        {config}
        args = ["-c", "n=0; while :; do n=$((n+1)); i=0; for p in {places}; do i=$((i+1)); (echo $n >> $p/{driver}-$i) 2>/dev/null; done; sleep 0.1; done"]
      }}
      resources {{
        cpu    = 20
        memory = 32
      }}
    }}
"#
    )
}

fn run(world: &World, on_failure: &str, drivers: &[&str]) -> anyhow::Result<String> {
    let tasks: String = drivers.iter().map(|driver| task(driver)).collect();
    world.run_job(&JOB.replace("TASKS", &tasks).replace("ON_FAILURE", on_failure), &[])?;
    world.wait_running("mend")
}

fn configuration(world: &World) -> anyhow::Result<String> {
    let weed = tool("weed").context("no weed")?;
    let name = world.directory().file_name().context("a world has a name")?.to_string_lossy().into_owned();
    Ok(format!(
        "backend \"seaweedfs\" \"main\" {{\n  filer = \"{}\"\n  program = \"{}\"\n  attach = \"start\"\n}}\n\
         volume \"mended\" {{\n  backend = \"main\"\n  path = \"{name}-mended\"\n  create = true\n  mode = \"0777\"\n}}\n",
        world.lab().filer,
        weed.display()
    ))
}

fn status(world: &World) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?)
}

/// The mount program's process.
fn program(world: &World) -> anyhow::Result<Option<i32>> {
    let status = status(world)?;
    let source = status["sources"].as_array().context("sources")?.iter().find(|one| one["name"] == "main").cloned();
    let source = source.context("no source main")?;
    Ok(source["pid"].as_i64().filter(|_| source["state"] == "attached").map(i32::try_from).transpose()?)
}

fn bindings(world: &World) -> anyhow::Result<Vec<Value>> {
    Ok(status(world)?["bindings"].as_array().context("bindings")?.clone())
}

/// How many numbers a task has written through one of its places, read through the source itself.
fn written(world: &World, file: &str) -> anyhow::Result<usize> {
    let status = status(world)?;
    let mount_point = status["sources"][0]["mount_point"].as_str().context("not mounted")?.to_owned();
    let name = world.directory().file_name().context("a world has a name")?.to_string_lossy().into_owned();
    let volume = PathBuf::from(mount_point).join(format!("{name}-mended"));
    let inside = if file == "docker-3" { volume.join("sub") } else { volume };
    Ok(std::fs::read_to_string(inside.join(file)).unwrap_or_default().lines().count())
}

fn wait_more(world: &World, files: &[&str]) -> anyhow::Result<()> {
    let before: Vec<usize> = files.iter().map(|file| written(world, file)).collect::<Result<_, _>>()?;
    for (file, before) in files.iter().zip(before) {
        world.wait_until(&format!("more numbers in {file} than {before}"), PATIENCE, || {
            Ok((written(world, file)? > before + 2).then_some(()))
        })?;
    }
    Ok(())
}

fn wait_whole(world: &World, count: usize) -> anyhow::Result<()> {
    world.wait_until("bindings that are called mounted", PATIENCE, || {
        let bindings = bindings(world)?;
        let whole = bindings.iter().filter(|one| one["state"] == "mounted").count();
        Ok((whole == count && bindings.len() == count).then_some(()))
    })
}

fn restarts(world: &World, alloc: &str, task: &str) -> anyhow::Result<u64> {
    world.allocation(alloc)?["TaskStates"][task]["Restarts"].as_u64().context("no count of restarts")
}

const DRIVERS: [&str; 3] = ["docker", "exec", "raw_exec"];
const FILES: [&str; 5] = ["docker-1", "docker-2", "docker-3", "exec-1", "raw_exec-1"];

/// Makes the directory of the volume that docker binds on its own, by a job that goes first.
fn prepare(world: &World) -> anyhow::Result<()> {
    let text = JOB.replace("TASKS", &task("raw_exec").replace("n=0;", "mkdir -p $NOMAD_TASK_DIR/data/sub; n=0;"));
    world.run_job(&text.replace("ON_FAILURE", "reattach"), &[])?;
    world.wait_running("mend")?;
    wait_more(world, &["raw_exec-1"])?;
    world.stop_purge("mend")?;
    world.wait_dead("mend")
}

fn end(world: &World) -> anyhow::Result<()> {
    world.stop_purge("mend")?;
    world.wait_dead("mend")
}

/// Nomad's servers hear of a task's start from its client, and the agent from the servers.
#[test]
fn a_container_that_nomads_servers_do_not_yet_know_of_is_mended_too() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("mend-early")?;
    let nomad = world.variable("NOMAD_ADDR")?.trim_start_matches("http://").to_owned();
    let relay = Relay::start(Reserved::new()?, nomad)?;
    let address = format!("nomad {{\n  address = \"http://{}\"\n}}\n", relay.address());
    world.start_agent(&format!("{}{address}", configuration(&world)?))?;
    prepare(&world)?;
    let tasks: String = DRIVERS.iter().map(|driver| task(driver)).collect();
    let waits = "command = \"/bin/sh\"\n        args = [\"-c\", \"until [ -e $NOMAD_ALLOC_DIR/go ]; do sleep 0.1; done; exec ${var.saddlebag} mount\"]";
    let text =
        JOB.replace("PRESTART", PRESTART).replace("command = var.saddlebag\n        args    = [\"mount\"]", waits);
    assert!(text.contains(waits));
    world.run_job(&text.replace("TASKS", &tasks).replace("ON_FAILURE", "restart"), &[])?;
    let alloc = world.wait_until("an allocation that the agent knows", PATIENCE, || {
        let alloc = world.allocations("mend")?.first().and_then(|one| Some(one["ID"].as_str()?.to_owned()));
        let Some(alloc) = alloc else { return Ok(None) };
        let is_running = world.allocation(&alloc)?["TaskStates"]["storage"]["State"] == "running";
        Ok((is_running && world.try_saddlebag(&["explain", &alloc])?.status.success()).then_some(alloc))
    })?;
    relay.silence(true);
    std::fs::write(world.alloc_dir(&alloc).join("alloc/go"), "")?;
    wait_more(&world, &FILES)?;
    let old = world.wait_until("a mount program", PATIENCE, || program(&world))?;
    kill(Pid::from_raw(old), Signal::SIGKILL)?;
    world.wait_until("another mount program", PATIENCE, || Ok(program(&world)?.filter(|new| *new != old)))?;
    wait_whole(&world, 3)?;
    wait_more(&world, &FILES)?;
    assert_eq!(restarts(&world, &alloc, "exec")?, 0, "mended in the container that was there");
    relay.silence(false);
    for task in ["docker", "exec"] {
        world.wait_until(&format!("a restart of {task}"), PATIENCE, || {
            Ok((restarts(&world, &alloc, task)? == 1).then_some(()))
        })?;
    }
    wait_more(&world, &FILES)?;
    end(&world)
}

#[test]
fn a_killed_mount_program_is_mended_inside_running_containers() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("mend")?;
    world.start_agent(&configuration(&world)?)?;
    prepare(&world)?;
    let alloc = run(&world, "reattach", &DRIVERS)?;
    wait_more(&world, &FILES)?;
    wait_whole(&world, 3)?;
    for _ in 0..3 {
        let old = world.wait_until("a mount program", PATIENCE, || program(&world))?;
        kill(Pid::from_raw(old), Signal::SIGKILL)?;
        world.wait_until("another mount program", PATIENCE, || Ok(program(&world)?.filter(|new| *new != old)))?;
        wait_whole(&world, 3)?;
        // What is called mounted is so for every task, at every place.
        wait_more(&world, &FILES)?;
    }
    for task in DRIVERS {
        assert_eq!(restarts(&world, &alloc, task)?, 0, "{task} was restarted");
    }
    let explained = world.saddlebag(&["explain", &alloc])?;
    assert!(
        explained.contains("last fault") && explained.contains("files that were open through it are lost"),
        "{explained}"
    );
    assert!(explained.contains("last repair"), "{explained}");
    end(&world)
}

#[test]
fn a_mount_whose_record_died_with_its_agent_is_mended_when_it_dies() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("mend-record")?;
    world.start_agent(&configuration(&world)?)?;
    run(&world, "reattach", &["exec"])?;
    wait_more(&world, &["exec-1"])?;
    wait_whole(&world, 1)?;
    // Nobody who waits for a mount waits for the page that says that it is made.
    world.wait_until("a page that names the mount", PATIENCE, || {
        let pages = std::fs::read_dir(world.state_dir().join("ledger"))?.flatten().map(|page| page.path());
        let mut pages = pages.filter(|path| path.extension().is_some_and(|end| end == "json"));
        let Some(page) = pages.next().and_then(|path| std::fs::read(path).ok()) else { return Ok(None) };
        let page: Value = serde_json::from_slice(&page)?;
        Ok(page["bindings"][0]["stage"]["mounted"].is_object().then_some(()))
    })?;
    // As it is when an agent has mounted anew and is killed before the page says so: that names the mount before.
    world.kill_agent()?;
    for page in std::fs::read_dir(world.state_dir().join("ledger"))? {
        let path = page?.path();
        let mut page: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let id = &mut page["bindings"][0]["stage"]["mounted"]["mount_id"];
        *id = (id.as_u64().with_context(|| format!("a mount id in {}", path.display()))? - 1).into();
        std::fs::write(&path, page.to_string())?;
    }
    world.start_agent(&configuration(&world)?)?;
    wait_whole(&world, 1)?;
    let old = world.wait_until("a mount program", PATIENCE, || program(&world))?;
    kill(Pid::from_raw(old), Signal::SIGKILL)?;
    world.wait_until("another mount program", PATIENCE, || Ok(program(&world)?.filter(|new| *new != old)))?;
    wait_whole(&world, 1)?;
    wait_more(&world, &["exec-1"])?;
    end(&world)
}

#[test]
fn a_job_that_wants_its_tasks_restarted_after_a_loss_has_them_restarted() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("mend-restart")?;
    world.start_agent(&configuration(&world)?)?;
    let alloc = run(&world, "restart", &["exec"])?;
    wait_more(&world, &["exec-1"])?;
    wait_whole(&world, 1)?;
    let old = world.wait_until("a mount program", PATIENCE, || program(&world))?;
    kill(Pid::from_raw(old), Signal::SIGKILL)?;
    world.wait_until("a restart", PATIENCE, || Ok((restarts(&world, &alloc, "exec")? == 1).then_some(())))?;
    wait_whole(&world, 1)?;
    wait_more(&world, &["exec-1"])?;
    assert_eq!(restarts(&world, &alloc, "exec")?, 1, "one loss is one restart");
    end(&world)
}

#[test]
fn containers_are_mended_while_nomad_refuses_the_restart_that_a_job_wants() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::with("mend-refused", Options::default().acl())?;
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/nomad/saddlebag-policy.hcl");
    let less = world.directory().join("policy.hcl");
    std::fs::write(&less, std::fs::read_to_string(shipped)?.replace(", \"alloc-lifecycle\"", ""))?;
    let allow = |policy: &Path| world.nomad(&["acl", "policy", "apply", "saddlebag", &policy.display().to_string()]);
    allow(&less)?;
    let made =
        world.nomad(&["acl", "token", "create", "-name=saddlebag", "-type=client", "-policy=saddlebag", "-json"])?;
    let token: Value = serde_json::from_str(&made)?;
    let file = world.directory().join("token");
    std::fs::write(&file, token["SecretID"].as_str().context("a secret")?)?;
    let nomad = format!("nomad {{\n  token_file = \"{}\"\n}}\n", file.display());
    world.start_agent(&format!("{}{nomad}", configuration(&world)?))?;
    prepare(&world)?;
    let alloc = run(&world, "restart", &["docker", "exec"])?;
    wait_more(&world, &["docker-1", "exec-1"])?;
    wait_whole(&world, 2)?;
    let old = world.wait_until("a mount program", PATIENCE, || program(&world))?;
    kill(Pid::from_raw(old), Signal::SIGKILL)?;
    world.wait_until("another mount program", PATIENCE, || Ok(program(&world)?.filter(|new| *new != old)))?;
    wait_whole(&world, 2)?;
    wait_more(&world, &["docker-1", "exec-1"])?;
    for task in ["docker", "exec"] {
        assert_eq!(restarts(&world, &alloc, task)?, 0, "{task} was restarted");
    }
    let log = std::fs::read_to_string(world.log("agent"))?;
    assert!(log.contains("Nomad was asked in vain") && log.contains("alloc-lifecycle"), "the right is named");
    // It is asked again until it does.
    allow(Path::new(shipped))?;
    for task in ["docker", "exec"] {
        world.wait_until(&format!("a restart of {task}"), PATIENCE, || {
            Ok((restarts(&world, &alloc, task)? == 1).then_some(()))
        })?;
    }
    wait_more(&world, &["docker-1", "exec-1"])?;
    end(&world)
}

#[test]
fn a_job_that_wants_to_fail_after_a_loss_is_stopped_and_placed_anew() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("mend-fail")?;
    world.start_agent(&configuration(&world)?)?;
    let lost = run(&world, "fail", &["exec"])?;
    wait_more(&world, &["exec-1"])?;
    wait_whole(&world, 1)?;
    let old = world.wait_until("a mount program", PATIENCE, || program(&world))?;
    kill(Pid::from_raw(old), Signal::SIGKILL)?;
    world.wait_until("another allocation", PATIENCE, || {
        let all = world.allocations("mend")?;
        let fresh = all.iter().find(|one| one["ID"] != lost.as_str() && one["ClientStatus"] == "running");
        Ok(fresh.is_some().then_some(()))
    })?;
    wait_more(&world, &["exec-1"])?;
    assert_eq!(world.allocation(&lost)?["DesiredStatus"], "stop");
    end(&world)
}

fn run_as_root(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    anyhow::ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn what_is_unmounted_covered_or_moved_by_hand_is_put_right() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3", "nsenter");
    let world = World::new("mend-hand")?;
    world.start_agent(&configuration(&world)?)?;
    let alloc = run(&world, "reattach", &["exec", "raw_exec"])?;
    wait_more(&world, &["exec-1", "raw_exec-1"])?;
    wait_whole(&world, 2)?;
    let mounted = world.alloc_dir(&alloc).join("exec/local/data").display().to_string();
    let linked = world.state_dir().join("bindings").join(&alloc).join("raw_exec/local/data").display().to_string();
    let elsewhere = world.alloc_dir(&alloc).join("exec/local/elsewhere");
    let container = container_of(&world, &alloc)?;
    let elsewhere = elsewhere.display().to_string();
    std::fs::create_dir(&elsewhere)?;
    let inside = |arguments: &[&str]| {
        let mut whole = vec!["-t", container.as_str(), "-m", "-r", "--"];
        whole.extend(arguments);
        run_as_root("nsenter", &whole)
    };
    for what in ["unmounted", "covered", "moved", "link unmounted", "inside unmounted", "inside covered"] {
        let fault = last_faults(&world)?;
        match what {
            "unmounted" => run_as_root("umount", &["-l", &mounted])?,
            "covered" => run_as_root("mount", &["-t", "tmpfs", "none", &mounted])?,
            "moved" => run_as_root("mount", &["--move", &mounted, &elsewhere])?,
            "link unmounted" => run_as_root("umount", &["-l", &linked])?,
            "inside unmounted" => inside(&["/bin/umount", "-l", "/local/data"])?,
            _ => inside(&["/bin/mount", "-t", "tmpfs", "none", "/local/data"])?,
        }
        world.wait_until(&format!("a fault that is said: {what}"), PATIENCE, || {
            Ok((last_faults(&world)? != fault).then_some(()))
        })?;
        wait_whole(&world, 2)?;
        wait_more(&world, &["exec-1", "raw_exec-1"])?;
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        let at = |place: &String| table.lines().filter(|line| line.split(' ').nth(4) == Some(place)).count();
        assert_eq!((at(&mounted), at(&linked), at(&elsewhere)), (1, 1, 0), "{what}: one mount at each place");
    }
    assert_eq!((restarts(&world, &alloc, "exec")?, restarts(&world, &alloc, "raw_exec")?), (0, 0));
    end(&world)
}

fn last_faults(world: &World) -> anyhow::Result<Vec<Value>> {
    // The log has a line for each; the status keeps the last, whose time is in whole seconds.
    let log = std::fs::read_to_string(world.log("agent"))?;
    Ok(log
        .lines()
        .filter(|line| line.contains("is not as it was left") || line.contains("mended inside"))
        .map(Value::from)
        .collect())
}

/// A process of the exec task.
fn container_of(world: &World, alloc: &str) -> anyhow::Result<String> {
    let wanted = [format!("NOMAD_ALLOC_ID={alloc}"), "NOMAD_TASK_NAME=exec".to_owned()];
    world.wait_until("a process of the task", PATIENCE, || {
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let has = |one: &String| environment.split(|byte| *byte == 0).any(|found| found == one.as_bytes());
            let shell = std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line.starts_with(b"/bin/sh\0"));
            if shell && wanted.iter().all(has) {
                return Ok(Some(entry.file_name().to_string_lossy().into_owned()));
            }
        }
        Ok(None)
    })
}

#[test]
fn an_agent_that_comes_while_nomad_is_away_mends_containers_before_it_calls_them_whole() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut world = World::new("mend-away")?;
    let configuration = configuration(&world)?;
    world.start_agent(&configuration)?;
    prepare(&world)?;
    run(&world, "reattach", &DRIVERS)?;
    wait_more(&world, &FILES)?;
    wait_whole(&world, 3)?;
    let old = world.wait_until("a mount program", PATIENCE, || program(&world))?;
    world.kill_nomad()?;
    world.kill_agent()?;
    kill(Pid::from_raw(old), Signal::SIGKILL)?;
    world.start_agent(&configuration)?;
    // Nobody says which tasks run.
    world.wait_until("another mount program", PATIENCE, || Ok(program(&world)?.filter(|new| *new != old)))?;
    wait_whole(&world, 3)?;
    wait_more(&world, &FILES)?;
    world.start_nomad_again()?;
    wait_whole(&world, 3)?;
    end(&world)
}

/// So many volumes that the agent is seen while it looks into their containers.
const MANY: usize = 16;

#[test]
fn an_agent_that_comes_calls_nothing_mounted_that_a_container_has_not() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3", "nsenter");
    let world = World::new("mend-inherited")?;
    let configuration = configuration(&world)?;
    world.start_agent(&configuration)?;
    let blocks: String = (1..MANY)
        .map(|n| {
            format!("volume \"more-{n}\" {{\n  source      = \"mended\"\n  destination = \"local/data-{n}\"\n}}\n")
        })
        .collect();
    let text = JOB
        .replace("TASKS", &task("exec"))
        .replace("ON_FAILURE", "reattach")
        .replace("EOT\n    }", &format!("{blocks}EOT\n    }}"));
    world.run_job(&text, &[])?;
    let alloc = world.wait_running("mend")?;
    wait_more(&world, &["exec-1"])?;
    wait_whole(&world, MANY)?;
    let container = container_of(&world, &alloc)?;
    world.kill_agent()?;
    let places: Vec<String> =
        (0..MANY).map(|n| if n == 0 { "/local/data".to_owned() } else { format!("/local/data-{n}") }).collect();
    for place in &places {
        run_as_root("nsenter", &["-t", &container, "-m", "-r", "--", "/bin/umount", "-l", place])?;
    }
    world.start_agent(&configuration)?;
    world.wait_until("volumes that are all mounted", PATIENCE, || {
        let bindings = bindings(&world)?;
        // Read after the agent was asked: what was there then is there now.
        let table = std::fs::read_to_string(format!("/proc/{container}/mountinfo"))?;
        let is_there = |place: &str| table.lines().any(|line| line.split(' ').nth(4) == Some(place));
        let mounted = bindings.iter().filter(|one| one["state"] == "mounted");
        for one in mounted.clone() {
            let place = format!("/{}", one["destination"].as_str().context("a destination")?);
            anyhow::ensure!(is_there(&place), "{place} is called mounted, and its container has not got it: {one:#}");
        }
        Ok((mounted.count() == MANY).then_some(()))
    })?;
    wait_more(&world, &["exec-1"])?;
    end(&world)
}

#[test]
fn what_was_mounted_in_a_bindings_place_is_forgotten_once_it_has_gone() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("mend-foreign")?;
    let configuration = configuration(&world)?;
    world.start_agent(&configuration)?;
    let alloc = run(&world, "reattach", &["exec"])?;
    wait_more(&world, &["exec-1"])?;
    wait_whole(&world, 1)?;
    world.kill_agent()?;
    let mounted = world.alloc_dir(&alloc).join("exec/local/data").display().to_string();
    run_as_root("umount", &["-l", &mounted])?;
    run_as_root("mount", &["-t", "tmpfs", "none", &mounted])?;
    world.start_agent(&configuration)?;
    world.wait_until("a status that says so", PATIENCE, || {
        let bindings = bindings(&world)?;
        let reason = bindings[0]["reason"].as_str().unwrap_or_default();
        Ok((bindings[0]["state"] == "failed" && reason.contains("something else is mounted")).then_some(()))
    })?;
    // The agent may be looking at it.
    world.wait_until("an unmount", PATIENCE, || Ok(run_as_root("umount", &[&mounted]).ok()))?;
    wait_whole(&world, 1)?;
    wait_more(&world, &["exec-1"])?;
    end(&world)
}
