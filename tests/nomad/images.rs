//! Image volumes under real tasks: on a directory of the host and on SeaweedFS, for each driver, through deaths of the
//! agent and of the mount program that they lie on. A task appends a number, has it written to the disk, and only then
//! acknowledges it in its allocation's own directory.

use crate::support::{PATIENCE, World, require, tool};
use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

const DRIVERS: [&str; 3] = ["docker", "exec", "raw_exec"];

fn task(driver: &str) -> String {
    let (config, place) = match driver {
        "docker" => (
            "image = \"saddlebag-test:1\"\n        network_mode = \"host\"\n        command = \"sh\"\n        volumes = [\"local/db:/db\"]",
            "/db",
        ),
        "exec" => ("command = \"/bin/sh\"", "/local/db"),
        _ => ("command = \"/bin/sh\"", "$NOMAD_TASK_DIR/db"),
    };
    // A shell has no fsync of its own, and dd opens the file anew each time.
    let script = format!(
        "n=$(cat {place}/{driver} 2>/dev/null | wc -l); while :; do n=$((n+1)); echo $n | dd of={place}/{driver} \
         oflag=append conv=notrunc,fsync 2>/dev/null && echo $n >> $NOMAD_ALLOC_DIR/{driver}; sleep 0.05; done"
    );
    format!(
        r#"
    task "{driver}" {{
      driver       = "{driver}"
      kill_timeout = "1s"
      config {{
        {config}
        args = ["-c", "{script}"]
      }}
      resources {{
        cpu    = 20
        memory = 32
      }}
    }}
"#
    )
}

fn job(drivers: &[&str]) -> String {
    let tasks: String = drivers.iter().map(|driver| task(driver)).collect();
    format!(
        r#"
variable "saddlebag" {{}}
variable "socket" {{}}

job "db" {{
  group "app" {{
    reschedule {{
      attempts  = 0
      unlimited = false
    }}
    meta {{
      storage_volume = "db"
    }}
    PRESTART
{tasks}
  }}
}}
"#
    )
}

/// Where the image of a world is, and its volume's definition.
struct Image {
    backend: String,
    path: String,
    file: PathBuf,
}

impl Image {
    fn on_host(world: &World) -> anyhow::Result<Self> {
        let directory = world.directory().join("disk");
        std::fs::create_dir_all(&directory)?;
        let path = format!("{}.img", name_of(world)?);
        let backend = format!("backend \"host\" \"disk\" {{\n  path = \"{}\"\n}}\n", directory.display());
        Ok(Self { backend, file: directory.join(&path), path })
    }

    fn on_seaweedfs(world: &World, filer: &str) -> anyhow::Result<Self> {
        let path = format!("images/{}.img", name_of(world)?);
        let weed = tool("weed").context("no weed")?;
        let backend = format!(
            "backend \"seaweedfs\" \"disk\" {{\n  filer = \"{}\"\n  program = \"{}\"\n  linger = \"1s\"\n  attach = \"demand\"\n}}\n",
            filer,
            weed.display()
        );
        Ok(Self { backend, file: PathBuf::from(&path), path })
    }

    fn configuration(&self, format: &str, size: &str) -> String {
        format!(
            "{}volume \"db\" {{\n  backend = \"disk\"\n  path = \"{}\"\n  create = true\n  format = \"{format}\"\n  size = \"{size}\"\n  \
             access_mode = \"single-node-writer\"\n  mode = \"0777\"\n}}\n",
            self.backend, self.path
        )
    }

    /// The loop devices that are bound to it, anywhere on this machine.
    fn devices(&self) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/sys/block")?.flatten() {
            let backing = std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
            if Path::new(backing.trim()).file_name() == self.file.file_name() {
                found.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(found)
    }
}

fn name_of(world: &World) -> anyhow::Result<&str> {
    world.directory().file_name().and_then(|name| name.to_str()).context("a world has a name")
}

fn status(world: &World) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?)
}

fn wait_mounted(world: &World, count: usize) -> anyhow::Result<()> {
    let mut last = Value::Null;
    let waited = world.wait_until("bindings that are called mounted", PATIENCE, || {
        last = status(world)?;
        let bindings = last["bindings"].as_array().context("bindings")?;
        let whole = bindings.iter().filter(|one| one["state"] == "mounted").count();
        Ok((whole == count && bindings.len() == count).then_some(()))
    });
    waited.with_context(|| format!("{last:#}"))
}

