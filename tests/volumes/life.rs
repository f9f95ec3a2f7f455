//! The life of a volume, from its registration to its deletion.

use crate::node::{Node, contents};
use anyhow::Context as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

const PG: &str = "volume \"pg\" {\n  backend = \"disk\"\n  path    = \"db/pg\"\n  owner   = \"70:71\"\n  mode    = \"2770\"\n  size    = \"1GiB\"\n}\n";

#[test]
fn a_volume_is_registered_changed_and_deregistered_and_each_may_be_said_twice() -> anyhow::Result<()> {
    let mut node = Node::new("")?;
    assert_eq!(node.define("register", PG)?.outcome()?, "registered");
    assert_eq!(node.define("register", PG)?.outcome()?, "unchanged");
    assert!(!node.disk().join("db").exists(), "nothing is made on the storage system");
    let listed = node.listed("pg")?;
    assert_eq!(
        (&listed["defined"], &listed["path"], &listed["backend"]),
        (&"registered".into(), &"db/pg".into(), &"disk".into())
    );
    assert_eq!((&listed["size"], &listed["size_enforced"]), (&(1 << 30).into(), &"advisory".into()));
    assert_eq!(listed["place"], node.definition("pg").display().to_string());

    let other = PG.replace("db/pg", "db/other");
    assert_eq!(node.define("register", &other)?.outcome()?, "changed");
    // Another agent knows what the first one was told, in its words.
    node.restart()?;
    assert_eq!(node.listed("pg")?["path"], "db/other");
    assert_eq!(std::fs::read_to_string(node.definition("pg"))?, other);
    assert_eq!(std::fs::metadata(node.definition("pg"))?.permissions().mode() & 0o777, 0o600);

    assert_eq!(node.ask(&["volume", "deregister", "--json", "pg"])?["outcome"], "deregistered");
    assert_eq!(node.ask(&["volume", "deregister", "--json", "pg"])?["outcome"], "absent");
    assert!(!node.definition("pg").exists());
    node.restart()?;
    assert!(node.listed("pg")?.is_null());
    Ok(())
}

#[test]
fn a_volume_is_created_with_its_owner_and_mode_once_and_never_again() -> anyhow::Result<()> {
    let node = Node::new("")?;
    let made = node.define("create", PG)?.json()?;
    let directory = node.disk().join("db/pg");
    assert_eq!((&made["outcome"], &made["created"]), (&"registered".into(), &true.into()));
    assert_eq!(made["directory"], directory.display().to_string());
    let told = std::fs::metadata(&directory)?;
    assert_eq!((told.uid(), told.gid(), told.mode() & 0o7777), (70, 71, 0o2770));

    // What is there keeps its owner and mode, and so does all that is in it.
    std::fs::write(directory.join("row"), "1")?;
    std::os::unix::fs::chown(directory.join("row"), Some(7), Some(8))?;
    std::os::unix::fs::chown(&directory, Some(99), Some(98))?;
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700))?;
    let before = contents(&node.disk())?;
    let again = node.define("create", PG)?.json()?;
    assert_eq!((&again["outcome"], &again["created"]), (&"unchanged".into(), &false.into()));
    assert_eq!(contents(&node.disk())?, before);
    Ok(())
}

#[test]
fn a_file_of_a_supplementary_group_stays_with_the_group_of_its_volume() -> anyhow::Result<()> {
    let node = Node::new("")?;
    node.define("create", PG)?.json()?;
    // A user who owns nothing of it and is in its group by the way, as a task with supplementary groups is.
    let file = node.disk().join("db/pg/file");
    std::fs::set_permissions(node.directory.path(), std::fs::Permissions::from_mode(0o711))?;
    let write = std::process::Command::new("setpriv")
        .args(["--reuid=1234", "--regid=1234", "--groups=71", "--", "sh", "-c", "echo x > \"$1\"", "sh"])
        .arg(&file)
        .status()?;
    assert!(write.success());
    let told = std::fs::metadata(&file)?;
    assert_eq!((told.uid(), told.gid()), (1234, 71), "the set-group-id bit of the volume gives it its group");
    Ok(())
}

