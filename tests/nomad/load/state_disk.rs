//! The disk of the agent's state directory is full, or has become read-only.

use super::*;
use crate::support::require;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::io::Write as _;
use std::process::Command;

/// A small file system of its own for the state directory, on a loop device.
struct Disk {
    point: PathBuf,
}

impl Disk {
    fn make(world: &World, megabytes: u64) -> anyhow::Result<Self> {
        let image = world.directory().join("state.img");
        File::create(&image)?.set_len(megabytes << 20)?;
        run(Command::new(tool("mkfs.ext4").context("no mkfs.ext4")?).args(["-q", "-m", "0"]).arg(&image))?;
        let point = world.state_dir();
        std::fs::create_dir_all(&point)?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&point))?;
        Ok(Self { point })
    }

    /// Takes every byte that is left, and gives it back when the file is removed.
    fn fill(&self) -> anyhow::Result<PathBuf> {
        let path = self.point.join("filler");
        let mut file = File::create(&path)?;
        // The smaller the pieces the less is left.
        for size in [1 << 20, 4096, 512, 1] {
            while file.write_all(&vec![7; size]).and_then(|()| file.sync_data()).is_ok() {}
        }
        // Directories take blocks too.
        Ok(path)
    }

    fn remount(&self, flags: MsFlags) -> anyhow::Result<()> {
        Ok(mount(None::<&str>, &self.point, None::<&str>, MsFlags::MS_REMOUNT | flags, None::<&str>)?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Before the world is removed, which would find a file system that cannot be written.
        let _ = self.remount(MsFlags::empty());
        let _ = std::fs::remove_file(self.point.join("filler"));
        let _ = umount2(&self.point, MntFlags::MNT_DETACH);
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let done = command.output()?;
    anyhow::ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// A job that asks is refused in one sentence, and `status` says why.
fn assert_refused(world: &World, job: &str, why: &str) -> anyhow::Result<()> {
    // However long the trouble lasts on a slow machine, its prestart task is started again until it is over.
    let text = guest(job, &format!("{job}-volume"), "exec").replace("attempts = 20", "attempts = 1000");
    world.run_job(&text, &[])?;
    let alloc = world.wait_until("a refusal", PATIENCE, || {
        let Some(newest) = world.allocations(job)?.into_iter().next() else { return Ok(None) };
        let id = newest["ID"].as_str().context("an id")?.to_owned();
        Ok(world.alloc_logs(&id, "storage").is_ok_and(|said| said.contains("nothing is mounted")).then_some(id))
    })?;
    let said = world.alloc_logs(&alloc, "storage")?;
    let line = said.lines().find(|line| line.contains("nothing is mounted")).context("the refusal")?;
    assert!(line.contains("nothing is mounted that could not be recorded") && line.contains(why), "{said}");
    assert!(!world.alloc_dir(&alloc).join("main/local/x").exists(), "nothing half done remains");
    world.wait_until("the ledger's trouble in status", PATIENCE, || {
        let text = world.saddlebag(&["status"])?;
        Ok((text.contains("Ledger: ") && text.contains(why)).then_some(()))
    })?;
    Ok(())
}

/// By itself: the job that was refused gets its volume, and `status` has nothing more to say.
fn assert_comes_right(world: &World, job: &str) -> anyhow::Result<()> {
    world.wait_running(job)?;
    world.wait_until("a status without trouble", PATIENCE, || {
        Ok((!world.saddlebag(&["status"])?.contains("Ledger: ")).then_some(()))
    })?;
    world.stop_purge(job)
}

#[test]
fn a_full_or_read_only_state_disk_touches_no_task_and_refuses_new_ones_until_it_is_mended() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3", "mkfs.ext4");
    let world = World::with("disk", options()?)?;
    let disk = Disk::make(&world, 64)?;
    // What `weed mount` keeps of files has a disk of its own: this one's trouble is no trouble of its volumes.
    let cache = world.directory().join("cache");
    let configuration =
        configuration(&world)?.replace("  program = ", &format!("  cache_dir = \"{}\"\n  program = ", cache.display()));
    // Nor do the logs of mount programs keep it from becoming read-only.
    let logs = world.directory().join("logs");
    std::fs::create_dir(&logs)?;
    std::os::unix::fs::symlink(&logs, world.state_dir().join("logs"))?;
    world.start_agent(&configuration)?;
    let load = Load::start(&world, &["docker", "raw_exec"], &BACKENDS)?;
    wait_recorded(&world, &load)?;

    let filler = disk.fill()?;
    assert_refused(&world, "full", "No space left on device")?;
    // An agent that begins now knows everything, and changes as little.
    world.kill_agent()?;
    world.start_agent(&configuration)?;
    load.assert_untouched(&world)?;
    std::fs::remove_file(filler)?;
    assert_comes_right(&world, "full")?;

    // The kernel refuses that while anybody has a file open for writing, as a killed process has until it is gone whole;
    // what begins then finds it so.
    world.kill_agent()?;
    world.wait_until("a disk that nobody writes to", PATIENCE, || match disk.remount(MsFlags::MS_RDONLY) {
        Ok(()) => Ok(Some(())),
        Err(error) if error.downcast_ref() == Some(&nix::Error::EBUSY) => Ok(None),
        Err(error) => Err(error),
    })?;
    world.start_agent(&configuration)?;
    assert_refused(&world, "readonly", "Read-only file system")?;
    load.assert_untouched(&world)?;
    disk.remount(MsFlags::empty())?;
    assert_comes_right(&world, "readonly")?;

    load.assert_untouched(&world)?;
    load.end(&world)?;
    for backend in BACKENDS {
        world.stop_purge(&format!("load-{backend}"))?;
    }
    world.system_gc()?;
    world.wait_until("no page and no binding", PATIENCE, || {
        let bindings = std::fs::read_dir(world.state_dir().join("bindings"))?.count();
        Ok((pages(&world)?.is_empty() && bindings == 0).then_some(()))
    })?;
    // The lab ends the rest while its disk is there still.
    world.stop_agent()?;
    drop(disk);
    Ok(())
}
