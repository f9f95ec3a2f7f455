//! How a client's connections are encrypted.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::blocks::{checked, path};
use crate::hcl::{Problem, Section};

/// What a `tls` block says.
///
/// Whether the bricks are talked to by TLS is the volume's option (`client.ssl`), which the client hears from glusterd. So is
/// which files are used, unless they are named here. The connection to glusterd itself always uses Gluster's own
/// ([`GlusterTls::FILES`], in the one of [`GlusterTls::FOLDERS`] for which it was built).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GlusterTls {
    /// Whether glusterd is talked to by TLS; else as the file `/var/lib/glusterd/secure-access` says by being there.
    pub management: Option<bool>,
    /// The client's certificate for the bricks.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The authorities that the bricks' certificates come from.
    pub ca: Option<PathBuf>,
    /// How many authorities may stand one above another.
    pub certificate_depth: Option<u64>,
    /// The ciphers, as OpenSSL names them.
    pub ciphers: Option<String>,
}

impl GlusterTls {
    /// Certificate, key and authorities, where nothing else is said.
    pub const FILES: [&str; 3] = ["glusterfs.pem", "glusterfs.key", "glusterfs.ca"];
    /// Where OpenSSL has its files, and so Gluster: Debian's folder, and others'.
    pub const FOLDERS: [&str; 3] = ["/usr/lib/ssl", "/etc/ssl", "/etc/pki/tls"];
    /// The file that tells every GlusterFS program of a host to talk to glusterd by TLS.
    pub const SECURE_ACCESS: &str = "/var/lib/glusterd/secure-access";
}

/// Reads the block, if there is one.
pub(super) fn read(section: &mut Section<'_>) -> Option<GlusterTls> {
    let mut found = None;
    for (_, mut tls) in section.blocks("tls", &[]) {
        if found.is_some() {
            tls.problem(Problem::new(tls.span(), "there is a tls block already"));
        }
        let management = tls.boolean("management").map(|said| said.value);
        let certificate = path(&mut tls, "certificate");
        let key = path(&mut tls, "key");
        if let (Some(said), None) | (None, Some(said)) = (&certificate, &key) {
            tls.problem(Problem::new(said.span.clone(), "a certificate needs both certificate and key"));
        }
        let ca = path(&mut tls, "ca").map(|said| said.value);
        let depth = super::number(&mut tls, "certificate_depth", 1..=100);
        let ciphers = checked(&mut tls, "ciphers", "a list of OpenSSL's ciphers", |text| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b":-_+!@=".contains(&b);
            (1..=1024).contains(&text.len()) && text.bytes().all(allowed)
        });
        found = Some(GlusterTls {
            management,
            certificate: certificate.map(|said| said.value),
            key: key.map(|said| said.value),
            ca,
            certificate_depth: depth,
            ciphers: ciphers.map(|said| said.value),
        });
        section.take_over(tls);
    }
    found
}
