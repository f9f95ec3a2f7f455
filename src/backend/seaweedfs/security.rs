//! SeaweedFS's `security.toml`, as far as a client of a filer's gRPC side needs it: read as `weed` reads it.
//!
//! The file names certificates; what is in them, and the keys that it may hold itself, stay in this process.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// The name that `weed` looks for in its folders of configuration.
const FILE_NAME: &str = "security.toml";
/// A larger file is none of SeaweedFS's, in bytes.
const LARGEST: u64 = 1 << 20;

/// Where `weed` looks for it where nothing else is said (weed/util/config.go), with the HOME that mount programs have.
const PLACES: [&str; 3] = ["/root/.seaweedfs", "/usr/local/etc/seaweedfs", "/etc/seaweedfs"];

/// The file that a mount program of these settings reads.
pub(super) fn find(said: Option<&Path>) -> Option<PathBuf> {
    match said {
        Some(file) => Some(file.to_owned()),
        None => PLACES.iter().map(|folder| Path::new(folder).join(FILE_NAME)).find(|file| file.is_file()),
    }
}

/// Why a `security.toml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecurityError {
    /// A file that is needed cannot be read.
    #[error("{} cannot be read: {source}", .file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It is not TOML. The parser's own words would quote the file, which holds keys.
    #[error("{} is not TOML", .0.display())]
    NotToml(PathBuf),
    /// A file is not what it is named as.
    #[error("{} holds no usable {what}", .file.display())]
    Unusable {
        /// Which.
        file: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
}

/// How a filer's gRPC side is spoken to: with TLS, or in plain where the file says nothing of it.
///
/// # Errors
/// [`SecurityError`].
pub(super) fn client_of(file: &Path) -> Result<Option<ClientConfig>, SecurityError> {
    let text = String::from_utf8(read(file)?).map_err(|_| SecurityError::NotToml(file.to_owned()))?;
    let Some(names) = Names::parse(&text).ok_or_else(|| SecurityError::NotToml(file.to_owned()))? else {
        return Ok(None);
    };
    // `weed` is started with `/` as its working directory: what is relative is relative to that.
    let at = |name: &str| Path::new("/").join(name);
    let (ca, certificate, key) = (at(&names.ca), at(&names.certificate), at(&names.key));
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(&ca)?);
    if added == 0 {
        return Err(SecurityError::Unusable { file: ca, what: "certificate" });
    }
    let chain = certificates(&certificate)?;
    let secret = PrivateKeyDer::from_pem_slice(&read(&key)?)
        .map_err(|_| SecurityError::Unusable { file: key, what: "private key" })?;
    let provider = Arc::new(ring::default_provider());
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|_| SecurityError::Unusable { file: ca, what: "certificate" })?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            let verifier = Arc::new(AnyName(inner));
            builder.dangerous().with_custom_certificate_verifier(verifier).with_client_auth_cert(chain, secret)
        })
        .map_err(|_| SecurityError::Unusable { file: certificate, what: "certificate for the key beside it" })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(config))
}

/// The files that it names for a client.
#[derive(Debug, PartialEq, Eq)]
struct Names {
    ca: String,
    certificate: String,
    key: String,
}

impl Names {
    /// None where the text is not TOML; nobody inside where it sets no TLS up, and `weed` then speaks in plain.
    fn parse(text: &str) -> Option<Option<Self>> {
        let table: toml::Table = text.parse().ok()?;
        let grpc = table.get("grpc").and_then(toml::Value::as_table);
        let client = grpc.and_then(|grpc| grpc.get("client")).and_then(toml::Value::as_table);
        let word = |of: Option<&toml::Table>, key: &str| {
            of.and_then(|of| of.get(key))
                .and_then(toml::Value::as_str)
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
        };
        let pair = |certificate: &str, key: &str| Some((word(client, certificate)?, word(client, key)?));
        let own = pair("client_cert", "client_key").or_else(|| pair("cert", "key"));
        Some(word(grpc, "ca").zip(own).map(|(ca, (certificate, key))| Self { ca, certificate, key }))
    }
}

fn read(file: &Path) -> Result<Vec<u8>, SecurityError> {
    let unreadable = |source| SecurityError::Unreadable { file: file.to_owned(), source };
    if fs::metadata(file).map_err(unreadable)?.len() > LARGEST {
        return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
    }
    fs::read(file).map_err(unreadable)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, SecurityError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(SecurityError::Unusable { file: file.to_owned(), what: "certificate" }),
    }
}

/// Checks a filer's certificate against the authority and not against its host's name: so does `weed` itself
/// (`advancedtls.CertVerification` in weed/security/tls.go), and clusters are set up with certificates for that.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_own_certificate_comes_before_the_common_one() {
        let text = r#"
            [jwt.signing]
            key = "secret"
            [grpc]
            ca = "/c/ca.crt"
            [grpc.client]
            cert = "/c/common.crt"
            key = "/c/common.key"
        "#;
        let names = |client: &str| Names::parse(&format!("{text}{client}")).unwrap().unwrap();
        assert_eq!((names("").certificate.as_str(), names("").key.as_str()), ("/c/common.crt", "/c/common.key"));
        let own = names("client_cert = \"/c/own.crt\"\nclient_key = \"/c/own.key\"\n");
        assert_eq!(
            (own.ca.as_str(), own.certificate.as_str(), own.key.as_str()),
            ("/c/ca.crt", "/c/own.crt", "/c/own.key")
        );
    }

    #[test]
    fn without_certificates_it_is_spoken_in_plain_as_weed_does() {
        assert_eq!(Names::parse("[jwt.filer_signing]\nkey = \"x\"\n[grpc]\nca = \"\"\n"), Some(None));
        assert_eq!(Names::parse("[grpc"), None);
    }

    #[test]
    fn no_error_quotes_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE_NAME);
        fs::write(&file, "[jwt.signing]\nkey = sesame\n").unwrap();
        let error = client_of(&file).unwrap_err().to_string();
        assert!(error.ends_with("is not TOML") && !error.contains("sesame"), "{error}");
    }
}
