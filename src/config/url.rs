//! Storage URLs: strict, so that what the policy compares is what a backend later walks.
//!
//! Nothing is decoded and nothing normalised: a URL whose text could mean two things is refused.

use std::fmt;

use super::nfs::options::{self, Mistake};
use super::nfs::{self, NfsBackend};

/// The longest URL that is read, in bytes.
const LONGEST: usize = 1024;

/// The schemes that name a storage system of this version.
pub const SCHEMES: [&str; 4] = ["host", "seaweedfs", "nfs", "gluster"];

/// A kind of storage that a URL can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `host:///directory`
    Host,
    /// `seaweedfs://filer:8888/directory`
    Seaweedfs,
    /// `nfs://server/directory?vers=4.2&nolock`
    Nfs,
    /// `gluster://server/volume/directory`, or with a port
    Gluster,
}

impl Scheme {
    /// As it is written before `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Seaweedfs => "seaweedfs",
            Self::Nfs => "nfs",
            Self::Gluster => "gluster",
        }
    }
}

/// A checked URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageUrl {
    /// What kind of storage.
    pub scheme: Scheme,
    /// `HOST:PORT`; of `nfs` and `gluster` also `HOST` alone; empty for `host`.
    pub authority: String,
    /// The path's components, all plain.
    pub components: Vec<String>,
    /// What follows a `?`, which only `nfs` has: options of nfs(5), checked.
    pub query: Option<String>,
}

impl fmt::Display for StorageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", self.scheme.as_str(), self.authority, self.components.join("/"))?;
        self.query.as_ref().map_or(Ok(()), |query| write!(f, "?{query}"))
    }
}

/// A prefix of URLs that the policy allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlPrefix {
    url: StorageUrl,
    only_below: bool,
}

/// Why a text is no storage URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// More bytes than any URL needs.
    #[error("the URL is longer than {LONGEST} bytes")]
    TooLong,
    /// No `://`.
    #[error("{0:?} has no scheme")]
    NoScheme(String),
    /// No known scheme.
    #[error("{0:?} is not a scheme of storage")]
    UnknownScheme(String),
    /// Spaces, control characters, `%`, `?`, `#`, `@`, `\` and the like.
    #[error("the URL holds {0:?}, which no storage URL may")]
    Character(char),
    /// An empty, `.` or `..` component.
    #[error("the URL's path has a component {0:?}")]
    Component(String),
    /// A component that no file system can have.
    #[error("a component of the URL's path is longer than 255 bytes")]
    LongComponent,
    /// `host:` with a server, another one without.
    #[error("{0}")]
    Authority(&'static str),
    /// A query that an NFS mount cannot have.
    #[error("{}", .0.message)]
    Query(Mistake),
    /// A prefix with a query: which options a URL may have is not the policy's affair.
    #[error("a prefix has no query")]
    PrefixQuery,
}

impl StorageUrl {
    /// The export's server and the options of its mount, with every default; nothing of it for another scheme.
    pub fn nfs(&self) -> Option<NfsBackend> {
        if self.scheme != Scheme::Nfs {
            return None;
        }
        let (server, port) = split_server(&self.authority)?;
        let mut settings = NfsBackend::new(server, "/");
        settings.port = port.unwrap_or(settings.port);
        // It was read before.
        self.query.as_deref().map_or(Ok(()), |query| options::read_query(&mut settings, query)).ok()?;
        Some(settings)
    }

    /// Reads a URL that names one directory.
    ///
    /// # Errors
    /// [`UrlError`], one sentence for what is wrong first.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        parse(text, false).map(|(url, _)| url)
    }
}

impl UrlPrefix {
    /// Reads a prefix: with a `/` at its end it allows everything below, without one also itself.
    ///
    /// # Errors
    /// As for [`StorageUrl::parse`].
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (url, only_below) = parse(text, true)?;
        Ok(Self { url, only_below })
    }

    /// The directory that the prefix names.
    pub fn url(&self) -> &StorageUrl {
        &self.url
    }

    /// The components of `url` below this prefix, if it allows that URL: compared by whole components.
    pub fn find_below<'u>(&self, url: &'u StorageUrl) -> Option<&'u [String]> {
        if url.scheme != self.url.scheme || url.authority != self.url.authority {
            return None;
        }
        let below = url.components.strip_prefix(self.url.components.as_slice())?;
        (!below.is_empty() || !self.only_below).then_some(below)
    }
}

impl fmt::Display for UrlPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.only_below && !self.url.components.is_empty() { "/" } else { "" };
        write!(f, "{}{slash}", self.url)
    }
}

