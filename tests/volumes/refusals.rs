//! What cannot be is refused in one sentence, and nothing is changed.

use crate::node::{Node, contents};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;

fn volume(name: &str, rest: &str) -> String {
    format!("volume \"{name}\" {{\n  backend = \"disk\"\n{rest}}}\n")
}

#[test]
fn mistakes_of_a_definition_have_file_line_and_column() -> anyhow::Result<()> {
    let node = Node::new("")?;
    std::fs::write(node.path("pg.hcl"), "volume \"pg\" {\n  backend = \"disk\"\n  sise = \"1GiB\"\n}\n")?;
    let said = node.say(&["volume", "register", node.path("pg.hcl").to_str().unwrap_or_default()])?;
    let place = node.path("pg.hcl").display().to_string();
    assert_eq!(
        (said.code, said.err.as_str()),
        (
            78,
            format!(
                "saddlebag: the definition is not valid\n{place}:3:3: unknown key \"sise\" in volume \"pg\" (did you mean \"size\"?)\n"
            )
            .as_str()
        )
    );
    let said = node.define("create", &volume("files", ""))?;
    assert_eq!(said.code, 78);
    let both = "standard input:1:1: volume \"files\" is defined twice, first at";
    assert!(said.err.contains(both) && said.err.contains("agent.hcl:7:1"), "{}", said.err);
    assert!(!node.path("state/volumes.d").exists() && contents(&node.disk())?.is_empty());
    Ok(())
}

#[test]
fn hostile_names_paths_and_texts_are_refused() -> anyhow::Result<()> {
    let node = Node::new("")?;
    for text in [
        volume("../../etc/cron.d/x", ""),
        volume("x", "  path = \"../../etc\"\n"),
        volume("x", "  path = \"a/./../b\"\n"),
        volume(".saddlebag-deleted", ""),
        volume("", ""),
        volume(&"x".repeat(129), ""),
        "\u{1b}[31m{{{".to_owned(),
        "volume \"x\" ".repeat(1000),
        format!("# {}\n{}", "x".repeat(20_000), volume("x", "")),
    ] {
        let said = node.define("create", &text)?;
        assert!(matches!(said.code, 64 | 78), "{text:.60}: {} {}", said.code, said.err);
        assert!(!said.err.contains('\u{1b}'), "{}", said.err);
    }
    for name in ["../agent", "/etc/passwd", ".", "..", "a/b", "", "a\nb", ".pg.new"] {
        for verb in ["deregister", "delete"] {
            let said = node.say(&["volume", verb, "--", name])?;
            assert_eq!(said.code, 64, "{verb} {name:?}: {}{}", said.out, said.err);
        }
    }
    assert!(!node.path("state/volumes.d").exists() && contents(&node.disk())?.is_empty());
    Ok(())
}

#[test]
fn a_symbolic_link_where_the_directory_belongs_is_followed_by_nothing() -> anyhow::Result<()> {
    let node = Node::new("")?;
    let elsewhere = tempfile::tempdir()?;
    std::fs::write(elsewhere.path().join("secret"), "s")?;
    let before = contents(elsewhere.path())?;
    symlink(elsewhere.path(), node.disk().join("pg"))?;
    let said = node.define("create", &volume("pg", "  owner = \"70:70\"\n"))?;
    assert_eq!(said.code, 78, "{}", said.err);
    assert!(said.err.contains("it is registered, and pg on backend disk is not a plain directory"), "{}", said.err);
    let said = node.say(&["volume", "delete", "pg"])?;
    assert_eq!(said.code, 78, "{}", said.err);
    assert!(
        said.err.contains("volume \"pg\" is not deleted") && said.err.contains("is a symbolic link"),
        "{}",
        said.err
    );

    // Nor where what is deleted goes.
    node.define("create", &volume("kept", ""))?.json()?;
    symlink(elsewhere.path(), node.disk().join(".saddlebag-deleted"))?;
    let said = node.say(&["volume", "delete", "kept"])?;
    assert_eq!(said.code, 78, "{}", said.err);
    assert!(said.err.contains("the folder .saddlebag-deleted cannot be used"), "{}", said.err);
    assert!(node.disk().join("kept").is_dir() && node.definition("kept").exists());
    assert_eq!(contents(elsewhere.path())?, before);
    Ok(())
}

