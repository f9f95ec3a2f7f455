# Everything in the exec driver, the prestart task too: no raw_exec and no Docker needed.
#
#   nomad job run exec.nomad.hcl
#
# - The program must be inside the tasks' chroot. By default Nomad copies /usr, so /usr/bin/saddlebag is there;
#   with a chroot_env of your own in the client's configuration, add "/usr/bin/saddlebag" and the libraries that
#   it needs (`ldd /usr/bin/saddlebag`). In there it reaches the agent by the allocation's own socket.
# - exec runs tasks as nobody, who may not write to a volume that belongs to root. Register the volume with an
#   owner, on each client or in /etc/saddlebag/conf.d (65534 is nobody on most systems; `id nobody` says so):
#
#     volume "exec-notes" {
#       backend = "disk"            # a backend of the same configuration: backend "host" "disk" { … }, for example
#       create  = true              # at its first use, with this owner
#       owner   = "65534:65534"
#     }

variable "datacenters" {
  description = "Where it may run"
  type        = list(string)
  default     = ["*"]
}

variable "saddlebag" {
  description = "The program's path in the chroot"
  type        = string
  default     = "/usr/bin/saddlebag"
}

job "exec" {
  datacenters = var.datacenters

  group "app" {
    meta {
      storage_volume = "exec-notes"
    }

    # Runs first. The main task starts when it has ended well: the volume is mounted then.
    task "storage" {
      driver = "exec"

      lifecycle {
        hook = "prestart"
      }

      config {
        command = var.saddlebag
        args    = ["mount"]
      }

      # Starts faster; `nomad alloc logs -stderr ALLOC storage` still shows why a volume was refused.
      logs {
        disabled = true
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }

    task "main" {
      driver = "exec"

      config {
        command = "/bin/sh"
        args = ["-ec", <<EOT
echo "$NOMAD_ALLOC_ID" >> "$NOMAD_TASK_DIR/exec-notes/starts"
trap 'exit 0' TERM INT
sleep 1000000 & wait
EOT
        ]
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
