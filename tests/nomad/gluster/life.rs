//! The life of a client: one for each Gluster volume, outside the agent, found again, and ended when unused.

use crate::faults::scene::{Writer, local, pid_of, source, wait_mounted, wait_source, writers};
use crate::support::{Gluster, PATIENCE, World, require};
use anyhow::Context as _;
use nix::unistd::{Pid, getsid};
use std::os::unix::fs::PermissionsExt as _;

/// The processes of `glusterfs` that mount something for this world's agent, with their arguments.
fn clients(world: &World) -> anyhow::Result<Vec<(i32, Vec<String>)>> {
    let mark = format!("--log-file={}/", world.state_dir().display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<String> =
            line.split(|b| *b == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        if words.iter().any(|word| word.starts_with(&mark)) {
            found.push((pid, words));
        }
    }
    Ok(found)
}

fn configuration(gluster: &Gluster) -> String {
    let options = "  memory_limit = \"256MiB\"\n  ping_timeout = \"7s\"\n  attribute_timeout = \"500ms\"\n  acl = true\n  \
                   xlator_options = {\n    \"write-behind.cache-size\" = \"2MB\"\n  }";
    [
        "hook_timeout = \"20s\"\n".to_owned(),
        gluster.backend_with_volumes("main", "gv0", options),
        // The same client, for a directory of it.
        gluster.backend("below", "gv0", &format!("  path = \"/deep/er\"\n  dynamic = true\n{options}")),
        "volume \"whole\" {\n  backend = \"main\"\n  path    = \"/\"\n}\n".to_owned(),
        gluster.backend("brief", "gv1", "  attach = \"demand\"\n  linger = \"2s\"\n  read_only = true"),
        "volume \"brief\" {\n  backend = \"brief\"\n  path    = \"given\"\n}\n".to_owned(),
        format!("policy {{\n  allow_url = [\"gluster://{}/\"]\n}}\n", gluster.address),
    ]
    .concat()
}

#[test]
fn one_client_serves_a_gluster_volume_and_outlives_the_agent() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "glusterd", "gluster", "glusterfs");
    let world = World::new("gluster")?;
    let gluster = world.start_gluster()?;
    gluster.create("gv0", 1, &[])?;
    gluster.create("gv1", 1, &[])?;
    world.start_agent(&configuration(&gluster))?;
    let root = wait_source(&world, "below,main", &["attached"])?["mount_point"].as_str().map(std::path::PathBuf::from);
    // The tasks of exec are nobody's: whose directory it is, the one who registers a volume says.
    let root = root.context("a mount point")?;
    std::fs::create_dir_all(root.join("deep/er/anything"))?;
    for shared in [root.clone(), root.join("deep/er/anything")] {
        std::fs::set_permissions(shared, std::fs::Permissions::from_mode(0o777))?;
    }

    let mut writing = writers(&world, "main", Writer::launch)?;
    writing.push(Writer::launch(&world, "exec", "anything")?.wait(&world)?);
    writing.push(Writer::launch(&world, "exec", "whole")?.wait(&world)?);
    for (volume, records) in [("main-0", "log"), ("main-1", "log"), ("main-2", "log"), ("deep/er/anything", "log")] {
        let stored = gluster.brick("gv0", 0).join(volume).join(records);
        assert!(stored.exists(), "{} is not on the brick", stored.display());
    }
    assert!(gluster.brick("gv0", 0).join("log").exists(), "a whole volume is its root");

    let (pid, said) = clients(&world)?.pop().context("a client")?;
    assert_eq!(clients(&world)?.len(), 1, "one client for five volumes, and none for what nobody asked for");
    for wanted in [
        "--acl",
        "--attribute-timeout=0.5",
        "--xlator-option=gv0-client-*.ping-timeout=7",
        "--xlator-option=gv0-write-behind.cache-size=2MB",
    ] {
        assert!(said.iter().any(|word| word == wanted), "{wanted} is not in {said:?}");
    }
    // Not only said: the client has them.
    let graph =
        wait_source(&world, "below,main", &["attached"])?["mount_point"].as_str().unwrap_or_default().to_owned();
    let option = |path: &str| std::fs::read_to_string(format!("{graph}/.meta/graphs/active/{path}"));
    assert_eq!(option("gv0-client-0/options/ping-timeout")?.trim(), "7");
    assert_eq!(option("gv0-write-behind/options/cache-size")?.trim(), "2MB");
    let agent = world.agent_pid().context("an agent")?;
    assert_ne!(
        getsid(Some(Pid::from_raw(pid)))?,
        getsid(Some(Pid::from_raw(i32::try_from(agent)?)))?,
        "its own session"
    );
    let cgroup = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
    assert!(cgroup(pid)?.contains("saddlebag") && cgroup(pid)? != cgroup(i32::try_from(agent)?)?, "its own cgroup");
    assert_eq!(limit(pid)?, 256 << 20);

    doctor_finds_it_well(&world)?;
    assert_eq!(clients(&world)?.len(), 1, "the client of a trial is gone");

    world.kill_agent()?;
    world.start_agent(&configuration(&gluster))?;
    let found = wait_source(&world, "below,main", &["attached"])?;
    assert_eq!((pid_of(&found)?.as_raw(), clients(&world)?.len()), (pid, 1), "the same client, and no second one");
    for writer in &writing {
        wait_mounted(&world, writer)?;
        writer.assert_whole(&world)?;
    }
    Ok(())
}

