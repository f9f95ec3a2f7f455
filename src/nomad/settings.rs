//! Where Nomad is and how to speak to it, and the HTTP client made of that.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Identity, Url};

use super::token::TokenSource;

/// How long a connection to Nomad may take to come up. Nomad's agent is on this machine, or near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How to reach Nomad's agent. The names are those of Nomad's own environment variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `http://host:port`, `https://host:port` or `unix:///path` (`NOMAD_ADDR`).
    pub address: String,
    /// The ACL token (`NOMAD_TOKEN`, or a file).
    pub token: TokenSource,
    /// PEM certificates of the authorities to trust; no other is trusted then (`NOMAD_CACERT`).
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, with its chain, in PEM (`NOMAD_CLIENT_CERT`).
    pub cert_file: Option<PathBuf>,
    /// The key of that certificate, in PEM (`NOMAD_CLIENT_KEY`).
    pub key_file: Option<PathBuf>,
    /// The name that Nomad's certificate must hold instead of the address's host, for example
    /// `client.global.nomad` (`NOMAD_TLS_SERVER_NAME`).
    pub tls_server_name: Option<String>,
    /// Accept any certificate (`NOMAD_SKIP_VERIFY`).
    pub skip_verify: bool,
}

impl Default for Settings {
    /// Nomad's default address, no token, no TLS.
    fn default() -> Self {
        Self {
            address: "http://127.0.0.1:4646".to_owned(),
            token: TokenSource::None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            tls_server_name: None,
            skip_verify: false,
        }
    }
}

/// Why settings make no client. None of these is temporary unless a file is about to appear.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The address is none.
    #[error("Nomad's address {address:?} {reason}; write http://host:port, https://host:port or unix:///path")]
    Address {
        /// What was configured, without any password.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// TLS settings beside an address that speaks none.
    #[error("{setting} is set, but Nomad's address {address:?} is not https://")]
    TlsWithoutHttps {
        /// What was configured.
        address: String,
        /// The setting's name.
        setting: &'static str,
    },
    /// A file cannot be read.
    #[error("{setting} {} cannot be read", path.display())]
    Unreadable {
        /// The setting's name.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file holds no certificate.
    #[error("{setting} {} holds no usable PEM certificate", path.display())]
    NoCertificate {
        /// The setting's name.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the TLS library said, where it said anything.
        source: Option<reqwest::Error>,
    },
    /// Certificate and key make no pair of usable files.
    #[error("{} and {} are no PEM certificate with its private key", cert_file.display(), key_file.display())]
    Identity {
        /// The certificate's file.
        cert_file: PathBuf,
        /// The key's file.
        key_file: PathBuf,
        /// What the TLS library said.
        source: reqwest::Error,
    },
    /// Only one of certificate and key is given.
    #[error("{given} is set without {missing}: a client certificate needs both")]
    HalfAnIdentity {
        /// The setting that is there.
        given: &'static str,
        /// The setting that is not.
        missing: &'static str,
    },
    /// The name is none that a certificate can hold.
    #[error("tls_server_name {0:?} is not a host name")]
    ServerName(String),
    /// The TLS library refuses the whole.
    #[error("no TLS client can be made of the settings for Nomad{}", files(cert_file))]
    Build {
        /// The client certificate's file, which is checked only here.
        cert_file: Option<PathBuf>,
        /// What the TLS library said.
        source: reqwest::Error,
    },
}

fn files(cert_file: &Option<PathBuf>) -> String {
    match cert_file {
        Some(path) => format!(" (do {} and its key belong together?)", path.display()),
        None => String::new(),
    }
}

/// The parts of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Tcp(Url),
    Unix(PathBuf),
}

impl Address {
    fn parse(text: &str) -> Result<Self, SettingsError> {
        let wrong = |reason| SettingsError::Address { address: text.to_owned(), reason };
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Self::Unix(PathBuf::from(path)))
            } else {
                Err(wrong("names no absolute path of a socket"))
            };
        }
        let url = Url::parse(text).map_err(|_| wrong("is no URL"))?;
        if !url.username().is_empty() || url.password().is_some() {
            // Not echoed: it would put the password into every log.
            let reason = "holds a user name, which Nomad does not know";
            return Err(SettingsError::Address { address: url.host_str().unwrap_or_default().to_owned(), reason });
        }
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(wrong("is neither http:// nor https:// nor unix://"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("has a query or fragment"));
        }
        Ok(Self::Tcp(url))
    }
}

/// An HTTP client and what to put before each path.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) http: reqwest::Client,
    /// No slash at the end.
    pub(super) base: String,
    /// The name that Nomad's certificate must hold.
    pub(super) name: String,
}

/// Makes the HTTP client of these settings. Reads their certificate files, connects nowhere.
pub(super) fn connection(settings: &Settings) -> Result<Connection, SettingsError> {
    // A second installation is refused, which is as well: it is the same provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("saddlebag/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .http1_only()
        // Nomad's agent is never behind a proxy, and the token goes to no other host.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_keepalive(Duration::from_secs(60))
        .pool_max_idle_per_host(2);

    let address = Address::parse(&settings.address)?;
    let url = match &address {
        Address::Tcp(url) if url.scheme() == "https" => return secure(builder, settings, url),
        Address::Tcp(url) => url.as_str().trim_end_matches('/').to_owned(),
        Address::Unix(path) => {
            builder = builder.unix_socket(path.as_path());
            "http://localhost".to_owned()
        }
    };
    let tls_settings = [
        ("ca_file", settings.ca_file.is_some()),
        ("cert_file", settings.cert_file.is_some()),
        ("key_file", settings.key_file.is_some()),
        ("tls_server_name", settings.tls_server_name.is_some()),
    ];
    if let Some((setting, _)) = tls_settings.into_iter().find(|(_, set)| *set) {
        return Err(SettingsError::TlsWithoutHttps { address: settings.address.clone(), setting });
    }
    // No authorities at all: reading the machine's store would cost some MiB that plain HTTP never uses.
    let http = builder
        .tls_certs_only([])
        .build()
        .map_err(|source| SettingsError::Build { cert_file: None, source: source.without_url() })?;
    Ok(Connection { http, base: url, name: String::new() })
}

