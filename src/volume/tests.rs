use std::path::{Path, PathBuf};

use super::{Placed, Registry};
use crate::config::{BackendKind, Config, HostBackend};
use crate::job::{Kind, Refusal, SourceName};

const CONFIGURATION: &str = r#"
backend "seaweedfs" "main" {
  filer = "10.0.0.1:8888,10.0.0.2:8888"
  path  = "/buckets"
}
backend "seaweedfs" "archive" {
  filer     = "10.0.0.1:8888"
  path      = "/buckets/archive"
  read_only = true
}
backend "nfs" "nas" {
  server    = "nas"
  export    = "/data/ro"
  read_only = true
}
volume "pgdata" {
  backend = "main"
  path    = "/pg"
  create  = true
  size    = "10GiB"
  owner   = "70:70"
  mode    = "0700"
  noexec  = true
}
volume "letters" {
  backend = "archive"
  create  = true
}
policy {
  allow_url = ["host:///srv/", "host:///srv/deep/er/", "host:///opt/one", "seaweedfs://10.0.0.1:8888/", "seaweedfs://other:8888/x", "nfs://nas/data/", "nfs://other"]
}
"#;

fn registry(text: &str) -> Registry {
    Registry::new(&Config::parse(text, "agent.hcl").unwrap())
}

fn named(text: &str, name: &str) -> Result<Placed, Refusal> {
    registry(text).resolve(&SourceName::Named(name.to_owned()))
}

fn url(url: &str) -> Result<Placed, Refusal> {
    registry(CONFIGURATION).resolve(&SourceName::Url(url.to_owned()))
}

fn said(refused: Result<Placed, Refusal>) -> String {
    let refusal = refused.unwrap_err();
    match &refusal.hint {
        Some(hint) => format!("{refusal} ({hint})"),
        None => refusal.to_string(),
    }
}

#[test]
fn a_registered_volume_is_what_its_definition_says() {
    let placed = named(CONFIGURATION, "pgdata").unwrap();
    // It is a bucket of its own, and has a size: so it has a mount that keeps it to that.
    assert_eq!(placed.backend.name, "main~pgdata");
    let volume = placed.volume;
    assert_eq!((volume.name.as_str(), volume.backend.as_str()), ("pgdata", "main"));
    assert_eq!(volume.path, PathBuf::from("pg"));
    assert_eq!(volume.size, Some(10 << 30));
    assert!(volume.create && !volume.read_only && volume.nosuid && volume.nodev && volume.noexec);
    assert_eq!((volume.owner, volume.mode), (Some((70, 70)), Some(0o700)));
}

#[test]
fn a_volume_of_a_read_only_backend_is_read_only_and_not_created() {
    let volume = named(CONFIGURATION, "letters").unwrap().volume;
    assert!(volume.read_only && !volume.create);
}

#[test]
fn a_size_is_kept_by_a_mount_of_its_own_where_the_volume_has_a_collection_of_its_own() {
    let text = r#"
backend "seaweedfs" "s" {
  filer = "f:8888"
}
volume "own" {
  backend    = "s"
  collection = "own"
  size       = "10MiB"
}
volume "bucket" {
  backend = "s"
  path    = "/buckets/b"
  size    = "10MiB"
}
volume "part" {
  backend = "s"
  path    = "/buckets/c/part"
  size    = "10MiB"
}
volume "one" {
  backend    = "s"
  collection = "both"
  size       = "10MiB"
}
volume "two" {
  backend    = "s"
  collection = "both"
}
volume "plain" {
  backend = "s"
  size    = "10MiB"
}
volume "read" {
  backend    = "s"
  collection = "read"
  size       = "10MiB"
  read_only  = true
}
"#;
    let mounted = |text: &str, name: &str| {
        let placed = named(text, name).unwrap();
        let kept = crate::backend::enforcement(&placed.backend, &placed.volume).to_string();
        (placed.backend.name.clone(), crate::backend::key_of(&placed.backend), kept)
    };
    for (name, collection) in [("own", "own"), ("bucket", "b")] {
        let placed = named(text, name).unwrap();
        let BackendKind::Seaweedfs(settings) = &placed.backend.kind else { unreachable!() };
        assert_eq!((settings.collection.as_deref(), settings.quota), (Some(collection), Some(10 << 20)), "{name}");
        assert_eq!((mounted(text, name).0, mounted(text, name).2), (format!("s~{name}"), "enforced".to_owned()));
    }
    for name in ["part", "one", "two", "plain", "read"] {
        assert_eq!(mounted(text, name).0, "s", "{name}");
        let kept = if name == "two" { "unlimited" } else { "advisory" };
        assert_eq!(mounted(text, name).2, kept, "{name}");
    }
    // Another size is the same mount, which is told of it.
    let more = text.replace("10MiB", "20MiB");
    assert_eq!(mounted(&more, "own").1, mounted(text, "own").1);
    assert_ne!(mounted(text, "own").1, mounted(text, "bucket").1);
}

