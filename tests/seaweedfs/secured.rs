//! A cluster whose gRPC is encrypted, with certificates that carry no host's name.

use crate::support::{Cluster, Plan, require};
use crate::told::{prepare, seaweedfs, volume};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::path::Path;

/// An authority, one certificate for everybody, and the `security.toml` that names them.
fn secure(folder: &Path) -> anyhow::Result<()> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    std::fs::write(folder.join("ca.crt"), authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    let mut everybody = CertificateParams::new(vec!["seaweedfs.internal".to_owned()])?;
    everybody.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    std::fs::write(folder.join("all.crt"), everybody.signed_by(&key, &issuer)?.pem())?;
    std::fs::write(folder.join("all.key"), key.serialize_pem())?;
    let at = folder.display();
    let mut text = format!("[grpc]\nca = \"{at}/ca.crt\"\n");
    for component in ["master", "volume", "filer", "client"] {
        text.push_str(&format!("[grpc.{component}]\ncert = \"{at}/all.crt\"\nkey = \"{at}/all.key\"\n"));
    }
    std::fs::write(folder.join("security.toml"), text)?;
    Ok(())
}

#[test]
fn an_encrypted_cluster_is_spoken_to_with_its_own_security_toml_and_in_no_other_way() -> anyhow::Result<()> {
    require!("root", "weed", "fusermount3");
    let cluster = Cluster::start_with(Plan::default(), &[], secure)?;
    let security = format!("  security = \"{}/security.toml\"", cluster.directory().display());
    let plain = prepare(&seaweedfs(&cluster.filers(), "")?, &volume("volumes/a", Some("a"))?);
    assert!(plain.unwrap_err().to_string().contains("no filer can be spoken to"));

    let mount = cluster.mount("m", &cluster.filers(), &[])?;
    std::fs::create_dir_all(mount.join("buckets/b"))?;
    let backend = seaweedfs(&cluster.filers(), &security)?;
    prepare(&backend, &volume("buckets/b/x", None)?)?;
    prepare(&backend, &volume("volumes/a", Some("a"))?)?;
    assert!(cluster.shell("fs.meta.cat /buckets/b", 0)?.contains("Allow-Empty-Folders"));
    assert!(cluster.shell("fs.configure", 0)?.contains("/volumes/a/"));

    // Another authority's certificate is nobody's.
    let other = tempfile::tempdir()?;
    secure(other.path())?;
    let elsewhere = format!("  security = \"{}/security.toml\"", other.path().display());
    let refused = prepare(&seaweedfs(&cluster.filers(), &elsewhere)?, &volume("volumes/c", Some("c"))?);
    assert!(refused.unwrap_err().to_string().contains("certificate"));
    Ok(())
}
