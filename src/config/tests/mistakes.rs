use proptest::prelude::*;

use super::*;

#[test]
fn all_mistakes_of_a_file_are_told_in_its_order() {
    let text = r#"state_dir = "var/lib"
hook_timeout = "0s"
status_grp = "x"
status_group = "a b"
nomad {
  address = "nomad:4646"
  cert_file = "/c"
}
backend "seaweed" "a" {
}
backend "seaweedfs" "b" {
  filer = "filer"
  memory_limit = "64MiB"
  replication = "1"
  cache_capacity = "1kB"
  attach = "never"
  dynamc = true
}
backend "host" "c d" {
}
volume "x" {
  backend = "b"
  path = "a/../b"
  access_mode = "single-node-write"
  owner = "root"
  mode = "rwx"
}
volume "y" {
}
policy {
  allow_url = ["hst:///srv", "gluster:///x", "host:///srv/../etc"]
}
"#;
    assert_eq!(
        mistakes(text),
        [
            "agent.hcl:1:13: state_dir must be an absolute path without . and .., not \"var/lib\"",
            "agent.hcl:2:16: hook_timeout must be more than 0s",
            "agent.hcl:3:1: unknown key \"status_grp\" here (did you mean \"status_group\"?)",
            "agent.hcl:4:16: status_group must be the name of a group of this host, not \"a b\"",
            "agent.hcl:5:1: a client certificate needs both cert_file and key_file",
            "agent.hcl:6:13: address must be http://HOST:PORT or https://HOST:PORT, not \"nomad:4646\"",
            "agent.hcl:9:9: \"seaweed\" is not a kind of backend (did you mean \"seaweedfs\"?)",
            "agent.hcl:12:11: filer must be HOST:PORT of one or more filers, separated by commas, not \"filer\"",
            "agent.hcl:13:18: memory_limit must be at least 128MiB: weed mount takes nearly as much with nothing to do",
            "agent.hcl:14:17: replication must be three digits such as \"001\", not \"1\"",
            "agent.hcl:15:20: cache_capacity must be at least 1MiB",
            "agent.hcl:16:12: attach must be \"start\" or \"demand\", not \"never\"",
            "agent.hcl:17:3: unknown key \"dynamc\" in backend \"seaweedfs\" \"b\" (did you mean \"dynamic\"?)",
            "agent.hcl:19:1: backend \"host\" \"c d\" has no path (add path = \"/srv/volumes\")",
            "agent.hcl:19:16: \"c d\" cannot name a backend (a name is 1 to 128 letters, digits, `.`, `_` and `-`, the first a letter or digit)",
            "agent.hcl:23:10: path must be a directory without . and .., not \"a/../b\"",
            "agent.hcl:24:17: \"single-node-write\" is not an access mode (did you mean \"single-node-writer\"?)",
            "agent.hcl:25:11: owner must be a numeric owner such as \"70:70\" (uid:gid), not \"root\"",
            "agent.hcl:26:10: mode must be permission bits in octal such as \"0750\", not \"rwx\"",
            "agent.hcl:28:1: volume \"y\" has no backend (add backend = \"NAME\")",
            "agent.hcl:31:16: allow_url holds \"hst:///srv\", which allows nothing: \"hst\" is not a scheme of storage (did you mean \"host\"?)",
            "agent.hcl:31:30: allow_url holds \"gluster:///x\", which allows nothing: a gluster URL names a server and a volume: gluster://server/volume/x",
            "agent.hcl:31:46: allow_url holds \"host:///srv/../etc\", which allows nothing: the URL's path has a component \"..\"",
        ]
    );
}

#[test]
fn a_size_is_one_that_storage_systems_can_count() {
    let of = |size: &str| {
        let text = format!(
            "backend \"host\" \"d\" {{\n  path = \"/srv\"\n}}\nvolume \"x\" {{\n  backend = \"d\"\n  size = {size}\n}}\n"
        );
        match read(&[("agent.hcl", &text)], &[]) {
            Ok(loaded) => loaded.config.volumes["x"].size.unwrap().to_string(),
            Err(invalid) => invalid.to_string(),
        }
    };
    assert_eq!([of("\"1MiB\""), of("\"10 GB\"")], ["1048576", "10000000000"]);
    for wrong in ["\"0B\"", "\"1023KiB\"", "\"8388608TiB\""] {
        assert_eq!(of(wrong), "agent.hcl:6:10: size must be at least 1MiB, and less than 8388608TiB");
    }
    assert!(of("\"ten\"").starts_with("agent.hcl:6:10: size must be a size such as"), "{}", of("\"ten\""));
    assert!(of("10").starts_with("agent.hcl:6:10: size must be"), "{}", of("10"));
}