fn parse(text: &str, slash_at_end: bool) -> Result<(StorageUrl, bool), UrlError> {
    if text.len() > LONGEST {
        return Err(UrlError::TooLong);
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(UrlError::NoScheme(text.to_owned()));
    };
    let scheme = match scheme {
        "host" => Scheme::Host,
        "seaweedfs" => Scheme::Seaweedfs,
        "nfs" => Scheme::Nfs,
        "gluster" => Scheme::Gluster,
        _ => return Err(UrlError::UnknownScheme(scheme.to_owned())),
    };
    let forbidden = |c: &char| c.is_control() || c.is_whitespace() || "%?#@\\\"'`<>{}|^*$,;".contains(*c);
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) if scheme == Scheme::Nfs => (rest, Some(query)),
        _ => (rest, None),
    };
    if let Some(found) = rest.chars().chain(query.unwrap_or_default().chars()).find(forbidden) {
        return Err(UrlError::Character(found));
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    match scheme {
        Scheme::Nfs if split_server(authority).is_none() => {
            return Err(UrlError::Authority("an nfs URL names a server: nfs://server/export/x"));
        }
        Scheme::Host if !authority.is_empty() => {
            return Err(UrlError::Authority("a host URL has three slashes and no server: host:///srv/x"));
        }
        Scheme::Seaweedfs if !is_host_port(authority) => {
            return Err(UrlError::Authority("a seaweedfs URL names a filer with its port: seaweedfs://filer:8888/x"));
        }
        Scheme::Gluster if server_and_port(authority).is_none() => {
            return Err(UrlError::Authority("a gluster URL names a server and a volume: gluster://server/volume/x"));
        }
        Scheme::Host | Scheme::Seaweedfs | Scheme::Nfs | Scheme::Gluster => {}
    }
    let below = slash_at_end && (path.is_empty() || path.ends_with('/'));
    let path = if slash_at_end { path.strip_suffix('/').unwrap_or(path) } else { path };
    let components: Vec<String> =
        if path.is_empty() { Vec::new() } else { path.split('/').map(str::to_owned).collect() };
    for component in &components {
        if matches!(component.as_str(), "" | "." | "..") {
            return Err(UrlError::Component(component.clone()));
        }
        if component.len() > 255 {
            return Err(UrlError::LongComponent);
        }
    }
    if query.is_some() && slash_at_end {
        return Err(UrlError::PrefixQuery);
    }
    if let (Some(query), Some((server, _))) = (query, split_server(authority)) {
        options::read_query(&mut NfsBackend::new(server, "/"), query).map_err(UrlError::Query)?;
    }
    let query = query.map(str::to_owned);
    Ok((StorageUrl { scheme, authority: authority.to_owned(), components, query }, below))
}

/// The server and the port of `SERVER`, `SERVER:PORT`, `[IPV6]` or `[IPV6]:PORT`.
fn split_server(authority: &str) -> Option<(&str, Option<u16>)> {
    let (server, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address.parse::<std::net::Ipv6Addr>().ok().map(|_| address)?, port),
        None => {
            let server = authority.split(':').next()?;
            (server, &authority[server.len()..])
        }
    };
    let is_digits = |text: &str| (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = match port.strip_prefix(':') {
        Some(port) => Some(is_digits(port).then(|| port.parse().ok().filter(|port: &u16| *port > 0))??),
        None => port.is_empty().then_some(None)?,
    };
    nfs::is_host(server).then_some((server, port))
}

/// Whether the text is `HOST:PORT`, `[IPV6]:PORT`, or either with `.GRPCPORT` behind it, as `weed` takes a filer.
pub fn is_host_port(text: &str) -> bool {
    let Some((host, ports)) = text.rsplit_once(':') else { return false };
    let is_port = |port: &str| {
        (1..=5).contains(&port.len())
            && port.bytes().all(|b| b.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    let ports = match ports.split_once('.') {
        Some((http, grpc)) => is_port(http) && is_port(grpc),
        None => is_port(ports),
    };
    let host_ok = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host(host),
    };
    ports && host_ok
}

/// Whether the text is a host's name or IPv4 address.
pub fn is_host(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// A `gluster` URL's server, and its port where it is written.
pub fn server_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    if is_host(authority) {
        return Some((authority, None));
    }
    let (host, digits) = authority.split_once(':')?;
    let port: u16 = digits.parse().ok().filter(|port| *port > 0)?;
    // One port is written in one way.
    if port.to_string() != digits {
        return None;
    }
    is_host(host).then_some((host, Some(port)))
}
