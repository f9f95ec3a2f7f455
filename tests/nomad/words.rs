//! What a job says of its storage is what its tasks get: every key, every form, every level of meta.

use crate::support::{PATIENCE, World, require, tool};
use anyhow::Context as _;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

const DOCKER: &str = "docker";
const EXEC: &str = "exec";
const RAW: &str = "raw_exec";

/// A task that runs a script of the shell and then waits.
fn task(name: &str, driver: &str, script: &str, more: &str) -> String {
    let program = if driver == DOCKER {
        "image = \"saddlebag-test:1\"\nnetwork_mode = \"host\"\ncommand = \"sh\""
    } else {
        "command = \"/bin/sh\""
    };
    // A volumes line belongs to docker's config; what begins otherwise, to the task.
    let (config, outside) = if more.starts_with("volumes") { (more, "") } else { ("", more) };
    format!(
        "task \"{name}\" {{\ndriver = \"{driver}\"\nkill_timeout = \"1s\"\nconfig {{\n{program}\nargs = [\"-c\", <<EOT\n{script}\nexec sleep 600\nEOT\n]\n{config}\n}}\n{outside}\nresources {{\ncpu = 20\nmemory = 16\n}}\n}}\n"
    )
}

/// A job with one group, its prestart task and these tasks; `job_meta` and `group_meta` are lines of the meta blocks.
fn job(name: &str, job_meta: &str, group_meta: &str, tasks: &[String]) -> String {
    format!(
        "job \"{name}\" {{\nmeta {{\n{job_meta}\n}}\ngroup \"app\" {{\nmeta {{\n{group_meta}\n}}\ntask \"storage\" {{\ndriver = \"raw_exec\"\nlifecycle {{\nhook = \"prestart\"\n}}\nconfig {{\ncommand = \"saddlebag\"\nargs = [\"mount\"]\n}}\nresources {{\ncpu = 20\nmemory = 16\n}}\n}}\n{}}}\n}}\n",
        tasks.concat()
    )
}

/// A world with a host directory and SeaweedFS, and URLs below both allowed.
struct Scene {
    world: World,
    volumes: PathBuf,
    shared: PathBuf,
}