fn acknowledged(world: &World, alloc: &str, driver: &str) -> Vec<u64> {
    let text = std::fs::read_to_string(world.alloc_dir(alloc).join("alloc").join(driver)).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn wait_more(world: &World, alloc: &str, drivers: &[&str]) -> anyhow::Result<()> {
    for driver in drivers {
        let before = acknowledged(world, alloc, driver).len();
        world.wait_until(&format!("more acknowledged by {driver} than {before}"), PATIENCE, || {
            Ok((acknowledged(world, alloc, driver).len() > before + 3).then_some(()))
        })?;
    }
    Ok(())
}

/// Every number that was acknowledged is in the volume, seen where the source is mounted.
fn assert_whole(world: &World, alloc: &str, drivers: &[&str]) -> anyhow::Result<()> {
    let root = source_of(world)?;
    for driver in drivers {
        // In this order: what is acknowledged later need not be there yet.
        let acknowledged = acknowledged(world, alloc, driver);
        let written = std::fs::read_to_string(root.join(driver))?;
        let written: Vec<u64> = written.lines().filter_map(|line| line.parse().ok()).collect();
        let missing: Vec<&u64> = acknowledged.iter().filter(|number| !written.contains(number)).collect();
        anyhow::ensure!(missing.is_empty(), "{driver} lost {missing:?} of {}", acknowledged.len());
    }
    Ok(())
}

/// The processes of an allocation's tasks that are called that, and have not ended.
fn processes(alloc: &str, name: &str) -> Vec<Pid> {
    let mark = format!("NOMAD_ALLOC_ID={alloc}");
    let read = |pid: i32, file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| read(*pid, "comm").trim_ascii() == name.as_bytes())
        .filter(|pid| read(*pid, "environ").split(|byte| *byte == 0).any(|word| word == mark.as_bytes()))
        .map(Pid::from_raw)
        .collect()
}

/// Does something while no task is in the middle of a write. Of an fsync that is under way while ext4 is shut down, Linux
/// 6.18 may say that all is well: jbd2_complete_transaction takes a transaction that it does not find for one that is on the disk.
fn between_writes(world: &World, alloc: &str, meanwhile: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let shells = processes(alloc, "sh");
    anyhow::ensure!(shells.len() >= DRIVERS.len(), "{shells:?}");
    for shell in &shells {
        kill(*shell, Signal::SIGSTOP)?;
    }
    world.wait_until("the end of what is being written", PATIENCE, || {
        Ok(processes(alloc, "dd").is_empty().then_some(()))
    })?;
    let done = meanwhile();
    for shell in &shells {
        kill(*shell, Signal::SIGCONT)?;
    }
    done
}

fn end(world: &World, image: &Image) -> anyhow::Result<()> {
    world.stop_purge("db")?;
    world.wait_dead("db")?;
    wait_let_go(world, image)
}

fn wait_let_go(world: &World, image: &Image) -> anyhow::Result<()> {
    world.wait_until("an image that is let go", PATIENCE, || Ok(image.devices()?.is_empty().then_some(())))
}

#[test]
fn an_image_keeps_the_files_of_each_driver_and_tells_its_true_size() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "mkfs.ext4", "mkfs.xfs");
    let world = World::new("image-host")?;
    let image = Image::on_host(&world)?;
    world.start_agent(&image.configuration("ext4", "64MiB"))?;
    world.run_job(&job(&DRIVERS), &[])?;
    let alloc = world.wait_running("db")?;
    wait_more(&world, &alloc, &DRIVERS)?;
    wait_mounted(&world, 3)?;
    assert_eq!(image.devices()?.len(), 1);
    let binding = status(&world)?["bindings"][0].clone();
    assert_eq!((&binding["size"], &binding["size_enforced"]), (&Value::from(64 << 20), &"enforced".into()));
    let df = world.nomad(&["alloc", "exec", "-task", "docker", &alloc, "df", "-m", "/db"])?;
    let size: u64 = df.lines().last().and_then(|line| line.split_whitespace().nth(1)).context("df")?.parse()?;
    assert!((50..=64).contains(&size), "{df}");
    // Nobody can write more than that, and nothing else of the host is filled.
    let full = world.nomad(&[
        "alloc",
        "exec",
        "-task",
        "docker",
        &alloc,
        "sh",
        "-c",
        "dd if=/dev/zero of=/db/big bs=1M count=100 2>&1; rm /db/big",
    ])?;
    assert!(full.contains("No space left"), "{full}");
    assert_whole(&world, &alloc, &DRIVERS)?;

    // Another agent finds the same device, and no task notices.
    let devices = image.devices()?;
    world.kill_agent()?;
    wait_more(&world, &alloc, &DRIVERS)?;
    world.start_agent(&image.configuration("ext4", "64MiB"))?;
    wait_mounted(&world, 3)?;
    assert_eq!(image.devices()?, devices);
    let before: Vec<usize> = DRIVERS.iter().map(|driver| acknowledged(&world, &alloc, driver).len()).collect();
    end(&world, &image)?;
    assert!(!image.file.with_file_name(format!(".{}.owner", image.path)).exists());

    world.run_job(&job(&DRIVERS), &[])?;
    let alloc = world.wait_running("db")?;
    wait_more(&world, &alloc, &DRIVERS)?;
    for (driver, before) in DRIVERS.iter().zip(before) {
        // The task has begun after all that it had written before.
        assert!(acknowledged(&world, &alloc, driver)[0] > before as u64);
    }
    end(&world, &image)
}

