//! What `mount.nfs` is told, and whether the kernel's own list of the mount's options says the same. Pure.

use std::ffi::{OsStr, OsString};
use std::net::Ipv6Addr;
use std::path::Path;

use crate::config::nfs::{LocalLock, LookupCache, NfsBackend, NfsVersion, TransportSecurity, Write};

/// `SERVER:/EXPORT`, an IPv6 address in brackets.
pub(super) fn remote(settings: &NfsBackend) -> String {
    if settings.server.parse::<Ipv6Addr>().is_ok() {
        format!("[{}]:{}", settings.server, settings.export)
    } else {
        format!("{}:{}", settings.server, settings.export)
    }
}

/// The value of `-o`. What decides whether data is safe is always said, so that `/etc/nfsmount.conf` cannot say otherwise;
/// what an older kernel does not know is said only where it is wanted.
pub(super) fn options(settings: &NfsBackend) -> String {
    let is_v3 = settings.version == NfsVersion::V3;
    let mut said: Vec<String> = vec![
        if settings.read_only { "ro" } else { "rw" }.to_owned(),
        format!("vers={}", settings.version.as_str()),
        if settings.hard { "hard" } else { "soft" }.to_owned(),
        format!("proto={}", settings.proto.as_str()),
        format!("port={}", settings.port),
        format!("sec={}", settings.sec.as_str()),
        if settings.sync { "sync" } else { "async" }.to_owned(),
        if settings.noac { "noac" } else { "ac" }.to_owned(),
        if settings.cto { "cto" } else { "nocto" }.to_owned(),
        format!("lookupcache={}", settings.lookupcache.as_str()),
        // A superblock of its own: the kernel gives a mount that shares one the options of whoever came first.
        "nosharecache".to_owned(),
        // Once: who tries again is the agent, which says meanwhile why.
        "retry=0".to_owned(),
    ];
    if is_v3 {
        said.push(if settings.lock { "lock" } else { "nolock" }.to_owned());
        if settings.lock {
            said.push(format!("local_lock={}", settings.local_lock.as_str()));
        }
    }
    let mut number = |name: &str, value: Option<u32>| said.extend(value.map(|value| format!("{name}={value}")));
    number("timeo", settings.timeo);
    number("retrans", settings.retrans);
    number("actimeo", settings.actimeo);
    number("nconnect", settings.nconnect);
    number("rsize", settings.rsize);
    number("wsize", settings.wsize);
    number("mountport", settings.mountport.map(u32::from));
    said.extend(settings.mountproto.map(|proto| format!("mountproto={}", proto.as_str())));
    let mut wanted = |is_wanted: bool, option: String| said.extend(is_wanted.then_some(option));
    wanted(settings.softreval, "softreval".to_owned());
    wanted(settings.fsc, "fsc".to_owned());
    wanted(settings.write != Write::Lazy, format!("write={}", settings.write.as_str()));
    wanted(settings.xprtsec != TransportSecurity::None, format!("xprtsec={}", settings.xprtsec.as_str()));
    said.extend(settings.options.iter().cloned());
    said.join(",")
}

/// The arguments of `mount.nfs`. It writes no mtab, which would be a second opinion.
pub(super) fn arguments(settings: &NfsBackend, mount_point: &Path) -> Vec<OsString> {
    vec![
        OsString::from(remote(settings)),
        mount_point.as_os_str().to_owned(),
        OsString::from("-n"),
        OsString::from("-o"),
        OsString::from(options(settings)),
    ]
}

