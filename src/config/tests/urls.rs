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
        ("nfs://server/x", false),
        ("gluster://server/x", false),
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
    ] {
        let prefix = UrlPrefix::parse(prefix).unwrap();
        let found = StorageUrl::parse(url).ok().and_then(|url| prefix.find_below(&url).map(|below| below.join("/")));
        assert_eq!(found.as_deref(), below, "{prefix} {url}");
    }
}

proptest! {
    #[test]
    fn a_url_that_is_taken_prints_as_it_was_written(path in "[a-c./%]{0,12}", host in "(seaweedfs://f:1/|host:///)") {
        let text = format!("{host}{path}");
        if let Ok(url) = StorageUrl::parse(&text) {
            prop_assert_eq!(url.to_string(), text);
            prop_assert!(url.components.iter().all(|part| !part.is_empty() && part != "." && part != ".."));
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,60}") {
        drop(StorageUrl::parse(&text));
        drop(UrlPrefix::parse(&format!("host://{text}")));
    }
}
