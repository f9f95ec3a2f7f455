use super::*;

#[test]
fn every_key_of_gluster_is_taken() {
    let text = r#"
        backend "gluster" "main" {
          servers        = ["gluster1", "198.51.100.2"]
          port           = 24017
          volume         = "gv0"
          path           = "/jobs"
          memory_limit   = "256MiB"
          program        = "/opt/gluster/glusterfs"
          read_only      = true
          attach         = "demand"
          linger         = "1m"
          attach_timeout = "30s"

          log_level              = "warning"
          attribute_timeout      = "500ms"
          entry_timeout          = "2s"
          negative_timeout       = "1s"
          gid_timeout            = "5m"
          ping_timeout           = "10s"
          frame_timeout          = "10m"
          direct_io_mode         = "disable"
          acl                    = true
          resolve_gids           = true
          kernel_writeback_cache = true
          fopen_keep_cache       = true
          auto_invalidation      = false
          use_readdirp           = false
          lru_limit              = 1000
          invalidate_limit       = 100
          background_qlen        = 32
          congestion_threshold   = 24
          reader_thread_count    = 2

          xlator_options = {
            "io-cache.cache-size"  = "64MB"
            "client.event-threads" = "4"
          }

          tls {
            management        = true
            certificate       = "/etc/gluster/cert.pem"
            key               = "/etc/gluster/key.pem"
            ca                = "/etc/gluster/ca.pem"
            certificate_depth = 2
            ciphers           = "HIGH:!SSLv2"
          }

          quota "ssh" {
            host        = "gluster1"
            port        = 2222
            user        = "saddlebag"
            key         = "/etc/saddlebag/gluster.key"
            known_hosts = "/etc/saddlebag/gluster.known_hosts"
            program     = "/usr/local/sbin/gluster"
            socket      = "/run/gluster.sock"
          }
        }
    "#;
    let config = parse(text);
    let backend = &config.backends["main"];
    assert_eq!((backend.linger.as_secs(), backend.attach_timeout.as_secs()), (60, 30));
    let BackendKind::Gluster(gluster) = &backend.kind else { panic!("{backend:?}") };
    let wanted = GlusterBackend {
        servers: vec!["gluster1".into(), "198.51.100.2".into()],
        port: 24017,
        path: "/jobs".into(),
        options: GlusterOptions {
            log_level: Some("WARNING".into()),
            attribute_timeout: Some(Duration::from_millis(500)),
            entry_timeout: Some(Duration::from_secs(2)),
            negative_timeout: Some(Duration::from_secs(1)),
            gid_timeout: Some(Duration::from_secs(300)),
            ping_timeout: Some(Duration::from_secs(10)),
            frame_timeout: Some(Duration::from_secs(600)),
            direct_io_mode: Some("disable".into()),
            acl: true,
            resolve_gids: true,
            kernel_writeback_cache: true,
            fopen_keep_cache: true,
            auto_invalidation: Some(false),
            use_readdirp: Some(false),
            lru_limit: Some(1000),
            invalidate_limit: Some(100),
            background_qlen: Some(32),
            congestion_threshold: Some(24),
            reader_thread_count: Some(2),
        },
        xlator_options: [("client.event-threads", "4"), ("io-cache.cache-size", "64MB")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        tls: Some(GlusterTls {
            management: Some(true),
            certificate: Some("/etc/gluster/cert.pem".into()),
            key: Some("/etc/gluster/key.pem".into()),
            ca: Some("/etc/gluster/ca.pem".into()),
            certificate_depth: Some(2),
            ciphers: Some("HIGH:!SSLv2".into()),
        }),
        quota: GlusterQuota::Ssh(GlusterSsh {
            host: "gluster1".into(),
            port: 2222,
            user: "saddlebag".into(),
            key: "/etc/saddlebag/gluster.key".into(),
            known_hosts: "/etc/saddlebag/gluster.known_hosts".into(),
            program: "/usr/local/sbin/gluster".into(),
            socket: Some("/run/gluster.sock".into()),
        }),
        memory_limit: 256 << 20,
        program: Some("/opt/gluster/glusterfs".into()),
        read_only: true,
        ..GlusterBackend::at("", 0, "gv0")
    };
    assert_eq!(**gluster, wanted);
    let local =
        parse("backend \"gluster\" \"a\" {\n  servers = [\"s\"]\n  volume = \"v\"\n  quota \"local\" {\n  }\n}\n");
    let BackendKind::Gluster(gluster) = &local.backends["a"].kind else { panic!("{local:?}") };
    assert_eq!(gluster.quota, GlusterQuota::Local { program: None, socket: None });
    assert_eq!((gluster.port, gluster.memory_limit, gluster.path.as_str()), (24007, 1 << 30, "/"));
}

#[test]
fn what_gluster_would_not_take_is_told_before_it_is_asked() {
    let text = r#"backend "gluster" "a" {
  servers = ["gluster1:24007", "-x", "b", "b"]
  volume  = "g.v"
  ping_timeout = "1500ms"
  log_level = "WARN"
  memory_limit = "1MiB"
  reader_thread_count = 0
  xlator_options = {
    "io-cache.cache-sise" = "1MB"
    "client.remote-host"  = "evil"
    "read-ahead.page-count" = "4;reboot"
  }
  tls {
    certificate = "/etc/x.pem"
    managment   = true
  }
  quota "rsh" {
  }
}
backend "gluster" "b" {
  quota "ssh" {
    user = "-oProxyCommand"
  }
}
"#;
    assert_eq!(
        mistakes(text),
        [
            "agent.hcl:2:14: \"gluster1:24007\" is not a host's name or address (the port is a key of its own: port = 24007)",
            "agent.hcl:2:32: \"-x\" is not a host's name or address",
            "agent.hcl:2:43: servers has \"b\" twice",
            "agent.hcl:3:13: volume must be the name of a Gluster volume, not \"g.v\"",
            "agent.hcl:4:18: ping_timeout must be whole seconds from 1s to 1013s",
            "agent.hcl:5:15: log_level must be one of trace, debug, info, warning, error, critical, none, not \"WARN\"",
            "agent.hcl:6:18: memory_limit must be at least 64MiB",
            "agent.hcl:7:25: reader_thread_count must be from 1 to 64",
            "agent.hcl:9:5: \"io-cache.cache-sise\" is not an option that xlator_options can set (did you mean \"io-cache.cache-size\"?)",
            "agent.hcl:10:5: \"client.remote-host\" is not an option that xlator_options can set (docs/backends/gluster.md has the list; what is not in it is set for the volume: `gluster volume set`)",
            "agent.hcl:11:31: read-ahead.page-count must be a word such as \"on\", \"10\" or \"4MB\"",
            "agent.hcl:14:19: a certificate needs both certificate and key",
            "agent.hcl:15:5: unknown key \"managment\" in tls (did you mean \"management\"?)",
            "agent.hcl:17:9: \"rsh\" is not a way to set quotas (the ways are quota \"local\" { } and quota \"ssh\" { … })",
            "agent.hcl:20:1: backend \"gluster\" \"b\" has no servers (add servers = [\"HOST\"])",
            "agent.hcl:20:1: backend \"gluster\" \"b\" has no volume (add volume = \"NAME\")",
            "agent.hcl:21:3: quota \"ssh\" has no host (add host = \"HOST\")",
            "agent.hcl:21:3: quota \"ssh\" has no key (add key = \"/etc/saddlebag/gluster.key\")",
            "agent.hcl:21:3: quota \"ssh\" has no known_hosts (add known_hosts = \"/etc/saddlebag/gluster.known_hosts\")",
            "agent.hcl:22:12: user must be the name of a user, not \"-oProxyCommand\"",
        ]
    );
}