#[test]
fn a_collection_is_said_where_it_can_be_kept() {
    let text = "backend \"host\" \"disk\" {\n  path = \"/srv\"\n}\n\
        backend \"seaweedfs\" \"all\" {\n  filer = \"f:8888\"\n  collection = \"c\"\n}\n\
        backend \"seaweedfs\" \"each\" {\n  filer = \"f:8888\"\n}\n\
        volume \"a\" {\n  backend = \"disk\"\n  collection = \"a\"\n}\n\
        volume \"b\" {\n  backend = \"all\"\n  collection = \"b\"\n}\n\
        volume \"c\" {\n  backend = \"each\"\n  path = \"/buckets/d/x\"\n  collection = \"c\"\n}\n\
        volume \"d\" {\n  backend = \"each\"\n  path = \"/buckets/d\"\n  collection = \"d\"\n}\n\
        volume \"e\" {\n  backend = \"each\"\n  path = \"/\"\n  collection = \"e\"\n}\n";
    assert_eq!(
        mistakes(text),
        [
            "agent.hcl:11:1: volume \"a\" has a collection, and backend \"disk\" knows none (leave it out)",
            "agent.hcl:15:1: volume \"b\" has collection \"b\", and its backend has \"c\" for all (say `collection` of the volumes only: what a mount says comes before every rule)",
            "agent.hcl:19:1: volume \"c\" has collection \"c\", and lies in a bucket, whose data is always in the collection of its name (leave `collection` out, or put the volume elsewhere in the filer)",
            "agent.hcl:29:1: volume \"e\" has collection \"e\", and is the filer's whole tree (put the volume into a directory of its own)",
        ]
    );
}

#[test]
fn an_image_is_on_a_backend_that_can_hold_one() {
    let image = "format = \"ext4\"\n  size = \"1GiB\"\n  access_mode = \"single-node-writer\"\n";
    let text = format!(
        "backend \"seaweedfs\" \"ro\" {{\n  filer = \"f:8888\"\n  read_only = true\n}}\n\
         backend \"seaweedfs\" \"rw\" {{\n  filer = \"f:8888\"\n}}\n\
         volume \"a\" {{\n  backend = \"ro\"\n  {image}}}\nvolume \"b\" {{\n  backend = \"rw\"\n  collection = \"b\"\n  {image}}}\n"
    );
    assert_eq!(
        mistakes(&text),
        [
            "agent.hcl:8:1: volume \"a\" has a format, and its backend is read-only (an image is written to whenever it is attached: put it on another backend)",
            "agent.hcl:14:1: volume \"b\" has a collection, and its image is a file: a collection is a directory's (leave `collection` out, or put the image into a directory that has one)",
        ]
    );
}

#[test]
fn a_volume_with_a_format_says_all_that_an_image_needs() {
    let of = |words: &str| {
        let text = format!(
            "backend \"host\" \"d\" {{\n  path = \"/srv\"\n}}\nvolume \"x\" {{\n  backend = \"d\"\n  {words}\n}}\n"
        );
        read(&[("agent.hcl", &text)], &[]).map_or_else(|invalid| invalid.to_string(), |_| "taken".to_owned())
    };
    let mode = "access_mode = \"single-node-writer\"\n";
    for (words, wanted) in [
        (format!("format = \"ext4\"\nsize = \"16MiB\"\n{mode}"), "taken"),
        (
            "format = \"ext4\"\nsize = \"16MiB\"".to_owned(),
            "agent.hcl:6:12: a volume with a format is attached by one node at a time (write access_mode = \"single-node-writer\")",
        ),
        (
            "format = \"ext4\"\nsize = \"16MiB\"\naccess_mode = \"single-node-reader-only\"".to_owned(),
            "agent.hcl:6:12: a volume with a format is attached by one node at a time (write access_mode = \"single-node-writer\")",
        ),
        (
            format!("format = \"xfs\"\n{mode}"),
            "agent.hcl:6:12: a volume with a format needs a size (write size = \"10GiB\")",
        ),
        (
            format!("format = \"xfs\"\nsize = \"299MiB\"\n{mode}"),
            "agent.hcl:6:12: 299MiB is too small for xfs (the least is 300MiB)",
        ),
        (
            format!("format = \"ext4\"\nsize = \"10GB\"\n{mode}"),
            "agent.hcl:6:12: the size of a volume with a format is a whole number of MiB, and 9765625KiB is none (write size = \"9537MiB\")",
        ),
        (
            format!("format = \"ext3\"\nsize = \"1GiB\"\n{mode}"),
            "agent.hcl:6:12: \"ext3\" is not a file system that an image can have (did you mean \"ext4\"?)",
        ),
    ] {
        assert_eq!(of(&words), wanted, "{words}");
    }
}

#[test]
fn what_must_hold_between_blocks_is_checked() {
    let text = "backend \"host\" \"disk\" {\n  path = \"/srv\"\n  dynamic = true\n}\n\
        backend \"host\" \"more\" {\n  path = \"/mnt\"\n  dynamic = true\n}\n\
        volume \"x\" {\n  backend = \"dsk\"\n}\nvolume \"y\" {\n  backend = \"somewhere\"\n}\n";
    assert_eq!(
        mistakes(text),
        [
            "agent.hcl:5:1: backend \"more\" is dynamic, and so is \"disk\" at agent.hcl:1:1 (at most one can be)",
            "agent.hcl:9:1: volume \"x\" is on a backend \"dsk\", which does not exist (did you mean \"disk\"?)",
            "agent.hcl:12:1: volume \"y\" is on a backend \"somewhere\", which does not exist (add a block backend \"host\" \"somewhere\" or backend \"seaweedfs\" \"somewhere\")",
        ]
    );
}

