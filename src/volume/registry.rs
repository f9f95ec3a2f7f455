//! From what a job calls its storage to a directory of a backend, if the operator allows it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Resolved;
use crate::config::model::Volume;
use crate::config::url::{SCHEMES, UrlError, server_and_port};
use crate::config::{
    Backend, BackendKind, Config, GLUSTERD_PORT, GlusterBackend, HostBackend, ImageBackend, NAME_RULE, NfsBackend,
    Policy, Scheme, SeaweedfsBackend, StorageUrl, UrlPrefix, is_gluster_volume, is_name,
};
use crate::hcl::nearest;
use crate::job::{Kind, Refusal, SourceName};

/// Every volume and backend that jobs can reach.
#[derive(Debug, Clone)]
pub struct Registry {
    volumes: BTreeMap<String, Defined>,
    backends: BTreeMap<String, Backend>,
    policy: Policy,
    /// Why the definition of a registered volume cannot be used.
    unusable: BTreeMap<String, Unusable>,
    /// Volumes whose definition is being changed.
    changing: BTreeSet<String>,
}

/// A volume with where it was defined.
#[derive(Debug, Clone, PartialEq)]
pub struct Defined {
    /// What the definition says.
    pub volume: Volume,
    /// `FILE:LINE:COLUMN` of a configuration file, or the file that keeps what was registered.
    pub place: String,
    /// The text that was registered; none of a volume that the configuration defines.
    pub text: Option<String>,
}

/// A registered definition that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// The file that keeps it.
    pub place: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A volume with the backend to use for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// Where the volume is and what may be done with it.
    pub volume: Resolved,
    /// The backend: a configured one, or one that is derived from a URL.
    pub backend: Backend,
}

impl Registry {
    /// What the configuration defines and allows.
    pub fn new(config: &Config) -> Self {
        let defined = |(name, volume): (&String, &Volume)| {
            let place = config.places.get(name).cloned().unwrap_or_default();
            (name.clone(), Defined { volume: volume.clone(), place, text: None })
        };
        Self {
            volumes: config.volumes.iter().map(defined).collect(),
            backends: config.backends.clone(),
            policy: config.policy.clone(),
            unusable: BTreeMap::new(),
            changing: BTreeSet::new(),
        }
    }

    /// Adds what was registered, or puts it in place of what was registered by that name before.
    pub fn register(&mut self, volume: Volume, place: String, text: String) {
        self.unusable.remove(&volume.name);
        self.volumes.insert(volume.name.clone(), Defined { volume, place, text: Some(text) });
    }

    /// Forgets what was registered by that name. What the configuration defines stays.
    pub fn deregister(&mut self, name: &str) {
        self.unusable.remove(name);
        if self.volumes.get(name).is_some_and(|defined| defined.text.is_some()) {
            self.volumes.remove(name);
        }
    }

    /// A registered definition cannot be used: nor can its name, until it is registered anew.
    pub fn note_unusable(&mut self, name: String, unusable: Unusable) {
        self.unusable.insert(name, unusable);
    }

    /// Whoever asks for the volume waits meanwhile.
    pub fn set_changing(&mut self, name: &str, changing: bool) {
        if changing {
            self.changing.insert(name.to_owned());
        } else {
            self.changing.remove(name);
        }
    }

    /// What is defined by that name.
    pub fn find(&self, name: &str) -> Option<&Defined> {
        self.volumes.get(name)
    }

    /// Every volume that is defined.
    pub fn defined(&self) -> impl Iterator<Item = &Defined> {
        self.volumes.values()
    }

    /// The registered definitions that cannot be used, by their names.
    pub fn unusable(&self) -> &BTreeMap<String, Unusable> {
        &self.unusable
    }

    /// Where a definition's volume is; none where its backend does not exist.
    pub fn place(&self, volume: &Volume) -> Option<Placed> {
        let backend = self.backends.get(&volume.backend)?;
        if volume.format.is_some() {
            return Some(place(volume, backend));
        }
        let volume = registered(volume, backend);
        let backend = self.for_size(&volume, backend).unwrap_or_else(|| backend.clone());
        Some(Placed { volume, backend })
    }

