//! A client whose connections are all encrypted, to glusterd and to the bricks.
//!
//! The files for glusterd's connection have places that nothing configures. So that this machine's own are left alone, the
//! agent is started in a mount namespace with others there; no job runs, since Nomad is in this machine's.

use crate::support::{PATIENCE, World, require, tool};
use anyhow::Context as _;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn openssl(arguments: &[&str]) -> anyhow::Result<()> {
    let done = Command::new(tool("openssl").context("no openssl")?).args(arguments).output()?;
    anyhow::ensure!(done.status.success(), "openssl: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// A certificate of its own authority, at the places that Gluster has for it.
fn certify(folder: &Path, name: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let at = |file: &str| folder.join(file).display().to_string();
    let (key, certificate) = (at("glusterfs.key"), at("glusterfs.pem"));
    let subject = format!("/CN={name}");
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        &subject,
        "-keyout",
        &key,
        "-out",
        &certificate,
    ])
}

#[test]
fn a_client_talks_to_glusterd_and_to_bricks_by_tls_and_a_missing_file_is_named() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "glusterd", "gluster", "glusterfs", "openssl", "unshare");
    let world = World::new("gluster-tls")?;
    let gluster = world.start_gluster()?;
    let (servers, clients) = (world.directory().join("gluster/ssl"), world.directory().join("client-ssl"));
    certify(&servers, "server")?;
    certify(&clients, "client")?;
    // Each trusts the other, and nobody else.
    let pem = |folder: &Path| std::fs::read_to_string(folder.join("glusterfs.pem"));
    let both = pem(&servers)? + &pem(&clients)?;
    std::fs::write(servers.join("glusterfs.ca"), &both)?;
    std::fs::write(clients.join("glusterfs.ca"), &both)?;
    // From its next start on glusterd takes only encrypted connections.
    std::fs::write(world.directory().join("gluster/places/lib/secure-access"), "")?;
    world.end("gluster", "TERM")?;
    world.start_gluster()?;
    gluster.create("gv0", 1, &[("client.ssl", "on"), ("server.ssl", "on"), ("auth.ssl-allow", "*")])?;

    let plain = gluster.backend("plain", "gv0", "  attach_timeout = \"5s\"");
    let named = format!(
        "  tls {{\n    management = true\n    certificate = \"{0}/glusterfs.pem\"\n    key = \"{0}/glusterfs.key\"\n    ca = \"{0}/glusterfs.ca\"\n  }}",
        clients.display()
    );
    let secret = gluster.backend("secret", "gv0", &named);
    let missing = gluster.backend("missing", "gv0", &named.replace("glusterfs.ca", "no.ca"));
    let configuration = world.configure_agent(&[plain, secret, missing].concat())?;
    let script = "ssl=/usr/lib/ssl; [ -d $ssl ] || ssl=/etc/ssl; cp -an $ssl/. \"$1/\"; mount --bind \"$1\" $ssl && exec \"$2\" agent --config \"$3\"";
    let unshare = tool("unshare").context("no unshare")?;
    let words = [&clients, &world.saddlebag_path(), &configuration].map(|path| path.display().to_string());
    let shell = ["--mount", "--propagation", "private", "sh", "-ec", script, "sh"];
    let arguments: Vec<&str> = shell.into_iter().chain(words.iter().map(String::as_str)).collect();
    world.run("agent", &unshare, &arguments)?;

    let source = |name: &str| -> anyhow::Result<Option<Value>> {
        let done = world.try_saddlebag(&["status", "--json"])?;
        if !done.status.success() {
            return Ok(None);
        }
        let status: Value = serde_json::from_slice(&done.stdout)?;
        Ok(status["sources"].as_array().and_then(|all| all.iter().find(|one| one["name"] == name)).cloned())
    };
    let wait = |name: &str, state: &str| {
        world.wait_until(&format!("{name} that is {state}"), PATIENCE, || {
            Ok(source(name)?.filter(|one| one["state"] == state))
        })
    };
    let mounted = wait("secret", "attached")?;
    let point = mounted["mount_point"].as_str().context("where it is mounted")?;
    let pid = mounted["pid"].as_i64().context("its client")?.to_string();
    let inside = |command: &str| {
        let entered = Command::new("nsenter").args(["-t", &pid, "--mount", "--", "sh", "-ec", command]).output()?;
        anyhow::ensure!(entered.status.success(), "{command}: {}", String::from_utf8_lossy(&entered.stderr));
        Ok(String::from_utf8(entered.stdout)?)
    };
    inside(&format!("echo sealed > {point}/letter"))?;
    assert_eq!(std::fs::read_to_string(gluster.brick("gv0", 0).join("letter"))?, "sealed\n");
    let options =
        inside(&format!("cat {point}/.meta/graphs/active/gv0-client-0/options/transport.socket.ssl-own-cert"))?;
    assert_eq!(options.trim(), clients.join("glusterfs.pem").display().to_string());
    let ssl = inside(&format!("cat {point}/.meta/graphs/active/gv0-client-0/options/transport.socket.ssl-enabled"))?;
    assert_eq!(ssl.trim(), "on");

    // In the clear nobody is let in; and what is not there is said before anything is started.
    let refused = wait("plain", "failed")?;
    assert_ne!(refused["state"], "attached", "{refused:#}");
    let refused = wait("missing", "failed")?;
    let reason = refused["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("no.ca for TLS does not exist"), "{refused:#}");
    Ok(())
}