#[test]
fn an_image_on_seaweedfs_is_attached_anew_when_its_mount_program_is_killed() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3", "mkfs.ext4");
    let world = World::new("image-weed")?;
    let image = Image::on_seaweedfs(&world, &world.lab().filer)?;
    world.start_agent(&image.configuration("ext4", "64MiB"))?;
    world.run_job(&job(&DRIVERS), &[])?;
    let alloc = world.wait_running("db")?;
    wait_more(&world, &alloc, &DRIVERS)?;
    wait_mounted(&world, 3)?;
    for _ in 0..2 {
        let program = |world: &World| -> anyhow::Result<Option<i32>> {
            let status = status(world)?;
            let weed =
                status["sources"].as_array().and_then(|all| all.iter().find(|one| one["kind"] == "seaweedfs").cloned());
            Ok(weed.and_then(|weed| weed["pid"].as_i64()).map(i32::try_from).transpose()?)
        };
        let old = program(&world)?.context("no mount program")?;
        kill(Pid::from_raw(old), Signal::SIGKILL)?;
        world.wait_until("another mount program", PATIENCE, || Ok(program(&world)?.filter(|new| *new != old)))?;
        wait_mounted(&world, 3)?;
        wait_more(&world, &alloc, &DRIVERS)?;
        assert_whole(&world, &alloc, &DRIVERS)?;
        world.wait_until("the former device to go", PATIENCE, || Ok((image.devices()?.len() == 1).then_some(())))?;
    }
    end(&world, &image)?;
    // Nothing holds the mount program either.
    world.wait_until("a mount program that is let go", PATIENCE, || {
        let status = status(&world)?;
        let attached = status["sources"].as_array().context("sources")?.iter().filter(|one| one["state"] == "attached");
        Ok((attached.count() == 0).then_some(()))
    })?;
    Ok(())
}

/// Its note on the filer would keep every other machine from it for ever.
#[test]
fn an_image_whose_storage_is_away_when_its_task_ends_is_let_go_when_that_is_back() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3", "mkfs.ext4", "curl");
    let world = World::new("image-away")?;
    anyhow::ensure!(world.start_own_seaweedfs()?.wait()?.success(), "no SeaweedFS");
    let image = Image::on_seaweedfs(&world, &world.own_filer()?)?;
    world.start_agent(&format!("probe_interval = \"1s\"\n{}", image.configuration("ext4", "64MiB")))?;
    world.run_job(&job(&["raw_exec"]), &[])?;
    let alloc = world.wait_running("db")?;
    wait_more(&world, &alloc, &["raw_exec"])?;
    let name = image.file.file_name().and_then(|name| name.to_str()).context("a name")?;
    let note = format!("http://{}/images/.{name}.owner", world.own_filer()?);
    let has_note = || -> anyhow::Result<bool> {
        let asked = Command::new("curl")
            .args(["-s", "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_code}", &note])
            .output()?;
        match std::str::from_utf8(&asked.stdout)? {
            "200" => Ok(true),
            "404" => Ok(false),
            other => anyhow::bail!("{note}: {other}"),
        }
    };
    anyhow::ensure!(has_note()?, "no note {note}");

    let weed = status(&world)?["sources"].as_array().and_then(|all| all.iter().find_map(|one| one["pid"].as_i64()));
    world.end("seaweedfs", "KILL")?;
    kill(Pid::from_raw(i32::try_from(weed.context("a mount program")?)?), Signal::SIGKILL)?;
    world.stop_purge("db")?;
    world.wait_dead("db")?;
    wait_mounted(&world, 0)?;
    anyhow::ensure!(world.start_own_seaweedfs()?.wait()?.success(), "no SeaweedFS any more");
    wait_let_go(&world, &image)?;
    world.wait_until("a note that is gone", PATIENCE, || Ok((!has_note()?).then_some(())))
}