#[test]
fn a_read_only_backend_is_not_dynamic() {
    assert_eq!(
        mistakes("backend \"seaweedfs\" \"a\" {\n  filer = \"f:1\"\n  read_only = true\n  dynamic = true\n}\n"),
        ["agent.hcl:4:13: a read-only backend cannot be dynamic: nothing could be created there"]
    );
}

#[test]
fn definitions_in_two_files_name_both_places() {
    let one =
        "run_dir = \"/run/a\"\nbackend \"host\" \"d\" {\n  path = \"/srv\"\n}\nvolume \"x\" {\n  backend = \"d\"\n}\n";
    let two = "\nrun_dir = \"/run/b\"\nbackend \"seaweedfs\" \"d\" {\n  filer = \"f:1\"\n}\nvolume \"x\" {\n  backend = \"d\"\n}\nnomad {\n}\nnomad {\n}\n";
    let invalid = read(&[("agent.hcl", one), ("conf.d/two.hcl", two)], &[]).unwrap_err();
    assert_eq!(
        invalid.to_string(),
        "conf.d/two.hcl:2:11: run_dir is set twice, first at agent.hcl:1:11\n\
         conf.d/two.hcl:3:1: backend \"d\" is defined twice, first at agent.hcl:2:1\n\
         conf.d/two.hcl:6:1: volume \"x\" is defined twice, first at agent.hcl:5:1\n\
         conf.d/two.hcl:11:1: nomad is set twice, first at conf.d/two.hcl:9:1"
    );
}

#[test]
fn volumes_that_share_a_directory_are_warned_of() {
    let volume = |name: &str, rest: &str| format!("volume \"{name}\" {{\n  backend = \"d\"\n{rest}}}\n");
    let text = [
        "backend \"host\" \"d\" {\n  path = \"/srv\"\n}\n".to_owned(),
        volume("a", ""),
        volume("b", "  path = \"/a\"\n"),
        volume("c", "  path = \"a/c\"\n"),
        volume("a-b", ""),
        volume("r", "  create = true\n  read_only = true\n"),
    ]
    .concat();
    let loaded = read(&[("agent.hcl", &text)], &[]).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "agent.hcl:7:1: volume \"b\" is the same directory as volume \"a\" at agent.hcl:4:1",
            "agent.hcl:11:1: volume \"c\" is inside volume \"b\" at agent.hcl:7:1",
            "agent.hcl:18:1: volume \"r\" is read-only, so create has no effect",
        ]
    );
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        drop(Config::parse(&text, "x"));
    }

    #[test]
    fn no_words_make_it_panic(pieces in prop::collection::vec(prop::sample::select(vec![
        "state_dir", "nomad", "backend", "volume", "policy", " \"host\" ", " \"seaweedfs\" ", " \"a\" ", "{\n", "}\n", "\n", "=",
        "path", "filer", "\"/srv\"", "\"f:1\"", "allow_url", "[", "]", "\"host:///\"", "dynamic", "true", "\"..\"", "mode",
        "owner", "\"1:1\"", "linger", "\"5m\"", "\"\"", "backend = \"a\"\n", "path = \"/\"\n", "filer = \"f:1\"\n",
    ]), 0..40)) {
        drop(Config::parse(&pieces.concat(), "x"));
    }
}

#[test]
fn an_address_of_metrics_is_an_ip_and_a_port_and_is_said_once() {
    let text = "metrics {\n  address = \"localhost:9469\"\n}\nmetrics {\n  address = \"0.0.0.0:0\"\n  adress = \"x\"\n}\nmetrics {}\n";
    assert_eq!(
        mistakes(text),
        [
            "agent.hcl:2:13: address must be IP:PORT such as \"127.0.0.1:9469\", not \"localhost:9469\"",
            "agent.hcl:4:1: metrics is set twice, first at agent.hcl:1:1",
            "agent.hcl:5:13: address must be IP:PORT such as \"127.0.0.1:9469\", not \"0.0.0.0:0\"",
            "agent.hcl:6:3: unknown key \"adress\" in metrics (did you mean \"address\"?)",
            "agent.hcl:8:1: metrics has no address (add address = \"127.0.0.1:9469\")",
            "agent.hcl:8:1: metrics is set twice, first at agent.hcl:1:1",
        ]
    );
}

#[test]
fn metrics_that_everybody_can_read_are_warned_of() {
    let told = |address: &str| {
        let text = format!("metrics {{\n  address = \"{address}\"\n}}\n");
        read(&[("agent.hcl", &text)], &[]).unwrap().warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(told("127.0.0.1:9469"), [""; 0]);
    let warnings = told("0.0.0.0:9469");
    assert!(warnings[0].starts_with("agent.hcl:1:1: metrics at 0.0.0.0:9469 are told to everybody"), "{warnings:?}");
}
