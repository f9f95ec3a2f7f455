//! A filer's rules: what is stored below a directory has the collection, replication and so on that its rule says.
//!
//! They are JSON as Protocol Buffers write it (`FilerConf` of weed/pb/filer.proto). Only the one rule of a volume's own
//! directory is ever added or changed, and of that only what is said here; all else stays as it was read.

use serde_json::{Map, Value, json};

/// The version of the format that is written where there are no rules yet (`FilerConfVersion` in weed/filer/filer_conf.go).
const VERSION: u32 = 1;

/// What is to be stored how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// The directory, with `/` at its end: a rule is for every path that begins with its text, `/a/b` for `/a/bc` too.
    pub prefix: String,
    /// The collection of what is new below it.
    pub collection: String,
}

/// Why rules cannot be changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum RulesError {
    /// They are not what a filer writes.
    #[error("the filer's rules are not understood: {0}")]
    NotRules(&'static str),
    /// Somebody has said otherwise of the very directory.
    #[error("the filer has a rule for {prefix} already, with collection {found:?}")]
    Otherwise {
        /// The directory.
        prefix: String,
        /// Its collection.
        found: String,
    },
}

/// The rules with this one among them; none where it is among them already.
///
/// # Errors
/// [`RulesError`]; they are then to be left as they are.
pub(super) fn with(text: &[u8], rule: &Rule) -> Result<Option<String>, RulesError> {
    let mut rules: Map<String, Value> = if text.trim_ascii().is_empty() {
        Map::from_iter([("version".to_owned(), json!(VERSION))])
    } else {
        serde_json::from_slice(text).map_err(|_| RulesError::NotRules("they are not a JSON object"))?
    };
    let locations = rules.entry("locations").or_insert_with(|| json!([]));
    let locations = locations.as_array_mut().ok_or(RulesError::NotRules("`locations` is not a list"))?;
    let prefix_of = |location: &Value| {
        // Protocol Buffers read both spellings.
        let said = location.get("locationPrefix").or_else(|| location.get("location_prefix"));
        said.and_then(Value::as_str).map(str::to_owned)
    };
    for location in locations.iter_mut() {
        if prefix_of(location).as_deref() != Some(rule.prefix.as_str()) {
            continue;
        }
        let Some(location) = location.as_object_mut() else { continue };
        match location.get("collection").and_then(Value::as_str).unwrap_or_default() {
            found if found == rule.collection => return Ok(None),
            "" => {
                location.insert("collection".to_owned(), json!(rule.collection));
                return serialize(&rules).map(Some);
            }
            // What is stored already stays where it is: two collections would hold one volume.
            found => return Err(RulesError::Otherwise { prefix: rule.prefix.clone(), found: found.to_owned() }),
        }
    }
    locations.push(json!({ "locationPrefix": rule.prefix, "collection": rule.collection }));
    serialize(&rules).map(Some)
}

fn serialize(rules: &Map<String, Value>) -> Result<String, RulesError> {
    serde_json::to_string_pretty(rules).map_err(|_| RulesError::NotRules("they cannot be written as JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(prefix: &str, collection: &str) -> Rule {
        Rule { prefix: prefix.into(), collection: collection.into() }
    }

    fn parse(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_rule_is_added_beside_what_others_have_said() {
        let others = r#"{"version":1,"locations":[{"locationPrefix":"/other/","collection":"c","worm":true,"newer":{"x":[1]}}],"unknown":2}"#;
        let mut wanted = parse(others);
        wanted["locations"].as_array_mut().unwrap().push(json!({"locationPrefix":"/volumes/a/","collection":"a"}));
        let changed = with(others.as_bytes(), &rule("/volumes/a/", "a")).unwrap().unwrap();
        assert_eq!(parse(&changed), wanted);
        assert_eq!(with(changed.as_bytes(), &rule("/volumes/a/", "a")), Ok(None));
    }

    #[test]
    fn the_first_rule_makes_the_file() {
        let made = with(b"", &rule("/volumes/a/", "a")).unwrap().unwrap();
        assert_eq!(parse(&made), json!({"version":1,"locations":[{"locationPrefix":"/volumes/a/","collection":"a"}]}));
    }

    #[test]
    fn of_a_rule_that_is_there_only_a_missing_collection_is_said() {
        let locked = r#"{"locations":[{"location_prefix":"/v/a/","readOnly":true,"replication":"001"}]}"#;
        let changed = with(locked.as_bytes(), &rule("/v/a/", "a")).unwrap().unwrap();
        let expected = json!({"location_prefix":"/v/a/","readOnly":true,"replication":"001","collection":"a"});
        assert_eq!(parse(&changed)["locations"], json!([expected]));
        let other = r#"{"locations":[{"locationPrefix":"/v/a/","collection":"b"}]}"#;
        assert_eq!(
            with(other.as_bytes(), &rule("/v/a/", "a")),
            Err(RulesError::Otherwise { prefix: "/v/a/".into(), found: "b".into() })
        );
    }

    #[test]
    fn what_is_not_understood_is_left_as_it_is() {
        for text in ["[]", "{", r#"{"locations":{}}"#, "locations {}"] {
            assert!(matches!(with(text.as_bytes(), &rule("/v/", "v")), Err(RulesError::NotRules(_))), "{text}");
        }
    }
}
