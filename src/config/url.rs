//! Storage URLs: strict, so that what the policy compares is what a backend later walks.
//!
//! Nothing is decoded and nothing normalised: a URL whose text could mean two things is refused.

use std::fmt;

/// The longest URL that is read, in bytes.
const LONGEST: usize = 1024;

/// The schemes that name a storage system of this version.
pub const SCHEMES: [&str; 2] = ["host", "seaweedfs"];

/// Schemes that are understood, and have no backend in this version.
pub const SCHEMES_WITHOUT_BACKEND: [&str; 2] = ["nfs", "gluster"];

/// A kind of storage that a URL can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `host:///directory`
    Host,
    /// `seaweedfs://filer:8888/directory`
    Seaweedfs,
}

impl Scheme {
    /// As it is written before `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Seaweedfs => "seaweedfs",
        }
    }
}

/// A checked URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageUrl {
    /// What kind of storage.
    pub scheme: Scheme,
    /// `HOST:PORT`; empty for `host`.
    pub authority: String,
    /// The path's components, all plain.
    pub components: Vec<String>,
}

impl fmt::Display for StorageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", self.scheme.as_str(), self.authority, self.components.join("/"))
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
    /// A scheme of a later version.
    #[error("this version has no backend for {0}:// URLs")]
    NoBackend(String),
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
}

impl StorageUrl {
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
        _ if SCHEMES_WITHOUT_BACKEND.contains(&scheme) => return Err(UrlError::NoBackend(scheme.to_owned())),
        _ => return Err(UrlError::UnknownScheme(scheme.to_owned())),
    };
    let forbidden = |c: &char| c.is_control() || c.is_whitespace() || "%?#@\\\"'`<>{}|^*$,;".contains(*c);
    if let Some(found) = rest.chars().find(forbidden) {
        return Err(UrlError::Character(found));
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    match scheme {
        Scheme::Host if !authority.is_empty() => {
            return Err(UrlError::Authority("a host URL has three slashes and no server: host:///srv/x"));
        }
        Scheme::Seaweedfs if !is_host_port(authority) => {
            return Err(UrlError::Authority("a seaweedfs URL names a filer with its port: seaweedfs://filer:8888/x"));
        }
        Scheme::Host | Scheme::Seaweedfs => {}
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
    Ok((StorageUrl { scheme, authority: authority.to_owned(), components }, below))
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
        None => {
            !host.is_empty()
                && host.len() <= 253
                && host.starts_with(|c: char| c.is_ascii_alphanumeric())
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    ports && host_ok
}
