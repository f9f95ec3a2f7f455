# All that saddlebag's agent needs of Nomad's ACLs. It changes nothing in Nomad but what a job asks for: one that says
# on_failure = "restart" or "fail" has its task restarted, or its allocation stopped, when its mount is lost.
#
#   nomad acl policy apply -description "saddlebag" saddlebag saddlebag-policy.hcl
#   nomad acl token create -name saddlebag -type client -policy saddlebag
#
# Put the token's Secret ID into the file that token_file of the agent's configuration names (mode 0600, owner root).

# The jobs of every namespace that may use storage. To allow fewer, write one block for each: allocations in other
# namespaces are then not seen at all, and their prestart tasks are told that saddlebag does not know them. Without
# alloc-lifecycle everything works but on_failure = "restart" and "fail".
namespace "*" {
  capabilities = ["read-job", "alloc-lifecycle"]
}

# This machine's node, with its attributes and meta, and the list of its allocations.
node {
  policy = "read"
}

# The agent's own page, which says which node this machine is and where allocations are kept.
agent {
  policy = "read"
}
