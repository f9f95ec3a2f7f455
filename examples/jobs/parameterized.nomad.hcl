# A job that is dispatched for a customer, each customer with a volume of their own.
#
#   nomad job run parameterized.nomad.hcl
#   nomad job dispatch -meta customer=acme parameterized       # works on the volume "reports-acme"
#
# A customer with other characters than letters, digits, ".", "_" and "-" is refused: it is no volume's name.

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

job "parameterized" {
  datacenters = var.datacenters
  type        = "batch"

  parameterized {
    payload       = "forbidden"
    meta_required = ["customer"]
  }

  group "work" {
    meta {
      storage_volume      = "reports-${NOMAD_META_customer}"
      storage_destination = "local/reports"
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
        volumes = ["local/reports:/data"]
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
