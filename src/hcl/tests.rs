use super::{Document, Part, Problem, Source, value, written_size};

fn problems(text: &str) -> Vec<Problem> {
    let document = match Document::parse(text, 4096) {
        Ok(document) => document,
        Err(problem) => return vec![problem],
    };
    let mut section = document.section();
    section.string("name");
    section.boolean("read_only");
    section.integer("count");
    section.strings("tasks");
    section.size("limit");
    section.duration("wait");
    section.mode("mode");
    section.owner("owner");
    let mut found = Vec::new();
    for (_, mut inner) in section.blocks("volume", &["NAME"]) {
        inner.string("path");
        inner.require("path", "\"/srv\"");
        inner.finish(&mut found);
    }
    section.finish(&mut found);
    found
}

fn told(text: &str) -> Vec<String> {
    let source = Source { name: "agent.hcl", text };
    problems(text).into_iter().map(|problem| source.locate(problem).to_string()).collect()
}

#[test]
fn every_mistake_of_a_text_is_told_with_its_place() {
    let text =
        "nme = \"x\"\nread_only = \"true\"\ncount = -1\n\ntasks = \"db\"\nvolum \"x\" {\n}\n  limit = \"1 Gig\"\n";
    let mut found = told(text);
    found.sort();
    assert_eq!(
        found,
        [
            "agent.hcl:1:1: unknown key \"nme\" here (did you mean \"name\"?)",
            "agent.hcl:2:13: read_only must be true or false, not a string (write read_only = true)",
            "agent.hcl:3:9: count must be a whole number from 0",
            "agent.hcl:5:9: tasks must be a list of strings, not a string (write tasks = [\"db\"])",
            "agent.hcl:6:1: unknown block \"volum\" here (did you mean \"volume\"?)",
            "agent.hcl:8:11: limit must be a size such as \"512MiB\" or \"1GiB\", not \"1 Gig\"",
        ]
    );
}

#[test]
fn a_key_that_is_set_twice_is_named() {
    assert_eq!(told("name = \"a\"\nname = \"b\"\n"), ["agent.hcl:2:1: name is set twice in one place"]);
}

#[test]
fn a_missing_key_is_told_where_its_block_begins() {
    assert_eq!(told("\nvolume \"x\" {\n}\n"), ["agent.hcl:2:1: volume \"x\" has no path (add path = \"/srv\")"]);
}

#[test]
fn a_wrong_number_of_labels_is_told() {
    assert_eq!(
        told("volume {\n}\n"),
        ["agent.hcl:1:1: a volume block has one label, and this one has 0 (write volume \"NAME\" { … })"]
    );
}

#[test]
fn a_key_is_no_block_and_a_block_is_no_key() {
    assert_eq!(
        told("name {\n}\nvolume = \"x\"\n"),
        [
            "agent.hcl:3:1: volume is a block here, not a key (write volume … { })",
            "agent.hcl:1:1: name is a key here, not a block (write name = …)",
        ]
    );
}

#[test]
fn forms_of_strings_are_strict() {
    for (text, right) in [
        ("wait = \"30s\"", true),
        ("wait = \"1h 30m\"", true),
        ("wait = \"forever\"", false),
        ("wait = \"1000years\"", false),
        ("wait = 30", false),
        ("mode = \"0750\"", true),
        ("mode = \"750\"", true),
        ("mode = \"0o750\"", false),
        ("mode = \"+750\"", false),
        ("mode = \"08\"", false),
        ("owner = \"70:70\"", true),
        ("owner = \"root:root\"", false),
        ("owner = \"70\"", false),
        ("owner = \"4294967295:0\"", false),
        ("limit = \"1GiB\"", true),
        ("limit = \"16777216TiB\"", false),
        ("limit = \"-1GiB\"", false),
        ("limit = \"GiB\"", false),
        ("name = \"a${b}\"", false),
        ("name = \"a$${b}\"", true),
        ("name = upper(\"x\")", false),
        ("name = null", false),
    ] {
        assert_eq!(problems(text).is_empty(), right, "{text}: {:?}", problems(text));
    }
}

#[test]
fn references_are_parts_and_escapes_are_text() {
    let document = Document::parse("name = \"a$${b}-${NOMAD_ALLOC_INDEX}${ env[\"X\"] }\\n\"\n", 4096).unwrap();
    let text = document.section().text("name").unwrap();
    assert_eq!(
        text.value.parts,
        [
            Part::Literal("a${b}-".to_owned()),
            Part::Reference("NOMAD_ALLOC_INDEX".to_owned()),
            Part::Reference(" env[\"X\"] ".to_owned()),
            Part::Literal("\n".to_owned()),
        ]
    );
}

