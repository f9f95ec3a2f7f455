//! The kernel: mounts, paths, namespaces, processes. The only unsafe code of the crate.
#![allow(unsafe_code)]
