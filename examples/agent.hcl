# A configuration of the saddlebag agent, with everything that it can say.
#
# It is read from /etc/saddlebag/agent.hcl and then /etc/saddlebag/conf.d/*.hcl, or from what --config names.
# All of it is optional. With no backend and no volume at all, the agent keeps volumes in a directory of this host and
# creates each at its first use. docs/configuration.md says more of every key; `saddlebag config validate` checks a file.

# What has to outlive a reboot: the agent's ledger, the places where sources are mounted.
state_dir = "/var/lib/saddlebag"

# Sockets.
run_dir = "/run/saddlebag"

# Members of this group may look (`saddlebag status`), and change nothing. Left out, only root may.
# status_group = "operators"

# How long a prestart task may wait for its volumes.
hook_timeout = "45s"

# How often a storage system with servers is asked whether it answers, while a task uses it; "0s" is never.
probe_interval = "30s"

# How Nomad is reached. What is left out comes from NOMAD_ADDR, NOMAD_CACERT and so on, as for `nomad` itself.
nomad {
  address    = "http://127.0.0.1:4646"
  # The token is never written here: it comes from this file, or from NOMAD_TOKEN.
  # token_file = "/etc/saddlebag/nomad-token"

  # With TLS:
  # ca_file         = "/etc/nomad.d/ca.pem"
  # cert_file       = "/etc/nomad.d/client.pem"
  # key_file        = "/etc/nomad.d/client-key.pem"
  # tls_server_name = "client.global.nomad"

  # Only where the agent cannot learn it from Nomad itself:
  # alloc_dir = "/opt/nomad/data/alloc"
}

# Metrics for Prometheus over TCP, to everybody who can connect. On the host's socket they are always at /metrics.
# metrics {
#   address = "127.0.0.1:9469"
# }

# A directory of this host. One backend may be dynamic: a name that is not registered is a directory there, created at
# its first use.
backend "host" "disk" {
  path    = "/srv/volumes"
  dynamic = true
}

# A SeaweedFS filer. One `weed mount` serves all its volumes.
backend "seaweedfs" "main" {
  filer        = "10.0.0.1:8888,10.0.0.2:8888"
  path         = "/"      # the filer's directory that is mounted
  memory_limit = "1GiB"   # for the mount program, in a cgroup of its own
  attach       = "start"  # or "demand": mount it when a job first needs it
  linger       = "5m"     # how long it stays mounted after its last use

  # collection     = "jobs"
  # replication    = "001"
  # cache_dir      = "/var/cache/saddlebag"
  # cache_capacity = "10GiB"  # of chunks that were read; what waits to be written: write_buffer_size = "512MiB"
  # security       = "/etc/seaweedfs/security.toml"
  # Every other option of `weed mount` has its own name here (docs/backends/seaweedfs.md), for example:
  # chunk_size_limit = "8MiB"
  # data_center      = "dc1"
  # collection_per_volume = true
  # attach_timeout = "20s"
  # program        = "/usr/local/bin/weed"
  # read_only      = false
}

# An export of an NFS server, mounted by the kernel's own client. docs/backends/nfs.md has every key.
backend "nfs" "nas" {
  server  = "10.0.0.3"
  export  = "/srv/export"
  version = "4.2"         # left out: the highest of 4.2, 4.1 and 4.0 that the server has
  attach  = "demand"

  # hard    = true        # a task waits for its server; false loses writes
  # lock    = true        # false is nolock, for version = "3"
  # sec     = "krb5p"
  # options = ["noresvport"]
}

# A Gluster volume. One `glusterfs` serves all saddlebag volumes on it.
backend "gluster" "replicated" {
  servers      = ["gluster1.example.com", "gluster2.example.com"]  # the first that answers
  volume       = "gv0"
  path         = "/jobs"   # the directory of it that volumes are below
  ping_timeout = "10s"     # how soon a brick counts as gone

  # xlator_options = { "write-behind.cache-size" = "4MB" }

  # Who sets sizes: `gluster` on this host, if it is a server of the pool, or on one that is.
  # quota "local" {
  # }
  quota "ssh" {
    host        = "gluster1.example.com"
    key         = "/etc/saddlebag/gluster.key"
    known_hosts = "/etc/saddlebag/gluster.known_hosts"
  }
}

# A registered volume: jobs ask for it by its name, storage_volume = "pgdata".
volume "pgdata" {
  backend     = "main"
  path        = "/volumes/pgdata"  # left out: a directory of the volume's name
  create      = true               # at first use, with this owner and mode
  owner       = "70:70"
  mode        = "0700"
  size        = "20GiB"            # `saddlebag status` says whether it is enforced
  access_mode = "single-node-writer"
}

volume "letters" {
  backend     = "main"
  path        = "/volumes/letters"
  access_mode = "multi-node-reader-only"  # always bound read-only
  noexec      = true
}

# Jobs may also name storage by URL, but only below these prefixes.
policy {
  allow_url = [
    "host:///srv/shared/",
    "seaweedfs://10.0.0.1:8888/buckets/scratch/",
    "nfs://10.0.0.3/srv/scratch/",
    "gluster://gluster1.example.com/gv0/scratch/",
  ]
}
