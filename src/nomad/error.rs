//! What can go wrong when Nomad is asked, and what to do about each.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::StatusCode;
use rustls::{AlertDescription, CertificateError};

use super::token::TokenError;

/// The policy that the project ships, relative to its root.
pub const SHIPPED_POLICY: &str = "examples/nomad/saddlebag-policy.hcl";

/// A right that the agent's token needs, each one line of the shipped policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// `agent:read`, for `/v1/agent/self`.
    AgentRead,
    /// `node:read`, for `/v1/node/…`.
    NodeRead,
    /// `read-job` in the namespaces whose jobs may use storage.
    ReadJob,
    /// `alloc-lifecycle` in the namespaces whose jobs say `on_failure = "restart"` or `"fail"`.
    AllocLifecycle,
}

impl Right {
    /// The policy's line that grants it.
    pub fn policy_line(self) -> &'static str {
        match self {
            Self::AgentRead => r#"agent { policy = "read" }"#,
            Self::NodeRead => r#"node { policy = "read" }"#,
            Self::ReadJob => r#"namespace "*" { capabilities = ["read-job"] }"#,
            Self::AllocLifecycle => r#"namespace "*" { capabilities = ["read-job", "alloc-lifecycle"] }"#,
        }
    }
}

/// Why Nomad gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens there.
    #[error("connection refused at {address}: is Nomad's agent running there, and is this its address?")]
    Refused {
        /// Nomad's address.
        address: String,
    },
    /// The address is a socket that is not there.
    #[error("there is no socket at {address}: is Nomad's agent running, and is this its address?")]
    NoSocket {
        /// Nomad's address.
        address: String,
    },
    /// No connection for another reason.
    #[error("no connection to Nomad at {address}; check the address, its name resolution and the way there")]
    Unreachable {
        /// Nomad's address.
        address: String,
        /// What the network said.
        source: reqwest::Error,
    },
    /// The connection ended before the answer did.
    #[error("the connection to Nomad at {address} broke off in the middle of {path}")]
    BrokenOff {
        /// Nomad's address.
        address: String,
        /// The request.
        path: String,
        /// What the network said.
        source: reqwest::Error,
    },
    /// No answer in time.
    #[error("Nomad at {address} did not answer {path} within {after:?}")]
    TimedOut {
        /// Nomad's address.
        address: String,
        /// The request.
        path: String,
        /// How long was waited.
        after: Duration,
    },
    /// Nomad's certificate is signed by somebody unknown.
    #[error(
        "the certificate of Nomad at {address} is signed by an authority that is not in {trusted}; \
         set ca_file to the authority's certificate (ca_file of Nomad's own tls block)"
    )]
    UnknownAuthority {
        /// Nomad's address.
        address: String,
        /// The file of authorities that was used, or words for the machine's own.
        trusted: String,
    },
    /// Nomad's certificate is for another name.
    #[error(
        "the certificate of Nomad at {address} is not for the name {name:?}; \
         set tls_server_name to a name that it holds (commonly client.<region>.nomad or server.<region>.nomad)"
    )]
    WrongName {
        /// Nomad's address.
        address: String,
        /// The name that was expected.
        name: String,
    },
    /// Nomad's certificate is not valid for another reason.
    #[error("the certificate of Nomad at {address} is not valid; give Nomad a new one, or check this machine's clock")]
    InvalidCertificate {
        /// Nomad's address.
        address: String,
        /// What the TLS library said.
        source: rustls::Error,
    },
    /// Nomad asks for a client certificate, and none is configured.
    #[error("Nomad at {address} asks for a client certificate (verify_https_client); set cert_file and key_file")]
    ClientCertificateMissing {
        /// Nomad's address.
        address: String,
    },
    /// Nomad does not accept the client certificate.
    #[error(
        "Nomad at {address} refuses the client certificate {cert_file}; \
         it must be signed by the authority in ca_file of Nomad's own tls block, for client authentication, and not be expired"
    )]
    ClientCertificateRefused {
        /// Nomad's address.
        address: String,
        /// The certificate's file.
        cert_file: String,
        /// What the TLS library said.
        source: rustls::Error,
    },
    /// The address says https, and plain HTTP is spoken there.
    #[error("what listens at {address} speaks no TLS; write http:// if Nomad's tls block does not set http = true")]
    NotTls {
        /// Nomad's address.
        address: String,
    },
    /// The address says http, and TLS is spoken there.
    #[error("Nomad at {address} speaks TLS only; write https:// and set ca_file")]
    TlsOnly {
        /// Nomad's address.
        address: String,
    },
    /// Another failure of the TLS handshake.
    #[error("no TLS connection to Nomad at {address}")]
    Tls {
        /// Nomad's address.
        address: String,
        /// What the TLS library said.
        source: rustls::Error,
    },
    /// There is no token to send.
    #[error("no ACL token for Nomad")]
    Token(#[from] TokenError),
    /// The token lacks a right.
    #[error(
        "Nomad denies {path}: the policy of saddlebag's ACL token lacks `{}`; {SHIPPED_POLICY} has all that it needs",
        right.policy_line()
    )]
    Denied {
        /// The request.
        path: String,
        /// What the token lacks.
        right: Right,
    },
    /// ACLs are on, and no token is configured.
    #[error(
        "Nomad denies {path} to requests without an ACL token; make one with {SHIPPED_POLICY} \
         and put it into the file that token_file names"
    )]
    TokenNeeded {
        /// The request.
        path: String,
        /// What the anonymous policy lacks.
        right: Right,
    },
    /// Nomad does not know the token.
    #[error(
        "Nomad does not know saddlebag's ACL token (it may be expired or deleted); make a new one with {SHIPPED_POLICY}"
    )]
    TokenUnknown,
    /// Nomad has no such node: it has not registered yet, or was purged.
    #[error("Nomad's servers know no node {id}; it registers when Nomad's client has reached them")]
    NodeUnknown {
        /// The node's id.
        id: String,
    },
    /// Nomad's servers cannot answer now.
    #[error("Nomad at {address} cannot answer {path} now ({status}: {message})")]
    Unavailable {
        /// Nomad's address.
        address: String,
        /// The request.
        path: String,
        /// The HTTP status.
        status: StatusCode,
        /// The beginning of what it said.
        message: String,
    },
    /// An answer with a status that this request never has.
    #[error("{address} answers {path} with {status}: {message}; is this Nomad's HTTP address?")]
    Unexpected {
        /// Nomad's address.
        address: String,
        /// The request.
        path: String,
        /// The HTTP status.
        status: StatusCode,
        /// The beginning of what it said.
        message: String,
    },
    /// An answer longer than any that Nomad has reason to give.
    #[error("the answer of {address} to {path} is longer than {limit} bytes, and was not read to its end")]
    TooLong {
        /// Nomad's address.
        address: String,
        /// The request.
        path: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// An answer that is not what Nomad's API promises.
    #[error("the answer of {address} to {path} is not what Nomad's API promises; is this Nomad's HTTP address?")]
    Malformed {
        /// Nomad's address.
        address: String,
        /// The request.
        path: String,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The thread that read the answer ended early, as it does when the process ends.
    #[error("reading the answer to {path} was cut short")]
    CutShort {
        /// The request.
        path: String,
    },
}

impl ClientError {
    /// Whether the same request may succeed without anybody changing the configuration.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Refused { .. }
            | Self::NoSocket { .. }
            | Self::Unreachable { .. }
            | Self::BrokenOff { .. }
            | Self::TimedOut { .. }
            | Self::NodeUnknown { .. }
            | Self::Unavailable { .. }
            | Self::CutShort { .. } => true,
            // Somebody may be about to write the file: it is looked at again for each request.
            Self::Token(TokenError::Unreadable { source, .. }) => source.kind() == io::ErrorKind::NotFound,
            Self::Token(TokenError::Empty { .. }) => true,
            Self::Unexpected { status, .. } => *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Token(_)
            | Self::UnknownAuthority { .. }
            | Self::WrongName { .. }
            | Self::InvalidCertificate { .. }
            | Self::ClientCertificateMissing { .. }
            | Self::ClientCertificateRefused { .. }
            | Self::NotTls { .. }
            | Self::TlsOnly { .. }
            | Self::Tls { .. }
            | Self::Denied { .. }
            | Self::TokenNeeded { .. }
            | Self::TokenUnknown
            | Self::TooLong { .. }
            | Self::Malformed { .. } => false,
        }
    }
}

