//! MariaDB: clients that remember their commits, and its own check of every table.

use crate::clients::{Clients, Known, LOOK, TABLES};
use crate::kind::Kind;
use crate::scene::{KILLS, Scene, work_time};
use std::time::Instant;

/// As Debian's maintainer scripts make it, without Perl; with so little memory that pages are written all the time.
const SCRIPT: &str = r#"
export PATH=/usr/sbin:/usr/bin:/bin
options="--no-defaults --datadir=/local/data/my --plugin-dir=/usr/lib/mysql/plugin"
if [ ! -e /local/data/made ]; then
  rm -rf /local/data/my
  mkdir /local/data/my
  {
    echo "CREATE DATABASE mysql;"
    echo "USE mysql;"
    cd /usr/share/mariadb
    cat mariadb_system_tables.sql mariadb_performance_tables.sql mariadb_system_tables_data.sql
  } | mariadbd $options --bootstrap || exit 1
  touch /local/data/made
fi
exec mariadbd $options --skip-networking --socket=/tmp/my.sock --skip-grant-tables --innodb-buffer-pool-size=16M \
  --innodb-log-file-size=8M --innodb-flush-log-at-trx-commit=1 --innodb-doublewrite=1
"#;

const CLIENT: [&str; 7] = ["mariadb", "--no-defaults", "-n", "-N", "-B", "-S/tmp/my.sock", "mysql"];

/// Kills the server again and again, and moves its volume to another allocation; each time it recovers, and is asked.
pub fn is_whole_after_kills(kind: &Kind) -> anyhow::Result<()> {
    let mut scene = Scene::start(kind, "mariadb", SCRIPT, &[])?;
    wait_ready(&scene)?;
    sql(&scene, TABLES)?;
    let mut known = Known::default();
    for _ in 0..KILLS {
        let clients = Clients::start(&scene, &CLIENT, &known)?;
        scene.wait("the first commits", || Ok((clients.count() >= known.sum() + 6).then_some(())))?;
        let (before, began) = (clients.count(), Instant::now());
        std::thread::sleep(work_time());
        scene.note_figure("MariaDB: commits", clients.count() - before, began.elapsed())?;
        clients.assert_working()?;
        scene.kill()?;
        known = clients.end()?;
        check(&scene, &mut known)?;
    }
    scene.move_to_another_allocation()?;
    check(&scene, &mut known)?;
    println!("mariadb on {}: {} commits are there", kind.name, known.sum());
    scene.end()
}

fn sql(scene: &Scene, statement: &str) -> anyhow::Result<String> {
    scene.ask(&[&CLIENT[..], &["-e", statement]].concat())
}

fn wait_ready(scene: &Scene) -> anyhow::Result<()> {
    scene.wait("a MariaDB that answers", || Ok(sql(scene, "SELECT 1").is_ok().then_some(())))
}

fn check(scene: &Scene, known: &mut Known) -> anyhow::Result<()> {
    wait_ready(scene)?;
    known.assert_there(&sql(scene, LOOK)?)?;
    let tables =
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'mysql' AND table_type = 'BASE TABLE'";
    let listed = sql(scene, tables)?;
    let names: Vec<&str> = listed.lines().filter(|name| !matches!(*name, "general_log" | "slow_log")).collect();
    anyhow::ensure!(names.len() > 20, "tables: {names:?}");
    let said = sql(scene, &format!("CHECK TABLE `{}` EXTENDED", names.join("`, `")))?;
    for line in said.lines() {
        anyhow::ensure!(line.ends_with("\tstatus\tOK"), "{line}\n{said}");
    }
    Ok(())
}
