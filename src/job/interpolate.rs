//! `${NAME}`: Nomad's runtime names, for a task on this node. Nothing else: no functions, no files, no expressions.
//!
//! Nomad's HTTP API holds a job's meta as it was written, so the agent expands it, by the rules of Nomad's task
//! environment. What a name is replaced by is text: it is never searched for names again.

use std::collections::BTreeMap;

use super::words;
use crate::hcl::{Part, Text, nearest};
use crate::nomad::model::{Allocation, Node, Task};

/// The longest text that an expansion may come to, in bytes.
const LONGEST: usize = 4096;

/// Why a text cannot be expanded; each is the rest of a sentence that begins with the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExpandError {
    /// `${` without `}`.
    #[error("has a ${{ without its }}")]
    Unfinished,
    /// Not the form of a name.
    #[error("has ${{{0}}}, which is no name")]
    NotAName(String),
    /// A name that Nomad does not have, with the nearest one that it has.
    #[error("has ${{{name}}}, which Nomad does not know for this task")]
    Unknown { name: String, near: Option<String> },
    /// A name of Nomad's that does not name storage.
    #[error("has ${{{0}}}, and directories, ports, addresses and secrets do not name storage")]
    NotForStorage(String),
    /// A meta value that cannot be expanded itself.
    #[error("has ${{{name}}}, whose own value refers to {inner:?}, which cannot be replaced there")]
    Nested { name: String, inner: String },
    /// Too long.
    #[error("comes to more than {LONGEST} bytes")]
    TooLong,
}

impl ExpandError {
    /// What to write instead, if there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { near: Some(near), .. } => Some(format!("did you mean ${{{near}}}?")),
            Self::Unfinished => Some("write $${ where the text ${ is meant".to_owned()),
            Self::Unknown { near: None, .. } | Self::NotAName(_) => {
                Some("known are NOMAD_… names, node.…, attr.… and meta.…, without functions and expressions".to_owned())
            }
            Self::NotForStorage(_) => Some("use NOMAD_JOB_ID, NOMAD_ALLOC_INDEX or the like".to_owned()),
            Self::Nested { .. } | Self::TooLong => None,
        }
    }
}

/// Splits a text into what it says and what it refers to; `$${` says `${`, as in HCL.
pub(super) fn scan(text: &str) -> Result<Text, ExpandError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(escaped) = before.strip_suffix('$') {
            literal.push_str(escaped);
            literal.push_str("${");
            rest = from.get(2..).unwrap_or_default();
            continue;
        }
        literal.push_str(before);
        let inner = from.get(2..).unwrap_or_default();
        let mut quoted = false;
        let end = inner.find(|c: char| {
            quoted ^= c == '"';
            c == '}' && !quoted
        });
        let end = end.ok_or(ExpandError::Unfinished)?;
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal)));
        }
        parts.push(Part::Reference(inner.get(..end).unwrap_or_default().to_owned()));
        rest = inner.get(end + 1..).unwrap_or_default();
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(Text { parts })
}

/// All names of one task on one node.
#[derive(Debug)]
pub(super) struct Names {
    environment: BTreeMap<String, String>,
    node: BTreeMap<String, String>,
    /// `NOMAD_META_…` apart: their values may hold the names above.
    meta: BTreeMap<String, String>,
}

