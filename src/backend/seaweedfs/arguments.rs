//! The arguments of `weed mount`, and what of its settings decides whether volumes may share one.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::backend::Place;
use crate::config::SeaweedfsBackend;
use crate::config::seaweedfs::{CACHE_CAPACITY, WRITE_BUFFER_SIZE};

/// The longest path of a socket (unix(7)).
const LONGEST_SOCKET: usize = 107;
/// The flag of the folder in which what is written waits for its volume server.
const WRITE_BUFFER_DIR: &str = "cacheDirWrite";
/// The flag by which sizes are those of one copy of the data.
const LOGICAL: &str = "df.logical";
/// The flag of how much that may be.
const WRITE_BUFFER_MIB: &str = "writeBufferSizeMB";

/// What decides whether two volumes can share a mount. It names the source on the disk: for what could be said in an
/// earlier version the text is that version's, so that an upgrade finds the mount that runs.
pub(super) fn options(settings: &SeaweedfsBackend) -> String {
    let mut text = format!(
        "{:?} {:?} {:?} {} {:?} {:?} {:?} {}",
        settings.filers,
        settings.collection,
        settings.replication,
        settings.memory_limit,
        settings.cache_dir,
        settings.cache_capacity,
        settings.program,
        settings.read_only
    );
    if settings.quota.is_some() {
        // How much it is may change while the mount goes on.
        text.push_str(" quota");
    }
    if let Some(file) = &settings.security {
        text.push_str(&format!(" security={file:?}"));
    }
    for (flag, value) in &settings.options {
        text.push_str(&format!(" {flag}={value}"));
    }
    text
}

/// The folder in which what is written waits, where it is one of its own.
pub(super) fn write_buffer(settings: &SeaweedfsBackend, place: &Place) -> Option<PathBuf> {
    let folder = settings.options.get(WRITE_BUFFER_DIR)?;
    // A trial leaves nothing anywhere.
    Some(if place.is_trial { place.cache.with_file_name("buffer") } else { Path::new(folder).join(&place.key.0) })
}

/// The argument by which the program of a mount is found again.
pub(super) fn mount_point(mount_point: &Path) -> OsString {
    option("dir", mount_point.as_os_str())
}

/// All arguments, for a place whose cache folder is the one that is used, and for some or all of the filers.
pub(super) fn of(settings: &SeaweedfsBackend, told: &[String], place: &Place) -> Vec<OsString> {
    let mib = |bytes: u64| bytes >> 20;
    let number = |name: &str, value: u64| option(name, OsStr::new(&value.to_string()));
    let mut args = Vec::new();
    if let Some(folder) = settings.security.as_deref().and_then(Path::parent) {
        // Of the program itself, and so before its command. The secrets stay in the file.
        args.push(option("config_dir", folder.as_os_str()));
    }
    args.extend([
        OsString::from("mount"),
        option("filer", OsStr::new(&told.join(","))),
        option("filer.path", OsStr::new("/")),
        mount_point(&place.mount_point),
        OsString::from("-dirAutoCreate=false"),
        option("cacheDir", place.cache.as_os_str()),
        number("cacheCapacityMB", mib(settings.cache_capacity.unwrap_or(CACHE_CAPACITY))),
        // Go's soft limit keeps its collector ahead of the cgroup's hard one.
        number("memoryLimitMB", mib(settings.memory_limit / 10 * 8).max(64)),
    ]);
    if place.socket.as_os_str().len() <= LONGEST_SOCKET {
        args.push(option("localSocket", place.socket.as_os_str()));
    }
    if let Some(collection) = &settings.collection {
        args.push(option("collection", OsStr::new(collection)));
    }
    if let Some(replication) = &settings.replication {
        args.push(option("replication", OsStr::new(replication)));
    }
    if let Some(bytes) = settings.quota {
        args.push(number("collectionQuotaMB", mib(bytes.next_multiple_of(1 << 20))));
        if !settings.options.contains_key(LOGICAL) {
            // A size is of the data, however many copies of it there are.
            args.push(OsString::from("-df.logical=true"));
        }
    }
    if settings.read_only {
        args.push(OsString::from("-readOnly"));
    }
    if let Some(folder) = write_buffer(settings, place) {
        args.push(option(WRITE_BUFFER_DIR, folder.as_os_str()));
    }
    if !settings.options.contains_key(WRITE_BUFFER_MIB) {
        args.push(number(WRITE_BUFFER_MIB, mib(WRITE_BUFFER_SIZE)));
    }
    let said = settings.options.iter().filter(|(flag, _)| *flag != WRITE_BUFFER_DIR);
    args.extend(said.map(|(flag, value)| option(flag, OsStr::new(value))));
    args
}

