//! The options of `weed mount` that may be said: a closed list, under SeaweedFS's own names.
//!
//! A key is the flag's name in snake case, without the unit at its end: `cacheMetaTtlSec` is `cache_meta_ttl`, whose value
//! has its unit. What is said becomes the flag's own text here, once, and stays that: it decides which volumes share a
//! mount. Flags of a mount's place, of what saddlebag sees to itself, and of other systems are not among them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::blocks::{checked, path};
use crate::config::is_name;
use crate::config::url::is_host_port;
use crate::hcl::{Problem, Section};

/// An option, as it is said and as `weed mount` takes it.
#[derive(Debug)]
pub struct MountOption {
    /// The key in a `backend` block.
    pub key: &'static str,
    /// The flag of `weed mount`.
    pub flag: &'static str,
    /// What its value may be.
    pub form: Form,
}

/// What a value may be.
#[derive(Debug)]
pub enum Form {
    /// `true` or `false`.
    Bool,
    /// A whole number from the one to the other.
    Count(u64, u64),
    /// A size of at least so many MiB, told in MiB.
    MiB(u64),
    /// A duration of whole seconds, from the one to the other.
    Seconds(u64, u64),
    /// A duration of at least so many seconds, told with its unit.
    Duration(u64),
    /// A name.
    Name,
    /// One of these.
    Word(&'static [&'static str]),
    /// Permission bits.
    Octal,
    /// `LOCAL:FILER` pairs of ids, separated by commas.
    Ids,
    /// A directory of this host.
    Path,
    /// `HOST:PORT`.
    Address,
    /// `HOST:PORT` or `:PORT`.
    Listen,
}

const fn option(key: &'static str, flag: &'static str, form: Form) -> MountOption {
    MountOption { key, flag, form }
}

const DAY: u64 = 24 * 3600;

/// Every option. `collection`, `replication`, `read_only` and `cache_capacity` are fields of their own
/// ([`super::SeaweedfsBackend`]).
pub const MOUNT_OPTIONS: [MountOption; 34] = [
    option("async_dio", "asyncDio", Form::Bool),
    option("cache_dir_max_entries", "cacheDirMaxEntries", Form::Count(0, u32::MAX as u64)),
    option("cache_dir_write", "cacheDirWrite", Form::Path),
    option("cache_meta_ttl", "cacheMetaTtlSec", Form::Seconds(1, 366 * DAY)),
    option("cache_symlink", "cacheSymlink", Form::Bool),
    option("chunk_size_limit", "chunkSizeLimitMB", Form::MiB(1)),
    option("collection_quota", "collectionQuotaMB", Form::MiB(1)),
    option("concurrent_readers", "concurrentReaders", Form::Count(1, 4096)),
    option("concurrent_writers", "concurrentWriters", Form::Count(1, 4096)),
    option("data_center", "dataCenter", Form::Name),
    option("df_logical", "df.logical", Form::Bool),
    option("dir_idle_evict", "dirIdleEvictSec", Form::Seconds(0, 366 * DAY)),
    option("disable_xattr", "disableXAttr", Form::Bool),
    option("disk", "disk", Form::Name),
    option("dlm", "dlm", Form::Bool),
    option("fuse_congestion_threshold", "fuse.congestionThreshold", Form::Count(1, 65_535)),
    option("fuse_max_background", "fuse.maxBackground", Form::Count(1, 65_535)),
    option("include_system_entries", "includeSystemEntries", Form::Bool),
    option("map_gid", "map.gid", Form::Ids),
    option("map_uid", "map.uid", Form::Ids),
    option("metadata_flush", "metadataFlushSeconds", Form::Seconds(0, DAY)),
    option("peer_advertise", "peer.advertise", Form::Address),
    option("peer_data_center", "peer.dataCenter", Form::Name),
    option("peer_enable", "peer.enable", Form::Bool),
    option("peer_listen", "peer.listen", Form::Listen),
    option("peer_rack", "peer.rack", Form::Name),
    option("posix_dir_nlink", "posix.dirNLink", Form::Bool),
    // With 1 s, weed 4.48 tries nothing even once, and ends with a nil pointer at the first name that is looked up.
    option("read_retry_time", "readRetryTime", Form::Duration(2)),
    option("reader_cache_size", "readerCacheSizeMB", Form::MiB(64)),
    // SeaweedFS keeps a time to live in minutes, as one number with one unit.
    option("ttl", "ttl", Form::Seconds(60, 255 * 365 * DAY)),
    option("umask", "umask", Form::Octal),
    option("volume_server_access", "volumeServerAccess", Form::Word(&["direct", "publicUrl", "filerProxy"])),
    option("write_buffer_size", "writeBufferSizeMB", Form::MiB(16)),
    option("writeback_cache", "writebackCache", Form::Bool),
];

