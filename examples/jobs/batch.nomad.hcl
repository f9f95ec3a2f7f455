# A batch job that works on a volume and ends.
#
#   nomad job run batch.nomad.hcl
#
# When its task is over the volume is taken away from the allocation; what was written stays.

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

job "batch" {
  datacenters = var.datacenters
  type        = "batch"

  group "work" {
    meta {
      storage_volume = "batch-notes"
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
EOT
        ]
        # "local/…" is the task's own folder, so this needs no permission from Docker's driver.
        volumes = ["local/batch-notes:/data"]
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