fn option(name: &str, value: &OsStr) -> OsString {
    let mut text = OsString::from(format!("-{name}="));
    text.push(value);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend;
    use crate::config::{Backend, Config};

    fn backend_of(keys: &str) -> Backend {
        let text = format!("backend \"seaweedfs\" \"main\" {{\n{keys}\n}}\n");
        Config::parse(&text, "agent.hcl").unwrap().backends["main"].clone()
    }

    fn arguments(keys: &str) -> Vec<String> {
        let crate::config::BackendKind::Seaweedfs(settings) = backend_of(keys).kind else { unreachable!() };
        let place = Place {
            key: backend::SourceKey("seaweedfs-1".into()),
            mount_point: "/s/sources/1".into(),
            log: "/s/log".into(),
            cache: "/s/cache/1".into(),
            socket: "/r/1.sock".into(),
            is_trial: false,
            beneath: None,
            may_create: true,
            prober: backend::prober::Prober::new(backend::SourceKey("seaweedfs-1".into()), |_| ()),
        };
        of(&settings, &settings.filers, &place).into_iter().map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn an_upgrade_finds_the_mounts_that_an_earlier_version_made() {
        // Keys that version 0.1.0 gave its sources; the names of the folders that they are mounted at.
        for (keys, key) in [
            (r#"filer = "127.0.0.1:8888""#, "seaweedfs-435669e80229b8d0"),
            (
                r#"
                filer          = "10.0.0.1:8888,10.0.0.2:8888"
                path           = "/buckets"
                collection     = "jobs"
                replication    = "001"
                memory_limit   = "2GiB"
                cache_dir      = "/var/cache/sb"
                cache_capacity = "10GiB"
                program        = "/opt/weed"
                read_only      = true
                "#,
                "seaweedfs-a64e0313bb9c2487",
            ),
        ] {
            assert_eq!(backend::key_of(&backend_of(keys)).0, key, "{keys}");
        }
    }

    #[test]
    fn whoever_says_another_option_has_a_mount_of_its_own() {
        let plain = backend::key_of(&backend_of("filer = \"f:8888\""));
        for more in ["cache_meta_ttl = \"1s\"", "dlm = true", "security = \"/etc/sb/security.toml\""] {
            assert_ne!(backend::key_of(&backend_of(&format!("filer = \"f:8888\"\n{more}"))), plain, "{more}");
        }
    }

    #[test]
    fn cache_and_write_buffer_are_bounded_also_where_nothing_is_said() {
        let args = arguments("filer = \"f:8888\"");
        assert!(
            args.contains(&"-cacheCapacityMB=128".to_owned()) && args.contains(&"-writeBufferSizeMB=512".to_owned())
        );
        let said = arguments("filer = \"f:8888\"\ncache_capacity = \"1GiB\"\nwrite_buffer_size = \"64MiB\"");
        assert!(
            said.contains(&"-cacheCapacityMB=1024".to_owned()) && said.contains(&"-writeBufferSizeMB=64".to_owned())
        );
        assert_eq!(said.iter().filter(|argument| argument.starts_with("-writeBufferSizeMB")).count(), 1);
    }

    #[test]
    fn folders_are_the_sources_own_and_security_is_said_to_the_program_itself() {
        let args = arguments(
            "filer = \"f:8888\"\nsecurity = \"/etc/sb/security.toml\"\ncache_dir_write = \"/fast\"\ndisk = \"ssd\"",
        );
        assert_eq!(args[..2], ["-config_dir=/etc/sb", "mount"]);
        assert!(args.contains(&"-cacheDirWrite=/fast/seaweedfs-1".to_owned()), "{args:?}");
        assert!(!args.contains(&"-cacheDirWrite=/fast".to_owned()) && args.contains(&"-disk=ssd".to_owned()));
    }
}
