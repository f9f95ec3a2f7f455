//! The options of Gluster's client translators that may be set for one mount.
//!
//! `glusterfs` says nothing of an option that it does not know: with a name that is mistyped, nothing changes. So the list
//! is closed. It has what is a client's own affair in GlusterFS 10 (the tables `options` in `xlators/*/src/*.c` there), and
//! leaves out what every client of a volume has to do alike (quorum, locking, layout, self-heal's own marks) and what says
//! which brick a client talks to: that is the volume's, by `gluster volume set`.

use std::collections::BTreeMap;

use crate::hcl::{Problem, Section};

/// What a translator's own name has behind the volume's in a client's graph, and the options.
type Xlator = (&'static str, &'static str, &'static [&'static str]);

/// The translators by the names of their types.
const XLATORS: [Xlator; 12] = [
    (
        "client",
        "client-*",
        &["event-threads", "filter-O_DIRECT", "send-gids", "tcp-window-size", "transport.tcp-user-timeout"],
    ),
    ("dht", "dht", &["lookup-optimize", "readdir-optimize", "use-readdirp"]),
    (
        "replicate",
        "replicate-*",
        &["choose-local", "consistent-metadata", "halo-max-latency", "read-hash-mode", "read-subvolume-index"],
    ),
    ("disperse", "disperse-*", &["cpu-extensions", "parallel-writes", "read-policy", "stripe-cache"]),
    (
        "write-behind",
        "write-behind",
        &[
            "aggregate-size",
            "cache-size",
            "flush-behind",
            "pass-through",
            "resync-failed-syncs-after-fsync",
            "strict-O_DIRECT",
            "strict-write-ordering",
            "trickling-writes",
        ],
    ),
    ("read-ahead", "read-ahead", &["force-atime-update", "page-count", "pass-through"]),
    (
        "readdir-ahead",
        "readdir-ahead*",
        &["pass-through", "rda-cache-limit", "rda-high-wmark", "rda-low-wmark", "rda-request-size"],
    ),
    ("io-cache", "io-cache", &["cache-size", "cache-timeout", "max-file-size", "min-file-size", "pass-through"]),
    ("quick-read", "quick-read", &["cache-size", "cache-timeout", "ctime-invalidation", "max-file-size"]),
    ("open-behind", "open-behind", &["lazy-open", "pass-through", "read-after-open", "use-anonymous-fd"]),
    (
        "md-cache",
        "md-cache",
        &["cache-posix-acl", "force-readdirp", "md-cache-statfs", "md-cache-timeout", "pass-through"],
    ),
    ("io-threads", "io-threads", &["pass-through", "thread-count"]),
];

/// Reads `xlator_options`: values by `TRANSLATOR.OPTION`.
pub(super) fn read(section: &mut Section<'_>) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    for (name, value) in section.map("xlator_options").map(|said| said.value).unwrap_or_default() {
        if find(&name.value).is_none() {
            let shown: String = name.value.chars().take(100).collect();
            let problem = Problem::new(name.span, format!("{shown:?} is not an option that xlator_options can set"));
            let known: Vec<String> = names().collect();
            section.problem(match crate::hcl::nearest(&name.value, known.iter().map(String::as_str)) {
                Some(near) => problem.hint(format!("did you mean {near:?}?")),
                None => problem.hint(
                    "docs/backends/gluster.md has the list; what is not in it is set for the volume: `gluster volume set`",
                ),
            });
        } else if !is_value(&value.value) {
            let message = format!("{} must be a word such as \"on\", \"10\" or \"4MB\"", name.value);
            section.problem(Problem::new(value.span, message));
        } else {
            options.insert(name.value, value.value);
        }
    }
    options
}

/// Every name, as the configuration has it.
fn names() -> impl Iterator<Item = String> {
    XLATORS.iter().flat_map(|(kind, _, options)| options.iter().map(move |option| format!("{kind}.{option}")))
}

/// The translator's name in a graph and the option, if there is such a one.
fn find(name: &str) -> Option<(&'static str, &'static str)> {
    let (kind, option) = name.split_once('.')?;
    let (_, suffix, options) = XLATORS.iter().find(|(known, ..)| *known == kind)?;
    let option = options.iter().find(|known| **known == option)?;
    Some((suffix, option))
}

fn is_value(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'%' | b',');
    (1..=128).contains(&text.len()) && text.bytes().all(allowed)
}

/// As `glusterfs --xlator-option` takes it, for a volume: `gv0-write-behind.cache-size=4MB`. Nothing where there is no
/// such option.
pub fn argument(volume: &str, name: &str, value: &str) -> Option<String> {
    find(name).map(|(suffix, option)| format!("{volume}-{suffix}.{option}={value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_that_of_the_volumes_own_translator() {
        assert_eq!(argument("gv0", "write-behind.cache-size", "4MB").unwrap(), "gv0-write-behind.cache-size=4MB");
        assert_eq!(
            argument("gv0", "client.transport.tcp-user-timeout", "10").unwrap(),
            "gv0-client-*.transport.tcp-user-timeout=10"
        );
        assert_eq!(argument("gv0", "client.remote-host", "evil"), None);
    }

    #[test]
    fn no_option_is_there_twice() {
        let all: Vec<String> = names().collect();
        let mut once = all.clone();
        once.sort();
        once.dedup();
        assert_eq!(all.len(), once.len());
    }
}
