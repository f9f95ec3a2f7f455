//! What an operator writes, and what comes out or is said.

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::hcl::Source;

mod files;
mod gluster;
mod mistakes;
mod nfs;
mod registered;
mod urls;

fn parse(text: &str) -> Config {
    match Config::parse(text, "agent.hcl") {
        Ok(config) => config,
        Err(invalid) => panic!("{invalid}"),
    }
}

fn mistakes(text: &str) -> Vec<String> {
    match Config::parse(text, "agent.hcl") {
        Ok(config) => panic!("not refused: {config:?}"),
        Err(invalid) => invalid.problems.iter().map(ToString::to_string).collect(),
    }
}

fn read(texts: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<Loaded, Invalid> {
    let sources: Vec<Source<'_>> = texts.iter().map(|(name, text)| Source { name, text }).collect();
    Config::read(&sources, &|name| {
        environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    })
}

#[test]
fn nothing_at_all_is_the_embedded_default() {
    let config = parse("");
    assert_eq!(config.state_dir, PathBuf::from("/var/lib/saddlebag"));
    assert_eq!(config.run_dir, PathBuf::from("/run/saddlebag"));
    assert_eq!(config.hook_timeout, Duration::from_secs(45));
    assert_eq!(config.probe_interval, Duration::from_secs(30));
    assert_eq!(config.nomad.address, "http://127.0.0.1:4646");
    assert_eq!(config.status_group, None);
    assert_eq!(config.metrics_address, None);
    assert_eq!(config.policy, Policy::default());
    assert!(config.volumes.is_empty());
    let embedded = &config.backends["embedded"];
    assert!(embedded.dynamic);
    assert_eq!(embedded.kind, BackendKind::Host(HostBackend { path: PathBuf::from("/var/lib/saddlebag/volumes") }));
    assert_eq!(config.socket(), PathBuf::from("/run/saddlebag/saddlebag.sock"));
    assert_eq!(config.guard_socket(), PathBuf::from("/run/saddlebag/guard.sock"));
    assert_eq!(config.question_socket(), PathBuf::from("/run/saddlebag/questions.sock"));
    assert_eq!(config.ledger_dir(), PathBuf::from("/var/lib/saddlebag/ledger"));
    assert_eq!(config.sources_dir(), PathBuf::from("/var/lib/saddlebag/sources"));
    assert_eq!(config.links_dir(), PathBuf::from("/var/lib/saddlebag/bindings"));
    assert_eq!(config.logs_dir(), PathBuf::from("/var/lib/saddlebag/logs"));
}

#[test]
fn the_embedded_backend_follows_the_state_directory_and_yields_to_any_other() {
    let config = parse("state_dir = \"/data/saddlebag\"\n");
    let path = PathBuf::from("/data/saddlebag/volumes");
    assert_eq!(config.backends["embedded"].kind, BackendKind::Host(HostBackend { path }));
    let config = parse("backend \"host\" \"disk\" {\n  path = \"/srv\"\n}\n");
    assert_eq!(config.backends.keys().collect::<Vec<_>>(), ["disk"]);
}

#[test]
fn every_key_is_taken() {
    let config = parse(
        r#"
        state_dir    = "/data//saddlebag/"
        run_dir      = "/run/sb"
        status_group = "operators"
        hook_timeout = "2m"
        probe_interval = "10s"
        metrics {
          address = "[::1]:9469"
        }
        nomad {
          address         = "https://nomad.internal:4646"
          token_file      = "/etc/saddlebag/token"
          ca_file         = "/etc/ca.pem"
          cert_file       = "/etc/cert.pem"
          key_file        = "/etc/key.pem"
          tls_server_name = "client.global.nomad"
          alloc_dir       = "/opt/nomad/alloc"
        }
        backend "seaweedfs" "main" {
          filer          = "10.0.0.1:8888, [fd00::1]:8888"
          path           = "/buckets/"
          collection     = "jobs"
          replication    = "001"
          memory_limit   = "2GiB"
          cache_dir      = "/var/cache/sb"
          cache_capacity = "10GiB"
          attach         = "demand"
          linger         = "1m"
          attach_timeout = "5s"
          program        = "/opt/weed"
          read_only      = true
          security       = "/etc/sb/security.toml"
          ttl            = "1h"
        }
        backend "host" "disk" {
          path    = "/srv/volumes"
          dynamic = true
        }
        volume "pgdata" {
          backend     = "main"
          path        = "/pg/data"
          create      = true
          size        = "20GiB"
          access_mode = "single-node-writer"
          owner       = "70:71"
          mode        = "0750"
          nosuid      = false
          nodev       = false
          noexec      = true
        }
        volume "image" {
          backend     = "disk"
          format      = "xfs"
          size        = "1GiB"
          access_mode = "single-node-writer"
        }
        policy {
          allow_url = ["host:///srv/shared/", "seaweedfs://10.0.0.1:8888/buckets"]
        }
        "#,
    );
    assert_eq!(config.state_dir, PathBuf::from("/data/saddlebag"));
    assert_eq!(config.status_group.as_deref(), Some("operators"));
    assert_eq!(config.metrics_address, Some(([0, 0, 0, 0, 0, 0, 0, 1], 9469).into()));
    assert_eq!(config.hook_timeout, Duration::from_secs(120));
    assert_eq!(config.probe_interval, Duration::from_secs(10));
    assert_eq!(config.nomad.key_file, Some(PathBuf::from("/etc/key.pem")));
    assert_eq!(config.nomad.alloc_dir, Some(PathBuf::from("/opt/nomad/alloc")));
    assert_eq!(config.nomad.tls_server_name.as_deref(), Some("client.global.nomad"));
    assert_eq!(
        config.backends["main"],
        Backend {
            name: "main".to_owned(),
            kind: BackendKind::Seaweedfs(SeaweedfsBackend {
                filers: vec!["10.0.0.1:8888".to_owned(), "[fd00::1]:8888".to_owned()],
                path: "/buckets".to_owned(),
                collection: Some("jobs".to_owned()),
                replication: Some("001".to_owned()),
                memory_limit: 2 << 30,
                cache_dir: Some(PathBuf::from("/var/cache/sb")),
                cache_capacity: Some(10 << 30),
                program: Some(PathBuf::from("/opt/weed")),
                read_only: true,
                collection_per_volume: false,
                quota: None,
                security: Some(PathBuf::from("/etc/sb/security.toml")),
                options: [("ttl".to_owned(), "3600".to_owned())].into(),
            }),
            dynamic: false,
            linger: Duration::from_secs(60),
            attach_at_start: false,
            attach_timeout: Duration::from_secs(5),
        }
    );
    assert_eq!(
        config.volumes["pgdata"],
        Volume {
            name: "pgdata".to_owned(),
            backend: "main".to_owned(),
            path: PathBuf::from("pg/data"),
            create: true,
            size: Some(20 << 30),
            format: None,
            read_only: false,
            access_mode: AccessMode::SingleNodeWriter,
            owner: Some((70, 71)),
            mode: Some(0o750),
            collection: None,
            nosuid: false,
            nodev: false,
            noexec: true,
        }
    );
    let image = &config.volumes["image"];
    assert_eq!((image.format, image.path.to_str()), (Some(crate::config::Format::Xfs), Some("image.img")));
    let prefixes: Vec<String> = config.policy.allow_url.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["host:///srv/shared/", "seaweedfs://10.0.0.1:8888/buckets"]);
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = parse(
        "backend \"seaweedfs\" \"main\" {\n  filer = \"filer:8888\"\n}\nvolume \"x\" {\n  backend = \"main\"\n}\n",
    );
    let main = &config.backends["main"];
    let BackendKind::Seaweedfs(seaweedfs) = &main.kind else { panic!("{main:?}") };
    assert_eq!((seaweedfs.path.as_str(), seaweedfs.memory_limit, seaweedfs.read_only), ("/", 1 << 30, false));
    assert!(main.attach_at_start && !main.dynamic);
    assert_eq!((main.linger, main.attach_timeout), (Duration::from_secs(300), Duration::from_secs(20)));
    let volume = &config.volumes["x"];
    assert_eq!(volume.path, PathBuf::from("x"));
    assert_eq!(volume.access_mode, AccessMode::MultiNodeMultiWriter);
    assert!(!volume.create && !volume.read_only && volume.nosuid && volume.nodev && !volume.noexec);
}

