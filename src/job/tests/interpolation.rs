use proptest::prelude::*;

use super::*;
use crate::hcl::{Part, Text};
use crate::job::interpolate::{Names, scan};

fn expand(text: &str) -> String {
    let mut allocation =
        allocation(&[("shard-no", "7"), ("who", "${node.unique.name}"), ("deep", "${NOMAD_META_who}")]);
    allocation.job_parent_id = Some("parent".to_owned());
    let names = Names::of(&allocation, &allocation.tasks[1], &node());
    match scan(text).and_then(|text| names.expand(&text)) {
        Ok(expanded) => expanded,
        Err(error) => match error.hint() {
            Some(hint) => format!("{error} ({hint})"),
            None => error.to_string(),
        },
    }
}

#[test]
fn nomads_names_are_known() {
    for (name, value) in [
        ("NOMAD_ALLOC_ID", "12345678-9abc-def0-1234-56789abcdef0"),
        ("NOMAD_SHORT_ALLOC_ID", "12345678"),
        ("NOMAD_ALLOC_NAME", "shop.db[3]"),
        ("NOMAD_ALLOC_INDEX", "3"),
        ("NOMAD_TASK_NAME", "postgres"),
        ("NOMAD_GROUP_NAME", "db"),
        ("NOMAD_JOB_ID", "shop"),
        ("NOMAD_JOB_NAME", "shop"),
        ("NOMAD_JOB_PARENT_ID", "parent"),
        ("NOMAD_DC", "dc1"),
        ("NOMAD_REGION", "global"),
        ("NOMAD_NAMESPACE", "default"),
        ("NOMAD_CPU_LIMIT", "500"),
        ("NOMAD_MEMORY_LIMIT", "256"),
        ("NOMAD_META_shard_no", "7"),
        ("NOMAD_META_SHARD_NO", "7"),
        ("NOMAD_META_who", "alpha"),
        ("node.unique.id", "node-id"),
        ("node.unique.name", "alpha"),
        ("node.datacenter", "dc1"),
        ("node.region", "global"),
        ("node.class", "big"),
        ("node.pool", "default"),
        ("attr.kernel.name", "linux"),
        ("meta.rack", "r7"),
        ("env[\"NOMAD_ALLOC_INDEX\"]", "3"),
        (" NOMAD_ALLOC_INDEX ", "3"),
    ] {
        assert_eq!(expand(&format!("${{{name}}}")), value);
    }
    assert_eq!(expand("a-${NOMAD_ALLOC_INDEX}-${meta.rack}-z"), "a-3-r7-z");
}

#[test]
fn an_escape_is_text() {
    assert_eq!(expand("$${NOMAD_ALLOC_INDEX}"), "${NOMAD_ALLOC_INDEX}");
    assert_eq!(expand("$$$ {x} 100%"), "$$$ {x} 100%");
}

#[test]
fn other_names_are_refused_with_the_nearest() {
    for (text, sentence) in [
        (
            "${NOMAD_ALLOC_INDX}",
            "has ${NOMAD_ALLOC_INDX}, which Nomad does not know for this task (did you mean ${NOMAD_ALLOC_INDEX}?)",
        ),
        (
            "${NOMAD_META_shard-no}",
            "has ${NOMAD_META_shard-no}, which Nomad does not know for this task (did you mean ${NOMAD_META_shard_no}?)",
        ),
        (
            "${HOME_OF_SOMEONE_ELSE}",
            "has ${HOME_OF_SOMEONE_ELSE}, which Nomad does not know for this task (known are NOMAD_… names, node.…, attr.… and meta.…, without functions and expressions)",
        ),
        (
            "${NOMAD_TASK_DIR}",
            "has ${NOMAD_TASK_DIR}, and directories, ports, addresses and secrets do not name storage (use NOMAD_JOB_ID, NOMAD_ALLOC_INDEX or the like)",
        ),
        (
            "${NOMAD_PORT_http}",
            "has ${NOMAD_PORT_http}, and directories, ports, addresses and secrets do not name storage (use NOMAD_JOB_ID, NOMAD_ALLOC_INDEX or the like)",
        ),
        (
            "${upper(\"x\")}",
            "has ${upper(\"x\")}, which is no name (known are NOMAD_… names, node.…, attr.… and meta.…, without functions and expressions)",
        ),
        (
            "${NOMAD_META_deep}",
            "has ${NOMAD_META_deep}, whose own value refers to \"NOMAD_META_who\", which cannot be replaced there",
        ),
        ("${NOMAD_ALLOC_ID", "has a ${ without its } (write $${ where the text ${ is meant)"),
    ] {
        assert_eq!(expand(text), sentence);
    }
    // A name of the node is no name of the environment.
    assert!(expand("${env[\"meta.rack\"]}").contains("does not know"));
}

#[test]
fn an_author_reads_which_key_it_was() {
    assert_eq!(
        refused(&[("storage_volume", "pg-${NOMAD_ALLOC_INDX}")]),
        "storage_volume has ${NOMAD_ALLOC_INDX}, which Nomad does not know for this task (did you mean ${NOMAD_ALLOC_INDEX}?)"
    );
    assert_eq!(
        refused(&[("storage_volume", "volume \"x\" {\n  destination = \"local/${NOMAD_TASK_DIR}\"\n}")]),
        "the destination of volume \"x\" has ${NOMAD_TASK_DIR}, and directories, ports, addresses and secrets do not name storage (use NOMAD_JOB_ID, NOMAD_ALLOC_INDEX or the like)"
    );
    assert_eq!(
        refused(&[("storage_volume", "pg-${NOMAD")]).split(" (").next(),
        Some("storage_volume has a ${ without its }")
    );
}

#[test]
fn each_task_gets_its_own_name() {
    let mut allocation = allocation(&[("storage_volume", "of-${NOMAD_TASK_NAME}")]);
    allocation.tasks.push(task("web", "docker", Hook::Main, &[]));
    assert_eq!(
        got(&allocation),
        ["postgres: of-postgres from of-postgres at local/of-postgres", "web: of-web from of-web at local/of-web"]
    );
}

#[test]
fn what_comes_in_is_not_read_again() {
    let mut allocation = allocation(&[("storage_volume", "volume \"x\" {\n  source = \"${meta.rack}\"\n}")]);
    let mut node = node();
    node.meta = map(&[("rack", "x\"\n}\nvolume \"y\" {")]);
    assert!(read(&allocation, "storage", &node).is_err());
    node.meta = map(&[("rack", "${NOMAD_JOB_ID}")]);
    allocation.group_meta = map(&[("storage_volume", "${meta.rack}")]);
    assert_eq!(
        read(&allocation, "storage", &node).unwrap_err().message,
        "storage_volume \"${NOMAD_JOB_ID}\" is neither a volume's name nor a URL"
    );
}

#[test]
fn an_expansion_has_an_end() {
    let text = "${NOMAD_ALLOC_ID}".repeat(1000);
    assert_eq!(expand(&text), "comes to more than 4096 bytes");
}

proptest! {
    #[test]
    fn text_without_references_is_left_alone(text in "\\PC{0,60}") {
        prop_assume!(!text.contains("${"));
        let parts = if text.is_empty() { vec![] } else { vec![Part::Literal(text.clone())] };
        prop_assert_eq!(scan(&text).unwrap(), Text { parts });
    }

    #[test]
    fn scanning_never_panics(text in "[$\\{\\}\"a-c\u{e9}\\[\\]]{0,40}") {
        drop(scan(&text));
    }
}