/// Reads every option that is said: the flags, with the text that each is given.
pub(super) fn read(section: &mut Section<'_>) -> BTreeMap<String, String> {
    MOUNT_OPTIONS
        .iter()
        .filter_map(|option| Some((option.flag.to_owned(), value(section, option.key, &option.form)?)))
        .collect()
}

fn value(section: &mut Section<'_>, key: &'static str, form: &Form) -> Option<String> {
    let text = |said: crate::hcl::Spanned<String>| said.value;
    match form {
        Form::Bool => section.boolean(key).map(|said| said.value.to_string()),
        Form::Count(least, most) => {
            let said = section.integer(key)?;
            let is_right = (*least..=*most).contains(&said.value);
            told(section, is_right, said.span, || format!("{key} must be from {least} to {most}, not {}", said.value))?;
            Some(said.value.to_string())
        }
        Form::MiB(least) => {
            let said = section.size(key)?;
            let is_right = said.value.is_multiple_of(1 << 20) && said.value >> 20 >= *least;
            told(section, is_right, said.span, || format!("{key} must be whole MiB, at least {least}MiB"))?;
            Some((said.value >> 20).to_string())
        }
        Form::Seconds(least, most) => {
            let said = section.duration(key)?;
            let seconds = said.value.as_secs();
            let is_right = said.value.subsec_nanos() == 0 && (*least..=*most).contains(&seconds);
            let shown = |seconds: u64| humantime::format_duration(Duration::from_secs(seconds)).to_string();
            told(section, is_right, said.span, || {
                format!("{key} must be whole seconds, from {} to {}", shown(*least), shown(*most))
            })?;
            Some(seconds.to_string())
        }
        Form::Duration(least) => {
            let said = section.duration(key)?;
            let is_right = said.value >= Duration::from_secs(*least);
            told(section, is_right, said.span, || format!("{key} must be at least {least}s"))?;
            Some(format!("{}ms", said.value.as_millis()))
        }
        Form::Name => checked(section, key, "a name of letters, digits, `.`, `_` and `-`", is_name).map(text),
        Form::Word(words) => {
            let said = section.string(key)?;
            let is_right = words.contains(&said.value.as_str());
            told(section, is_right, said.span, || format!("{key} must be {}, not {:?}", listed(words), said.value))?;
            Some(said.value)
        }
        Form::Octal => section.mode(key).map(|said| format!("{:03o}", said.value)),
        Form::Ids => checked(section, key, "LOCAL:FILER pairs of ids such as \"1000:0,1001:33\"", is_ids).map(text),
        Form::Path => path(section, key).and_then(|said| said.value.to_str().map(str::to_owned)),
        Form::Address => checked(section, key, "HOST:PORT", is_host_port).map(text),
        Form::Listen => {
            let is_right = |text: &str| is_host_port(&format!("host{text}")) || is_host_port(text);
            checked(section, key, "HOST:PORT or :PORT", is_right).map(text)
        }
    }
}

/// Tells of a value that is not right.
fn told(
    section: &mut Section<'_>,
    is_right: bool,
    span: std::ops::Range<usize>,
    message: impl FnOnce() -> String,
) -> Option<()> {
    if !is_right {
        section.problem(Problem::new(span, message()));
    }
    is_right.then_some(())
}

fn listed(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    quoted.join(" or ")
}