#[test]
fn an_unknown_name_is_refused_with_the_nearest() {
    assert_eq!(
        said(named(CONFIGURATION, "pgdta")),
        "no volume \"pgdta\" is registered on this node (did you mean \"pgdata\"?)"
    );
    assert_eq!(
        said(named(CONFIGURATION, "something-else")),
        "no volume \"something-else\" is registered on this node (the operator registers it with a block volume \"something-else\" in the agent's configuration, or with `saddlebag volume register`)"
    );
    assert_eq!(
        said(named(CONFIGURATION, "../etc")),
        "\"../etc\" is not a volume's name (a name is 1 to 128 letters, digits, `.`, `_` and `-`, the first a letter or digit)"
    );
}

#[test]
fn the_embedded_default_makes_any_volume() {
    let placed = named("", "anything").unwrap();
    assert_eq!(placed.backend.name, "embedded");
    assert_eq!(placed.volume.path, PathBuf::from("anything"));
    assert!(placed.volume.create && placed.volume.nosuid && placed.volume.nodev);
    assert!(named("", "..").is_err());
}

#[test]
fn a_dynamic_name_never_reaches_a_registered_volumes_directory() {
    let text = "backend \"host\" \"d\" {\n  path = \"/srv\"\n  dynamic = true\n}\nvolume \"a\" {\n  backend = \"d\"\n  path = \"real/a\"\n  read_only = true\n}\n";
    let refusal = named(text, "real").unwrap_err();
    assert_eq!(refusal.kind, Kind::NotPermitted);
    assert_eq!(said(Err(refusal)), "the directory \"real\" holds the registered volume \"a\" (did you mean \"a\"?)");
    assert_eq!(named(text, "a").unwrap().volume.path, PathBuf::from("real/a"));
    assert_eq!(named(text, "realm").unwrap().volume.path, PathBuf::from("realm"));
}

#[test]
fn a_host_url_is_rooted_at_the_operators_prefix() {
    for (text, root, path) in [
        ("host:///srv/x", "/srv", "x"),
        ("host:///srv/x/y", "/srv", "x/y"),
        ("host:///srv/deep/er/x", "/srv/deep/er", "x"),
        ("host:///srv/deep/er", "/srv", "deep/er"),
        ("host:///opt/one", "/opt/one", ""),
        ("host:///opt/one/y", "/opt/one", "y"),
    ] {
        let placed = url(text).unwrap();
        assert_eq!(placed.backend.kind, BackendKind::Host(HostBackend { path: PathBuf::from(root) }), "{text}");
        assert_eq!(placed.volume.path, PathBuf::from(path), "{text}");
        assert_eq!(placed.volume.name, text);
        assert_eq!(placed.volume.backend, placed.backend.name);
        assert!(!placed.volume.create && placed.volume.nosuid && placed.volume.nodev);
        assert!(!placed.backend.name.contains('/') && placed.backend.name.contains('~'));
    }
    assert_eq!(url("host:///srv/x").unwrap().backend, url("host:///srv/y").unwrap().backend);
    assert_ne!(url("host:///srv/x").unwrap().backend.name, url("host:///opt/one").unwrap().backend.name);
}

#[test]
fn a_seaweedfs_url_finds_the_deepest_backend_that_has_it() {
    for (text, backend, path, read_only) in [
        ("seaweedfs://10.0.0.1:8888/buckets/x", "main", "x", false),
        ("seaweedfs://10.0.0.1:8888/buckets/archive/x", "archive", "x", true),
        ("seaweedfs://10.0.0.1:8888/other/x", "seaweedfs~3a~2f~2f10.0.0.1~3a8888", "other/x", false),
        ("seaweedfs://other:8888/x", "seaweedfs~3a~2f~2fother~3a8888", "x", false),
    ] {
        let placed = url(text).unwrap();
        assert_eq!(placed.backend.name, backend, "{text}");
        assert_eq!(placed.volume.path, PathBuf::from(path), "{text}");
        assert_eq!(placed.volume.read_only, read_only, "{text}");
        assert!(!placed.volume.create);
    }
}