    /// The same, where an image is the file that it is on its backend.
    pub fn place_file(&self, volume: &Volume) -> Option<Placed> {
        let backend = self.backends.get(&volume.backend)?;
        Some(Placed { volume: registered(volume, backend), backend: backend.clone() })
    }

    /// The volume that a name stands for on the dynamic backend, defined or not.
    pub fn place_dynamic(&self, name: &str) -> Option<Placed> {
        let backend = self.backends.values().find(|backend| backend.dynamic)?;
        let mut volume = resolved(name, backend, PathBuf::from(name));
        volume.create = true;
        volume.collection = collection_of(name, &volume.path, backend);
        Some(Placed { volume, backend: backend.clone() })
    }

    /// What an operator should know of a definition beside the others: sentences.
    pub fn find_doubtful(&self, volume: &Volume) -> Vec<String> {
        let others = self.volumes.values().map(|defined| &defined.volume);
        let beside = others.filter(|other| other.name != volume.name && other.backend == volume.backend);
        let mut doubts: Vec<String> = beside
            .filter_map(|other| {
                let relation = match (volume.path.starts_with(&other.path), other.path.starts_with(&volume.path)) {
                    (true, true) => "is the same directory as",
                    (true, false) => "is inside",
                    (false, true) => "has inside it",
                    (false, false) => return None,
                };
                Some(format!("volume {:?} {relation} volume {:?}", volume.name, other.name))
            })
            .collect();
        if volume.create && volume.read_only {
            doubts.push(format!("volume {:?} is read-only, so create has no effect", volume.name));
        }
        doubts
    }

    /// The sources of all image volumes.
    pub fn images(&self) -> Vec<Backend> {
        let with_backend = |volume: &Volume| image_of(volume, self.backends.get(&volume.backend)?);
        self.volumes.values().filter_map(|defined| with_backend(&defined.volume)).collect()
    }

    /// Looks up what a job names.
    ///
    /// # Errors
    /// A [`Refusal`]: a name that is not registered, a URL that is malformed or that no `policy.allow_url` covers.
    pub fn resolve(&self, name: &SourceName) -> Result<Placed, Refusal> {
        match name {
            SourceName::Named(name) => self.resolve_named(name),
            SourceName::Url(url) => self.resolve_url(url),
        }
    }

    fn resolve_named(&self, name: &str) -> Result<Placed, Refusal> {
        if !is_name(name) {
            let refusal = Refusal::configuration(format!("{name:?} is not a volume's name"));
            return Err(refusal.hint(format!("a name is {NAME_RULE}")));
        }
        if self.changing.contains(name) {
            return Err(Refusal {
                kind: Kind::TryAgain,
                message: format!("the definition of volume {name:?} is being changed"),
                hint: Some("it is looked up once that is done".to_owned()),
            });
        }
        if let Some(Unusable { place, reason }) = self.unusable.get(name) {
            let message = format!("volume {name:?} was registered, and its definition cannot be used: {reason}");
            return Err(Refusal::configuration(message).hint(format!(
                "the operator registers it anew with `saddlebag volume register`; it is kept in {place}"
            )));
        }
        if let Some(placed) = self.volumes.get(name).and_then(|defined| self.place(&defined.volume)) {
            return Ok(placed);
        }
        if let Some(backend) = self.backends.values().find(|backend| backend.dynamic) {
            // Else a job could reach a registered volume's files past its definition (read-only, say).
            let is_inside = |volume: &&Volume| volume.backend == backend.name && volume.path.starts_with(name);
            if let Some(volume) = self.volumes.values().map(|defined| &defined.volume).find(is_inside) {
                let message = format!("the directory {name:?} holds the registered volume {:?}", volume.name);
                return Err(Refusal::not_permitted(message).hint(format!("did you mean {:?}?", volume.name)));
            }
            return self.place_dynamic(name).ok_or_else(|| unknown(name));
        }
        let refusal = unknown(name);
        Err(match nearest(name, self.volumes.keys().map(String::as_str)) {
            Some(near) => refusal.hint(format!("did you mean {near:?}?")),
            None => refusal.hint(format!(
                "the operator registers it with a block volume {name:?} in the agent's configuration, or with `saddlebag volume register`"
            )),
        })
    }

