//! What mount programs say is kept, shown and bounded.

use super::*;
use crate::support::require;
use std::io::Write as _;

#[test]
fn the_log_of_a_mount_program_is_shown_and_does_not_grow_without_bound() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3");
    let world = World::with("logs", options()?)?;
    let configuration = configuration(&world)?;
    world.start_agent(&configuration)?;
    let load = Load::start(&world, &["docker"], &["weed"])?;
    let source = |world: &World| -> anyhow::Result<serde_json::Value> {
        let status = status(world)?;
        let found = status["sources"].as_array().and_then(|all| all.iter().find(|one| one["kind"] == "seaweedfs"));
        found.cloned().context("the source of SeaweedFS")
    };
    let log = PathBuf::from(source(&world)?["log"].as_str().context("its log")?);
    let is_shown = || -> anyhow::Result<()> {
        let status = world.saddlebag(&["status"])?;
        assert!(status.contains(&format!("The log of main: {}", log.display())), "{status}");
        let explained = world.saddlebag(&["explain", &load.tasks[0].alloc])?;
        let last = std::fs::read_to_string(&log)?.lines().next_back().map(str::trim).unwrap_or_default().to_owned();
        assert!(explained.contains(&format!("its log is {}", log.display())), "{explained}");
        assert!(explained.contains("its log ends with:") && explained.contains(&last), "{last}\n{explained}");
        Ok(())
    };
    is_shown()?;

    // Somebody talks a lot.
    let mut writer = File::options().append(true).open(&log)?;
    for line in 0..200_000 {
        writeln!(
            writer,
            "{line:06} a line of a program that has a great deal to say of everything that it does all day"
        )?;
    }
    writeln!(writer, "the last of these")?;
    let aside = log.with_extension("log.1");
    world.wait_until("a log that was set aside", PATIENCE, || {
        Ok((aside.exists() && std::fs::metadata(&log)?.len() < 1 << 20).then_some(()))
    })?;
    assert!(std::fs::read_to_string(&aside)?.ends_with("the last of these\n"));
    writeln!(writer, "one more")?;
    is_shown()?;
    load.assert_untouched(&world)?;
    load.end(&world)?;

    // After its death the next one writes on, and both are in it.
    let pid = source(&world)?["pid"].as_i64().context("its pid")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid)?), nix::sys::signal::Signal::SIGKILL)?;
    world.wait_until("the next program", PATIENCE, || {
        let source = source(&world)?;
        Ok((source["state"] == "attached" && source["pid"] != pid).then_some(()))
    })?;
    let text = std::fs::read_to_string(&log)?;
    assert!(text.starts_with("one more\n") && text.lines().count() > 1, "{text}");
    assert_eq!(mount_programs(&world)?.len(), 1);
    Ok(())
}
