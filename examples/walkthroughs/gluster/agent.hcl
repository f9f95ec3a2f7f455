# The agent of a Nomad client that is a server of a Gluster pool itself.

backend "gluster" "storage-pool" {
  servers = ["198.51.100.2"]
  volume  = "pool1"

  # Sizes are set by `gluster` on this host. On a client that is no server: quota "ssh" { … }.
  quota "local" {
  }
}
