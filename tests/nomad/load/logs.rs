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
        let mut seen = (String::new(), String::new());
        let shown = world.wait_until("the end of the log in explain", PATIENCE, || {
            let explained = world.saddlebag(&["explain", &load.tasks[0].alloc])?;
            assert!(explained.contains(&format!("its log is {}", log.display())), "{explained}");
            // The program may have said more meanwhile.
            let last = std::fs::read_to_string(&log)?.lines().next_back().map(str::trim).unwrap_or_default().to_owned();
            let is_shown = explained.contains("its log ends with:") && explained.contains(&last);
            seen = (last, explained);
            Ok(is_shown.then_some(()))
        });
        shown.with_context(|| format!("{}\n{}", seen.0, seen.1))
    };
    is_shown()?;

    // Somebody talks a lot. It is one last write that makes the log too large: whoever looks in the middle of many
    // would set aside what there is by then.
    let mut writer = File::options().append(true).open(&log)?;
    let line = "a line of a program that has a great deal to say of everything that it does all day\n";
    let room = (16 << 20) - usize::try_from(writer.metadata()?.len())?;
    writer.write_all(line.repeat((room - (64 << 10)) / line.len()).as_bytes())?;
    let last = format!("{}the last of these\n", line.repeat((128 << 10) / line.len()));
    writer.write_all(last.as_bytes())?;
    let aside = log.with_extension("log.1");
    world.wait_until("a log that was set aside", PATIENCE, || {
        Ok((aside.exists() && std::fs::metadata(&log)?.len() < 1 << 20).then_some(()))
    })?;
    // The program itself may have said something after it.
    assert!(std::fs::read_to_string(&aside)?.contains("\nthe last of these\n"));
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
    let mut text = String::new();
    let both = world.wait_until("what the next program says", PATIENCE, || {
        text = std::fs::read_to_string(&log)?;
        let (_, after) = text.split_once("one more\n").context("what was there before it")?;
        Ok((!after.is_empty()).then_some(()))
    });
    both.with_context(|| text.clone())?;
    assert_eq!(mount_programs(&world)?.len(), 1);
    Ok(())
}
