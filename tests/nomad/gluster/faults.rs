//! Bricks and glusterds that go and come back under tasks that write.

use crate::faults::scene::{Writer, bindings, local, logged, pid_of, wait_mounted, wait_source, writers};
use crate::support::{Gluster, World, require};
use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;

fn mounts(world: &World, writing: &[Writer]) -> anyhow::Result<Vec<String>> {
    writing.iter().map(|writer| writer.mount_id(world)).collect()
}

fn kill_brick(gluster: &Gluster, number: usize) -> anyhow::Result<()> {
    Ok(kill(gluster.brick_pid("gv0", number)?, Signal::SIGKILL)?)
}

/// What `status` says of the source, once it says that it is in that state.
fn reason(world: &World, state: &str) -> anyhow::Result<String> {
    Ok(wait_source(world, "main", &[state])?["reason"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn bricks_and_glusterd_may_go_and_what_is_mounted_is_never_taken_for_dead() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "glusterd", "gluster", "glusterfs");
    let world = World::new("gluster-faults")?;
    let gluster = world.start_gluster()?;
    gluster.create("gv0", 3, &[])?;
    let backend = gluster.backend_with_volumes("main", "gv0", "  ping_timeout = \"5s\"");
    world.start_agent(&format!("hook_timeout = \"25s\"\nprobe_interval = \"2s\"\n{backend}{}", local(&world)?))?;
    let writing = writers(&world, "main", Writer::launch)?;
    let client: Pid = pid_of(&wait_source(&world, "main", &["attached"])?)?;
    let before = mounts(&world, &writing)?;

    // One of three bricks: nobody sees it, and status names it.
    kill_brick(&gluster, 1)?;
    let said = reason(&world, "degraded")?;
    assert!(said.contains("1 of 3 bricks cannot be reached") && said.contains("bricks/gv0-1"), "{said}");
    Writer::launch(&world, "exec", "main-3")?.wait(&world)?.assert_whole(&world)?;
    for writer in &writing {
        writer.assert_whole(&world)?;
    }
    gluster.gluster(&["volume", "start", "gv0", "force"])?;
    wait_source(&world, "main", &["attached"])?;

    // glusterd: what is mounted needs it not, and neither does a new job.
    world.end("gluster", "KILL")?;
    let said = reason(&world, "degraded")?;
    assert!(said.contains("no connection to glusterd") && said.contains("what is mounted works"), "{said}");
    Writer::launch(&world, "docker", "main-4")?.wait(&world)?.assert_whole(&world)?;
    world.start_gluster()?;
    wait_source(&world, "main", &["attached"])?;
    for writer in &writing {
        writer.assert_whole(&world)?;
        world.stop_purge(&writer.job)?;
        world.wait_dead(&writer.job)?;
    }

    // The next ones begin anew.
    let root = wait_source(&world, "main", &["attached"])?["mount_point"].as_str().map(PathBuf::from);
    let root = root.context("where it is mounted")?;
    for file in ["main-0", "main-1", "main-2"]
        .iter()
        .flat_map(|volume| [root.join(volume).join("log"), root.join(volume).join("starts")])
    {
        std::fs::remove_file(file)?;
    }

    // All bricks: the client lives, and says what the kernel says of one that is dead.
    let writing = writers(&world, "main", Writer::launch_patient)?;
    let client_now = pid_of(&wait_source(&world, "main", &["attached"])?)?;
    assert_eq!(client_now, client);
    let before_all = mounts(&world, &writing)?;
    assert_ne!(before_all, before, "other jobs");
    for number in 0..3 {
        kill_brick(&gluster, number)?;
    }
    let said = reason(&world, "unreachable")?;
    assert!(said.contains("its mount program runs, and none of the servers that it needs answers"), "{said}");
    let waits = Writer::launch(&world, "exec", "main-5")?;
    Writer::launch(&world, "exec", "disk-0")?.wait(&world)?;
    world.wait_until("a hook that ends at its deadline", crate::support::PATIENCE, || {
        Ok((logged(&world, "the volumes were not there in time")? > 0).then_some(()))
    })?;
    let text = std::fs::read_to_string(world.log("agent"))?;
    let said = text.lines().find(|line| line.contains("the volumes were not there in time")).unwrap_or_default();
    assert!(said.contains("none of the servers that it needs answers"), "{said}");
    world.stop_purge(&waits.job)?;

    gluster.gluster(&["volume", "start", "gv0", "force"])?;
    assert_eq!(pid_of(&wait_source(&world, "main", &["attached"])?)?, client, "the same client");
    for writer in &writing {
        wait_mounted(&world, writer)?;
        writer.assert_kept(&world)?;
        let of = bindings(&world, &writer.alloc)?;
        assert!(of.iter().all(|binding| binding["last_repair"].is_null()), "nothing was mended: {of:#?}");
    }
    assert_eq!(mounts(&world, &writing)?, before_all, "the same mounts");
    assert_eq!(logged(&world, "the mount is dead")?, 0);
    Ok(())
}
