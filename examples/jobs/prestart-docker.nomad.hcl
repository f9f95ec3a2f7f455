# The prestart task in Docker, with the program of the client.
#
#   nomad job run prestart-docker.nomad.hcl
#
# The program is bound into the container from the client, so Docker's driver must allow paths of the host:
#
#   plugin "docker" { config { volumes { enabled = true } } }
#
# and the image must have the libraries that the program needs (`ldd /usr/bin/saddlebag`; a program built for
# musl needs none). In an image of your own the program can be inside, without the `mount` block below.
# prestart-curl.nomad.hcl needs neither.

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

variable "storage_image" {
  description = "An image with glibc, for the prestart task"
  type        = string
  default     = "debian:stable-slim"
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

job "prestart-docker" {
  datacenters = var.datacenters

  group "app" {
    meta {
      storage_volume = "boxed-notes"
    }

    # It reaches the agent by the allocation's own socket, which can act for this allocation and no other.
    task "storage" {
      driver = "docker"

      lifecycle {
        hook = "prestart"
      }

      config {
        image        = var.storage_image
        network_mode = var.network_mode
        command      = "/usr/bin/saddlebag"
        args         = ["mount"]

        mount {
          type     = "bind"
          source   = var.saddlebag
          target   = "/usr/bin/saddlebag"
          readonly = true
        }
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
        volumes = ["local/boxed-notes:/data"]
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