#[test]
fn a_deleted_volume_loses_no_byte_and_its_answer_says_where_it_lies() -> anyhow::Result<()> {
    let mut node = Node::new("")?;
    node.define("create", PG)?.json()?;
    let directory = node.disk().join("db/pg");
    std::fs::create_dir(directory.join("base"))?;
    for number in 0..10 {
        std::fs::write(directory.join(format!("base/{number}")), vec![number; 1 << 16])?;
    }
    let before = contents(&directory)?;

    let said = node.say(&["volume", "delete", "pg"])?;
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    let kept = node.kept()?;
    let [name] = kept.as_slice() else { anyhow::bail!("{kept:?}") };
    assert!(name.starts_with("pg.2") && name.ends_with('Z'), "{name}");
    let folder = node.disk().join(".saddlebag-deleted");
    let lies = folder.join(name);
    assert_eq!(
        said.out,
        format!(
            "volume pg deleted\nits data lies at {0}\nto remove it for good: rm --recursive -- '{0}'\n",
            lies.display()
        )
    );
    assert_eq!(contents(&lies)?, before);
    let told = std::fs::metadata(&folder)?;
    assert_eq!((told.uid(), told.mode() & 0o7777), (0, 0o700), "only root comes to what was deleted");
    assert!(!directory.exists() && !node.definition("pg").exists());
    assert!(node.listed("pg")?.is_null());

    // Said again, also to another agent, nothing is left to do.
    assert_eq!(node.ask(&["volume", "delete", "--json", "pg"])?["outcome"], "absent");
    node.restart()?;
    assert_eq!(node.ask(&["volume", "delete", "--json", "pg"])?["outcome"], "absent");

    // A new volume of that name is a new one, and deleted beside the first.
    assert_eq!(node.define("create", PG)?.json()?["created"], true);
    assert_eq!(contents(&directory)?.len(), 0);
    node.ask(&["volume", "delete", "--json", "pg"])?;
    assert_eq!(node.kept()?.len(), 2);
    assert_eq!(contents(&lies)?, before);
    Ok(())
}

#[test]
fn a_volume_that_never_had_a_directory_is_deleted_too() -> anyhow::Result<()> {
    let node = Node::new("")?;
    node.define("register", PG)?.json()?;
    let deleted = node.ask(&["volume", "delete", "--json", "pg"])?;
    assert_eq!((&deleted["outcome"], &deleted["kept"]), (&"deleted".into(), &serde_json::Value::Null));
    assert!(node.kept()?.is_empty());
    Ok(())
}

#[test]
fn a_volume_that_nobody_defined_is_deleted_where_that_is_said() -> anyhow::Result<()> {
    let more = tempfile::tempdir()?;
    let node = Node::new(&format!(
        "backend \"host\" \"more\" {{\n  path = \"{}\"\n  dynamic = true\n}}\n",
        more.path().display()
    ))?;
    let scratch = more.path().join("scratch");
    std::fs::create_dir(&scratch)?;
    std::fs::write(scratch.join("x"), "x")?;
    assert_eq!(node.ask(&["volume", "delete", "--json", "scratch"])?["outcome"], "absent");
    assert!(scratch.exists());
    let kept = node.ask(&["volume", "delete", "--json", "--dynamic", "scratch"])?;
    let kept = kept["kept"].as_str().context("kept")?;
    assert!(!scratch.exists());
    assert_eq!(std::fs::read_to_string(std::path::Path::new(kept).join("x"))?, "x");
    let again = node.ask(&["volume", "delete", "--json", "--dynamic", "scratch"])?;
    assert_eq!((&again["outcome"], again["kept"].as_str()), (&"absent".into(), Some(kept)));
    Ok(())
}

#[test]
fn the_embedded_default_stays_when_a_volume_is_registered_on_it() -> anyhow::Result<()> {
    let mut node = Node::new("")?;
    node.kill()?;
    // No backend and no volume block at all.
    let bare = format!("state_dir = \"{0}/state\"\nrun_dir = \"{0}/run\"\n", node.directory.path().display());
    node.start_with(&bare)?;
    let text = "volume \"pg\" {\n  backend = \"embedded\"\n  owner = \"70:70\"\n}\n";
    assert_eq!(node.define("create", text)?.json()?["created"], true);
    assert_eq!(std::fs::metadata(node.path("state/volumes/pg"))?.uid(), 70);
    node.kill()?;
    node.start_with(&bare)?;
    assert_eq!(node.listed("pg")?["defined"], "registered");
    Ok(())
}

#[test]
fn tables_of_volumes_read_well() -> anyhow::Result<()> {
    let node = Node::new("")?;
    node.define("register", PG)?.json()?;
    let said = node.say(&["volume", "list"])?;
    let page = "\
Volume  Backend  Path   Access mode              Size            Defined        Used by
files   disk     files  multi-node-multi-writer  unlimited       configuration  -
pg      disk     db/pg  multi-node-multi-writer  1GiB advisory   registered     -
";
    let plain =
        |text: &str| text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
    assert_eq!(plain(&said.out), plain(page));
    let said = node.say(&["volume", "status", "pg"])?;
    let place = node.definition("pg").display().to_string();
    let page = format!(
        "Volume = pg\nBackend = disk\nPath = db/pg\nAccess mode = multi-node-multi-writer\nSize = 1GiB advisory\n\
         Defined = registered ({place})\n\nNo task uses it.\n"
    );
    assert_eq!(plain(&said.out), plain(&page));
    let said = node.say(&["volume", "status", "pq"])?;
    assert_eq!(
        (said.code, said.err.as_str()),
        (69, "saddlebag: this node knows no volume \"pq\"\n  hint: did you mean \"pg\"?\n")
    );
    Ok(())
}
