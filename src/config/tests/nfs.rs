use super::*;
use crate::config::nfs::{LookupCache, NfsProto, NfsVersion, Security, options};

fn read(keys: &str) -> NfsBackend {
    let text = format!("backend \"nfs\" \"nas\" {{\n  server = \"nas\"\n  export = \"/srv/x\"\n{keys}\n}}\n");
    let config = Config::parse(&text, "agent.hcl").unwrap_or_else(|error| panic!("{error}"));
    let BackendKind::Nfs(nfs) = config.backends["nas"].kind.clone() else { panic!("{config:?}") };
    nfs
}

fn wrong(keys: &str) -> String {
    let text = format!("backend \"nfs\" \"nas\" {{\n  server = \"nas\"\n  export = \"/srv/x\"\n{keys}\n}}\n");
    mistakes(&text).join("\n")
}

#[test]
fn every_setting_has_a_default_and_can_be_said() {
    assert_eq!(read(""), NfsBackend::new("nas", "/srv/x"));
    let said = read(
        "version = \"4.1\"\nread_only = true\nhard = false\ntimeo = \"5s\"\nretrans = 3\nsync = true\nlookupcache = \"none\"\n\
         cto = false\nsoftreval = true\nwrite = \"wait\"\nport = 2050\nsec = \"krb5p\"\nnconnect = 4\nrsize = \"64KiB\"\n\
         wsize = \"1MiB\"\nfsc = true\nactimeo = \"0s\"\nprogram = \"/opt/mount.nfs\"\noptions = [\"noresvport\", \"max_connect=2\"]\n\
         linger = \"1m\"\nattach = \"demand\"\nattach_timeout = \"40s\"",
    );
    assert_eq!((said.version, said.sec, said.lookupcache), (NfsVersion::V4_1, Security::Krb5p, LookupCache::None));
    assert_eq!((said.timeo, said.retrans, said.port, said.nconnect), (Some(50), Some(3), 2050, Some(4)));
    assert_eq!((said.rsize, said.wsize, said.actimeo), (Some(65536), Some(1 << 20), Some(0)));
    assert!(said.read_only && !said.hard && said.sync && !said.cto && said.softreval && said.fsc);
    assert_eq!(said.options, ["noresvport", "max_connect=2"]);
    // As it lies on the disk.
    let text = serde_json::to_string(&said).unwrap();
    assert!(text.contains("\"version\":\"4.1\""), "{text}");
    assert_eq!(serde_json::from_str::<NfsBackend>(&text).unwrap(), said);
}

#[test]
fn an_ipv6_address_is_mounted_over_ipv6() {
    let text = "backend \"nfs\" \"nas\" {\n  server = \"fd00::1\"\n  export = \"/x\"\n}\n";
    let config = Config::parse(text, "agent.hcl").unwrap();
    let BackendKind::Nfs(nfs) = &config.backends["nas"].kind else { panic!() };
    assert_eq!(nfs.proto, NfsProto::Tcp6);
}

