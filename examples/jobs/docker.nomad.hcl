# A Docker task with a volume: the usual way.
#
#   nomad job run docker.nomad.hcl
#
# Each start adds a line to the volume. Stop the job, purge it, run it again: the lines stay.
# The clients need the raw_exec driver (plugin "raw_exec" { config { enabled = true } }); without it see
# exec.nomad.hcl or prestart-curl.nomad.hcl.

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

variable "image" {
  description = "An image with a shell"
  type        = string
  default     = "busybox:1"
}

variable "network_mode" {
  description = "Docker's network for the containers; storage needs none"
  type        = string
  default     = "bridge"
}

job "docker" {
  datacenters = var.datacenters

  group "app" {
    meta {
      storage_volume = "notes"
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
      driver = "docker"

      config {
        image        = var.image
        network_mode = var.network_mode
        command      = "sh"
        args = ["-ec", <<EOT
echo "$NOMAD_ALLOC_ID" >> /data/starts
trap 'exit 0' TERM INT
sleep 1000000 & wait
EOT
        ]
        # "local/…" is the task's own folder, so this needs no permission from Docker's driver.
        volumes = ["local/notes:/data"]
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