/// Doctor mounts it for a trial, by a client of its own, writes and reads.
fn doctor_finds_it_well(world: &World) -> anyhow::Result<()> {
    let file = world.directory().join("agent.hcl");
    let said =
        world.saddlebag(&["doctor", "--json", "--backend", "main", "--config", file.to_str().context("UTF-8")?])?;
    let report: serde_json::Value = serde_json::from_str(&said)?;
    let checks = report["checks"].as_array().context("checks")?;
    for name in ["glusterd", "trial mount", "trial write", "trial read", "trial remove", "trial unmount"] {
        let is_ok = |check: &serde_json::Value| {
            check["area"] == "backend main" && check["name"] == name && check["outcome"] == "ok"
        };
        assert!(checks.iter().any(is_ok), "{name}: {report:#}");
    }
    Ok(())
}

/// The memory limit of a process's cgroup, in bytes, in either version's file.
fn limit(pid: i32) -> anyhow::Result<u64> {
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = |mark: &str| own.lines().find_map(|line| Some(line.split_once(mark)?.1.to_owned()));
    let files = [
        path(":memory:").map(|path| format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes")),
        path("0::").map(|path| format!("/sys/fs/cgroup{path}/memory.max")),
        path("0::").map(|path| format!("/sys/fs/cgroup/unified{path}/memory.max")),
    ];
    let text = files.into_iter().flatten().find_map(|file| std::fs::read_to_string(file).ok());
    Ok(text.with_context(|| format!("no memory limit in {own}"))?.trim().parse()?)
}

/// A job whose task says what it finds, and how much room, in a file of its allocation.
const LOOKS: &str = r#"
variable "saddlebag" {}
variable "socket" {}

job "JOB" {
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
      storage_volume      = "VOLUME"
      storage_destination = "local/x"
    }
    PRESTART
    task "main" {
      driver = "raw_exec"
      config {
        command = "/bin/sh"
        args    = ["-c", "(ls $NOMAD_TASK_DIR/x/; touch $NOMAD_TASK_DIR/x/new; echo looked) > $NOMAD_ALLOC_DIR/said 2>&1; exec sleep 1000"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
"#;

/// Runs a job on a volume, and returns what its task said.
fn look(world: &World, job: &str, volume: &str) -> anyhow::Result<String> {
    world.run_job(&LOOKS.replace("JOB", job).replace("VOLUME", volume), &[])?;
    let alloc = world.wait_running(job)?;
    let said = world.alloc_dir(&alloc).join("alloc/said");
    let text = world.wait_until("a task that has looked", PATIENCE, || {
        Ok(std::fs::read_to_string(&said).ok().filter(|text| text.ends_with("looked\n")))
    })?;
    world.stop_purge(job)?;
    world.wait_dead(job)?;
    Ok(text)
}

/// The refusal of a job that cannot have its volume: what its prestart task wrote.
fn refusal(world: &World, job: &str, volume: &str) -> anyhow::Result<String> {
    world.run_job(&LOOKS.replace("JOB", job).replace("VOLUME", volume), &[])?;
    let alloc = world.wait_for_status(job, &["failed"])?;
    let said = world.events(&alloc)?;
    world.stop_purge(job)?;
    world.wait_dead(job)?;
    Ok(said)
}

#[test]
fn volumes_of_gluster_are_named_by_url_and_refused_with_a_reason() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "glusterd", "gluster", "glusterfs");
    let world = World::new("gluster-urls")?;
    let gluster = world.start_gluster()?;
    gluster.create("gv1", 1, &[])?;
    let address = gluster.address.clone();
    let one = |name: &str, options: &str| {
        format!(
            "{}volume \"{name}\" {{\n  backend = \"{name}\"\n  path    = \"/\"\n}}\n",
            gluster.backend(name, "gv1", options)
        )
    };
    let named = |name: &str, text: &str, with: &str| one(name, "  attach = \"demand\"").replace(text, with);
    let configuration = [
        "hook_timeout = \"8s\"\n".to_owned(),
        one("brief", "  attach = \"demand\"\n  linger = \"2s\"\n  read_only = true"),
        named("nothing", "volume  = \"gv1\"", "volume  = \"gv9\""),
        named("nobody", &format!("\"{address}\""), "\"127.0.0.9\""),
        // The second of two servers has it.
        named("second", &format!("\"{address}\""), &format!("\"127.0.0.9\", \"{address}\"")),
        format!("policy {{\n  allow_url = [\"gluster://{address}/gv1/\"]\n}}\n"),
        local(&world)?,
    ];
    world.start_agent(&configuration.concat())?;
    assert!(refusal(&world, "a", "nothing")?.contains("failed to fetch volume file (key:gv9)"));
    let said = refusal(&world, "b", "nobody")?;
    assert!(said.contains("no connection to glusterd 127.0.0.9:24007"), "{said}");

    // The URL needs the directory, and its own client, with what such a one is by default.
    let url = format!("gluster://{address}/gv1/given/sub");
    let said = refusal(&world, "c", &url)?;
    assert!(said.contains("has no directory given/sub"), "{said}");
    look(&world, "d", "second")?;
    assert!(gluster.brick("gv1", 0).join("new").exists());
    std::fs::create_dir_all(
        source(&world, "second")?["mount_point"].as_str().map(|at| format!("{at}/given/sub")).context("mounted")?,
    )?;
    let said = look(&world, "e", &url)?;
    assert!(!said.contains("Read-only"), "{said}");
    assert!(gluster.brick("gv1", 0).join("given/sub/new").exists());
    let said = refusal(&world, "f", &format!("gluster://{address}/gv0/x"))?;
    assert!(said.contains("does not allow the URL"), "{said}");

    // Read-only at its source, and gone when nobody has used it for a while.
    let said = look(&world, "g", "brief")?;
    assert!(said.contains("given") && said.contains("Read-only file system"), "{said}");
    wait_source(&world, "brief", &["detached"])?;
    Ok(())
}