#[test]
fn an_nfs_url_finds_the_backend_that_has_it_or_mounts_the_operators_prefix() {
    for (text, backend, export, path) in [
        ("nfs://nas/data/ro/x", "nas", "/data/ro", "x"),
        ("nfs://nas/data/ro/x?ro", "nas", "/data/ro", "x"),
        ("nfs://nas/data/y/z", "nfs~3a~2f~2fnas~2fdata", "/data", "y/z"),
        ("nfs://nas/data/y?vers=4.2&nolock", "nfs~3a~2f~2fnas~2fdata~3fvers~3d4.2~26nolock", "/data", "y"),
        ("nfs://other/srv/z", "nfs~3a~2f~2fother~2fsrv~2fz", "/srv/z", ""),
    ] {
        let placed = url(text).unwrap();
        let BackendKind::Nfs(nfs) = &placed.backend.kind else { panic!("{placed:?}") };
        assert_eq!((placed.backend.name.as_str(), nfs.export.as_str()), (backend, export), "{text}");
        assert_eq!(placed.volume.path, PathBuf::from(path), "{text}");
        assert_eq!(placed.volume.read_only, nfs.read_only, "{text}");
    }
    // What is mounted read-only cannot be had otherwise by saying so.
    let refusal = url("nfs://nas/data/ro/x?vers=4.2").unwrap_err();
    assert_eq!(refusal.kind, Kind::NotPermitted);
    assert_eq!(
        said(Err(refusal)),
        "backend \"nas\" has that export, with other options than nfs://nas/data/ro/x?vers=4.2 says (leave the URL's query out)"
    );
    assert_eq!(
        said(url("nfs://nas/data/y?soft")),
        "\"nfs://nas/data/y?soft\" is not a storage URL that can be used: \"soft\" in the URL's query is wrong: it loses writes (leave it out: a task waits for its server, and goes on)"
    );
}

#[test]
fn a_url_that_is_not_allowed_says_how_it_would_be() {
    let refusal = url("host:///etc").unwrap_err();
    assert_eq!(refusal.kind, Kind::NotPermitted);
    assert_eq!(
        said(Err(refusal)),
        "the policy of this node does not allow the URL host:///etc (the operator allows it with policy { allow_url = [\"host:///etc\"] } in the agent's configuration)"
    );
    for text in [
        "host:///srv",
        "host:///srvx",
        "host:///opt/one2",
        "seaweedfs://10.0.0.2:8888/buckets/x",
        "seaweedfs://other:8888/xy",
    ] {
        assert_eq!(url(text).unwrap_err().kind, Kind::NotPermitted, "{text}");
    }
}

#[test]
fn a_url_that_could_mean_two_things_is_refused() {
    for (text, sentence) in [
        (
            "host:///srv/../etc",
            "\"host:///srv/../etc\" is not a storage URL that can be used: the URL's path has a component \"..\" (write the directory's own path, with one / between its components and none at its end)",
        ),
        (
            "host:///srv/%2e%2e/etc",
            "\"host:///srv/%2e%2e/etc\" is not a storage URL that can be used: the URL holds '%', which no storage URL may",
        ),
        (
            "seaweed://f:1/x",
            "\"seaweed://f:1/x\" is not a storage URL that can be used: \"seaweed\" is not a scheme of storage (did you mean seaweedfs://?)",
        ),
        (
            "https://example.org/x",
            "\"https://example.org/x\" is not a storage URL that can be used: \"https\" is not a scheme of storage (known are host:///directory, seaweedfs://filer:port/directory, nfs://server/directory and gluster://server/volume/directory)",
        ),
        (
            "host://server/x",
            "\"host://server/x\" is not a storage URL that can be used: a host URL has three slashes and no server: host:///srv/x",
        ),
    ] {
        assert_eq!(said(url(text)), sentence);
    }
}

#[test]
fn a_gluster_url_uses_the_client_that_has_its_volume() {
    let text = r#"
        backend "gluster" "whole" {
          servers = ["gluster1", "gluster2"]
          volume  = "gv0"
        }
        backend "gluster" "deep" {
          servers = ["gluster2"]
          volume  = "gv0"
          path    = "/jobs"
        }
        policy {
          allow_url = ["gluster://gluster1/", "gluster://gluster2/", "gluster://gluster2:24017/"]
        }
    "#;
    let registry = registry(text);
    let placed = |url: &str| {
        let placed = registry.resolve(&SourceName::Url(url.to_owned())).unwrap();
        (placed.backend.name, placed.volume.path)
    };
    assert_eq!(placed("gluster://gluster1/gv0/jobs/x"), ("whole".into(), "jobs/x".into()));
    assert_eq!(placed("gluster://gluster2/gv0/jobs/x"), ("deep".into(), "x".into()));
    assert_eq!(placed("gluster://gluster2/gv0"), ("whole".into(), "".into()));
    let (name, path) = placed("gluster://gluster2:24017/gv0/x/y");
    assert!(name.contains('~'), "{name}");
    assert_eq!(path, PathBuf::from("x/y"));
    for wrong in ["gluster://gluster1/", "gluster://gluster1/g.v/x"] {
        assert!(registry.resolve(&SourceName::Url(wrong.to_owned())).is_err(), "{wrong}");
    }
    let missing = registry.resolve(&SourceName::Url("gluster://gluster1/g:v/x".to_owned())).unwrap_err();
    assert_eq!(missing.message, "gluster://gluster1/g:v/x names no Gluster volume");
}

