# A job that runs once a day on the same volume, never two at a time.
#
#   nomad job run periodic.nomad.hcl
#   nomad job periodic force periodic        # not to wait until midnight

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

job "periodic" {
  datacenters = var.datacenters
  type        = "batch"

  periodic {
    crons            = ["@daily"]
    prohibit_overlap = true
  }

  group "work" {
    meta {
      storage_volume = "daily-notes"
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
        volumes = ["local/daily-notes:/data"]
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
