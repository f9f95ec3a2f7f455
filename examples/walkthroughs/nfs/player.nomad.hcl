# A task that reads what is on the export and adds a line to it.
job "player" {
  group "app" {
    meta {
      storage_volume = "media"
    }

    # Runs first. The main task starts when it has ended well: the volume is mounted then.
    task "storage" {
      driver = "raw_exec"

      lifecycle {
        hook = "prestart"
      }

      config {
        command = "/usr/bin/saddlebag"
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
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-ec", "cat local/media/catalogue; echo \"$NOMAD_ALLOC_ID\" >>local/media/played; exec sleep 1000000"]
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
