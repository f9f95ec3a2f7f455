//! PostgreSQL: pgbench's own load, and clients that remember their commits.

use crate::clients::{Clients, Known, LOOK, TABLES};
use crate::kind::Kind;
use crate::scene::{KILLS, Scene, work_time};
use std::process::Stdio;
use std::time::Instant;

/// With checksums on every page, and so little memory and log that pages are written and checkpoints made all the time.
const SCRIPT: &str = r#"
export LC_ALL=C PATH=$(echo /usr/lib/postgresql/*/bin):/usr/bin:/bin
if [ ! -e /local/data/made ]; then
  rm -rf /local/data/pg
  initdb -D /local/data/pg -U postgres -A trust -E UTF8 --locale=C --data-checksums || exit 1
  touch /local/data/made
fi
# A socket of a killed server would not stop it; a lock beside it would.
rm -f /tmp/.s.PGSQL.*
exec postgres -D /local/data/pg -k /tmp -c listen_addresses= -c jit=off -c shared_buffers=16MB -c max_wal_size=32MB \
  -c min_wal_size=32MB -c checkpoint_timeout=30s -c autovacuum_naptime=2s -c fsync=on -c full_page_writes=on
"#;

const PSQL: [&str; 11] =
    ["psql", "-X", "-q", "-A", "-t", "-F ", "-v", "ON_ERROR_STOP=1", "-h/tmp", "-Upostgres", "postgres"];

/// What pgbench's transactions never change.
const SUMS: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) - (SELECT sum(delta) FROM h), \
     (SELECT sum(tbalance) FROM pgbench_tellers) - (SELECT sum(delta) FROM h), \
     (SELECT sum(bbalance) FROM pgbench_branches) - (SELECT sum(delta) FROM h)";

/// Kills the server again and again, and moves its volume to another allocation; each time it recovers, and is asked.
pub fn is_whole_after_kills(kind: &Kind) -> anyhow::Result<()> {
    let mut scene = Scene::start(kind, "postgresql", SCRIPT, &[])?;
    wait_ready(&scene)?;
    sql(&scene, TABLES)?;
    sql(&scene, "CREATE EXTENSION amcheck")?;
    scene.ask(&["pgbench", "-i", "-q", "-s2", "-h/tmp", "-Upostgres", "postgres"])?;
    let mut known = Known::default();
    for _ in 0..KILLS {
        let clients = Clients::start(&scene, &PSQL, &known)?;
        let mut load = scene.inside(&["pgbench", "-n", "-c2", "-T100000", "-h/tmp", "-Upostgres", "postgres"])?;
        let mut load = load.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        scene.wait("the first commits", || Ok((clients.count() >= known.sum() + 6).then_some(())))?;
        let (before, began) = (clients.count(), Instant::now());
        std::thread::sleep(work_time());
        scene.note_figure("PostgreSQL: commits", clients.count() - before, began.elapsed())?;
        clients.assert_working()?;
        anyhow::ensure!(load.try_wait()?.is_none(), "pgbench has ended by itself");
        scene.kill()?;
        load.kill()?;
        load.wait()?;
        known = clients.end()?;
        check(&scene, &mut known)?;
    }
    scene.move_to_another_allocation()?;
    check(&scene, &mut known)?;
    println!("postgresql on {}: {} commits are there", kind.name, known.sum());
    scene.end()
}

fn sql(scene: &Scene, statement: &str) -> anyhow::Result<String> {
    scene.ask(&[&PSQL[..], &["-c", statement]].concat())
}

fn wait_ready(scene: &Scene) -> anyhow::Result<()> {
    scene.wait("a PostgreSQL that answers", || Ok(sql(scene, "SELECT 1").is_ok().then_some(())))
}

fn check(scene: &Scene, known: &mut Known) -> anyhow::Result<()> {
    wait_ready(scene)?;
    known.assert_there(&sql(scene, LOOK)?)?;
    // Every index against its table, every page of both.
    scene.ask(&["pg_amcheck", "--heapallindexed", "--all", "-h/tmp", "-Upostgres"])?;
    let sums = sql(scene, &format!("WITH h AS (SELECT coalesce(sum(delta), 0) AS delta FROM pgbench_history) {SUMS}"))?;
    anyhow::ensure!(sums.trim() == "0 0 0", "pgbench's sums differ by {sums}");
    Ok(())
}
