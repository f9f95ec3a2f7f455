//! Programs that torture a file system itself, as raw_exec tasks on a volume: fsx and pjdfstest.

use crate::kind::Kind;
use crate::scene::Scene;
use crate::support::tool;
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Operations of each run of fsx; `SADDLEBAG_WORKLOADS_FSX` says another number.
const OPERATIONS: u64 = 1200;
const SEEDS: [u64; 2] = [1, 2];

/// Whether a kind of volume has to stand whatever fsx does, or is only measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fsx {
    /// Each run ends without an error.
    Holds,
    /// What comes of it is printed: `docs/backends/databases.md` says what is known of it.
    IsMeasured,
}

/// Random writes, reads, truncations and mappings of one file, each read compared with what it must be.
pub fn fsx_finds(kind: &Kind, wanted: Fsx) -> anyhow::Result<()> {
    let operations = std::env::var("SADDLEBAG_WORKLOADS_FSX").map_or(Ok(OPERATIONS), |text| text.parse())?;
    let fsx = tool("fsx").context("make tools installs fsx")?.canonicalize()?;
    let mut script = String::from("cd \"$NOMAD_TASK_DIR\"\n");
    for seed in SEEDS {
        script.push_str(&format!(
            "if {} -q -S {seed} -N {operations} -P notes data/file-{seed} >notes/fsx-{seed} 2>&1; then echo {seed} ok; else echo {seed} \
             failed; fi >>notes/result\n",
            fsx.display()
        ));
    }
    script.push_str("echo done >>notes/result\nexec sleep 100000\n");
    let scene = Scene::start_on_the_host(kind, "fsx", &script, &[])?;
    let result = wait_done(&scene)?;
    for seed in SEEDS {
        let said = std::fs::read_to_string(scene.notes().join(format!("fsx-{seed}")))?;
        let holds = result.contains(&format!("{seed} ok"));
        println!("fsx, seed {seed}, on {}: {}", kind.name, if holds { "no error" } else { &said });
        anyhow::ensure!(holds || wanted == Fsx::IsMeasured, "seed {seed} after {operations} operations: {said}");
    }
    scene.end()
}

/// Every case of pjdfstest ends the same through a binding of the volume as on the file system itself.
///
/// The volume says `nosuid = false` and `nodev = false`, so that its binding has the flags of its source and no others.
pub fn posix_is_the_same_through_a_binding(kind: &Kind) -> anyhow::Result<()> {
    let program = tool("pjdfstest").context("make tools installs pjdfstest")?.canonicalize()?;
    // A further bind mount at a short place, in a namespace of its own: the path of a socket has at most 107 bytes. It
    // fails where a case does: which do is what is compared.
    let run = |directory: &str, name: &str, notes: &str| {
        format!(
            "unshare --mount --propagation private sh -c 'umask 022; mount --bind {directory} /mnt && mkdir /mnt/{name} && {} \
             -c {notes}/settings.toml -p /mnt/{name}' >{notes}/{name} 2>&1 || true",
            program.display()
        )
    };
    let script = format!(
        "cd \"$NOMAD_TASK_DIR\"\n{}\necho done >>notes/result\nexec sleep 100000\n",
        run("data/", "bound", "notes")
    );
    let scene = Scene::start_on_the_host(kind, "pjdfstest", &script, &[("settings.toml", SETTINGS)])?;
    wait_done(&scene)?;
    let bound = verdicts(&scene.notes().join("bound"))?;
    // The same on the source, after it and not beside it: some cases look at the times of what they share.
    let path = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    let command = run(&path(&kind.directory(&scene.world)?)?, "direct", &path(&scene.notes())?);
    anyhow::ensure!(Command::new("sh").arg("-c").arg(command).status()?.success(), "pjdfstest does not run");
    let direct = verdicts(&scene.notes().join("direct"))?;
    let count = |verdict: &str| direct.values().filter(|found| *found == verdict).count();
    println!("pjdfstest on {}: {} ok, {} failed, {} cases", kind.name, count("ok"), count("FAILED"), direct.len());
    for (case, verdict) in &direct {
        let through = bound.get(case).map_or("(missing)", String::as_str);
        anyhow::ensure!(through == verdict, "{case}: {verdict} on the source, {through} through a binding");
    }
    anyhow::ensure!(direct.len() > 350 && bound.len() == direct.len(), "{} and {} cases", direct.len(), bound.len());
    anyhow::ensure!(count("ok") > 350, "{} cases are ok", count("ok"));
    scene.end()
}

/// What pjdfstest is told, beside its files: users that every Debian has.
const SETTINGS: &str = r#"[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.01
allow_remount = false

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

fn wait_done(scene: &Scene) -> anyhow::Result<String> {
    scene.wait("the end of the task's program", || {
        let said = std::fs::read_to_string(scene.notes().join("result")).unwrap_or_default();
        Ok(said.contains("done").then_some(said))
    })
}

/// Each case and how it ended; cases that cannot run are listed without a verdict and are left out.
fn verdicts(output: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(output)?;
    let cases = text.lines().filter_map(|line| {
        let (case, verdict) = line.split_once(char::is_whitespace)?;
        let verdict = verdict.trim();
        (case.contains("::") && !case.ends_with(':') && matches!(verdict, "ok" | "FAILED" | "skipped"))
            .then(|| (case.to_owned(), verdict.to_owned()))
    });
    Ok(cases.collect())
}
