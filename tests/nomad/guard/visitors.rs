//! Others than Nomad's collection who open what is guarded.

use super::fleet::{Fleet, Plan, Ship};
use super::scene::{SOON, Scene, calm};
use crate::support::require;
use anyhow::Context as _;
use std::process::Command;

const WRITES: &str = "trap 'exit 0' TERM INT\nn=0\nwhile :; do\n  n=$((n + 1))\n  echo $n >> $V/lines\n  \
                      sleep 0.1 & wait $!\ndone\n";

/// What is mounted where; nothing of it may change while visitors come.
fn mounts(scene: &Scene, fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let id = |ship: &Ship| ship.mount_id(scene)?.with_context(|| format!("{} has no mount", ship.job));
    fleet.0.iter().map(id).collect()
}

/// Every task still writes, and has started once only.
fn assert_writing(scene: &Scene, fleet: &Fleet) -> anyhow::Result<()> {
    for ship in &fleet.0 {
        // A task has said that it started before it writes its first line.
        let count = || ship.lines("lines").unwrap_or_default().len();
        let before = count();
        scene
            .world
            .wait_until(&format!("another line of {}", ship.job), SOON, || Ok((count() > before + 2).then_some(())))?;
        ship.wait_for_starts(scene, 1)?;
    }
    Ok(())
}

#[test]
fn nomad_alloc_fs_of_a_volume_is_denied_and_disturbs_nobody() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    let fleet = Fleet::start(&mut scene, &Plan { script: WRITES, ..Plan::default() })?;
    let before = mounts(&scene, &fleet)?;
    for ship in &fleet.0 {
        if ship.driver == "raw_exec" {
            // A link out of the allocation: Nomad itself refuses to follow it, or lists what nobody guards.
            let _ = scene.world.nomad(&["alloc", "fs", &ship.alloc, "main/local/x"]);
            continue;
        }
        let listed = scene.world.nomad(&["alloc", "fs", &ship.alloc, "main/local/x"]);
        let refusal = listed.expect_err("Nomad's agent is kept out").to_string();
        assert!(refusal.contains("operation not permitted"), "{refusal}");
        // One file of it is no danger.
        let file = scene.world.nomad(&["alloc", "fs", &ship.alloc, "main/local/x/deep/er/copy"])?;
        assert_eq!(file, "and its copy");
    }
    assert_eq!(mounts(&scene, &fleet)?, before);
    assert_writing(&scene, &fleet)?;
    fleet.end(&scene)
}

#[test]
fn operators_may_look_into_a_guarded_volume() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    let fleet = Fleet::start(&mut scene, &Plan { script: WRITES, ..Plan::default() })?;
    let before = mounts(&scene, &fleet)?;
    for ship in &fleet.0 {
        let place = scene.world.alloc_dir(&ship.alloc).join("main/local/x");
        let listed = Command::new("ls").arg("-l").arg(place.join("deep")).output()?;
        assert!(listed.status.success(), "{}: {}", ship.job, String::from_utf8_lossy(&listed.stderr));
        let found = Command::new("find").arg("-L").arg(&place).args(["-name", "copy"]).output()?;
        assert!(found.status.success(), "{}: {}", ship.job, String::from_utf8_lossy(&found.stderr));
        assert_eq!(String::from_utf8(found.stdout)?.lines().count(), 1);
        let read = Command::new("cat").arg(place.join("deep/er/copy")).output()?;
        assert_eq!(read.stdout, b"and its copy", "{}", ship.job);
    }
    assert_eq!(mounts(&scene, &fleet)?, before);
    assert_writing(&scene, &fleet)?;
    fleet.end(&scene)
}

#[test]
fn a_template_of_the_job_is_written_into_its_volume() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    let task = "template {\n  destination = \"local/x/deep/settings\"\n  data = \"colour = {{ env \\\"NOMAD_JOB_NAME\\\" \
                }}\\n\"\n}\n";
    let script = "cat $V/deep/settings >> $V/seen\ntrap 'exit 0' TERM INT\nsleep 1000000 & wait\n";
    // Not raw_exec: Nomad writes templates in a sandbox that ends at the task's directory, which the link leaves.
    let fleet = Fleet::start_with(&mut scene, &["docker", "exec"], &Plan { script, task, ..Plan::default() })?;
    for ship in &fleet.0 {
        scene.world.wait_until(&format!("what {} saw", ship.job), SOON, || {
            Ok(ship.lines("seen").ok().filter(|lines| !lines.is_empty()).map(drop))
        })?;
        assert_eq!(ship.lines("seen")?, [format!("colour = {}", ship.job)]);
        assert_eq!(ship.lines("deep/settings")?, [format!("colour = {}", ship.job)]);
    }
    fleet.end(&scene)
}
