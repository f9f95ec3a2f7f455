//! Sizes of volumes, kept by Gluster's quota.

use crate::faults::scene::wait_source;
use crate::support::{Gluster, PATIENCE, World, require, tool};
use anyhow::Context as _;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A job that says how large its file system is, and writes more than that is.
const FILLS: &str = r#"
variable "saddlebag" {}
variable "socket" {}

job "JOB" {
  group "app" {
    restart {
      attempts = 0
      mode     = "fail"
    }
    meta {
      storage_volume      = "VOLUME"
      storage_destination = "local/x"
    }
    PRESTART
    task "main" {
      driver = "exec"
      config {
        command = "/bin/sh"
        args    = ["-c", "df -P -k /local/x | tail -n 1 | awk '{print $2}' > /alloc/size; i=0; until [ $i = 60 ] || ! dd if=/dev/zero of=/local/x/$i bs=1M count=1 conv=fsync 2>> /alloc/said; do i=$((i+1)); done; echo $i > /alloc/written; exec sleep 1000"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
"#;

/// Runs the job: the size that it saw in KiB, how many MiB it could write, and what its last write said.
fn fill(world: &World, job: &str, volume: &str) -> anyhow::Result<(u64, u64, String)> {
    world.run_job(&FILLS.replace("JOB", job).replace("VOLUME", volume), &[])?;
    let alloc = world.wait_running(job)?;
    let own = world.alloc_dir(&alloc).join("alloc");
    let number =
        |name: &str| std::fs::read_to_string(own.join(name)).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let written = world.wait_until("a task that has written", PATIENCE, || Ok(number("written")))?;
    let said = std::fs::read_to_string(own.join("said")).unwrap_or_default();
    Ok((number("size").context("what df said")?, written, said))
}

/// What `status` says of the size of the binding of that volume.
fn enforced(world: &World, volume: &str) -> anyhow::Result<(String, String)> {
    let status: Value = serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?;
    let all = status["bindings"].as_array().context("bindings")?;
    let one = all.iter().find(|one| one["volume"] == volume).with_context(|| format!("no {volume}: {status:#}"))?;
    let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
    Ok((text("size_enforced"), text("size_reason")))
}

/// Bricks look at usage at each write, so that a limit is exact.
const EXACT: [(&str, &str); 2] = [("features.soft-timeout", "0"), ("features.hard-timeout", "0")];

fn start(name: &str) -> anyhow::Result<(World, Gluster)> {
    let world = World::new(name)?;
    let gluster = world.start_gluster()?;
    gluster.create("gv0", 1, &[])?;
    Ok((world, gluster))
}

fn enable_quota(gluster: &Gluster) -> anyhow::Result<()> {
    gluster.gluster(&["volume", "quota", "gv0", "enable"])?;
    for (option, value) in EXACT {
        gluster.gluster(&["volume", "set", "gv0", option, value])?;
    }
    Ok(())
}

fn volume(name: &str, backend: &str, size: &str) -> String {
    format!(
        "volume \"{name}\" {{\n  backend = \"{backend}\"\n  create = true\n  mode = \"0777\"\n  size = \"{size}\"\n}}\n"
    )
}

#[test]
fn a_size_is_kept_by_gluster_and_told_inside_the_task() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "glusterd", "gluster", "glusterfs");
    let (world, gluster) = start("gluster-sizes")?;
    let quota = format!(
        "  quota \"local\" {{\n    program = \"{}\"\n    socket = \"{}\"\n  }}",
        gluster.program().display(),
        gluster.socket().display()
    );
    let configuration = |size: &str| {
        [
            gluster.backend("main", "gv0", &quota),
            gluster.backend("plain", "gv0", "  memory_limit = \"300MiB\""),
            volume("kept", "main", size),
            volume("late", "main", "30MiB"),
            volume("told", "plain", "20MiB"),
        ]
        .concat()
    };
    world.start_agent(&configuration("20MiB"))?;
    wait_source(&world, "main", &["attached"])?;

    // Quota is not on yet: said, with what to do, and no reason to keep a task waiting.
    let (size, written, _) = fill(&world, "late", "late")?;
    assert!(size > 100 << 10 && written == 60, "{size} {written}");
    let (is, why) = enforced(&world, "late")?;
    assert!(is == "advisory" && why.contains("gluster volume quota gv0 enable"), "{is}: {why}");

    enable_quota(&gluster)?;
    let (size, written, said) = fill(&world, "kept", "kept")?;
    assert_eq!(size, 20 << 10, "df tells the size");
    assert!((18..=21).contains(&written), "{written} MiB of 20");
    assert!(said.contains("quota exceeded") || said.contains("Disk quota"), "{said}");
    assert_eq!(enforced(&world, "kept")?, ("enforced".to_owned(), String::new()));
    assert_eq!(enforced(&world, "told").err().map(drop), Some(()), "nobody uses it");
    fill(&world, "told", "told")?;
    assert_eq!(enforced(&world, "told")?.0, "advisory");

    // A larger one is set under the job that runs.
    world.kill_agent()?;
    world.start_agent(&configuration("40MiB"))?;
    world.stop_purge("kept")?;
    world.wait_dead("kept")?;
    assert_eq!(fill(&world, "kept", "kept")?.0, 40 << 10);
    Ok(())
}

/// A key pair, and an ssh server where the world's GlusterFS is that lets it in as root.
fn start_ssh(world: &World, gluster: &Gluster) -> anyhow::Result<(PathBuf, PathBuf)> {
    let own = |name: &str| world.directory().join(name);
    let run = |program: &str, arguments: &[&str]| -> anyhow::Result<String> {
        let done = Command::new(tool(program).with_context(|| format!("no {program}"))?).args(arguments).output()?;
        anyhow::ensure!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8(done.stdout)?)
    };
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    let (key, host, known) = (own("ssh.key"), own("host.key"), own("known_hosts"));
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &text(&key)?])?;
    let made = run("dropbearkey", &["-t", "ed25519", "-f", &text(&host)?])?;
    let public = made.lines().find(|line| line.starts_with("ssh-ed25519")).context("a host key")?;
    std::fs::write(&known, format!("[{}]:2222 {public}\n", gluster.address))?;
    // Root's home there is the lab's.
    let keys = world.directory().join("gluster/root/.ssh");
    std::fs::create_dir_all(&keys)?;
    std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o700))?;
    std::fs::copy(own("ssh.key.pub"), keys.join("authorized_keys"))?;
    let enter = world.directory().join("gluster/enter");
    let (at, pid) = (format!("{}:2222", gluster.address), text(&own("dropbear.pid"))?);
    world.run("ssh", &enter, &["dropbear", "-F", "-E", "-s", "-p", &at, "-P", &pid, "-r", &text(&host)?])?;
    Ok((key, known))
}

