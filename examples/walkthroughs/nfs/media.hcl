# A directory that is on the export already. Without `create` it has to be.
volume "media" {
  backend = "filer"
  path    = "media"
}