#[test]
fn a_file_system_that_meets_an_error_under_a_task_is_attached_anew_by_itself() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "mkfs.xfs");
    for format in ["ext4", "xfs"] {
        let world = World::new(&format!("image-{format}"))?;
        let image = Image::on_host(&world)?;
        world.start_agent(&format!("probe_interval = \"1s\"\n{}", image.configuration(format, "300MiB")))?;
        world.run_job(&job(&DRIVERS), &[])?;
        let alloc = world.wait_running("db")?;
        wait_more(&world, &alloc, &DRIVERS)?;
        wait_mounted(&world, 3)?;
        let device = image.devices()?;
        between_writes(&world, &alloc, || {
            let root = saddlebag::sys::resolve::open_root(&source_of(&world)?)?;
            Ok(saddlebag::sys::block_fs::shut_down(std::os::fd::AsFd::as_fd(&root))?)
        })?;
        world.wait_until("another device", PATIENCE, || {
            let now = image.devices()?;
            Ok((now.len() == 1 && now != device).then_some(()))
        })?;
        wait_mounted(&world, 3)?;
        wait_more(&world, &alloc, &DRIVERS)?;
        assert_whole(&world, &alloc, &DRIVERS)?;
        end(&world, &image)?;
    }
    Ok(())
}

#[test]
fn an_image_is_there_again_before_nomad_after_its_mounts_were_taken_away() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "mkfs.ext4");
    let world = World::new("image-boot")?;
    let image = Image::on_seaweedfs(&world, &world.lab().filer)?;
    let configuration = image.configuration("ext4", "64MiB");
    world.start_agent(&configuration)?;
    world.run_job(&job(&["raw_exec"]), &[])?;
    let alloc = world.wait_running("db")?;
    wait_more(&world, &alloc, &["raw_exec"])?;
    wait_mounted(&world, 1)?;
    world.stop_agent()?;
    world.kill_nomad()?;
    // As at a boot, nothing of it is mounted anywhere.
    let unmounted = Command::new("sh")
        .args(["-c", "for i in 1 2 3; do grep -F \"$1\" /proc/self/mountinfo | awk '{print $5}' | tac | xargs -r -n1 umount -l; done", "sh"])
        .arg(world.state_dir())
        .status()?;
    anyhow::ensure!(unmounted.success());
    world.start_agent_until_ready(&configuration)?;
    assert_eq!(image.devices()?.len(), 1);
    wait_mounted(&world, 1)?;
    Ok(())
}

#[test]
fn an_image_is_created_grown_in_use_and_set_aside_whole_by_the_volume_verbs() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "mkfs.xfs");
    let world = World::new("image-verbs")?;
    let image = Image::on_host(&world)?;
    world.start_agent(&image.backend)?;
    let file = world.directory().join("db.hcl");
    let define = |size: &str| -> anyhow::Result<()> {
        let text = image.configuration("xfs", size);
        let (_, block) = text.split_once("volume \"db\"").context("a volume block")?;
        Ok(std::fs::write(&file, format!("volume \"db\"{block}"))?)
    };
    let path = file.to_str().context("a path")?;
    define("300MiB")?;
    world.saddlebag(&["volume", "create", path])?;
    assert_eq!(std::fs::metadata(&image.file)?.len(), 300 << 20);
    wait_let_go(&world, &image)?;

    world.run_job(&job(&["raw_exec"]), &[])?;
    let alloc = world.wait_running("db")?;
    wait_more(&world, &alloc, &["raw_exec"])?;
    wait_mounted(&world, 1)?;
    let (device, mount) = (image.devices()?, source_of(&world)?);
    let blocks = |root: &Path| -> anyhow::Result<u64> {
        let found = rustix::fs::statvfs(root)?;
        Ok(found.f_blocks * found.f_frsize)
    };
    let before = blocks(&mount)?;
    define("600MiB")?;
    world.saddlebag(&["volume", "create", path])?;
    assert!(blocks(&mount)? > before + (250 << 20), "it has grown under its task");
    assert_eq!(image.devices()?, device, "on the same device");
    wait_more(&world, &alloc, &["raw_exec"])?;
    assert_eq!(status(&world)?["bindings"][0]["size"], 600 << 20);
    // Smaller it does not become, and nor is it deleted under its task.
    define("400MiB")?;
    for refused in [["volume", "create", path], ["volume", "delete", "db"]] {
        assert!(!world.try_saddlebag(&refused)?.status.success(), "{refused:?}");
    }
    assert_whole(&world, &alloc, &["raw_exec"])?;
    end(&world, &image)?;

    world.saddlebag(&["volume", "delete", "db"])?;
    assert!(!image.file.exists());
    let kept = std::fs::read_dir(image.file.with_file_name(".saddlebag-deleted"))?.next().context("it is kept")??;
    assert_eq!(std::fs::metadata(kept.path())?.len(), 600 << 20);
    Ok(())
}

/// Where the image's source is mounted.
fn source_of(world: &World) -> anyhow::Result<PathBuf> {
    let status = status(world)?;
    let sources = status["sources"].as_array().context("sources")?;
    let source = sources.iter().find(|one| one["kind"] == "image").context("no source of an image")?;
    Ok(PathBuf::from(source["mount_point"].as_str().context("it is not mounted")?))
}
