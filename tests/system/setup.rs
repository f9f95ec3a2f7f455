//! What is in a machine's files: units, configurations, the writing task, jobs; and the packages.

use crate::machine::succeed;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// As HashiCorp's package has it, with what a machine without a network needs.
pub const NOMAD_UNIT: &str = "[Unit]
Description=Nomad
Wants=network-online.target
After=network-online.target
StartLimitBurst=3
StartLimitIntervalSec=10

[Service]
ExecReload=/bin/kill -HUP $MAINPID
ExecStart=/opt/nomad/nomad agent -config /etc/nomad.d
KillMode=process
KillSignal=SIGINT
LimitNOFILE=65536
LimitNPROC=infinity
Restart=on-failure
RestartSec=2
TasksMax=infinity
OOMScoreAdjust=-1000

[Install]
WantedBy=multi-user.target
";

pub const NOMAD: &str = r#"
data_dir   = "/var/lib/nomad"
bind_addr  = "127.0.0.1"
log_level  = "INFO"
disable_update_check = true
leave_on_interrupt   = false
leave_on_terminate   = false
advertise {
  http = "127.0.0.1:4646"
  rpc  = "127.0.0.1:4647"
  serf = "127.0.0.1:4648"
}
server {
  enabled          = true
  bootstrap_expect = 1
  raft_multiplier  = 1
  heartbeat_grace  = "10m"
}
client {
  enabled           = true
  servers           = ["127.0.0.1:4647"]
  network_interface = "lo"
  gc_disk_usage_threshold  = 99
  gc_inode_usage_threshold = 99
  options = {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,consul,vault"
    "driver.allowlist"     = "exec,raw_exec"
  }
  chroot_env {
    "/opt/rootfs/bin"     = "/bin"
    "/opt/rootfs/usr/bin" = "/usr/bin"
    "/opt/rootfs/lib"     = "/lib"
    "/opt/rootfs/lib64"   = "/lib64"
    "/opt/rootfs/etc"     = "/etc"
    "/opt/tasks"          = "/opt/tasks"
  }
}
plugin "raw_exec" {
  config {
    enabled = true
  }
}
"#;

/// exec tasks are nobody's, so volumes are too.
pub const AGENT: &str = r#"
backend "host" "disk" {
  path = "/srv/volumes"
}
volume "near" {
  backend = "disk"
  create  = true
  owner   = "65534:65534"
}
volume "close" {
  backend = "disk"
  create  = true
  owner   = "65534:65534"
}
"#;

pub const SEAWEEDFS: &str = r#"
backend "seaweedfs" "main" {
  filer          = "127.0.0.1:8888"
  memory_limit   = "512MiB"
  attach_timeout = "3m"
}
volume "far" {
  backend = "main"
  path    = "/volumes/far"
  create  = true
  owner   = "65534:65534"
}
"#;

/// SeaweedFS answers an fsync when its servers have the data in memory, and relies on replicas for the rest. Where its
/// only server loses its power with the client, it has to write through. And it takes what time a slow machine takes.
pub const DURABLE: &str = "[Service]\nExecStartPre=+/usr/bin/chattr +S ${STATE_DIRECTORY}/.\nTimeoutStartSec=10min\n";

/// Appends a record to the volume's log, has it on disk, says so, and appends the next, for ever; what cannot be
/// written ends the task. A record is its number and that of the task's start: what a later start writes in the place
/// of a lost one is not the same. Each start leaves a line too, and is the first thing that is written.
pub const WRITER: &str = "
volume=$NOMAD_TASK_DIR/vol
echo start | dd of=\"$volume/starts\" oflag=append conv=notrunc,fsync 2>/dev/null || exit 9
write_records() {
    start=$(wc -l <\"$volume/starts\")
    number=$(wc -l <\"$volume/log\" 2>/dev/null || echo 0)
    while :; do
        number=$((number + 1))
        echo \"$number $start\" | dd of=\"$volume/log\" oflag=append conv=notrunc,fsync 2>/dev/null || exit 9
        echo \"$NOMAD_JOB_NAME $number $start\"
        sleep 0.05
    done
}
";

/// A job of one task that writes to a volume.
pub fn job(job: &str, driver: &str, volume: &str) -> String {
    format!(
        r#"
job "{job}" {{
  type = "service"
  group "group" {{
    restart {{
      attempts = 2
      interval = "10s"
      delay    = "1s"
      mode     = "delay"
    }}
    meta {{
      storage_volume      = "{volume}"
      storage_destination = "local/vol"
    }}
    task "storage" {{
      lifecycle {{
        hook = "prestart"
      }}
      driver = "raw_exec"
      config {{
        command = "/usr/bin/saddlebag"
        args    = ["mount"]
      }}
      logs {{
        disabled = true
      }}
      resources {{
        cpu    = 20
        memory = 32
      }}
    }}
    task "main" {{
      driver       = "{driver}"
      kill_timeout = "1s"
      config {{
        command = "/bin/sh"
        args    = ["/opt/tasks/writer"]
      }}
      logs {{
        disabled = true
      }}
      resources {{
        cpu    = 20
        memory = 32
      }}
    }}
  }}
}}
"#
    )
}

/// The folder with the packages of two versions, made once for all tests of this process.
pub fn packages() -> anyhow::Result<&'static Path> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = FOLDER.get_or_init(|| make_packages().map_err(|error| format!("{error:#}")));
    made.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn make_packages() -> anyhow::Result<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/package");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
    if std::env::var_os("SADDLEBAG_PACKAGES").is_none() {
        for version in ["1.0.0", "1.1.0"] {
            succeed(Command::new(&tools).arg(version).arg(&folder).env("PACKAGE_PROFILE", "dev"))?;
        }
    }
    Ok(std::env::var_os("SADDLEBAG_PACKAGES").map_or(folder, PathBuf::from).canonicalize()?)
}
