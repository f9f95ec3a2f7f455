# Three instances, each with a volume of its own: data-0, data-1 and data-2.
#
#   nomad job run count.nomad.hcl
#
# The index stays with the instance: the allocation that replaces number 1 gets data-1 again.

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

job "count" {
  datacenters = var.datacenters

  group "app" {
    count = 3

    meta {
      storage_volume      = "data-${NOMAD_ALLOC_INDEX}"
      storage_destination = "local/data"
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
        volumes = ["local/data:/data"]
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