#[test]
fn a_size_is_set_over_ssh_and_never_by_a_server_that_is_not_known() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "glusterd", "gluster", "glusterfs", "dropbear", "ssh", "ssh-keygen");
    let (world, gluster) = start("gluster-ssh")?;
    enable_quota(&gluster)?;
    let (key, known) = start_ssh(&world, &gluster)?;
    let nobody = world.directory().join("known_nobody");
    std::fs::write(&nobody, "")?;
    let backend = |name: &str, known: &Path, key: &Path| {
        let quota = format!(
            "  quota \"ssh\" {{\n    host = \"{}\"\n    port = 2222\n    key = \"{}\"\n    known_hosts = \"{}\"\n    socket = \"{}\"\n  }}",
            gluster.address,
            key.display(),
            known.display(),
            gluster.socket().display()
        );
        gluster.backend(name, "gv0", &quota)
    };
    let configuration = [
        backend("main", &known, &key),
        backend("doubted", &nobody, &key),
        backend("unkeyed", &known, &world.directory().join("no.key")),
        volume("kept", "main", "20MiB"),
        volume("doubted", "doubted", "20MiB"),
        volume("unkeyed", "unkeyed", "20MiB"),
    ];
    world.start_agent(&configuration.concat())?;
    assert_eq!(fill(&world, "kept", "kept")?.0, 20 << 10);
    assert_eq!(enforced(&world, "kept")?, ("enforced".to_owned(), String::new()));
    for (name, wanted) in [("doubted", "Host key verification failed"), ("unkeyed", "Permission denied")] {
        let (size, ..) = fill(&world, name, name)?;
        let (is, why) = enforced(&world, name)?;
        assert!(size > 100 << 10 && is == "advisory" && why.contains(wanted), "{name}: {size} {is}: {why}");
    }
    Ok(())
}