#[test]
fn what_would_lose_data_is_refused_or_warned_of() {
    assert!(wrong("hard = false").contains("hard = false loses writes"), "{}", wrong("hard = false"));
    assert!(wrong("proto = \"udp\"").contains("there is no safe use of it"));
    let warned = |keys: &str| {
        let text = format!("backend \"nfs\" \"nas\" {{\n  server = \"nas\"\n  export = \"/srv/x\"\n{keys}\n}}\n");
        let source = crate::hcl::Source { name: "agent.hcl", text: &text };
        let loaded = Config::read(&[source], &|_| None).unwrap();
        loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(warned(""), "");
    for (keys, words) in [
        ("hard = false\nread_only = true", "a read that the server does not answer in time fails"),
        ("version = \"3\"\nlock = false", "another one does not see"),
        ("lock = false", "has no effect"),
        ("cto = false", "may not be seen"),
        ("softreval = true", "old attributes"),
        ("version = \"3\"\nlocal_lock = \"flock\"", "not seen by other clients"),
    ] {
        assert!(warned(keys).contains(words), "{keys}: {}", warned(keys));
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    for (keys, words) in [
        ("local_lock = \"all\"", "local_lock is of NFS 3 only"),
        ("mountport = 20048", "mountport and mountproto are of NFS 3 only"),
        ("version = \"3\"\nlock = false\nlocal_lock = \"all\"", "keeps all locks local already"),
        ("actimeo = \"3s\"\noptions = [\"acregmin=1\"]", "actimeo sets what acregmin"),
        ("noac = true\nactimeo = \"3s\"", "noac = true caches no attributes"),
        ("options = [\"acregmin=9\", \"acregmax=3\"]", "acregmin=9 is more than acregmax=3"),
        ("options = [\"resvport\", \"noresvport\"]", "resvport and noresvport contradict"),
        ("options = [\"noresvport\", \"noresvport\"]", "there twice"),
        ("options = [\"noacl\"]", "the option noacl is of NFS 3 only"),
        ("version = \"3\"\noptions = [\"migration\"]", "the option migration is of NFS 4 only"),
        ("proto = \"rdma\"\nxprtsec = \"tls\"", "xprtsec is TLS over TCP"),
    ] {
        assert!(wrong(keys).contains(words), "{keys}: {}", wrong(keys));
    }
}

#[test]
fn the_list_of_options_is_closed_and_says_what_to_write() {
    for (option, words) in [
        ("nolock", "the option \"nolock\" has a key of its own (write lock = false)"),
        ("soft", "the option \"soft\" has a key of its own (write hard = false)"),
        ("vers=4.2", "write version = \"4.2\""),
        ("nosuid", "write nosuid = true in a volume's block"),
        ("nosharecache", "every source has a superblock of its own already"),
        ("retry=3", "saddlebag tries again by itself"),
        ("sloppy", "it would have wrong options ignored"),
        ("noresvprt", "\"noresvprt\" is not an option of an NFS mount (did you mean \"noresvport\"?)"),
        ("xyzzy", "see docs/backends/nfs.md"),
        ("acregmin", "the option acregmin needs a number from 0 to 86400"),
        ("acregmin=-1", "needs a number"),
        ("noresvport=1", "the option noresvport takes no value"),
        ("rdirplus=always", "the option rdirplus must be one of none, force"),
        ("clientaddr=a b", "needs an address"),
        ("context=a,b", "without commas"),
        ("noresvport,soft", "is not an option"),
        ("", "is not an option"),
    ] {
        let keys = format!("options = [{option:?}]");
        assert!(wrong(&keys).contains(words), "{option}: {}", wrong(&keys));
    }
    for option in
        ["noresvport", "acregmin=1", "rdirplus", "rdirplus=force", "max_connect=2", "context=system_u:object_r:x:s0"]
    {
        assert_eq!(options::check_free(option), Ok(()), "{option}");
    }
}

#[test]
fn a_wrong_value_says_which_are_right() {
    for (keys, words) in [
        ("version = \"4.3\"", "version must be one of \"4\", \"3\", \"4.0\", \"4.1\", \"4.2\", not \"4.3\""),
        ("timeo = \"11m\"", "timeo must be from 100ms to 10m"),
        ("timeo = \"150ms\"", "in tenths of a second"),
        ("nconnect = 17", "nconnect must be from 1 to 16"),
        ("rsize = \"2MiB\"", "rsize must be from 1KiB to 1MiB"),
        ("port = 0", "port must be a port"),
        ("sec = \"kerberos\"", "sec must be one of \"sys\", \"krb5\""),
        ("nolock = true", "unknown key \"nolock\""),
    ] {
        assert!(wrong(keys).contains(words), "{keys}: {}", wrong(keys));
    }
    let text = "backend \"nfs\" \"nas\" {\n}\n";
    assert_eq!(
        mistakes(text),
        [
            "agent.hcl:1:1: backend \"nfs\" \"nas\" has no export (add export = \"/srv/export\")",
            "agent.hcl:1:1: backend \"nfs\" \"nas\" has no server (add server = \"10.0.0.1\")",
        ]
    );
}
