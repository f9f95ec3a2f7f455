//! SQLite and an append-only log, by `tests/tools/writer.c`: what it does, and what it proves when it starts, is said there.

use crate::kind::Kind;
use crate::scene::{KILLS, Scene, work_time};
use rustix::process::{Signal, kill_process};
use std::path::Path;
use std::time::Instant;

/// Kills the writer again and again, and moves its volume to another allocation; each time it proves that all it has
/// noted is there.
pub fn is_whole_after_kills(kind: &Kind, what: &'static str) -> anyhow::Result<()> {
    let mut scene = start(kind, what)?;
    wait_for_proofs(&scene, 1, &[])?;
    for kills in 1..=usize::try_from(KILLS)? {
        let before = wait_for_notes(&scene, count_notes(&scene.notes())?, &[])?;
        let began = Instant::now();
        std::thread::sleep(work_time());
        let after = count_notes(&scene.notes())?;
        scene.note_figure(figure(what), after - before, began.elapsed())?;
        wait_for_notes(&scene, before + 20, &[])?;
        scene.kill()?;
        wait_for_proofs(&scene, kills + 1, &[])?;
    }
    wait_for_notes(&scene, count_notes(&scene.notes())?, &[])?;
    scene.move_to_another_allocation()?;
    wait_for_proofs(&scene, usize::try_from(KILLS)? + 2, &[])?;
    println!("{what} on {}: {}", kind.name, read_report(&scene, &[])?.replace('\n', "; "));
    scene.end()
}

fn start(kind: &Kind, what: &'static str) -> anyhow::Result<Scene> {
    let script = format!("exec /opt/writer/writer {what} /local/data /local/notes/notes /local/notes/report\n");
    Scene::start(kind, what, &script, &[])
}

fn figure(what: &str) -> &'static str {
    match what {
        "wal" => "SQLite, WAL: commits",
        "rollback" => "SQLite, rollback journal: commits",
        _ => "append-only log: records",
    }
}

/// What the report says so far.
///
/// # Errors
/// With the first error in it that is none of those.
fn read_report(scene: &Scene, errors: &[&str]) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(scene.notes().join("report")).unwrap_or_default();
    let is_other = |line: &&str| line.starts_with("error") && !errors.iter().any(|one| line.contains(one));
    anyhow::ensure!(!text.lines().any(|line| is_other(&line)), "{text}");
    Ok(text)
}

/// The writer has started so many times, and each time all was whole.
fn wait_for_proofs(scene: &Scene, wanted: usize, errors: &[&str]) -> anyhow::Result<()> {
    scene.wait(&format!("proof {wanted}"), || {
        Ok((read_report(scene, errors)?.matches("whole: ").count() >= wanted).then_some(()))
    })
}

/// Waits until there are more notes than `before`, and returns how many.
fn wait_for_notes(scene: &Scene, before: u64, errors: &[&str]) -> anyhow::Result<u64> {
    scene.wait("more that is acknowledged", || {
        read_report(scene, errors)?;
        let now = count_notes(&scene.notes())?;
        Ok((now > before).then_some(now))
    })
}

fn count_notes(notes: &Path) -> anyhow::Result<u64> {
    let bytes = std::fs::read(notes.join("notes")).unwrap_or_default();
    Ok(u64::try_from(bytes.iter().filter(|byte| **byte == b'\n').count())?)
}

/// What a call says whose mount has died, or whose volume is not back yet: by the kernel, and by SQLite.
const LOST_MOUNT: [&str; 10] = [
    "Transport endpoint is not connected",
    "Software caused connection abort",
    "Input/output error",
    "Operation not permitted",
    "Permission denied",
    "Read-only file system",
    "disk I/O error",
    "attempt to write a readonly database",
    "unable to open database file",
    "locking protocol",
];

/// Kills the program that has mounted the source while the writer writes. Its calls fail, Nomad starts it again, and in the
/// new mount all is there that was acknowledged.
pub fn is_whole_after_the_mount_was_lost(kind: &Kind, what: &'static str) -> anyhow::Result<()> {
    let mut scene = start(kind, what)?;
    wait_for_proofs(&scene, 1, &[])?;
    for _ in 0..KILLS {
        wait_for_notes(&scene, count_notes(&scene.notes())? + 20, &LOST_MOUNT)?;
        let before = kind.mount_program(&scene.world)?;
        kill_process(before, Signal::KILL)?;
        scene.wait("another mount program", || {
            Ok(kind.mount_program(&scene.world).ok().filter(|now| *now != before).map(drop))
        })?;
        // Nothing is acknowledged in the dead mount.
        wait_for_notes(&scene, count_notes(&scene.notes())?, &LOST_MOUNT)?;
    }
    let proofs = read_report(&scene, &LOST_MOUNT)?.matches("whole: ").count();
    scene.move_to_another_allocation()?;
    wait_for_proofs(&scene, proofs + 1, &LOST_MOUNT)?;
    println!("{what} on {}, its mount lost: {}", kind.name, read_report(&scene, &LOST_MOUNT)?.replace('\n', "; "));
    scene.end()
}