impl Names {
    /// The names as Nomad's task environment has them.
    pub fn of(allocation: &Allocation, task: &Task, node: &Node) -> Self {
        let mut environment: BTreeMap<String, String> = [
            ("NOMAD_ALLOC_ID", allocation.id.as_str().to_owned()),
            ("NOMAD_SHORT_ALLOC_ID", allocation.id.short().to_owned()),
            ("NOMAD_ALLOC_NAME", allocation.name.clone()),
            ("NOMAD_ALLOC_INDEX", allocation.index.to_string()),
            ("NOMAD_TASK_NAME", task.name.clone()),
            ("NOMAD_GROUP_NAME", allocation.group.clone()),
            ("NOMAD_JOB_ID", allocation.job_id.clone()),
            ("NOMAD_JOB_NAME", allocation.job_name.clone()),
            ("NOMAD_DC", node.datacenter.clone()),
            ("NOMAD_REGION", allocation.region.clone()),
            ("NOMAD_NAMESPACE", allocation.namespace.clone()),
            ("NOMAD_CPU_LIMIT", task.cpu_mhz.to_string()),
            ("NOMAD_MEMORY_LIMIT", task.memory_mb.to_string()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        if let Some(parent) = &allocation.job_parent_id {
            environment.insert("NOMAD_JOB_PARENT_ID".to_owned(), parent.clone());
        }
        let mut meta = BTreeMap::new();
        for (key, value) in words::merge(allocation, task) {
            meta.insert(clean(&format!("NOMAD_META_{}", key.to_uppercase())), value.clone());
            meta.insert(clean(&format!("NOMAD_META_{key}")), value);
        }
        let mut of_node: BTreeMap<String, String> = [
            ("node.unique.id", node.id.clone()),
            ("node.unique.name", node.name.clone()),
            ("node.datacenter", node.datacenter.clone()),
            ("node.region", allocation.region.clone()),
            ("node.class", node.class.clone()),
            ("node.pool", node.pool.clone()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        of_node.extend(node.attributes.iter().map(|(key, value)| (format!("attr.{key}"), value.clone())));
        of_node.extend(node.meta.iter().map(|(key, value)| (format!("meta.{key}"), value.clone())));
        Self { environment, node: of_node, meta }
    }

    /// The text with every reference replaced.
    pub fn expand(&self, text: &Text) -> Result<String, ExpandError> {
        let mut whole = String::new();
        for part in &text.parts {
            match part {
                Part::Literal(literal) => whole.push_str(literal),
                Part::Reference(reference) => whole.push_str(&self.find(reference)?),
            }
            if whole.len() > LONGEST {
                return Err(ExpandError::TooLong);
            }
        }
        Ok(whole)
    }

    fn find(&self, written: &str) -> Result<String, ExpandError> {
        let written = written.trim();
        let quoted = written.strip_prefix("env[\"").and_then(|name| name.strip_suffix("\"]"));
        let name = quoted.unwrap_or(written);
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > 256 || !name.chars().all(is_name) {
            return Err(ExpandError::NotAName(super::form::shorten(written)));
        }
        let node = if quoted.is_some() { None } else { self.node.get(name) };
        if let Some(value) = self.environment.get(name).or(node) {
            return Ok(value.clone());
        }
        if let Some(value) = self.meta.get(name) {
            return self.expand_meta(name, value);
        }
        if is_not_for_storage(name) {
            return Err(ExpandError::NotForStorage(name.to_owned()));
        }
        let known = self.environment.keys().chain(self.meta.keys());
        let of_node = self.node.keys().filter(|_| quoted.is_none());
        let near = nearest(name, known.chain(of_node).map(String::as_str)).map(str::to_owned);
        Err(ExpandError::Unknown { name: name.to_owned(), near })
    }

    /// Nomad expands the values of meta once, without the names of other meta (in an order that it does not promise).
    fn expand_meta(&self, name: &str, value: &str) -> Result<String, ExpandError> {
        let mut whole = String::new();
        let nested = |inner: &str| ExpandError::Nested { name: name.to_owned(), inner: super::form::shorten(inner) };
        for part in scan(value).map_err(|_| nested(value))?.parts {
            match part {
                Part::Literal(literal) => whole.push_str(&literal),
                Part::Reference(inner) => match self.environment.get(&inner).or_else(|| self.node.get(&inner)) {
                    Some(value) => whole.push_str(value),
                    None => return Err(nested(&inner)),
                },
            }
        }
        Ok(whole)
    }
}

/// As Nomad cleans the names of an environment: letters, digits, `_` and `.` stay, every other byte becomes `_`.
fn clean(name: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.');
    name.bytes().map(|b| if keep(b) { char::from(b) } else { '_' }).collect()
}

/// Names that Nomad has, and whose values are no part of a volume's name: paths inside the task, addresses, secrets.
fn is_not_for_storage(name: &str) -> bool {
    const PREFIXES: [&str; 9] = [
        "NOMAD_ADDR_",
        "NOMAD_HOST_",
        "NOMAD_IP_",
        "NOMAD_PORT_",
        "NOMAD_ALLOC_PORT_",
        "NOMAD_ALLOC_IP_",
        "NOMAD_ALLOC_ADDR_",
        "NOMAD_UPSTREAM_",
        "NOMAD_TOKEN",
    ];
    const NAMES: [&str; 8] = [
        "NOMAD_ALLOC_DIR",
        "NOMAD_TASK_DIR",
        "NOMAD_SECRETS_DIR",
        "NOMAD_UNIX_ADDR",
        "NOMAD_PARENT_CGROUP",
        "NOMAD_CPU_CORES",
        "VAULT_TOKEN",
        "VAULT_NAMESPACE",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || NAMES.contains(&name)
}