    /// The mount of its own that keeps a volume to its size, on a system that does so by mounts; none where it has no size,
    /// or shares what would be counted with another volume.
    fn for_size(&self, volume: &Resolved, backend: &Backend) -> Option<Backend> {
        let BackendKind::Seaweedfs(settings) = &backend.kind else { return None };
        let size = volume.size.filter(|_| !volume.read_only)?;
        let collection = settings.accounts_of(volume.collection.as_deref(), &volume.path)?;
        let shares = |other: &Volume| {
            let own = other.collection.clone().or_else(|| collection_of(&other.name, &other.path, backend));
            other.name != volume.name
                && other.backend == volume.backend
                && settings.accounts_of(own.as_deref(), &other.path).as_deref() == Some(&collection)
        };
        if self.volumes.values().any(|other| shares(&other.volume)) {
            return None;
        }
        let kind = BackendKind::Seaweedfs(settings.for_size(&collection, &volume.path, size)?);
        // Like a mount of a URL it has a name that no configured one can have, and is there while it is used.
        let name = format!("{}~{}", backend.name, volume.name);
        Some(Backend { name, kind, dynamic: false, attach_at_start: false, ..backend.clone() })
    }

    fn resolve_url(&self, text: &str) -> Result<Placed, Refusal> {
        let url = StorageUrl::parse(text).map_err(|error| bad_url(text, &error))?;
        // The longest prefix is the most specific word of the operator, so it is the root that counts.
        let allowed = self
            .policy
            .allow_url
            .iter()
            .filter_map(|prefix| prefix.find_below(&url).map(|below| (prefix, below)))
            .max_by_key(|(prefix, _)| prefix.url().components.len());
        let Some((prefix, below)) = allowed else {
            return Err(Refusal::not_permitted(format!("the policy of this node does not allow the URL {url}")).hint(
                format!(
                    "the operator allows it with policy {{ allow_url = [\"{url}\"] }} in the agent's configuration"
                ),
            ));
        };
        let (backend, path) = match url.scheme {
            Scheme::Host => (host_below(prefix), below.iter().collect()),
            Scheme::Seaweedfs => self.seaweedfs_of(&url),
            Scheme::Nfs => self.nfs_of(&url, prefix, below)?,
            Scheme::Gluster => self.gluster_of(&url)?,
        };
        Ok(Placed { volume: resolved(text, &backend, path), backend })
    }

    /// A configured backend that has the URL's filer and directory mounted, the deepest first; else one derived from it.
    fn seaweedfs_of(&self, url: &StorageUrl) -> (Backend, PathBuf) {
        let mounted = self.backends.values().filter_map(|backend| match &backend.kind {
            BackendKind::Seaweedfs(seaweedfs) if seaweedfs.filers.contains(&url.authority) => {
                let root: Vec<String> =
                    seaweedfs.path.split('/').filter(|c| !c.is_empty()).map(str::to_owned).collect();
                let below = url.components.strip_prefix(root.as_slice())?;
                Some((root.len(), backend, below))
            }
            _ => None,
        });
        match mounted.max_by_key(|(depth, _, _)| *depth) {
            Some((_, backend, below)) => (backend.clone(), below.iter().collect()),
            None => (seaweedfs_at(&url.authority), url.components.iter().collect()),
        }
    }