/// How the options that the kernel lists for a mount differ from those that were asked for, in what decides whether data
/// is safe; `None` where they do not.
pub(super) fn find_difference(settings: &NfsBackend, listed: &OsStr) -> Option<String> {
    let listed = listed.to_string_lossy();
    let listed: Vec<&str> = listed.split(',').collect();
    let is = |option: &str| listed.contains(&option);
    let value = |name: &str| listed.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
    let differs = |what: String| Some(format!("the kernel mounted it with other options than were asked for: {what}"));
    let version = value("vers").unwrap_or_default();
    let right_version = match settings.version {
        NfsVersion::V4 => version == "4" || version.starts_with("4."),
        wanted => version == wanted.as_str(),
    };
    if !right_version {
        return differs(format!("version {version}, not {}", settings.version.as_str()));
    }
    let is_v3 = settings.version == NfsVersion::V3;
    let lookups = match settings.lookupcache {
        LookupCache::All => None,
        LookupCache::None => Some("none"),
        LookupCache::Positive => Some("pos"),
    };
    let write = (settings.write != Write::Lazy).then(|| settings.write.as_str());
    let flags = [
        ("hard", settings.hard),
        ("soft", !settings.hard),
        ("softerr", false),
        ("ro", settings.read_only),
        ("sync", settings.sync || settings.noac),
        ("noac", settings.noac),
        ("nocto", !settings.cto),
        ("softreval", settings.softreval),
        ("fsc", settings.fsc),
        ("nosharecache", true),
        ("nolock", is_v3 && !settings.lock),
    ];
    for (flag, wanted) in flags {
        if is(flag) != wanted {
            return differs(if wanted { format!("without {flag}") } else { format!("with {flag}") });
        }
    }
    let local_lock = if settings.lock || !is_v3 { settings.local_lock } else { LocalLock::All };
    let values = [
        ("proto", Some(settings.proto.as_str())),
        ("sec", Some(settings.sec.as_str())),
        ("local_lock", Some(local_lock.as_str())),
        ("lookupcache", lookups),
        ("write", write),
    ];
    for (name, wanted) in values {
        let found = value(name);
        if found != wanted {
            let or_none = |value: Option<&str>| value.unwrap_or("the default").to_owned();
            return differs(format!("{name} is {}, not {}", or_none(found), or_none(wanted)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::nfs::{NfsProto, Security};

    /// As Linux 6.12 lists mounts, the first of NFS 4 and the second of NFS 3.
    const V4: &str = "rw,vers=4.2,rsize=262144,wsize=262144,namlen=255,hard,nosharecache,proto=tcp,timeo=600,retrans=2,\
        sec=sys,clientaddr=198.51.100.1,local_lock=none,addr=198.51.100.2";
    const V3: &str = "rw,vers=3,rsize=262144,wsize=262144,namlen=255,hard,nolock,nosharecache,proto=tcp,timeo=600,\
        retrans=2,sec=sys,mountaddr=198.51.100.2,mountvers=3,mountport=48497,mountproto=udp,local_lock=all,addr=198.51.100.2";

    fn export() -> NfsBackend {
        NfsBackend::new("nas", "/srv/export")
    }

    fn difference(settings: &NfsBackend, listed: &str) -> String {
        find_difference(settings, OsStr::new(listed)).unwrap_or_default()
    }

    #[test]
    fn what_decides_whether_data_is_safe_is_always_said() {
        assert_eq!(
            options(&export()),
            "rw,vers=4,hard,proto=tcp,port=2049,sec=sys,async,ac,cto,lookupcache=all,nosharecache,retry=0"
        );
        let settings = NfsBackend { version: NfsVersion::V3, ..export() };
        assert!(options(&settings).ends_with(",retry=0,lock,local_lock=none"), "{}", options(&settings));
        let settings = NfsBackend { lock: false, ..settings };
        assert!(options(&settings).ends_with(",retry=0,nolock"), "{}", options(&settings));
    }

    #[test]
    fn every_setting_is_told_to_the_mount() {
        let settings = NfsBackend {
            server: "fd00::1".into(),
            version: NfsVersion::V4_1,
            read_only: true,
            hard: false,
            timeo: Some(50),
            retrans: Some(3),
            sync: true,
            noac: true,
            actimeo: Some(0),
            lookupcache: LookupCache::Positive,
            cto: false,
            softreval: true,
            write: Write::Wait,
            proto: NfsProto::Tcp6,
            port: 2050,
            sec: Security::Krb5p,
            xprtsec: TransportSecurity::Tls,
            nconnect: Some(4),
            rsize: Some(65536),
            wsize: Some(32768),
            fsc: true,
            options: vec!["noresvport".into(), "max_connect=2".into()],
            ..export()
        };
        let arguments = arguments(&settings, Path::new("/var/lib/saddlebag/sources/nfs-1"));
        assert_eq!(
            arguments,
            [
                "[fd00::1]:/srv/export",
                "/var/lib/saddlebag/sources/nfs-1",
                "-n",
                "-o",
                "ro,vers=4.1,soft,proto=tcp6,port=2050,sec=krb5p,sync,noac,nocto,lookupcache=positive,nosharecache,retry=0,\
                 timeo=50,retrans=3,actimeo=0,nconnect=4,rsize=65536,wsize=32768,softreval,fsc,write=wait,xprtsec=tls,\
                 noresvport,max_connect=2",
            ]
        );
    }

    #[test]
    fn a_mount_is_taken_only_with_the_options_that_were_asked_for() {
        assert_eq!(difference(&export(), V4), "");
        let v3 = NfsBackend { version: NfsVersion::V3, ..export() };
        assert_eq!(difference(&NfsBackend { lock: false, ..v3.clone() }, V3), "");
        for (settings, listed, word) in [
            (v3.clone(), V3.to_owned(), "with nolock"),
            (v3, V4.to_owned(), "version 4.2, not 3"),
            (NfsBackend { version: NfsVersion::V4_1, ..export() }, V4.to_owned(), "version 4.2, not 4.1"),
            (export(), V3.to_owned(), "version 3, not 4"),
            (export(), V4.replace("hard", "soft"), "without hard"),
            (export(), V4.replace("hard", "hard,soft"), "with soft"),
            (export(), V4.replace("nosharecache,", ""), "without nosharecache"),
            (export(), V4.replace("rw,", "ro,"), "with ro"),
            (export(), V4.replace("rw,", "rw,nocto,"), "with nocto"),
            (export(), V4.replace("rw,", "rw,lookupcache=none,"), "lookupcache is none, not the default"),
            (export(), V4.replace("sec=sys", "sec=krb5"), "sec is krb5, not sys"),
            (NfsBackend { read_only: true, ..export() }, V4.to_owned(), "without ro"),
            (NfsBackend { noac: true, ..export() }, V4.to_owned(), "without sync"),
            (NfsBackend { write: Write::Eager, ..export() }, V4.to_owned(), "write is the default, not eager"),
        ] {
            let found = difference(&settings, &listed);
            assert!(found.ends_with(word), "{listed}: {found}, not {word}");
        }
    }
}
