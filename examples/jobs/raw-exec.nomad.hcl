# A raw_exec task with a volume.
#
#   nomad job run raw-exec.nomad.hcl
#
# Such a task sees the host's own file system, so its volume is a symbolic link in its folder.

variable "datacenters" {
  description = "Where it may run"
  type        = list(string)
  default     = ["*"]
}

variable "saddlebag" {
  description = "The program's path on the clients"
  type        = string
  default     = "/usr/bin/saddlebag"
}

job "raw-exec" {
  datacenters = var.datacenters

  group "app" {
    meta {
      storage_volume = "raw-notes"
    }

    # Runs first. The main task starts when it has ended well: the volume is mounted then.
    task "storage" {
      driver = "raw_exec"

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
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args = ["-ec", <<EOT
echo "$NOMAD_ALLOC_ID" >> "$NOMAD_TASK_DIR/raw-notes/starts"
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