    /// A configured backend that has the URL's export mounted, the deepest first, and as the URL's query says if it has
    /// one; else one derived from the operator's prefix, whose directory is mounted as the export.
    fn nfs_of(&self, url: &StorageUrl, prefix: &UrlPrefix, below: &[String]) -> Result<(Backend, PathBuf), Refusal> {
        let wanted = url.nfs().unwrap_or_else(|| NfsBackend::new(url.authority.clone(), "/"));
        let mounted = || {
            self.backends.values().filter_map(|backend| match &backend.kind {
                BackendKind::Nfs(nfs) if nfs.server == wanted.server && nfs.port == wanted.port => {
                    let root: Vec<String> =
                        nfs.export.split('/').filter(|c| !c.is_empty()).map(str::to_owned).collect();
                    let below = url.components.strip_prefix(root.as_slice())?;
                    let same =
                        NfsBackend { export: nfs.export.clone(), program: nfs.program.clone(), ..wanted.clone() };
                    Some((root.len(), backend, below, url.query.is_none() || *nfs == same))
                }
                _ => None,
            })
        };
        let as_said = mounted().filter(|(.., is_as_said)| *is_as_said).max_by_key(|(depth, ..)| *depth);
        if let Some((_, backend, below, _)) = as_said {
            return Ok((backend.clone(), below.iter().collect()));
        }
        // Else a job could have what the operator mounts read-only, say, mounted otherwise.
        if let Some((_, backend, ..)) = mounted().next() {
            let message = format!("backend {:?} has that export, with other options than {url} says", backend.name);
            return Err(Refusal::not_permitted(message).hint("leave the URL's query out"));
        }
        // A prefix that allows a whole server does not say which of its directories are exports: the URL does.
        let (of, below) = if prefix.url().components.is_empty() {
            (StorageUrl { query: None, ..url.clone() }, [].as_slice())
        } else {
            (prefix.url().clone(), below)
        };
        let name = StorageUrl { query: url.query.clone(), ..of.clone() }.to_string();
        let export = format!("/{}", of.components.join("/"));
        Ok((derived(&name, BackendKind::Nfs(NfsBackend { export, ..wanted })), below.iter().collect()))
    }

    /// A configured backend that has the URL's Gluster volume mounted from that server, the one with the deepest `path`
    /// first; else one derived from it.
    fn gluster_of(&self, url: &StorageUrl) -> Result<(Backend, PathBuf), Refusal> {
        let named = server_and_port(&url.authority).zip(url.components.split_first());
        let Some(((server, port), (volume, directory))) = named.filter(|(_, (volume, _))| is_gluster_volume(volume))
        else {
            let refusal = Refusal::configuration(format!("{url} names no Gluster volume"));
            return Err(refusal.hint("write gluster://server/volume/directory"));
        };
        let port = port.unwrap_or(GLUSTERD_PORT);
        let mounted = self.backends.values().filter_map(|backend| match &backend.kind {
            BackendKind::Gluster(of)
                if of.volume == *volume && of.port == port && of.servers.iter().any(|of| of == server) =>
            {
                let root: Vec<String> = of.path.split('/').filter(|c| !c.is_empty()).map(str::to_owned).collect();
                let below = directory.strip_prefix(root.as_slice())?;
                Some((root.len(), backend, below))
            }
            _ => None,
        });
        Ok(match mounted.max_by_key(|(depth, _, _)| *depth) {
            Some((_, backend, below)) => (backend.clone(), below.iter().collect()),
            None => {
                let kind = BackendKind::Gluster(Box::new(GlusterBackend::at(server, port, volume)));
                (derived(&format!("gluster://{}/{volume}", url.authority), kind), directory.iter().collect())
            }
        })
    }
}

fn unknown(name: &str) -> Refusal {
    Refusal::configuration(format!("no volume {name:?} is registered on this node"))
}

/// Where a registered volume is: a directory of its backend, or the root of a source of its own.
fn place(volume: &Volume, backend: &Backend) -> Placed {
    let placed = registered(volume, backend);
    match image_of(volume, backend) {
        // Its owner and mode are given to the file system's root when it is made.
        Some(image) => {
            let volume =
                Resolved { path: PathBuf::new(), create: false, owner: None, mode: None, collection: None, ..placed };
            Placed { volume, backend: image }
        }
        None => Placed { volume: placed, backend: backend.clone() },
    }
}

