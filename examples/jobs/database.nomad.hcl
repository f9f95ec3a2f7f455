# A PostgreSQL server that keeps its database through stops, updates and purges.
#
#   nomad job run -var password=… database.nomad.hcl
#
# Register the volume on the clients, so that it is one volume and belongs to the server's user from the start (999 in
# the image's Debian variant, 70 in its Alpine variant):
#
#   volume "pgdata" {
#     backend     = "disk"        # a backend of the same configuration: backend "host" "disk" { … }, for example
#     create      = true          # at its first use, with this owner and mode
#     access_mode = "single-node-writer"
#     owner       = "999:999"
#     mode        = "0700"
#   }

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
  description = "PostgreSQL's image"
  type        = string
  default     = "postgres:17"
}

variable "network_mode" {
  description = "Docker's network for the containers; storage needs none"
  type        = string
  default     = "bridge"
}

variable "password" {
  description = "The database's password"
  type        = string
  default     = "change-me"
}

job "database" {
  datacenters = var.datacenters

  # One after the other: two servers must never work on one database.
  update {
    max_parallel = 1
    canary       = 0
  }

  group "db" {
    meta {
      storage_volume = "pgdata"
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

    task "postgres" {
      driver = "docker"

      config {
        image        = var.image
        network_mode = var.network_mode
        volumes      = ["local/pgdata:/var/lib/postgresql/data"]
      }

      env {
        POSTGRES_PASSWORD = var.password
      }

      # Time to write everything down before it is killed.
      kill_timeout = "30s"

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