#[test]
fn a_directory_that_others_have_a_part_in_is_not_deleted() -> anyhow::Result<()> {
    let mut node = Node::new("")?;
    node.define("create", &volume("outer", "  path = \"o\"\n"))?.json()?;
    let inner = node.define("create", &volume("inner", "  path = \"o/i\"\n"))?.json()?;
    assert_eq!(inner["warnings"][0], "volume \"inner\" is inside volume \"outer\"");
    let said = node.say(&["volume", "delete", "outer"])?;
    assert_eq!(said.code, 78);
    assert!(said.err.contains("volume \"inner\" (defined at "), "{}", said.err);
    node.ask(&["volume", "delete", "--json", "inner"])?;
    // By another backend of the same disk too.
    node.add(&format!("backend \"host\" \"deep\" {{\n  path = \"{}/o\"\n}}\n", node.disk().display()));
    node.restart()?;
    node.define("create", "volume \"beside\" {\n  backend = \"deep\"\n}\n")?.json()?;
    let said = node.say(&["volume", "delete", "outer"])?;
    assert!(said.code == 78 && said.err.contains("volume \"beside\" (defined at "), "{}", said.err);
    node.ask(&["volume", "deregister", "--json", "beside"])?;
    node.ask(&["volume", "delete", "--json", "outer"])?;

    // All of a backend is no volume's to delete.
    node.define("register", &volume("whole", "  path = \"/\"\n"))?.json()?;
    let said = node.say(&["volume", "delete", "whole"])?;
    assert_eq!(said.code, 78);
    assert!(said.err.contains("is all of backend disk"), "{}", said.err);
    // Nor is what the configuration defines.
    for verb in ["delete", "deregister"] {
        let said = node.say(&["volume", verb, "files"])?;
        assert_eq!(said.code, 78);
        assert!(said.err.contains("is defined in the agent's configuration, at") && said.err.contains("agent.hcl:7:1"));
    }
    Ok(())
}

#[test]
fn a_volume_that_is_mounted_by_anybody_is_not_deleted() -> anyhow::Result<()> {
    let node = Node::new("")?;
    node.define("create", &volume("pg", ""))?.json()?;
    let point = node.path("point");
    std::fs::create_dir(&point)?;
    let mount = |arguments: &[&std::ffi::OsStr]| std::process::Command::new("mount").args(arguments).status();
    let directory = node.disk().join("pg");
    assert!(mount(&["--bind".as_ref(), directory.as_ref(), point.as_ref()])?.success());
    let said = node.say(&["volume", "delete", "pg"]);
    assert!(std::process::Command::new("umount").arg(&point).status()?.success());
    let said = said?;
    assert_eq!(said.code, 75, "{}", said.err);
    assert!(said.err.contains(&format!("it is mounted at {}", point.display())), "{}", said.err);
    node.ask(&["volume", "delete", "--json", "pg"])?;
    Ok(())
}

#[test]
fn a_full_disk_of_the_state_directory_changes_nothing() -> anyhow::Result<()> {
    let mut node = Node::new("")?;
    node.kill()?;
    let state = node.path("state");
    let mount =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&state).status()?;
    assert!(mount.success());
    let told = (|| {
        node.start()?;
        let pg = volume("pg", "");
        node.define("register", &pg)?.json()?;
        let filler = state.join("filler");
        while std::fs::File::options()
            .append(true)
            .create(true)
            .open(&filler)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &[0; 4096]))
            .is_ok()
        {}
        let said = [
            node.define("register", &volume("pg", "  path = \"other\"\n"))?,
            node.define("create", &volume("new", ""))?,
        ];
        for said in &said {
            assert_eq!(said.code, 69, "{}", said.err);
            assert!(
                said.err.contains("stays as it is: cannot write") && said.err.contains("No space left"),
                "{}",
                said.err
            );
        }
        assert_eq!(node.listed("pg")?["path"], "pg");
        assert!(node.listed("new")?.is_null() && contents(&node.disk())?.is_empty());
        assert_eq!(std::fs::read_to_string(node.definition("pg"))?, pg);
        std::fs::remove_file(filler)?;
        assert_eq!(node.define("create", &volume("new", ""))?.outcome()?, "registered");
        anyhow::Ok(())
    })();
    let ended = node.kill();
    drop(node.stop_guard());
    assert!(std::process::Command::new("umount").args(["-l".as_ref(), state.as_os_str()]).status()?.success());
    told.and(ended)
}