fn is_ids(text: &str) -> bool {
    let is_id = |id: &str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()) && id.parse::<u32>().is_ok();
    text.split(',').all(|pair| pair.split_once(':').is_some_and(|(local, filer)| is_id(local) && is_id(filer)))
}

/// What does not go together, found by who reads the whole block.
pub(super) fn check(section: &mut Section<'_>, options: &BTreeMap<String, String>, has_collection: bool) {
    let is_on = |flag: &str| options.get(flag).is_some_and(|value| value == "true");
    let mut without = |key: &'static str, needs: &str, is_there: bool| {
        if section.is_set(key) && !is_there {
            let span = section.span();
            section.problem(Problem::new(span, format!("{key} is set, and {needs} is not")));
        }
    };
    for key in ["peer_advertise", "peer_data_center", "peer_listen", "peer_rack"] {
        without(key, "peer_enable", is_on("peer.enable"));
    }
    without("collection_quota", "collection", has_collection);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn options(keys: &str) -> Result<BTreeMap<String, String>, Vec<String>> {
        let text = format!("backend \"seaweedfs\" \"s\" {{\n  filer = \"f:8888\"\n{keys}\n}}\n");
        match Config::parse(&text, "agent.hcl") {
            Ok(config) => match &config.backends["s"].kind {
                crate::config::BackendKind::Seaweedfs(settings) => Ok(settings.options.clone()),
                other => panic!("{other:?}"),
            },
            Err(error) => Err(error.to_string().lines().map(str::to_owned).collect()),
        }
    }

    #[test]
    fn each_option_becomes_the_flag_that_weed_knows() {
        let said = r#"
          cache_meta_ttl       = "2m"
          chunk_size_limit     = "8MiB"
          concurrent_readers   = 64
          data_center          = "dc1"
          disable_xattr        = true
          map_uid              = "1000:0,1001:33"
          peer_enable          = true
          peer_listen          = ":18081"
          read_retry_time      = "2s 500ms"
          ttl                  = "1h"
          umask                = "0022"
          volume_server_access = "publicUrl"
        "#;
        let expected = [
            ("cacheMetaTtlSec", "120"),
            ("chunkSizeLimitMB", "8"),
            ("concurrentReaders", "64"),
            ("dataCenter", "dc1"),
            ("disableXAttr", "true"),
            ("map.uid", "1000:0,1001:33"),
            ("peer.enable", "true"),
            ("peer.listen", ":18081"),
            ("readRetryTime", "2500ms"),
            ("ttl", "3600"),
            ("umask", "022"),
            ("volumeServerAccess", "publicUrl"),
        ];
        assert_eq!(options(said).unwrap(), expected.map(|(flag, value)| (flag.to_owned(), value.to_owned())).into());
        assert_eq!(options("").unwrap(), BTreeMap::new());
    }

    #[test]
    fn what_is_no_option_or_no_value_of_one_is_told() {
        for (said, told) in [
            ("concurrent_reader = 3", "unknown key \"concurrent_reader\""),
            ("nonempty = true", "unknown key \"nonempty\""),
            ("concurrent_readers = 0", "concurrent_readers must be from 1 to 4096, not 0"),
            ("chunk_size_limit = \"1500kB\"", "chunk_size_limit must be whole MiB, at least 1MiB"),
            ("cache_meta_ttl = \"500ms\"", "cache_meta_ttl must be whole seconds, from 1s to "),
            (
                "volume_server_access = \"proxy\"",
                "must be \"direct\" or \"publicUrl\" or \"filerProxy\", not \"proxy\"",
            ),
            ("map_uid = \"1000\"", "map_uid must be LOCAL:FILER pairs"),
            ("read_retry_time = \"1s\"", "read_retry_time must be at least 2s"),
            ("umask = \"99\"", "umask must be permission bits in octal"),
            ("peer_rack = \"r1\"", "peer_rack is set, and peer_enable is not"),
            ("collection_quota = \"1GiB\"", "collection_quota is set, and collection is not"),
        ] {
            let problems = options(said).unwrap_err();
            assert!(problems.iter().any(|problem| problem.contains(told)), "{said}: {problems:?}");
        }
    }
}