/// The source that an image volume is. No other volume is on it, so nothing keeps it once its volume is not used: another
/// node may wait for it.
fn image_of(volume: &Volume, backend: &Backend) -> Option<Backend> {
    let image = ImageBackend {
        parent: Box::new(backend.clone()),
        path: volume.path.clone(),
        format: volume.format?,
        size: volume.size?,
        create: volume.create && !backend.kind.is_read_only(),
        owner: volume.owner,
        mode: volume.mode,
        nosuid: volume.nosuid,
        nodev: volume.nodev,
    };
    let name = format!("{}~{}", backend.name, volume.name);
    let linger = Duration::ZERO;
    Some(Backend {
        name,
        kind: BackendKind::Image(image),
        dynamic: false,
        linger,
        attach_at_start: false,
        ..backend.clone()
    })
}

fn registered(volume: &Volume, backend: &Backend) -> Resolved {
    let read_only = volume.read_only || backend.kind.is_read_only();
    Resolved {
        name: volume.name.clone(),
        backend: backend.name.clone(),
        path: volume.path.clone(),
        read_only,
        size: volume.size,
        create: volume.create && !read_only,
        owner: volume.owner,
        mode: volume.mode,
        collection: volume.collection.clone().or_else(|| collection_of(&volume.name, &volume.path, backend)),
        nosuid: volume.nosuid,
        nodev: volume.nodev,
        noexec: volume.noexec,
    }
}

/// The collection of a volume of which nothing is said.
fn collection_of(name: &str, path: &Path, backend: &Backend) -> Option<String> {
    match &backend.kind {
        BackendKind::Seaweedfs(seaweedfs) => seaweedfs.collection_of(name, path),
        _ => None,
    }
}

fn resolved(name: &str, backend: &Backend, path: PathBuf) -> Resolved {
    Resolved {
        name: name.to_owned(),
        backend: backend.name.clone(),
        path,
        read_only: backend.kind.is_read_only(),
        size: None,
        create: false,
        owner: None,
        mode: None,
        collection: None,
        nosuid: true,
        nodev: true,
        noexec: false,
    }
}

/// Rooted at the operator's own words: what the job adds is resolved beneath it, symbolic links of other jobs included.
fn host_below(prefix: &UrlPrefix) -> Backend {
    let path = std::iter::once("/").chain(prefix.url().components.iter().map(String::as_str)).collect();
    derived(&prefix.url().to_string(), BackendKind::Host(HostBackend { path }))
}

fn seaweedfs_at(filer: &str) -> Backend {
    derived(&format!("seaweedfs://{filer}"), BackendKind::Seaweedfs(SeaweedfsBackend::at(filer)))
}

fn derived(url: &str, kind: BackendKind) -> Backend {
    Backend {
        name: derived_name(url),
        kind,
        dynamic: false,
        linger: Backend::LINGER,
        attach_at_start: false,
        attach_timeout: Backend::ATTACH_TIMEOUT,
    }
}

/// A path component that is the same for the same URL, another for another one, and no configured name: it has a `~`.
fn derived_name(url: &str) -> String {
    let mut name = String::new();
    for byte in url.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'.' | b'_' | b'-' => name.push(char::from(byte)),
            other => name.push_str(&format!("~{other:02x}")),
        }
    }
    if name.len() <= 128 {
        return name;
    }
    // FNV-1a, spelled out because the name stands on the disk and has to be the same after an upgrade.
    let hash = url
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    name.truncate(100);
    format!("{name}~~{hash:016x}")
}

/// The forms of URLs.
const KNOWN: &str = "known are host:///directory, seaweedfs://filer:port/directory, nfs://server/directory and \
                     gluster://server/volume/directory";

fn bad_url(text: &str, error: &UrlError) -> Refusal {
    let shown: String = text.chars().take(100).collect();
    let refusal = Refusal::configuration(format!("{shown:?} is not a storage URL that can be used: {error}"));
    match error {
        UrlError::UnknownScheme(scheme) => match nearest(scheme, SCHEMES) {
            Some(near) => refusal.hint(format!("did you mean {near}://?")),
            None => refusal.hint(KNOWN),
        },
        UrlError::Query(mistake) => match &mistake.hint {
            Some(hint) => refusal.hint(hint.clone()),
            None => refusal,
        },
        UrlError::Component(_) => {
            refusal.hint("write the directory's own path, with one / between its components and none at its end")
        }
        _ => refusal,
    }
}
