//! A purge in the instant between the end of prestart and the start of the main task.

use super::fleet::{DRIVERS, Fleet, Plan, Ship};
use super::scene::{SOON, calm};
use crate::support::{require, wait_until};
use std::time::Duration;

#[test]
fn a_purge_between_prestart_and_main_loses_nothing() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let mut scene = calm()?;
    let mut ships = Vec::new();
    for round in 0..24 {
        let driver = DRIVERS[round % DRIVERS.len()];
        let backend = if round % 2 == 0 { "disk" } else { "weed" };
        let mut ship = Ship::launch(&mut scene, driver, backend, &Plan::default())?;
        ship.alloc = wait_until("an allocation", SOON, &[], || {
            let listed = scene.world.allocations(&ship.job)?;
            Ok(listed.first().and_then(|allocation| allocation["ID"].as_str()).map(str::to_owned))
        })?;
        // The mount comes a few milliseconds before prestart ends; so from before that end to after main's start.
        let start = std::time::Instant::now();
        while ship.mount_id(&scene)?.is_none() {
            anyhow::ensure!(start.elapsed() < SOON, "{} has no mount:\n{}", ship.job, scene.world.events(&ship.alloc)?);
        }
        std::thread::sleep(Duration::from_millis(15 * u64::try_from(round / DRIVERS.len())?));
        scene.world.stop_purge(&ship.job)?;
        ships.push(ship);
    }
    scene.world.system_gc()?;
    Fleet(ships).assert_clean(&scene)
}
