# The same directory, from which nothing can be executed any more.
volume "media" {
  backend = "filer"
  path    = "media"
  noexec  = true
}