#[test]
fn a_derived_name_is_a_path_component_whatever_its_length() {
    let deep = format!("/{}", "abcdefghi/".repeat(60));
    let text = format!("policy {{\n  allow_url = [\"host://{deep}\"]\n}}\n");
    let registry = registry(&text);
    let placed = registry.resolve(&SourceName::Url(format!("host://{deep}x"))).unwrap();
    assert!(placed.backend.name.len() <= 128, "{}", placed.backend.name);
    assert_eq!(placed.volume.path, PathBuf::from("x"));
}

mod hostile {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_allowed_stays_below_its_root(text in "(host:///|seaweedfs://10.0.0.1:8888/|)(srv|opt|\\.\\.|\\.|x|%2e|é|)(/(srv|\\.\\.|\\.|x|one||a b)){0,4}") {
            if let Ok(placed) = url(&text) {
                prop_assert!(placed.volume.path.components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert!(!text.contains(".."));
            }
        }
    }
}

#[test]
fn a_page_that_an_earlier_version_wrote_says_nothing_of_sizes() {
    let page = r#"{"name":"pgdata","backend":"main","path":"pg","read_only":false,"create":true,"owner":null,"mode":null,
        "nosuid":true,"nodev":true,"noexec":false}"#;
    let volume: super::Resolved = serde_json::from_str(page).unwrap();
    assert_eq!(volume.size, None);
}

#[test]
fn a_volume_with_a_format_is_the_root_of_a_source_of_its_own() {
    let text = r#"
backend "seaweedfs" "main" {
  filer  = "10.0.0.1:8888"
  path   = "/volumes"
  linger = "1h"
}
volume "pg" {
  backend     = "main"
  create      = true
  format      = "ext4"
  size        = "10GiB"
  access_mode = "single-node-writer"
  owner       = "70:70"
  noexec      = true
}
volume "other" {
  backend     = "main"
  path        = "deep/other"
  format      = "xfs"
  size        = "1GiB"
  access_mode = "single-node-writer"
}
"#;
    let placed = named(text, "pg").unwrap();
    let BackendKind::Image(image) = &placed.backend.kind else { panic!("{:?}", placed.backend) };
    assert_eq!((image.parent.name.as_str(), image.path.as_path()), ("main", Path::new("pg.img")));
    assert_eq!((image.size, image.owner, image.create), (10 << 30, Some((70, 70)), true));
    // No other volume is on it: it goes with its last binding, and nothing is made in it.
    assert!(placed.backend.linger.is_zero() && !placed.backend.attach_at_start && !placed.backend.dynamic);
    let volume = &placed.volume;
    assert_eq!((volume.path.as_path(), volume.create, volume.owner), (Path::new(""), false, None));
    assert_eq!((volume.name.as_str(), volume.backend.as_str(), volume.size), ("pg", "main", Some(10 << 30)));
    assert!(volume.noexec && !volume.read_only);

    let key = crate::backend::key_of(&placed.backend);
    let other = named(text, "other").unwrap().backend;
    assert_ne!(crate::backend::key_of(&other), key);
    assert_eq!(crate::backend::key_of(crate::backend::beneath(&other).unwrap()), crate::backend::key_of(&image.parent));
    // A larger one is the same image.
    let larger = text.replace("10GiB", "20GiB");
    assert_eq!(crate::backend::key_of(&named(&larger, "pg").unwrap().backend), key);
}

#[test]
fn images_of_one_name_on_backends_that_share_a_source_are_two() {
    let blocks = ["one", "two"].map(|name| {
        format!(
            "backend \"seaweedfs\" \"{name}\" {{\n  filer = \"f:8888\"\n  path = \"/{name}\"\n}}\n\
             volume \"of-{name}\" {{\n  backend = \"{name}\"\n  path = \"db\"\n  format = \"ext4\"\n  size = \"1GiB\"\n  \
             access_mode = \"single-node-writer\"\n}}\n"
        )
    });
    let text = blocks.concat();
    let images = ["of-one", "of-two"].map(|name| named(&text, name).unwrap().backend);
    let [one, two] = images.each_ref().map(|image| crate::backend::beneath(image).map(crate::backend::key_of));
    assert_eq!(one, two, "one mount serves both backends");
    assert_ne!(crate::backend::key_of(&images[0]), crate::backend::key_of(&images[1]));
}
