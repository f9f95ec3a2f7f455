# /etc/saddlebag/conf.d/filer.hcl on each client: an export that is there already, mounted with nolock.
backend "nfs" "filer" {
  server  = "198.51.100.2"
  export  = "/srv/export"
  version = "3"
  lock    = false
  attach  = "demand"
}