#[test]
fn a_damaged_definition_makes_its_own_name_unusable_and_nothing_else() -> anyhow::Result<()> {
    let mut node = Node::new("")?;
    for name in ["good", "damaged", "twice"] {
        node.define("register", &volume(name, ""))?.json()?;
    }
    node.kill()?;
    std::fs::write(node.definition("damaged"), "volume \"damaged\" {\n  back")?;
    std::fs::write(node.definition("other-name"), volume("good", ""))?;
    node.add("volume \"twice\" {\n  backend = \"disk\"\n}\n");
    node.start()?;
    assert!(node.listed("good")?["reason"].is_null());
    let place = node.definition("damaged").display().to_string();
    for (name, why) in [
        ("damaged", place.as_str()),
        ("other-name", "defines volume \"good\""),
        ("twice", "is defined twice, first at"),
    ] {
        let listed = node.listed(name)?;
        assert!(listed["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{listed}");
    }
    // The same is said of the files before an agent is started with them.
    let said = node.say(&["config", "validate", "--config", node.path("agent.hcl").to_str().unwrap_or_default()])?;
    assert_eq!(said.code, 78);
    assert!(said.err.contains("is defined twice, first at") && said.err.contains(&place), "{}", said.err);
    // Either way out.
    assert_eq!(node.define("register", &volume("damaged", ""))?.outcome()?, "changed");
    assert_eq!(node.ask(&["volume", "deregister", "--json", "other-name"])?["outcome"], "deregistered");
    assert!(node.listed("damaged")?["reason"].is_null() && node.listed("other-name")?.is_null());
    Ok(())
}

#[test]
fn who_may_look_may_list_and_change_nothing() -> anyhow::Result<()> {
    let group = nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(1))?.map(|group| group.name);
    let node = Node::new(&format!("status_group = \"{}\"\n", group.unwrap_or_default()))?;
    std::fs::set_permissions(node.directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    std::fs::write(node.path("pg.hcl"), volume("pg", ""))?;
    let as_nobody = |group: u32, arguments: &[&str]| -> anyhow::Result<(i32, String)> {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", &format!("--regid={group}"), "--clear-groups", "--"]);
        command.arg(node.program()?).args(arguments).env("SADDLEBAG_SOCKET", node.path("run/saddlebag.sock"));
        let output = command.arg0("setpriv").output()?;
        Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    assert_eq!(as_nobody(1, &["volume", "list"])?, (0, String::new()));
    let definition = node.path("pg.hcl").display().to_string();
    for change in [["register", &definition], ["create", &definition], ["deregister", "files"], ["delete", "files"]] {
        let (code, said) = as_nobody(1, &["volume", change[0], change[1]])?;
        assert_eq!((code, said.as_str()), (77, "saddlebag: only root may change volumes\n"));
    }
    assert_eq!(as_nobody(65534, &["volume", "list"])?.0, 77);
    Ok(())
}

#[test]
fn what_is_typed_wrong_ends_with_64_and_an_agent_that_is_away_with_69() -> anyhow::Result<()> {
    let mut node = Node::new("")?;
    let long = node.path("long.hcl");
    std::fs::write(&long, "#".repeat(20_000))?;
    let (long, missing) = (long.display().to_string(), node.path("missing.hcl").display().to_string());
    let (folder, binary) = (node.disk().display().to_string(), node.path("binary.hcl"));
    std::fs::write(&binary, [0xff, 0xfe, 0x00])?;
    let binary = binary.display().to_string();
    for wrong in [
        &["volume"][..],
        &["volume", "register"],
        &["volume", "create", &missing],
        &["volume", "create", &long],
        &["volume", "register", &folder],
        &["volume", "register", &binary],
        &["volume", "delete"],
        &["volume", "delete", "pg", "--now"],
        &["volume", "list", "--timeout", "1s"],
    ] {
        let said = node.say(wrong)?;
        assert_eq!((said.code, said.out.as_str()), (64, ""), "{wrong:?}: {}", said.err);
    }
    assert_eq!(node.say(&["volume", "register", &missing])?.err.lines().count(), 1);
    for verb in ["register", "create", "deregister", "delete", "list", "status"] {
        let said = node.say(&["volume", verb, "-help"])?;
        assert!(said.code == 0 && said.out.contains("Example"), "{verb}: {}{}", said.out, said.err);
    }
    node.kill()?;
    for away in [&["volume", "list"][..], &["volume", "delete", "pg", "-timeout=300ms"]] {
        let said = node.say(away)?;
        assert_eq!(said.code, 69, "{away:?}: {}", said.err);
        assert!(said.err.contains("is the agent running on this machine?"), "{}", said.err);
    }
    Ok(())
}

#[test]
fn an_image_that_another_machine_has_attached_is_not_deleted() -> anyhow::Result<()> {
    let node = Node::new("")?;
    let image =
        "  path = \"pg.img\"\n  format = \"ext4\"\n  size = \"64MiB\"\n  access_mode = \"single-node-writer\"\n";
    let registered = node.define("register", &volume("pg", image))?;
    assert_eq!(registered.code, 0, "{}", registered.err);
    let (file, note) = (node.disk().join("pg.img"), node.disk().join(".pg.img.owner"));
    std::fs::write(&file, "what another machine writes to")?;
    std::fs::write(&note, "whoever that is")?;
    let said = node.say(&["volume", "delete", "pg"])?;
    assert_eq!(said.code, 75, "{}", said.err);
    assert!(said.err.contains("is not deleted") && said.err.contains(".pg.img.owner"), "{}", said.err);
    assert_eq!(std::fs::read_to_string(&file)?, "what another machine writes to");
    assert!(node.definition("pg").exists() && node.kept()?.is_empty());
    std::fs::remove_file(&note)?;
    let said = node.say(&["volume", "delete", "pg"])?;
    assert_eq!(said.code, 0, "{}", said.err);
    let kept = node.kept()?;
    assert_eq!(kept.len(), 1, "{kept:?}");
    let kept = node.disk().join(".saddlebag-deleted").join(&kept[0]);
    assert_eq!(std::fs::read_to_string(kept)?, "what another machine writes to");
    Ok(())
}
