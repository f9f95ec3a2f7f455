# The prestart task is curl in a container: nothing of saddlebag is needed in the image, and no permission from
# Docker's driver.
#
#   nomad job run prestart-curl.nomad.hcl
#
# The agent answers over HTTP on a socket in the allocation's shared folder. One POST mounts what the job asks for and
# is answered when it is there, or with the reason why not.

variable "datacenters" {
  description = "Where it may run"
  type        = list(string)
  default     = ["*"]
}

variable "curl_image" {
  description = "An image with a shell and curl 7.76 or newer"
  type        = string
  default     = "curlimages/curl:8.16.0"
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

job "prestart-curl" {
  datacenters = var.datacenters

  group "app" {
    meta {
      storage_volume = "curl-notes"
    }

    # Runs first. The main task starts when it has ended well: the volume is mounted then.
    task "storage" {
      driver = "docker"

      lifecycle {
        hook = "prestart"
      }

      config {
        image        = var.curl_image
        network_mode = var.network_mode
        entrypoint   = ["/bin/sh", "-c"]
        args = [<<EOT
# Until the agent answers: it makes the socket when it sees the allocation.
deadline=$(( $(date +%s) + 60 ))
while true; do
  code=0
  reply=$(curl -s --fail-with-body --max-time 60 --unix-socket "$NOMAD_ALLOC_DIR/saddlebag.sock" \
    -H "Content-Type: application/json" -d "{\"task\": \"$NOMAD_TASK_NAME\"}" http://saddlebag/v1/mount) || code=$?
  case $code in
    0) exit 0 ;;                  # all volumes are there
    22) break ;;                  # refused: the reply says why
  esac
  if [ "$(date +%s)" -ge "$deadline" ]; then
    reply="no answer at $NOMAD_ALLOC_DIR/saddlebag.sock (curl: $code): is saddlebag running on this client?"
    break
  fi
  sleep 0.1
done
# For `nomad alloc logs -stderr ALLOC storage`.
echo "$reply" | tee -a "$NOMAD_ALLOC_DIR/logs/$NOMAD_TASK_NAME.stderr.0" >&2
exit 1
EOT
        ]
      }

      # Starts faster; the script keeps what `nomad alloc logs` is to show.
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
        volumes = ["local/curl-notes:/data"]
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
