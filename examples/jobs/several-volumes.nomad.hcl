# Several volumes, and more said of each: volume blocks in the group's meta.
#
#   nomad job run several-volumes.nomad.hcl
#
# In a block: source (a registered name or a URL; default: the label), destination (default: local/LABEL), read_only,
# tasks (default: all but the one that calls saddlebag), on_failure ("reattach", "restart" or "fail").

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

job "several-volumes" {
  datacenters = var.datacenters

  group "app" {
    meta {
      storage_volume = <<EOT
# Only for the writer.
volume "journal" {
  tasks = ["writer"]
}

# The same volume, for the reader, who cannot change it.
volume "journal-to-read" {
  source      = "journal"
  destination = "local/journal"
  read_only   = true
  tasks       = ["reader"]
}

# For both of them.
volume "scratch" {
  destination = "local/scratch"
}
EOT
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

    task "writer" {
      driver = "docker"

      config {
        image        = var.image
        network_mode = var.network_mode
        command      = "sh"
        args = ["-ec", <<EOT
echo "$NOMAD_ALLOC_ID" >> /journal/starts
echo "writer $NOMAD_ALLOC_ID" >> /scratch/starts
trap 'exit 0' TERM INT
sleep 1000000 & wait
EOT
        ]
        # "local/…" is the task's own folder, so this needs no permission from Docker's driver.
        volumes = ["local/journal:/journal", "local/scratch:/scratch"]
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }

    task "reader" {
      driver = "docker"

      config {
        image        = var.image
        network_mode = var.network_mode
        command      = "sh"
        args = ["-ec", <<EOT
until grep -q "$NOMAD_ALLOC_ID" /journal/starts; do sleep 0.1; done
echo "reader $NOMAD_ALLOC_ID" >> /scratch/starts
trap 'exit 0' TERM INT
sleep 1000000 & wait
EOT
        ]
        # "local/…" is the task's own folder, so this needs no permission from Docker's driver.
        volumes = ["local/journal:/journal", "local/scratch:/scratch"]
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