impl Scene {
    fn new(name: &str) -> anyhow::Result<Self> {
        let options = crate::support::Options::default().client("meta {\n rack = \"r7\"\n}");
        let world = World::with(name, options)?;
        let (volumes, shared) = (world.directory().join("volumes"), world.directory().join("shared"));
        std::fs::create_dir_all(shared.join("letters"))?;
        let (filer, weed) = (&world.lab().filer, tool("weed").context("no weed")?);
        // It is there already where another test of this process has made it.
        let directory = format!("http://{filer}/words/letters/");
        let made = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "--noproxy", "*", "--retry", "30", "--retry-connrefused"])
            .args(["--retry-delay", "1", "-X", "POST", &directory])
            .status()?;
        anyhow::ensure!(made.success(), "the filer does not answer");
        world.start_agent(&format!(
            "backend \"host\" \"disk\" {{\n path = \"{volumes}\"\n dynamic = true\n}}\n\
             backend \"seaweedfs\" \"main\" {{\n filer = \"{filer}\"\n program = \"{weed}\"\n}}\n\
             volume \"archive\" {{\n backend = \"disk\"\n path = \"archive-of-all\"\n access_mode = \"multi-node-reader-only\"\n}}\n\
             volume \"for-nobody\" {{\n backend = \"disk\"\n create = true\n owner = \"65534:65534\"\n mode = \"0750\"\n}}\n\
             volume \"weeds\" {{\n backend = \"main\"\n path = \"/words/weeds\"\n create = true\n}}\n\
             policy {{\n allow_url = [\"host://{shared}/\", \"seaweedfs://{filer}/words/\"]\n}}",
            volumes = volumes.display(),
            weed = weed.display(),
            shared = shared.display()
        ))?;
        std::fs::create_dir_all(volumes.join("archive-of-all"))?;
        Ok(Self { world, volumes, shared })
    }

    /// Waits for a file in a host volume, and reads it.
    fn read(&self, path: &str) -> anyhow::Result<String> {
        let path = self.volumes.join(path);
        self.world.wait_until(&path.display().to_string(), PATIENCE, || {
            Ok(std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')))
        })
    }

    fn fetch(&self, path: &str) -> anyhow::Result<String> {
        let url = format!("http://{}/{path}", self.world.lab().filer);
        self.world.wait_until(&url, PATIENCE, || {
            let answer = Command::new("curl").args(["-sf", "--noproxy", "*", "--max-time", "10", &url]).output()?;
            Ok(Some(String::from_utf8(answer.stdout)?).filter(|text| text.ends_with('\n')))
        })
    }

    /// The bindings of an allocation: volume, task, destination, whether read-only.
    fn bindings(&self, alloc: &str) -> anyhow::Result<Vec<(String, String, String, bool)>> {
        let mut last = Value::Null;
        let mounted = self.world.wait_until(&format!("mounted volumes of {alloc}"), PATIENCE, || {
            let status: Value = serde_json::from_str(&self.world.saddlebag(&["status", "--json"])?)?;
            let all = status["bindings"].as_array().context("bindings")?;
            last = all.iter().filter(|binding| binding["alloc"] == alloc).cloned().collect();
            // A source may just be asked whether it answers, on a machine that has much to do.
            Ok(last.as_array().is_some_and(|all| all.iter().all(|b| b["state"] == "mounted")).then_some(()))
        });
        mounted.with_context(|| format!("{last:#}"))?;
        let mut found = Vec::new();
        for binding in last.as_array().context("bindings")? {
            let text = |key: &str| binding[key].as_str().unwrap_or_default().to_owned();
            found.push((text("volume"), text("task"), text("destination"), binding["read_only"] == true));
        }
        found.sort();
        Ok(found)
    }

    fn run(&self, text: &str) -> anyhow::Result<String> {
        let id = self.world.run_job(text, &[])?;
        self.world.wait_running(&id)
    }
}

fn binding(volume: &str, task: &str, destination: &str, read_only: bool) -> (String, String, String, bool) {
    (volume.into(), task.into(), destination.into(), read_only)
}

#[test]
fn the_deepest_meta_wins_key_by_key() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let scene = Scene::new("merge")?;
    let write = "echo here > local/at/mark";
    let alloc = scene.run(&job(
        "merge",
        "storage_volume = \"of-job\"\nstorage_destination = \"local/at\"\nstorage_read_only = \"false\"",
        "storage_volume = \"of-group\"\nstorage_tasks = \"one, two\"",
        &[
            task("one", RAW, write, ""),
            task("two", DOCKER, "echo here > /local/at/mark", ""),
            task("three", RAW, "true", ""),
            // The task's volume, the job's destination; the list of tasks is not inherited.
            task("four", RAW, write, "meta {\n storage_volume = \"of-task\"\n}"),
        ],
    ))?;
    assert_eq!(
        scene.bindings(&alloc)?,
        [
            binding("of-group", "one", "local/at", false),
            binding("of-group", "two", "local/at", false),
            binding("of-task", "four", "local/at", false)
        ]
    );
    assert_eq!(scene.read("of-group/mark")?, "here\n");
    assert_eq!(scene.read("of-task/mark")?, "here\n");
    assert!(!scene.volumes.join("of-job").exists(), "the job's own word was overruled by its group");

    // A task's list that is alone, and the job's words alone.
    let alloc = scene.run(&job("plain", "storage_volume = \"of-job\"", "", &[task("main", RAW, "true", "")]))?;
    assert_eq!(scene.bindings(&alloc)?, [binding("of-job", "main", "local/of-job", false)]);

    // Two groups in one job, each with what it says.
    let two = job(
        "groups",
        "storage_volume = \"both\"",
        "",
        &[task("main", RAW, "echo $NOMAD_GROUP_NAME > local/both/app", "")],
    );
    let second =
        two.replacen("group \"app\" {\nmeta {\n\n}", "group \"second\" {\nmeta {\nstorage_volume = \"second\"\n}", 1);
    let group = &second[second.find("group \"second\"").context("a group")?..second.rfind('}').context("an end")?];
    let group = group.replace("local/both/app", "local/second/app");
    let end = two.trim_end().len() - 1;
    scene.world.run_job(&format!("{}{group}}}\n", &two[..end]), &[])?;
    assert_eq!(scene.read("both/app")?, "app\n");
    assert_eq!(scene.read("second/app")?, "second\n");
    Ok(())
}

