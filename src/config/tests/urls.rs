use proptest::prelude::*;

use super::*;

#[test]
fn a_url_is_plain_or_refused() {
    for (text, right) in [
        ("host:///srv/x", true),
        ("host:///", true),
        ("host:///srv/..x", true),
        ("host:///srv/x/", false),
        ("host:///srv//x", false),
        ("host:////srv", false),
        ("host:///srv/../x", false),
        ("host:///srv/./x", false),
        ("host:///srv/%2e%2e/x", false),
        ("host:///srv/x?y", false),
        ("host:///srv/x#y", false),
        ("host:///srv/a b", false),
        ("host:///srv/a\u{0}b", false),
        ("host:///srv/a\\b", false),
        ("host://server/srv", false),
        ("HOST:///srv", false),
        ("seaweedfs://filer:8888/buckets/x", true),
        ("seaweedfs://filer:8888.18888/x", true),
        ("seaweedfs://[fd00::1]:8888/x", true),
        ("seaweedfs://filer/x", false),
        ("seaweedfs://filer:0/x", false),
        ("seaweedfs://filer:99999/x", false),
        ("seaweedfs://user@filer:8888/x", false),
        ("seaweedfs://-filer:8888/x", false),
        ("seaweedfs://:8888/x", false),
        ("seaweedfs:///x", false),
        ("nfs://server/x", true),
        ("nfs://server:2050/x/y", true),
        ("nfs://[fd00::1]/x", true),
        ("nfs://[fd00::1]:2050/x", true),
        ("nfs://server", true),
        ("nfs:///x", false),
        ("nfs://server:/x", false),
        ("nfs://server:0/x", false),
        ("nfs://server:20x/x", false),
        ("nfs://fd00::1/x", false),
        ("nfs://user@server/x", false),
        ("nfs://server/x/", false),
        ("nfs://server/x?vers=4.2&nolock", true),
        ("nfs://server/x?vers=3&nolock&ro&sec=sys&timeo=50&retrans=3", true),
        ("nfs://server/x?", false),
        ("nfs://server/x?vers=5", false),
        ("nfs://server/x?vers=4.2&vers=4.1", false),
        ("nfs://server/x?lock&nolock", false),
        ("nfs://server/x?soft", false),
        ("nfs://server/x?sharecache", false),
        ("nfs://server/x?VERS=4", false),
        ("nfs://server/x?nolock=1", false),
        ("nfs://server/x?vers=4.2&mountport=7", false),
        ("nfs://server/x?vers=4.2,nolock", false),
        ("nfs://server/x?ro?rw", false),
        ("seaweedfs://filer:8888/x?ro", false),
        ("gluster://server/gv0/x?ro", false),
        ("gluster://server/gv0/x", true),
        ("gluster://server:24017/gv0", true),
        ("gluster://198.51.100.2/gv0", true),
        ("gluster:///gv0/x", false),
        ("gluster://server:0/gv0", false),
        ("gluster://server:024007/gv0", false),
        ("gluster://server:24007:1/gv0", false),
        ("/srv/x", false),
        ("", false),
    ] {
        assert_eq!(StorageUrl::parse(text).is_ok(), right, "{text}");
    }
}

#[test]
fn prefixes_match_whole_components() {
    for (prefix, url, below) in [
        ("host:///srv/", "host:///srv/x", Some("x")),
        ("host:///srv/", "host:///srv/x/y", Some("x/y")),
        ("host:///srv/", "host:///srv", None),
        ("host:///srv", "host:///srv", Some("")),
        ("host:///srv", "host:///srv/x", Some("x")),
        ("host:///srv", "host:///srvx", None),
        ("host:///srv/a", "host:///srv/ab/c", None),
        ("host:///", "host:///srv", Some("srv")),
        ("host:///", "host:///", None),
        ("seaweedfs://filer:8888/b/", "seaweedfs://filer:8888/b/x", Some("x")),
        ("seaweedfs://filer:8888/b/", "seaweedfs://filer:88888/b/x", None),
        ("seaweedfs://filer:8888/b/", "seaweedfs://other:8888/b/x", None),
        ("seaweedfs://filer:8888", "seaweedfs://filer:8888/x", Some("x")),
        ("nfs://nas/e/", "nfs://nas/e/x?vers=4.2&nolock", Some("x")),
        ("nfs://nas/e/", "nfs://nas:2050/e/x", None),
        ("gluster://server/gv0/", "gluster://server/gv0/x", Some("x")),
        ("gluster://server/gv0/", "gluster://server/gv01/x", None),
        ("gluster://server/", "gluster://server:24017/gv0", None),
    ] {
        let prefix = UrlPrefix::parse(prefix).unwrap();
        let found = StorageUrl::parse(url).ok().and_then(|url| prefix.find_below(&url).map(|below| below.join("/")));
        assert_eq!(found.as_deref(), below, "{prefix} {url}");
    }
}

proptest! {
    #[test]
    fn a_url_that_is_taken_prints_as_it_was_written(path in "[a-c./%]{0,12}", host in "(seaweedfs://f:1/|host:///|nfs://nas/)") {
        let text = format!("{host}{path}");
        if let Ok(url) = StorageUrl::parse(&text) {
            prop_assert_eq!(url.to_string(), text);
            prop_assert!(url.components.iter().all(|part| !part.is_empty() && part != "." && part != ".."));
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,60}") {
        drop(StorageUrl::parse(&text));
        drop(StorageUrl::parse(&format!("nfs://server/x?{text}")));
        drop(UrlPrefix::parse(&format!("host://{text}")));
    }
}

#[test]
fn a_url_of_nfs_says_how_it_is_mounted() {
    let settings = |text: &str| StorageUrl::parse(text).unwrap().nfs().unwrap();
    let plain = settings("nfs://nas/x");
    assert_eq!(plain, NfsBackend::new("nas", "/"));
    let told = settings("nfs://nas:2050/x?vers=4.2&nolock&ro&sec=krb5p&lookupcache=none&timeo=50");
    assert_eq!((told.port, told.version.as_str(), told.sec.as_str()), (2050, "4.2", "krb5p"));
    assert!(!told.lock && told.read_only && told.hard);
    assert_eq!((told.lookupcache.as_str(), told.timeo), ("none", Some(50)));
    assert!(UrlPrefix::parse("nfs://nas/x/?ro").is_err());
}
