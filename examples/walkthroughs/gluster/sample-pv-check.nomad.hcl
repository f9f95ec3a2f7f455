# Writes ten files of 1 MiB to the volume at its first start, with their checksums; at every later one it compares them.
#
#   nomad job run sample-pv-check.nomad.hcl
#   nomad alloc logs -job sample-pv-check main

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

job "sample-pv-check" {
  group "app" {
    meta {
      storage_volume = "pv1"
    }

    task "storage" {
      driver = "raw_exec"

      lifecycle {
        hook = "prestart"
      }

      config {
        command = var.saddlebag
        args    = ["mount"]
      }

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
df -h /mnt/pv
cd /mnt/pv
if [ -e SUMS ]; then
  sha256sum -c SUMS
else
  for i in 1 2 3 4 5 6 7 8 9 10; do dd if=/dev/urandom of=file-$i bs=1M count=1 conv=fsync 2>/dev/null; done
  sha256sum file-* > SUMS
  cat SUMS
fi
echo done
trap 'exit 0' TERM INT
sleep 1000000 & wait
EOT
        ]
        volumes = ["local/pv1:/mnt/pv"]
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
