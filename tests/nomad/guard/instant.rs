//! A purge in the instant between the end of prestart and the start of the main task.

use super::fleet::{DRIVERS, Fleet, Plan, Ship};
use super::scene::{SOON, Scene, calm};
use crate::support::{mounts_below, require};
use anyhow::Context as _;
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[test]
fn a_purge_between_prestart_and_main_loses_nothing() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    let mut ships = Vec::new();
    for round in 0..24 {
        let driver = DRIVERS[round % DRIVERS.len()];
        let backend = if round % 2 == 0 { "disk" } else { "weed" };
        let before = mount_points(&scene)?;
        let mut ship = Ship::launch(&mut scene, driver, backend, &Plan::default())?;
        ship.alloc = wait_for_new_mount(&scene, &before).with_context(|| ship.job.clone())?;
        // From a few milliseconds before prestart ends to after main's start.
        std::thread::sleep(Duration::from_millis(10 * u64::try_from(round / DRIVERS.len())?));
        purge_now(&scene, &ship.job)?;
        ships.push(ship);
    }
    scene.world.system_gc()?;
    let fleet = Fleet(ships);
    fleet.assert_clean(&scene)?;
    let log = scene.world.nomad_log()?;
    let started = |ship: &&Ship| {
        let of = format!("alloc_id={} task=main type=Started", ship.alloc);
        log.lines().any(|line| line.contains(&of))
    };
    let before_main = fleet.0.len() - fleet.0.iter().filter(started).count();
    assert!(before_main >= 5, "only {before_main} purges came before their main task had started");
    Ok(())
}

fn mount_points(scene: &Scene) -> anyhow::Result<BTreeSet<PathBuf>> {
    Ok(mounts_below(scene.world.directory())?.into_iter().filter(|point| point.ends_with("main/local/x")).collect())
}

/// The allocation whose mount appears next, the moment it does.
fn wait_for_new_mount(scene: &Scene, before: &BTreeSet<PathBuf>) -> anyhow::Result<String> {
    let start = Instant::now();
    loop {
        if let Some(new) = mount_points(scene)?.difference(before).next() {
            let alloc = new.ancestors().nth(3).and_then(|directory| directory.file_name()?.to_str());
            return Ok(alloc.context("the place of a mount names its allocation")?.to_owned());
        }
        anyhow::ensure!(start.elapsed() < SOON, "no mount");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// `nomad job stop -purge` without the time that a program takes to start.
fn purge_now(scene: &Scene, job: &str) -> anyhow::Result<()> {
    let address = scene.world.variable("NOMAD_ADDR")?.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address)?;
    write!(stream, "DELETE /v1/job/{job}?purge=true HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}
