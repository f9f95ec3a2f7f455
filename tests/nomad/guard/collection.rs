//! An agent runs, and Nomad removes allocations in every way it has.

use super::fleet::{BACKENDS, DRIVERS, Fleet, Plan, Ship};
use super::scene::{SOON, Scene, calm, uptime};
use crate::support::{Options, require};
use anyhow::Context as _;
use std::process::Command;
use std::time::Duration;

#[test]
fn a_purge_and_a_collection_never_empty_a_volume() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    let fleet = Fleet::start(&mut scene, &Plan::default())?;
    fleet.end(&scene)?;
    // The filer itself has it, not only the cache of a mount.
    for ship in fleet.0.iter().filter(|ship| ship.job.contains("weed")) {
        let path: Vec<_> = ship.volume.iter().rev().take(2).filter_map(|name| name.to_str()).collect();
        let address = format!("http://{}/{}/{}/ledger", scene.world.lab().filer, path[1], path[0]);
        let got = Command::new("curl").args(["-sSf", "--noproxy", "*", "--max-time", "10", &address]).output()?;
        assert!(got.status.success(), "{address}: {}", String::from_utf8_lossy(&got.stderr));
        assert_eq!(got.stdout, std::fs::read(ship.volume.join("ledger"))?, "{address}");
        assert!(!got.stdout.is_empty());
    }
    Ok(())
}

#[test]
fn a_purged_task_writes_to_its_volume_until_it_is_killed() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    // Deaf to every signal but the last; a write that fails leaves a gap in the numbers.
    let script = "trap '' TERM INT\nset +e\nn=0\nwhile :; do\n  n=$((n + 1))\n  read up idle < /proc/uptime\n  \
                  echo \"$n $up\" >> $V/lines\n  sleep 0.05\ndone\n";
    // Far longer than what is asked for: a write may be slow just at the end.
    let fleet = Fleet::start(&mut scene, &Plan { script, kill_timeout: "8s", ..Plan::default() })?;
    let purged = uptime()?;
    fleet.purge(&scene)?;
    scene.world.system_gc()?;
    fleet.assert_clean(&scene)?;
    for ship in &fleet.0 {
        let lines = ship.lines("lines")?;
        let mut last = 0.0;
        for (index, line) in lines.iter().enumerate() {
            let (number, up) = line.split_once(' ').with_context(|| format!("{}: {line:?}", ship.job))?;
            assert_eq!(number.parse::<usize>()?, index + 1, "{}: a write failed before {line:?}", ship.job);
            last = up.parse()?;
        }
        assert!(last > purged + 2.0, "{}: written {} s after the purge for the last time", ship.job, last - purged);
    }
    Ok(())
}

#[test]
fn a_batch_job_that_ended_by_itself_is_collected_without_loss() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    let mut fleet = Fleet::launch(&mut scene, &Plan { script: "exit 0", kind: "batch", ..Plan::default() })?;
    for ship in &mut fleet.0 {
        ship.alloc = scene.world.wait_for_status(&ship.job, &["complete"])?;
        ship.wait_for_starts(&scene, 1)?;
    }
    // The volume leaves with the last task that used it, and not first when Nomad collects.
    scene.world.wait_until("allocations without their volumes", SOON, || {
        let mounted = fleet.0.iter().filter_map(|ship| ship.mount_id(&scene).transpose());
        Ok((mounted.count() == 0).then_some(()))
    })?;
    fleet.assert_whole()?;
    // What has ended stays known to Nomad until this.
    scene.world.system_gc()?;
    fleet.assert_clean(&scene)
}

#[test]
fn allocations_over_the_limit_of_the_node_are_collected_without_loss() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = Scene::new("limit", Options::default().gc_max_allocs(1))?;
    let mut ships = Vec::new();
    for _ in 0..2 {
        for driver in DRIVERS {
            for backend in BACKENDS {
                let plan = Plan { script: "sleep 0.3", kind: "batch", ..Plan::default() };
                ships.push(Ship::launch(&mut scene, driver, backend, &plan)?);
            }
        }
    }
    for ship in &mut ships {
        ship.alloc = scene.world.wait_for_status(&ship.job, &["complete"])?;
        ship.wait_for_starts(&scene, 1)?;
    }
    let fleet = Fleet(ships);
    // One more, and Nomad makes room for it.
    let one_more = Fleet(vec![Ship::launch(&mut scene, "raw_exec", "disk", &Plan::default())?]);
    scene.world.wait_running(&one_more.0[0].job)?;
    scene.world.wait_until("at most one directory of an ended allocation", Duration::from_secs(180), || {
        let left = fleet.0.iter().filter(|ship| scene.world.alloc_dir(&ship.alloc).exists()).count();
        Ok((left <= 1).then_some(()))
    })?;
    fleet.assert_whole()?;
    fleet.purge(&scene)?;
    one_more.purge(&scene)?;
    scene.world.system_gc()?;
    fleet.assert_clean_or_kept_out(&scene)
}

#[test]
fn the_binding_of_a_purged_raw_exec_task_goes_with_its_directory() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    // An allocation that stays, so that Nomad's list of them has an index, which no purge moves.
    let mut bystander = Ship::launch(&mut scene, "raw_exec", "disk", &Plan::default())?;
    bystander.alloc = scene.world.wait_running(&bystander.job)?;
    for backend in BACKENDS {
        let mut ship = Ship::launch(&mut scene, "raw_exec", backend, &Plan::default())?;
        ship.alloc = scene.world.wait_running(&ship.job)?;
        ship.wait_for_starts(&scene, 1)?;
        // The last of Nomad's news of its start.
        std::thread::sleep(Duration::from_secs(1));
        scene.world.stop_purge(&ship.job)?;
        scene.world.wait_alloc_dir_gone(&ship.alloc)?;
        // Nomad's list would be asked again after five minutes: it is the directory's end that is noticed.
        ship.wait_for_no_remains(&scene)?;
        ship.assert_whole()?;
    }
    assert!(bystander.mount_id(&scene)?.is_some());
    Fleet(vec![bystander]).end(&scene)
}