/// An error and all its causes in one line.
pub fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Wrappers of the HTTP library repeat what they wrap.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

/// What an error needs to know of the client that met it.
#[derive(Debug, Clone)]
pub(super) struct Context {
    /// Nomad's address as configured.
    pub(super) address: String,
    /// The name that the certificate must hold.
    pub(super) name: String,
    pub(super) ca_file: Option<String>,
    pub(super) cert_file: Option<String>,
}

impl Context {
    /// Says in the project's words what the HTTP library met while `path` was asked for.
    pub(super) fn failed(&self, path: &str, after: Duration, error: reqwest::Error) -> ClientError {
        let address = self.address.clone();
        let error = error.without_url();
        if let Some(tls) = find::<rustls::Error>(&error) {
            return self.tls_failed(tls.clone());
        }
        if error.is_timeout() {
            return if error.is_connect() {
                ClientError::Unreachable { address, source: error }
            } else {
                ClientError::TimedOut { address, path: path.to_owned(), after }
            };
        }
        match find::<io::Error>(&error).map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => ClientError::Refused { address },
            Some(io::ErrorKind::NotFound) if error.is_connect() && address.starts_with("unix:") => {
                ClientError::NoSocket { address }
            }
            _ if error.is_connect() => ClientError::Unreachable { address, source: error },
            _ => ClientError::BrokenOff { address, path: path.to_owned(), source: error },
        }
    }

    fn tls_failed(&self, error: rustls::Error) -> ClientError {
        let address = self.address.clone();
        match &error {
            // A bad signature is what another authority of the same name gives, for example one that was made anew.
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                ClientError::UnknownAuthority {
                    address,
                    trusted: self.ca_file.clone().unwrap_or_else(|| "this machine's store".to_owned()),
                }
            }
            rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => ClientError::WrongName { address, name: self.name.clone() },
            rustls::Error::InvalidCertificate(_) => ClientError::InvalidCertificate { address, source: error },
            rustls::Error::InvalidMessage(_) => ClientError::NotTls { address },
            rustls::Error::AlertReceived(alert) => match (alert, &self.cert_file) {
                // TLS 1.3 says certificate_required; 1.2 knows only bad_certificate and handshake_failure.
                (AlertDescription::CertificateRequired, _)
                | (AlertDescription::BadCertificate | AlertDescription::HandshakeFailure, None) => {
                    ClientError::ClientCertificateMissing { address }
                }
                (
                    AlertDescription::BadCertificate
                    | AlertDescription::UnsupportedCertificate
                    | AlertDescription::CertificateRevoked
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::UnknownCA
                    | AlertDescription::AccessDenied,
                    Some(cert_file),
                ) => ClientError::ClientCertificateRefused { address, cert_file: cert_file.clone(), source: error },
                _ => ClientError::Tls { address, source: error },
            },
            _ => ClientError::Tls { address, source: error },
        }
    }
}

/// The innermost error of that type among an error's causes.
///
/// `io::Error` hides what it wraps from `source()`, which gives that error's own cause instead.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut found = None;
    let mut next = Some(error);
    while let Some(error) = next {
        found = error.downcast_ref::<E>().or(found);
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    found
}