#[test]
fn a_reader_only_access_mode_forces_read_only() {
    for (name, mode) in AccessMode::NAMES {
        let config = parse(&format!(
            "backend \"host\" \"d\" {{\n  path = \"/srv\"\n}}\nvolume \"x\" {{\n  backend = \"d\"\n  access_mode = \"{name}\"\n  read_only = false\n}}\n"
        ));
        assert_eq!(config.volumes["x"].access_mode, mode);
        assert_eq!(config.volumes["x"].read_only, name.ends_with("reader-only"), "{name}");
    }
}

#[test]
fn a_token_is_never_printed() {
    let loaded = read(&[], &[("NOMAD_TOKEN", "very-secret")]).unwrap();
    assert_eq!(loaded.config.nomad.token.as_ref().map(Token::expose), Some("very-secret"));
    assert!(!format!("{loaded:?}").contains("very-secret"));
    assert_eq!(
        mistakes("nomad {\n  token = \"very-secret\"\n}\n"),
        ["agent.hcl:2:3: unknown key \"token\" in nomad (did you mean \"token_file\"?)"]
    );
}

#[test]
fn the_file_wins_over_the_environment() {
    let environment = [
        ("NOMAD_ADDR", "https://env:4646"),
        ("NOMAD_CACERT", "/env/ca"),
        ("NOMAD_CLIENT_CERT", "/env/cert"),
        ("NOMAD_CLIENT_KEY", "/env/key"),
        ("NOMAD_TLS_SERVER_NAME", "env"),
        ("NOMAD_SKIP_VERIFY", "true"),
    ];
    let nomad = read(&[], &environment).unwrap().config.nomad;
    assert_eq!(nomad.address, "https://env:4646");
    assert_eq!(nomad.ca_file, Some(PathBuf::from("/env/ca")));
    assert_eq!(nomad.cert_file, Some(PathBuf::from("/env/cert")));
    assert_eq!(nomad.key_file, Some(PathBuf::from("/env/key")));
    assert_eq!(nomad.tls_server_name.as_deref(), Some("env"));
    assert!(nomad.skip_verify);
    let file = "nomad {\n  address = \"http://file:1\"\n  ca_file = \"/file/ca\"\n  tls_server_name = \"file\"\n}\n";
    let nomad = read(&[("agent.hcl", file)], &environment).unwrap().config.nomad;
    assert_eq!(nomad.address, "http://file:1");
    assert_eq!(nomad.ca_file, Some(PathBuf::from("/file/ca")));
    assert_eq!(nomad.tls_server_name.as_deref(), Some("file"));
}

#[test]
fn a_wrong_environment_is_told_by_its_name() {
    let invalid =
        read(&[], &[("NOMAD_ADDR", "nomad:4646"), ("NOMAD_SKIP_VERIFY", "maybe"), ("NOMAD_CLIENT_CERT", "/c")])
            .unwrap_err();
    assert_eq!(
        invalid.to_string(),
        "environment NOMAD_ADDR:1:1: address must be http://HOST:PORT or https://HOST:PORT, not \"nomad:4646\"\n\
         environment NOMAD_CLIENT_CERT, NOMAD_CLIENT_KEY:1:1: a client certificate needs both cert_file and key_file\n\
         environment NOMAD_SKIP_VERIFY:1:1: the value must be true or false, not \"maybe\""
    );
    assert!(read(&[], &[("NOMAD_ADDR", ""), ("NOMAD_SKIP_VERIFY", "")]).is_ok());
}

#[test]
fn the_example_is_a_configuration() {
    let config = parse(include_str!("../../examples/agent.hcl"));
    assert!(!config.backends.is_empty() && !config.volumes.is_empty());
}