#[test]
fn names_are_interpolated_as_nomad_does_it() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let scene = Scene::new("names")?;
    let families = [
        "i-${NOMAD_ALLOC_INDEX}",
        "n-${node.unique.name}-${node.datacenter}-${node.pool}",
        "k-${attr.kernel.name}-${attr.cpu.arch}",
        "m-${meta.rack}",
        "t-${NOMAD_META_tier}-${NOMAD_META_TIER}",
        "j-${NOMAD_JOB_ID}-${NOMAD_GROUP_NAME}-${NOMAD_TASK_NAME}-${NOMAD_NAMESPACE}-${NOMAD_REGION}-${NOMAD_DC}",
        "a-${NOMAD_ALLOC_ID}-${NOMAD_SHORT_ALLOC_ID}",
        "e-${env[\"NOMAD_JOB_NAME\"]}-${NOMAD_CPU_LIMIT}-${NOMAD_MEMORY_LIMIT}",
    ];
    let mut blocks = String::from("storage_volume = <<EOT\n");
    let mut environment = String::from("env {\n");
    for (number, family) in families.iter().enumerate() {
        blocks.push_str(&format!(
            "volume \"v{number}\" {{\n source = \"{family}\"\n destination = \"local/${{NOMAD_ALLOC_INDEX}}/v{number}\"\n}}\n"
        ));
        // What Nomad itself makes of the same words.
        environment.push_str(&format!(
            "EXPECTED{number} = \"{}\"\n",
            family.replace("${env[\"NOMAD_JOB_NAME\"]}", "${NOMAD_JOB_NAME}")
        ));
    }
    blocks.push_str("EOT\ntier = \"gold\"");
    environment.push('}');
    let script: String = (0..families.len()).map(|n| format!("echo $EXPECTED{n} > local/0/v{n}/name\n")).collect();
    let alloc = scene.run(&job("names", "", &blocks, &[task("main", RAW, &script, &environment)]))?;
    let explained = scene.world.saddlebag(&["explain", "--json", &alloc])?;
    let mut found = 0;
    for entry in std::fs::read_dir(&scene.volumes)? {
        let name = entry?.file_name().into_string().ok().context("a name in UTF-8")?;
        if name == "archive-of-all" {
            continue;
        }
        assert_eq!(scene.read(&format!("{name}/name"))?.trim_end(), name, "{explained}");
        found += 1;
    }
    assert_eq!(found, families.len(), "one directory for each name");
    Ok(())
}

