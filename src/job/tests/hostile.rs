use proptest::prelude::*;

use super::*;

fn word() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "volume",
        " \"x\" ",
        "{",
        "}",
        "\n",
        "source",
        "=",
        "\"",
        "destination",
        "tasks",
        "[",
        "]",
        "postgres",
        "${",
        "}",
        "$",
        "NOMAD_ALLOC_INDEX",
        "meta.rack",
        "..",
        "/",
        "local",
        "host://",
        "true",
        " ",
        "é",
        "\u{0}",
        "env[\"",
        "\"]",
        "%{",
        "#",
        ",",
    ]);
    prop_oneof!["\\PC{0,80}", prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())]
}

fn meta() -> impl Strategy<Value = BTreeMap<String, String>> {
    let key = prop::sample::select(vec![
        "storage_volume",
        "storage_destination",
        "storage_read_only",
        "storage_tasks",
        "storage_x",
        "other",
    ]);
    prop::collection::btree_map(key.prop_map(str::to_owned), word(), 0..4)
}

proptest! {
    #[test]
    fn no_meta_makes_it_panic_and_nothing_leaves_the_task(job in meta(), group in meta(), hook in meta(), main in meta()) {
        let mut allocation = allocation(&[]);
        allocation.job_meta = job;
        allocation.group_meta = group;
        allocation.tasks[0].meta = hook;
        allocation.tasks[1].meta = main;
        if let Ok(requests) = asked(&allocation) {
            prop_assert!(!requests.is_empty());
            for request in requests {
                prop_assert_eq!(&request.task, "postgres");
                let mut components = request.destination.as_path().components();
                prop_assert!(components.all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }

    #[test]
    fn no_volume_text_makes_it_panic(text in word()) {
        drop(asked(&allocation(&[("storage_volume", &text)])));
    }
}
