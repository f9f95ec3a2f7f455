use crate::support::{World, checksums, require};

const BACKENDS: &str = "backend \"host\" \"local\" {\n path = \"WORLD/volumes\"\n dynamic = true\n}\n";

#[test]
fn a_purge_never_empties_a_volume() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed");
    let world = World::new("first")?;
    world.start_agent(&BACKENDS.replace("WORLD", world.directory().to_str().unwrap()))?;
    for example in ["docker", "exec"] {
        let job = world.run_job(&format!("examples/jobs/{example}.nomad.hcl"), &if example == "docker" { vec![("network_mode", "host")] } else { vec![] })?;
        let alloc = world.wait_running(&job)?;
        std::thread::sleep(std::time::Duration::from_millis(500));
        println!("{}", world.saddlebag(&["status"])?);
        let before = checksums(&world.directory().join("volumes"))?;
        println!("{before:?}");
        world.stop_purge(&job)?;
        world.wait_dead(&job)?;
        world.system_gc()?;
        world.wait_alloc_dir_gone(&alloc)?;
        assert_eq!(before, checksums(&world.directory().join("volumes"))?);
    }
    world.assert_no_destroy_errors()?;
    Ok(())
}