#[test]
fn urls_destinations_and_read_only_are_as_the_job_says() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let scene = Scene::new("places")?;
    let (filer, shared) = (scene.world.lab().filer.clone(), scene.shared.display().to_string());
    std::fs::write(scene.volumes.join("archive-of-all/old"), "from before\n")?;

    // URLs, in the scalar form and in a block.
    let host = scene.run(&job(
        "host-url",
        "",
        &format!("storage_volume = \"host://{shared}/letters\""),
        &[task("main", DOCKER, "echo dear > /local/letters/a", "")],
    ))?;
    assert_eq!(scene.bindings(&host)?, [binding("letters", "main", "local/letters", false)]);
    let weed = scene.run(&job(
        "weed-url",
        "",
        &format!("storage_volume = <<EOT\nvolume \"far\" {{\n source = \"seaweedfs://{filer}/words/letters\"\n}}\nvolume \"weeds\" {{\n}}\nEOT"),
        &[task("main", RAW, "echo dear > local/far/a; echo two > local/weeds/a", "")],
    ))?;
    assert_eq!(
        scene.bindings(&weed)?,
        [binding("far", "main", "local/far", false), binding("weeds", "main", "local/weeds", false)]
    );
    scene.world.wait_until("a letter", PATIENCE, || {
        Ok((std::fs::read_to_string(scene.shared.join("letters/a")).unwrap_or_default() == "dear\n").then_some(()))
    })?;
    assert_eq!(scene.fetch("words/letters/a")?, "dear\n");
    assert_eq!(scene.fetch("words/weeds/a")?, "two\n");

    // Destinations: nested, and outside local for docker and exec.
    let places = "storage_volume = <<EOT\nvolume \"deep\" {\n destination = \"local/a/b/c\"\n tasks = [\"boxed\", \"raw\"]\n}\nvolume \"out\" {\n destination = \"data/x\"\n tasks = [\"boxed\", \"raw\"]\n}\nvolume \"for-nobody\" {\n destination = \"data/y\"\n tasks = [\"jailed\"]\n}\nEOT";
    scene.run(&job(
        "places",
        "",
        places,
        &[
            task("boxed", DOCKER, "echo deep > /local/a/b/c/boxed; echo out > /x/boxed", "volumes = [\"data/x:/x\"]"),
            task("raw", RAW, "echo deep > local/a/b/c/raw; echo out > data/x/raw", ""),
            task("jailed", EXEC, "echo out > /data/y/jailed", ""),
        ],
    ))?;
    for (path, wanted) in [
        ("deep/boxed", "deep\n"),
        ("deep/raw", "deep\n"),
        ("out/boxed", "out\n"),
        ("out/raw", "out\n"),
        ("for-nobody/jailed", "out\n"),
    ] {
        assert_eq!(scene.read(path)?, wanted, "{path}");
    }

    // Read-only by the job's word and by the volume's, under each driver: a write fails and says why.
    let try_all =
        |volume: &str| format!("cat local/{volume}/old; touch local/{volume}/new 2>&1 && echo written; echo tried");
    let words = [
        ("by-job", "storage_volume = \"by-job\"\nstorage_read_only = \"true\"", "by-job"),
        ("by-volume", "storage_volume = \"archive\"", "archive"),
    ];
    std::fs::create_dir(scene.volumes.join("by-job"))?;
    std::fs::write(scene.volumes.join("by-job/old"), "from before\n")?;
    for (name, meta, volume) in words {
        let script = try_all(volume);
        let inside = script.replace("local/", "/local/");
        let tasks =
            [task("boxed", DOCKER, &inside, ""), task("raw", RAW, &script, ""), task("jailed", EXEC, &inside, "")];
        let alloc = scene.run(&job(name, "", meta, &tasks))?;
        let wanted = ["boxed", "jailed", "raw"].map(|task| binding(volume, task, &format!("local/{volume}"), true));
        assert_eq!(scene.bindings(&alloc)?, wanted);
        for task in ["boxed", "raw", "jailed"] {
            let said = scene.world.wait_until(&format!("{task} of {name}"), PATIENCE, || {
                Ok(Some(scene.world.alloc_logs(&alloc, task)?).filter(|said| said.contains("tried\n")))
            })?;
            assert!(said.starts_with("from before\n"), "{task} of {name} can read: {said}");
            assert!(said.contains("Read-only file system") && !said.contains("written"), "{task} of {name}: {said}");
        }
        let directory = if volume == "archive" { "archive-of-all" } else { volume };
        assert!(!scene.volumes.join(directory).join("new").exists());
    }
    Ok(())
}