#[test]
fn a_directive_is_no_reference() {
    assert_eq!(
        told("name = \"%{ if true }x%{ endif }\"\n"),
        [
            "agent.hcl:1:9: name holds a %{…} directive, and only ${NAME} is known (write %%{ where the text %{ is meant)"
        ]
    );
}

#[test]
fn a_reference_in_a_label_is_explained() {
    let found = told("volume \"pg-${NOMAD_ALLOC_INDEX}\" {\n}\n");
    assert_eq!(found.len(), 1);
    assert!(
        found[0].ends_with("(a label cannot hold ${…}: give the block a plain label and write the reference in a key)"),
        "{found:?}"
    );
}

#[test]
fn several_keys_on_one_line_are_explained() {
    let found = told("volume \"x\" { path = \"a\"  mode = \"b\" }\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].ends_with("(write each key of a block on a line of its own)"), "{found:?}");
}

#[test]
fn too_much_text_is_not_read() {
    let text = " ".repeat(5000);
    assert_eq!(told(&text), ["agent.hcl:1:1: the text has 5000 bytes, and at most 4096 are read"]);
}

/// With half of the 2 MiB that a thread has, in a build without optimisation.
#[test]
fn nesting_never_overflows_the_stack() {
    std::thread::Builder::new().stack_size(1 << 20).spawn(nest_deeply).unwrap().join().unwrap();
}

fn nest_deeply() {
    let limit = 1 << 20;
    for (open, close) in
        [("[", "]"), ("{a=", "}"), ("(", ")"), ("\"${", "}\""), ("!", ""), ("f(", ")"), ("a[", "]"), ("1+(", ")")]
    {
        for depth in [10, 60, 63, 64, 65, 1000, 20_000] {
            let text = format!("name = {}1{}\n", open.repeat(depth), close.repeat(depth));
            drop(Document::parse(&text, limit));
        }
    }
    for depth in [10, 60, 63, 64, 65, 1000, 20_000] {
        drop(Document::parse(&format!("{}{}", "a {\n".repeat(depth), "}\n".repeat(depth)), limit));
        drop(Document::parse(&format!("name = \"{}{}\"", "%{if a}".repeat(depth), "%{endif}".repeat(depth)), limit));
        drop(Document::parse(&format!("name = {}1", "1+".repeat(depth)), limit));
        drop(Document::parse(&format!("name = {}1", "a?b:".repeat(depth)), limit));
        drop(Document::parse(&format!("name = a{}", ".b".repeat(depth)), limit));
    }
}

#[test]
fn brackets_in_texts_and_comments_are_no_nesting() {
    let many = "[{(".repeat(100);
    for text in [
        format!("name = \"{many}\"\n"),
        format!("name = \"\\\"{many}\"\n"),
        format!("# {many}\n// {many}\n/* {many}\n{many} */\nname = \"x\"\n"),
        format!("name = <<EOT\n{many}\n\"$${{{many}\n  EOT\n"),
        "volume \"a-b\" {\n  path = \"x\"\n}\n".repeat(100),
        "# a - b ? c : !d + e * f & g | h\n".repeat(100),
    ] {
        let found = Document::parse(&text, 1 << 20).map(drop);
        assert_eq!(found, Ok(()), "{text}");
    }
    let nested = format!("name = {}{}\n", "[".repeat(17), "]".repeat(17));
    assert_eq!(
        told(&nested),
        [
            "agent.hcl:1:24: the text nests deeper than 16 levels, or calculates (values are written out: there are no expressions)"
        ]
    );
}

mod hostile {
    use proptest::prelude::*;

    use super::told;

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}") {
            drop(told(&text));
        }

        #[test]
        fn no_text_of_hcl_pieces_makes_it_panic(pieces in prop::collection::vec(prop::sample::select(vec![
            "name", "volume", "=", "\"", "{", "}", "[", "]", "(", ")", "${", "%{", "$${", "\\", "\n", " ", "<<EOT\n", "<<-E\n",
            "EOT", "\nE", "#", "/*", "*/", "//", ",", ":", ".", "1", "-", "!", "~", "é", "\u{0}", "if", "for", "in", "endif",
            "null", "true", "x", "\r\n", "env[\"A\"]", "\"s\"", "...", "?", "=>",
        ]), 0..60)) {
            drop(told(&pieces.concat()));
        }
    }
}

#[test]
fn a_size_is_written_as_it_is_read() {
    for text in ["1MiB", "10GiB", "1536MiB", "3TiB", "1025B", "8KiB", "0B"] {
        assert_eq!(written_size(value::size(text).unwrap()), text);
    }
}
