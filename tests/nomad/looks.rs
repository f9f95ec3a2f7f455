//! What a person and a program see of a running world.

use crate::support::{PATIENCE, World, require, tool};
use anyhow::Context as _;
use serde_json::{Value, json};

/// Whether a line of it begins with these words.
fn has_row(page: &str, words: &[&str]) -> bool {
    page.lines().any(|line| line.split_whitespace().take(words.len()).eq(words.iter().copied()))
}

#[test]
fn status_and_explain_show_what_is_there() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::new("looks")?;
    let weed = tool("weed").context("no weed")?;
    world.start_agent(&format!("backend \"host\" \"disk\" {{\n path = \"{}\"\n dynamic = true\n}}\nbackend \"seaweedfs\" \"main\" {{\n filer = \"{}\"\n program = \"{}\"\n}}\nbackend \"seaweedfs\" \"gone\" {{\n filer = \"127.0.0.1:1\"\n program = \"{}\"\n attach_timeout = \"2s\"\n}}\nvolume \"weeds\" {{\n backend = \"main\"\n path = \"/looks/weeds\"\n create = true\n}}\nvolume \"lost\" {{\n backend = \"gone\"\n}}\nhook_timeout = \"5s\"",
        world.directory().join("volumes").display(), world.lab().filer, weed.display(), weed.display()))?;
    let job = |name: &str, volume: &str, tasks: &str| {
        format!(
            r#"
job "{name}" {{
  group "app" {{
    restart {{
      attempts = 0
      mode = "fail"
    }}
    meta {{
      storage_volume = "{volume}"
    }}
    task "storage" {{
      driver = "raw_exec"
      lifecycle {{
        hook = "prestart"
      }}
      config {{
        command = "saddlebag"
        args    = ["mount"]
      }}
    }}
    {tasks}
  }}
}}
"#
        )
    };
    let boxed = r#"task "boxed" {
      driver = "docker"
      config {
        image        = "saddlebag-test:1"
        network_mode = "host"
        command      = "sleep"
        args         = ["600"]
      }
    }"#;
    let raw = r#"task "raw" {
      driver = "raw_exec"
      config {
        command = "/bin/sleep"
        args    = ["600"]
      }
    }"#;
    world.run_job(&job("shop", "pgdata", &format!("{boxed}\n{raw}")), &[])?;
    world.run_job(&job("garden", "weeds", boxed), &[])?;
    world.run_job(&job("sad", "lost", raw), &[])?;
    let (shop, garden) = (world.wait_running("shop")?, world.wait_running("garden")?);
    let sad = world.wait_for_status("sad", &["failed"])?;
    let rows: [&[&str]; 10] = [
        &["Source", "Kind", "State", "Volumes"],
        &["disk", "host", "attached", "2", "-"],
        &["main", "seaweedfs", "attached", "1"],
        &["gone", "seaweedfs", "failed", "0", "-"],
        &["Volume", "Alloc", "Job", "Task", "Source", "Access", "Size", "State", "Age"],
        &["pgdata", &shop[..8], "shop", "boxed", "disk", "read-write", "unlimited", "mounted"],
        &["pgdata", &shop[..8], "shop", "raw", "disk", "read-write", "unlimited", "mounted"],
        &["weeds", &garden[..8], "garden", "boxed", "main", "read-write", "unlimited", "mounted"],
        &["Not", "well"],
        &["Source", "gone", "has", "failed:", "backend", "gone", "cannot", "be", "used:"],
    ];
    // A source may just be tried, or asked on a machine that has much to do: that passes.
    let mut seen = String::new();
    let shown = world.wait_until("every row of status", PATIENCE, || {
        let page = world.saddlebag(&["status"])?;
        let Some(missing) = rows.iter().find(|words| !has_row(&page, words)) else { return Ok(Some(())) };
        seen = format!("no row {missing:?} in\n{page}");
        Ok(None)
    });
    shown.with_context(|| seen.clone())?;
    let only = world.saddlebag(&["status", "--job", "garden"])?;
    assert!(only.contains("weeds") && !only.contains("pgdata"), "{only}");

    let status: Value = serde_json::from_str(&world.saddlebag(&["status", "--json"])?)?;
    assert_eq!(
        (&status["nomad"]["connected"], &status["guard"]["running"]),
        (&json!(true), &json!(true)),
        "{status:#}"
    );
    assert_eq!(status["nomad"]["node_id"], world.node());
    assert_eq!(status["pid"].as_u64(), world.agent_pid().map(u64::from));
    let weed = status["sources"].as_array().and_then(|all| all.iter().find(|source| source["name"] == "main"));
    let weed = weed.context("the source main")?;
    assert!(weed["pid"].is_u64() && weed["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{weed:#}");
    let places: Vec<(&str, &str)> = status["bindings"]
        .as_array()
        .context("bindings")?
        .iter()
        .map(|binding| {
            (binding["task"].as_str().unwrap_or_default(), binding["destination"].as_str().unwrap_or_default())
        })
        .collect();
    assert_eq!(places.len(), 3, "{places:?}");
    assert!(places.contains(&("raw", "local/pgdata")), "{places:?}");

    let explained = world.saddlebag(&["explain", &shop[..8]])?;
    for line in [
        "Summary    = every volume is mounted and proved",
        "            task storage has asked",
        "5. done     mount pgdata at local/pgdata of task boxed",
        "            read-write, of unlimited size, pgdata on disk, guarded and proved",
        "6. done     mount pgdata at local/pgdata of task raw",
        "            read-write, of unlimited size, pgdata on disk, a link to a mount outside the allocation's directory, proved",
    ] {
        assert!(explained.lines().any(|other| other.trim_end() == line), "no line {line:?} in\n{explained}");
    }
    // What failed names the job's volume, in the task's own log too.
    let wanted = "volume lost: backend gone cannot be used: no connection to filer 127.0.0.1:1: Connection refused";
    let explained = world.saddlebag(&["explain", &sad])?;
    assert!(explained.contains(&format!("Summary    = failed: {wanted}")), "{explained}");
    assert!(explained.contains("hint: check that 127.0.0.1:1 is up"), "{explained}");
    world.wait_until("the task's words", PATIENCE, || {
        let said = world.nomad(&["alloc", "logs", "-stderr", &sad, "storage"])?;
        Ok(said.starts_with(&format!("saddlebag: {wanted}")).then_some(()))
    })?;

    world.stop("shop")?;
    world.wait_dead("shop")?;
    world.wait_until("the end of shop's volumes", PATIENCE, || {
        let explained = world.saddlebag(&["explain", &shop])?;
        Ok(explained.contains("Summary    = over: its tasks have ended and its volumes are detached").then_some(()))
    })?;
    let nobody = world.try_saddlebag(&["explain", "ffffffff"])?;
    assert_eq!(nobody.status.code(), Some(69));
    let said = String::from_utf8(nobody.stderr)?;
    assert!(said.starts_with("saddlebag: no allocation of this node that asks for storage has an id"), "{said}");
    Ok(())
}
