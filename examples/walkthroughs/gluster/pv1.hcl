# saddlebag volume create pv1.hcl

volume "pv1" {
  backend = "storage-pool"
  create  = true
  size    = "200MiB"
  mode    = "0777"
}
