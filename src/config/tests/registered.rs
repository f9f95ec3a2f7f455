use super::*;

const AGENT: &str = "backend \"host\" \"disk\" {\n  path = \"/srv\"\n}\nvolume \"files\" {\n  backend = \"disk\"\n}\n";

fn told(text: &str) -> Result<String, String> {
    let config = Config::parse(AGENT, "agent.hcl").unwrap();
    config.read_volume(text, "pg.hcl").map(|volume| volume.name).map_err(|invalid| invalid.to_string())
}

#[test]
fn a_definition_is_one_volume_block_and_nothing_else() {
    assert_eq!(told("# data\nvolume \"pg\" {\n  backend = \"disk\"\n  size = \"1GiB\"\n}\n"), Ok("pg".to_owned()));
    assert_eq!(
        told(
            "volume \"a\" {\n  backend = \"disk\"\n}\nvolume \"b\" {\n  backend = \"disk\"\n}\nbackend \"host\" \"x\" {\n}\n"
        ),
        Err("pg.hcl:4:1: this is a second volume (register each volume by a file of its own)\n\
             pg.hcl:7:1: unknown block \"backend\" here"
            .to_owned())
    );
    assert!(told("").unwrap_err().starts_with("pg.hcl:1:1: there is no volume block"));
}

#[test]
fn mistakes_of_a_definition_have_their_place() {
    assert_eq!(
        told("volume \"pg\" {\n  backend = \"dsk\"\n  sise = \"1GiB\"\n}\n"),
        Err("pg.hcl:3:3: unknown key \"sise\" in volume \"pg\" (did you mean \"size\"?)".to_owned())
    );
    assert_eq!(
        told("volume \"pg\" {\n  backend = \"dsk\"\n}\n"),
        Err("pg.hcl:1:1: volume \"pg\" is on a backend \"dsk\", which does not exist (did you mean \"disk\"?)"
            .to_owned())
    );
    assert_eq!(
        told("volume \"../etc\" {\n  backend = \"disk\"\n  path = \"../etc\"\n}\n"),
        Err("pg.hcl:1:8: \"../etc\" cannot name a volume (a name is 1 to 128 letters, digits, `.`, `_` and `-`, the first a letter or digit)\n\
             pg.hcl:3:10: path must be a directory without . and .., not \"../etc\""
            .to_owned())
    );
}

#[test]
fn a_name_that_the_files_have_too_is_an_error_that_names_both_places() {
    assert_eq!(
        told("\nvolume \"files\" {\n  backend = \"disk\"\n}\n"),
        Err("pg.hcl:2:1: volume \"files\" is defined twice, first at agent.hcl:4:1".to_owned())
    );
}
