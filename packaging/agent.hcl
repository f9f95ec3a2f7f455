# The configuration of the saddlebag agent on this host. Everything here is optional: as it is, the agent talks to Nomad
# on this machine and keeps volumes in directories below /var/lib/saddlebag/volumes, made at their first use.
#
#   saddlebag config validate         checks this file and /etc/saddlebag/conf.d/*.hcl
#   systemctl restart saddlebag       has it read; mounts and tasks go on
#
# /usr/share/doc/saddlebag/examples/agent.hcl has every key, /usr/share/doc/saddlebag/configuration.md explains them.

# nomad {
#   address    = "http://127.0.0.1:4646"
#   token_file = "/etc/saddlebag/nomad-token"
# }

# backend "seaweedfs" "main" {
#   filer = "10.0.0.1:8888,10.0.0.2:8888"
# }

# volume "pgdata" {
#   backend = "main"
#   path    = "/volumes/pgdata"
#   create  = true
#   owner   = "70:70"
#   mode    = "0700"
# }
