//! What cannot be mounted is refused with its reason, within its deadline.

use super::*;
use crate::support::{Relay, Reserved, require};

/// Whether a refusal names its cause where the job's author looks and in `explain`, and ends with the right code.
fn assert_says(refused: &(String, String), code: u8, words: &[&str]) {
    let (said, explained) = refused;
    assert!(said.contains(&format!("Exit Code: {code}")), "not exit code {code}: {said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in what the task wrote: {said}");
        assert!(explained.contains(word), "{word:?} is not in explain: {explained}");
    }
}

/// How often a task has asked so far, by the agent's log.
fn count_hooks(world: &World) -> anyhow::Result<usize> {
    let log = std::fs::read_to_string(world.log("agent"))?;
    Ok(log.lines().filter(|line| line.contains("a task asks for its volumes")).count())
}

#[test]
fn what_cannot_be_mounted_is_refused_with_its_reason() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("faults")?;
    let filer = world.lab().filer.clone();
    // Ports on which nobody listens yet: the filer's own, and that of the protocol that mounts use.
    let (http, grpc) = (Reserved::new()?, Reserved::new()?);
    let later = format!("{}.{}", http.address(), grpc.address().port());
    let exits = script(&world, "exits", "echo 'no licence for this filer'; exit 3")?;
    let hangs = script(&world, "hangs", "echo 'waiting for nothing'; while true; do sleep 1; done")?;
    let quoted = |path: &Path| format!("  attach = \"demand\"\n  program = \"{}\"", path.display());
    let configuration = [
        seaweedfs(&filer, "good", "")?,
        "volume \"strict\" {\n  backend = \"good\"\n  path = \"no/such/directory\"\n}".to_owned(),
        seaweedfs(&filer, "missing", &quoted(&world.directory().join("no-weed")))?,
        seaweedfs("127.0.0.1:1", "down", "")?,
        seaweedfs(&later, "later", "")?,
        seaweedfs(&filer, "exits", &quoted(&exits))?,
        seaweedfs(&filer, "hangs", &format!("{}\n  attach_timeout = \"2s\"", quoted(&hangs)))?,
    ];
    let configuration = configuration.join("\n");
    world.start_agent(&format!("hook_timeout = \"5s\"\n{configuration}"))?;
    // What is short for a machine with much to do is not to be spent on a mount program's start.
    wait_source(&world, "good", "attached")?;

    assert_says(
        &run_refused(&world, "strict", "strict")?,
        78,
        &["volume strict has no directory no/such/directory", "create"],
    );
    assert_says(&run_refused(&world, "missing", "missing")?, 69, &["the program weed is not installed", "no-weed"]);
    assert_says(&run_refused(&world, "down", "down")?, 69, &["no connection to filer 127.0.0.1:1", "refused"]);
    assert_says(
        &run_refused(&world, "exits", "exits")?,
        69,
        &["exits ended before its mount was there", "no licence for this filer"],
    );
    assert_says(&run_refused(&world, "hangs", "hangs")?, 69, &["hangs did not mount within 2s", "waiting for nothing"]);
    // A last try may be under way.
    world.wait_until("the good backend's program and no other", PATIENCE, || {
        Ok((mount_programs(&world)?.len() == 1).then_some(()))
    })?;

    // A filer that comes up while a prestart task waits for it is tried again in time, of which there is enough now.
    world.kill_agent()?;
    let asked = count_hooks(&world)?;
    world.start_agent(&configuration)?;
    run(&world, "later", "later")?;
    world.wait_until("a waiting prestart task", PATIENCE, || Ok((count_hooks(&world)? > asked).then_some(())))?;
    std::thread::sleep(Duration::from_millis(1500));
    let (host, port) = filer.rsplit_once(':').context("HOST:PORT")?;
    Relay::start(http, filer.clone())?;
    // SeaweedFS's convention for where it is not said.
    Relay::start(grpc, format!("{host}:{}", port.parse::<u16>()? + 10_000))?;
    let alloc = world.wait_running("later")?;
    wait_written(&world, &alloc, 1)?;
    end(&world, "later", &alloc)?;
    Ok(())
}
