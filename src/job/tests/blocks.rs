use super::*;

fn with(text: &str) -> Allocation {
    allocation(&[("storage_volume", text)])
}

#[test]
fn a_block_says_everything_there_is() {
    let mut allocation = with(
        r#"
        volume "pgdata" {
          source      = "pg-${NOMAD_ALLOC_INDEX}"   # the label where it is left out
          destination = "local/pg"
          read_only   = true
          tasks       = ["postgres"]
          on_failure  = "restart"
        }
        volume "cache" {
        }
        "#,
    );
    allocation.tasks.push(task("web", "raw_exec", Hook::Main, &[]));
    let requests = asked(&allocation).unwrap();
    assert_eq!(
        lines(&requests),
        [
            "postgres: pgdata from pg-3 at local/pg read-only",
            "postgres: cache from cache at local/cache",
            "web: cache from cache at local/cache",
        ]
    );
    assert_eq!(requests[0].on_failure, OnFailure::Restart);
    assert_eq!(requests[1].on_failure, OnFailure::Reattach);
    assert_eq!(requests[2].placement, Placement::Link);
}

#[test]
fn a_one_line_block_is_a_block() {
    assert_eq!(got(&with(r#"volume "x" { source = "pgdata" }"#)), ["postgres: x from pgdata at local/x"]);
    assert_eq!(got(&with(r#"volume "x" {}"#)), ["postgres: x from x at local/x"]);
    assert_eq!(got(&with("volume x {}")), ["postgres: x from x at local/x"]);
}

#[test]
fn mistakes_in_blocks_are_told_with_their_place() {
    for (text, sentence) in [
        (
            "volume \"pgdata\" {\n  sorce = \"x\"\n}",
            "storage_volume, line 2, column 3: unknown key \"sorce\" in volume \"pgdata\" (did you mean \"source\"?)",
        ),
        (
            "volum \"pgdata\" {\n}",
            "storage_volume, line 1, column 1: unknown block \"volum\" here (did you mean \"volume\"?)",
        ),
        (
            "volume \"x\" {\n  read_only = \"true\"\n}",
            "storage_volume, line 2, column 15: read_only must be true or false, not a string (write read_only = true)",
        ),
        (
            "volume \"x\" {\n  tasks = \"postgres\"\n}",
            "storage_volume, line 2, column 11: tasks must be a list of strings, not a string (write tasks = [\"postgres\"])",
        ),
        (
            "volume \"x\" {\n  on_failure = \"restrat\"\n}",
            "storage_volume, line 2, column 16: on_failure cannot be \"restrat\" (did you mean \"restart\"?)",
        ),
        (
            "volume \"x\" {\n  on_failure = \"panic-and-burn\"\n}",
            "storage_volume, line 2, column 16: on_failure cannot be \"panic-and-burn\" (it is reattach, restart or fail)",
        ),
        (
            "volume \"../x\" {\n}",
            "storage_volume, line 1, column 8: \"../x\" cannot label a volume (a label is 1 to 128 letters, digits, `.`, `_` and `-`, the first a letter or digit)",
        ),
        (
            "volume \"x\" {\n}\nvolume \"x\" {\n}",
            "storage_volume, line 3, column 8: volume \"x\" is there twice (give one of them another label)",
        ),
        (
            "volume {\n}",
            "storage_volume, line 1, column 1: a volume block has one label, and this one has 0 (write volume \"NAME\" { … })",
        ),
        (
            "volume \"x\" {\n  source = upper(\"x\")\n}",
            "storage_volume, line 2, column 12: source must be a string, not a function call",
        ),
        (
            "volume \"x\" {\n  source = x\n}",
            "storage_volume, line 2, column 12: source must be a string, not a bare word (put it in double quotes)",
        ),
        (
            "volume \"x\" {\n  source = \"%{ if true }a%{ endif }\"\n}",
            "storage_volume, line 2, column 13: source holds a %{…} directive, and only ${NAME} is known (write %%{ where the text %{ is meant)",
        ),
        (
            "volume \"x\" {\n  source = \"a\"\n  source = \"b\"\n}",
            "storage_volume, line 3, column 3: source is set twice in one place",
        ),
        (
            "# { nothing }",
            "storage_volume holds no volume block (write the name of a volume, or a block volume \"NAME\" { })",
        ),
    ] {
        assert_eq!(refused(&[("storage_volume", text)]), sentence, "{text}");
    }
}

#[test]
fn text_that_is_no_hcl_is_refused() {
    assert_eq!(
        refused(&[("storage_volume", "volume \"x\" {\n  source = \n}")]).split(": ").next(),
        Some("storage_volume, line 2, column 12")
    );
    let one_line = refused(&[("storage_volume", "volume \"x\" { source = \"a\" tasks = [\"b\"] }")]);
    assert!(one_line.ends_with("(write each key of a block on a line of its own)"), "{one_line}");
}

#[test]
fn only_names_are_known_in_references() {
    assert_eq!(
        refused(&[("storage_volume", "volume \"x\" {\n  source = \"${upper(\\\"a\\\")}\"\n}")]).split(": ").next(),
        Some("storage_volume, line 2, column 21")
    );
    assert_eq!(
        refused(&[("storage_volume", "volume \"x\" {\n  source = \"a${1 + 1}\"\n}")]),
        "the source of volume \"x\" has ${1 + 1}, which is no name (known are NOMAD_… names, node.…, attr.… and meta.…, without functions and expressions)"
    );
}

#[test]
fn keys_for_one_volume_do_not_go_with_blocks() {
    let block = ("storage_volume", "volume \"x\" {\n}");
    for (key, value, sentence) in [
        (
            "storage_destination",
            "local/x",
            "storage_destination cannot go with the volume blocks in storage_volume (write destination = \"local/x\" in the block it is meant for)",
        ),
        (
            "storage_read_only",
            "true",
            "storage_read_only cannot go with the volume blocks in storage_volume (write read_only = true in the block it is meant for)",
        ),
        (
            "storage_tasks",
            "postgres",
            "storage_tasks cannot go with the volume blocks in storage_volume (write tasks = [\"x\"] in the block it is meant for)",
        ),
    ] {
        assert_eq!(refused(&[block, (key, value)]), sentence);
    }
}

#[test]
fn too_many_blocks_are_refused() {
    let text: String = (0..257).map(|index| format!("volume \"v{index}\" {{\n}}\n")).collect();
    assert_eq!(
        refused(&[("storage_volume", &text)]),
        "storage_volume holds 257 volume blocks, and at most 256 are read"
    );
}