fn secure(mut builder: reqwest::ClientBuilder, settings: &Settings, url: &Url) -> Result<Connection, SettingsError> {
    if let Some(path) = &settings.ca_file {
        builder = builder.tls_certs_only(read_authorities(path)?);
    }
    match (&settings.cert_file, &settings.key_file) {
        (Some(cert), Some(key)) => builder = builder.identity(read_identity(cert, key)?),
        (Some(_), None) => return Err(SettingsError::HalfAnIdentity { given: "cert_file", missing: "key_file" }),
        (None, Some(_)) => return Err(SettingsError::HalfAnIdentity { given: "key_file", missing: "cert_file" }),
        (None, None) => {}
    }
    if settings.skip_verify {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    let mut url = url.clone();
    if let Some(name) = &settings.tls_server_name {
        // The URL's host is what the TLS library checks; the resolver leads that name to the real host.
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let wrong = || SettingsError::ServerName(name.clone());
        let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        if !letters || name.is_empty() || name.parse::<std::net::IpAddr>().is_ok() {
            return Err(wrong());
        }
        url.set_host(Some(name)).map_err(|_| wrong())?;
        builder = builder.dns_resolver(Redirected { host });
    }
    let http = builder.build().map_err(|source| SettingsError::Build {
        cert_file: settings.cert_file.clone(),
        source: source.without_url(),
    })?;
    let name = url.host_str().unwrap_or_default().to_owned();
    Ok(Connection { http, base: url.as_str().trim_end_matches('/').to_owned(), name })
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, SettingsError> {
    std::fs::read(path).map_err(|source| SettingsError::Unreadable { setting, path: path.to_owned(), source })
}

fn read_authorities(path: &Path) -> Result<Vec<Certificate>, SettingsError> {
    let none = |source| SettingsError::NoCertificate { setting: "ca_file", path: path.to_owned(), source };
    let certificates = Certificate::from_pem_bundle(&read("ca_file", path)?).map_err(|error| none(Some(error)))?;
    if certificates.is_empty() { Err(none(None)) } else { Ok(certificates) }
}

fn read_identity(cert_file: &Path, key_file: &Path) -> Result<Identity, SettingsError> {
    let mut pem = read("cert_file", cert_file)?;
    pem.push(b'\n');
    pem.extend(read("key_file", key_file)?);
    Identity::from_pem(&pem).map_err(|source| SettingsError::Identity {
        cert_file: cert_file.to_owned(),
        key_file: key_file.to_owned(),
        source,
    })
}

/// Resolves every name to the addresses of one host, anew for each connection.
struct Redirected {
    host: String,
}

impl fmt::Debug for Redirected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "→ {}", self.host)
    }
}

impl Resolve for Redirected {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.host.clone();
        Box::pin(async move {
            // Port 0 makes the connector take the URL's.
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let addresses: Addrs = Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str) -> SettingsError {
        connection(&Settings { address: address.to_owned(), ..Settings::default() }).unwrap_err()
    }

    #[test]
    fn an_address_is_http_https_or_an_absolute_socket() {
        for good in ["http://127.0.0.1:4646", "http://[::1]:4646/", "https://nomad.example/x", "unix:///run/nomad.sock"]
        {
            Address::parse(good).unwrap();
        }
        for bad in ["", "127.0.0.1:4646", "localhost:4646", "ftp://x", "unix://run/x", "http://x/?token=1", "http://"] {
            let error = refused(bad);
            assert!(matches!(error, SettingsError::Address { .. }), "{bad}: {error}");
        }
    }

    #[test]
    fn a_password_in_the_address_is_refused_and_not_repeated() {
        let error = refused("http://user:s3cret@nomad.example:4646");
        assert!(matches!(error, SettingsError::Address { .. }));
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }

    #[test]
    fn tls_settings_beside_plain_http_are_an_error_not_ignored() {
        let settings = Settings { ca_file: Some("/ca.pem".into()), ..Settings::default() };
        let error = connection(&settings).unwrap_err();
        assert!(matches!(error, SettingsError::TlsWithoutHttps { setting: "ca_file", .. }), "{error}");
    }

    #[test]
    fn unusable_certificate_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        let settings = Settings {
            address: "https://127.0.0.1:4646".to_owned(),
            ca_file: Some(file.clone()),
            ..Settings::default()
        };
        assert!(matches!(connection(&settings).unwrap_err(), SettingsError::Unreadable { .. }));
        std::fs::write(&file, "no certificate").unwrap();
        let error = connection(&settings).unwrap_err();
        assert!(matches!(error, SettingsError::NoCertificate { .. }), "{error:?}");
        assert!(error.to_string().contains("ca.pem"), "{error}");
        let half = Settings { ca_file: None, cert_file: Some(file.clone()), ..settings.clone() };
        assert!(matches!(connection(&half).unwrap_err(), SettingsError::HalfAnIdentity { missing: "key_file", .. }));
        let both = Settings { key_file: Some(file), ..half };
        assert!(matches!(connection(&both).unwrap_err(), SettingsError::Identity { .. }));
    }
}
