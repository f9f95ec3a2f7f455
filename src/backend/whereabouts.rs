//! Where a directory lies on its storage system, whichever mount leads there: two backends, and two mounts, may be of one
//! filer, export or disk.

use std::path::{Path, PathBuf};

use crate::config::{self, BackendKind};

/// A directory, or a file, of a storage system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    kind: &'static str,
    /// Any of which stands for all.
    servers: Vec<String>,
    /// A Gluster volume's name.
    part: String,
    path: PathBuf,
}

impl Whereabouts {
    /// Of a path within a source of that definition. What is in an image lies in the image's file.
    pub fn of(definition: &config::Backend, path: &Path) -> Self {
        let root = Path::new("/");
        let (kind, servers, part, path) = match &definition.kind {
            BackendKind::Host(host) => ("host", vec![String::new()], String::new(), host.path.join(path)),
            BackendKind::Seaweedfs(weed) => ("seaweedfs", weed.filers.clone(), String::new(), root.join(path)),
            BackendKind::Nfs(nfs) => {
                ("nfs", vec![nfs.server.clone()], String::new(), Path::new(&nfs.export).join(path))
            }
            BackendKind::Gluster(gluster) => {
                ("gluster", gluster.servers.clone(), gluster.volume.clone(), root.join(path))
            }
            BackendKind::Image(image) => {
                let parent = &image.parent;
                return Self::of(parent, &super::of(parent).volumes_below().join(&image.path));
            }
        };
        Self { kind, servers, part, path }
    }

    /// Whether it is that directory or lies in it. A server that two configurations call by two names is two for this.
    pub fn is_within(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.part == other.part
            && self.servers.iter().any(|server| other.servers.contains(server))
            && self.path.starts_with(&other.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn of(block: &str, path: &str) -> Whereabouts {
        let config = Config::parse(block, "agent.hcl").unwrap();
        let definition = config.backends.values().find(|backend| backend.name == "b").unwrap();
        Whereabouts::of(definition, &super::super::of(definition).volumes_below().join(path))
    }

    #[test]
    fn a_directory_is_the_same_by_another_mount_of_its_storage() {
        let weed = |more: &str| format!("backend \"seaweedfs\" \"b\" {{\n  {more}\n}}\n");
        let here = of(&weed("filer = \"a:8888,b:8888\""), "volumes/x");
        let there = of(&weed("filer = \"b:8888\"\n  path = \"/volumes\"\n  read_only = true"), "x/y");
        assert!(there.is_within(&here) && !here.is_within(&there));
        assert!(!of(&weed("filer = \"c:8888\""), "volumes/x/y").is_within(&here));
        assert!(!of(&weed("filer = \"a:8888\""), "volumes/xy").is_within(&here));

        let nfs = |export: &str| format!("backend \"nfs\" \"b\" {{\n  server = \"nas\"\n  export = \"{export}\"\n}}\n");
        assert!(of(&nfs("/srv/deep"), "x").is_within(&of(&nfs("/srv"), "deep")));

        let gluster = |volume: &str| {
            format!("backend \"gluster\" \"b\" {{\n  servers = [\"g1\", \"g2\"]\n  volume = \"{volume}\"\n}}\n")
        };
        assert!(of(&gluster("gv0"), "x/y").is_within(&of(&gluster("gv0"), "x")));
        assert!(!of(&gluster("gv1"), "x/y").is_within(&of(&gluster("gv0"), "x")));

        let host = |path: &str| format!("backend \"host\" \"b\" {{\n  path = \"{path}\"\n}}\n");
        assert!(of(&host("/srv/volumes/x"), "y").is_within(&of(&host("/srv/volumes"), "x")));
        assert!(!of(&host("/srv"), "volumes/x").is_within(&here));
    }
}
