//! Nomad: reached, this very node, and a token with each right, by the request that needs it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::allocs;
use super::say::Teller;
use crate::agent;
use crate::check::Check;
use crate::config::Config;
use crate::nomad::client::{AgentSettings, Client, Driver};
use crate::nomad::error::{ClientError, Right, SHIPPED_POLICY, one_line};
use crate::nomad::model::AllocId;
use crate::nomad::wire::{AgentSelf, Listing};

/// A node that nobody has.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";
/// Drivers whose tasks see a mount, or a link to one.
const DRIVERS: [&str; 6] = ["docker", "podman", "exec", "java", "raw_exec", "qemu"];
/// What makes a token for saddlebag.
const NEW_TOKEN: &str =
    "nomad acl token create -name saddlebag -type client -policy saddlebag   # its Secret ID into token_file";

/// Asks Nomad all of it.
///
/// # Errors
/// No event queue from the kernel.
pub(super) fn look(config: &Config, tell: &mut Teller) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ask(config, tell));
    Ok(())
}

async fn ask(config: &Config, tell: &mut Teller) {
    tell.begin("address");
    let client = match Client::new(&agent::settings(config)) {
        Ok(client) => client,
        Err(error) => {
            let mend = "nomad { address = \"http://127.0.0.1:4646\" }   # and its certificates' files";
            return tell.found(Check::misconfigured("address", one_line(&error), mend));
        }
    };
    let (own, settings) = match (client.agent_self().await, client.agent_settings().await) {
        (Ok(own), Ok(settings)) => (own, settings),
        (Err(error), _) | (_, Err(error)) => {
            tell.found_timed(of_error("address", &error));
            if matches!(error, ClientError::Denied { .. } | ClientError::TokenNeeded { .. }) {
                // The other rights of the same token, so that one look is enough.
                tell.begin("node:read");
                tell.found_timed(node_read(&client, NOBODY).await);
                read_job(&client, tell).await;
            }
            return;
        }
    };
    tell.found_timed(Check::ok("address", format!("Nomad {} at {}", own.version, client.address())));
    tell.begin("token");
    tell.found(token(config, &settings));
    let Some(node_id) = node(&own, &settings, client.address(), tell) else { return };
    tell.begin("node:read");
    let may_read = node_read(&client, &node_id).await;
    let goes_on = !may_read.is_problem();
    tell.found_timed(may_read);
    if settings.has_acl {
        read_job(&client, tell).await;
    }
    if goes_on {
        of_node(&client, &own, &settings, &node_id, tell).await;
    }
    let alloc_dir = config.nomad.alloc_dir.clone().or_else(|| own.alloc_dir.clone());
    allocs::look(config, alloc_dir.as_deref(), &settings, tell);
}

/// What needs `node:read`.
async fn of_node(client: &Client, own: &AgentSelf, settings: &AgentSettings, node_id: &str, tell: &mut Teller) {
    tell.begin("allocations");
    match client.allocations_now(node_id).await {
        Ok(listing) => {
            tell.found_timed(allocations(own, settings, &listing));
            if settings.has_acl {
                tell.begin("alloc-lifecycle");
                tell.found_timed(alloc_lifecycle(client, &listing).await);
            }
        }
        Err(error) => tell.found_timed(of_error("allocations", &error)),
    }
    tell.begin("drivers");
    match client.drivers(node_id).await {
        Ok(drivers) => of_drivers(&drivers).into_iter().for_each(|check| tell.found(check)),
        Err(error) => tell.found_timed(of_error("drivers", &error)),
    }
}

fn token(config: &Config, settings: &AgentSettings) -> Check {
    const NAME: &str = "token";
    let nomad = &config.nomad;
    let whose = match (&nomad.token_file, &nomad.token) {
        (Some(file), _) => format!("of {}", file.display()),
        (None, Some(_)) => "of NOMAD_TOKEN".to_owned(),
        (None, None) => "none".to_owned(),
    };
    if !settings.has_acl {
        return Check::ok(NAME, "ACLs are off: everybody may do everything");
    }
    match &nomad.token_file {
        Some(file) if is_open_to_others(file) => {
            let mend = format!("chown root: {0} && chmod 600 {0}", file.display());
            Check::warning(NAME, format!("{} can be read by others than root", file.display()), mend)
        }
        _ => Check::ok(NAME, format!("{whose}, and Nomad knows it")),
    }
}

fn is_open_to_others(file: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(file).is_ok_and(|of| of.mode() & 0o077 != 0 || of.uid() != 0)
}

/// That it is a client, and the one of this very host.
fn node(own: &AgentSelf, settings: &AgentSettings, address: &str, tell: &mut Teller) -> Option<String> {
    const NAME: &str = "node";
    const MEND: &str = "nomad { address = \"http://127.0.0.1:4646\" }   # the Nomad client of this very host";
    tell.begin(NAME);
    let Some(id) = own.node_id.clone().filter(|_| own.is_client) else {
        let detail = format!("what answers at {address} is a Nomad server, which runs no allocations");
        tell.found(Check::misconfigured(NAME, detail, MEND));
        return None;
    };
    let file = settings.state_dir.as_ref().map(|dir| dir.join("client-id"));
    let local = file.as_ref().map(|file| std::fs::read_to_string(file).map(|text| text.trim().to_owned()));
    let short = id.get(..8).unwrap_or(&id).to_owned();
    tell.found(match (local, file) {
        (Some(Ok(local)), _) if local == id => Check::ok(NAME, format!("{short}, of this host")),
        (Some(Ok(local)), Some(file)) => {
            let other = local.get(..8).unwrap_or(&local);
            let detail = format!("{address} is node {short}, and {} of this host says {other}", file.display());
            Check::misconfigured(NAME, detail, MEND)
        }
        (Some(Err(error)), Some(file)) => {
            let detail =
                format!("{short}, and this host has no {} ({error}): it may be another host's", file.display());
            Check::misconfigured(NAME, detail, MEND)
        }
        _ => Check::warning(NAME, format!("{short}; where its data is Nomad does not say"), MEND),
    });
    Some(id)
}

async fn node_read(client: &Client, id: &str) -> Check {
    const NAME: &str = "node:read";
    match client.node(id).await {
        Ok(node) => Check::ok(NAME, format!("{} in {}, pool {}", node.name, node.datacenter, node.pool)),
        // Whoever is told that there is none may ask.
        Err(ClientError::NodeUnknown { .. }) if id == NOBODY => Check::ok(NAME, "granted"),
        Err(error) => of_error(NAME, &error),
    }
}

async fn read_job(client: &Client, tell: &mut Teller) {
    const NAME: &str = "read-job";
    tell.begin(NAME);
    let namespaces = match client.namespaces().await {
        Ok(namespaces) => namespaces,
        Err(error) => return tell.found_timed(of_error(NAME, &error)),
    };
    let (mut granted, mut lacking) = (Vec::new(), Vec::new());
    for namespace in namespaces {
        match client.may_read_jobs(&namespace).await {
            Ok(true) => granted.push(namespace),
            Ok(false) => lacking.push(namespace),
            Err(error) => return tell.found_timed(of_error(NAME, &error)),
        }
    }
    let mend = || mend_of_right(Right::ReadJob);
    tell.found_timed(match (granted.is_empty(), lacking.is_empty()) {
        (true, _) => Check::misconfigured(NAME, "in no namespace: no job's allocations are seen", mend()),
        (false, false) => {
            let detail = format!("in {}, not in {}", granted.join(", "), lacking.join(", "));
            Check::warning(NAME, detail, mend())
        }
        (false, true) => Check::ok(NAME, format!("in {}", granted.join(", "))),
    });
}

/// Nomad leaves out of a listing what the token may not read, without a word.
fn allocations(own: &AgentSelf, settings: &AgentSettings, listing: &Listing) -> Check {
    const NAME: &str = "allocations";
    let seen = listing.ids.len();
    let held = own.allocations.and_then(|held| usize::try_from(held).ok()).unwrap_or(seen);
    if settings.has_acl && held > seen {
        let detail = format!("{seen} seen, and Nomad's client holds {held}: the token may not read the others' jobs");
        return Check::warning(NAME, detail, mend_of_right(Right::ReadJob));
    }
    let storage = listing.allocations.len();
    if let Some(most) = settings.gc_max_allocs.filter(|most| u64::try_from(held).is_ok_and(|held| held > *most)) {
        let detail = format!("{held} on the node, over gc_max_allocs: Nomad collects ended ones at once");
        return Check::warning(NAME, detail, format!("client {{ gc_max_allocs = {} }}   # of Nomad", most * 4));
    }
    Check::ok(NAME, format!("{seen} seen, {storage} of them ask for storage"))
}

async fn alloc_lifecycle(client: &Client, listing: &Listing) -> Check {
    const NAME: &str = "alloc-lifecycle";
    let mut by_namespace: BTreeMap<&str, &AllocId> = BTreeMap::new();
    for alloc in &listing.allocations {
        by_namespace.entry(&alloc.namespace).or_insert(&alloc.id);
    }
    if by_namespace.is_empty()
        && let Some(any) = listing.ids.first()
    {
        by_namespace.insert("one", any);
    }
    if by_namespace.is_empty() {
        return Check::skipped(NAME, "no allocation on this node to ask it of");
    }
    let (mut granted, mut lacking) = (Vec::new(), Vec::new());
    for (namespace, alloc) in by_namespace {
        match client.may_restart(alloc).await {
            Ok(Some(true)) => granted.push(namespace),
            Ok(Some(false)) => lacking.push(namespace),
            Ok(None) => {}
            Err(error) => return of_error(NAME, &error),
        }
    }
    if !lacking.is_empty() {
        let detail = format!("not in {}: on_failure = \"restart\" and \"fail\" do nothing there", lacking.join(", "));
        return Check::warning(NAME, detail, mend_of_right(Right::AllocLifecycle));
    }
    if granted.is_empty() {
        return Check::skipped(NAME, "the node's allocations ended meanwhile");
    }
    Check::ok(NAME, format!("in {}", granted.join(", ")))
}

fn of_drivers(drivers: &BTreeMap<String, Driver>) -> Vec<Check> {
    let known = || drivers.iter().filter(|(name, _)| DRIVERS.contains(&name.as_str()));
    let healthy: Vec<&str> = known().filter(|(_, driver)| driver.healthy).map(|(name, _)| name.as_str()).collect();
    let mut checks = Vec::new();
    if healthy.is_empty() {
        let detail =
            "no driver that can run a task with a volume is healthy (docker, podman, exec, java, raw_exec, qemu)";
        let mend =
            "apt install docker.io && systemctl restart nomad   # or plugin \"raw_exec\" { config { enabled = true } }";
        checks.push(Check::misconfigured("drivers", detail, mend));
    } else {
        checks.push(Check::ok("drivers", format!("healthy: {}", healthy.join(", "))));
    }
    for (name, driver) in known().filter(|(_, driver)| driver.detected && !driver.healthy) {
        let detail = format!("driver {name} is there and not healthy: {}", driver.health_description);
        checks.push(Check::warning("drivers", detail, format!("nomad node status -self -verbose   # Drivers: {name}")));
    }
    if !healthy.is_empty() && !healthy.contains(&"raw_exec") {
        let detail = "raw_exec is off: prestart tasks have to run by another driver (docker with curl, for one)";
        let mend =
            "plugin \"raw_exec\" { config { enabled = true } }   # in Nomad's configuration, or use another driver";
        checks.push(Check::warning("prestart", detail, mend));
    }
    checks
}

fn mend_of_right(right: Right) -> String {
    format!("nomad acl policy apply saddlebag {SHIPPED_POLICY}   # it has: {}", right.policy_line())
}

/// An error of Nomad's, with what mends it.
fn of_error(name: &str, error: &ClientError) -> Check {
    let detail = one_line(error);
    let config = |mend: &str| Check::misconfigured(name, detail.clone(), mend);
    match error {
        ClientError::UnknownAuthority { .. } => config("nomad { ca_file = \"/etc/nomad.d/tls/nomad-agent-ca.pem\" }"),
        ClientError::WrongName { .. } => config("nomad { tls_server_name = \"client.global.nomad\" }"),
        ClientError::ClientCertificateMissing { .. } | ClientError::ClientCertificateRefused { .. } => {
            config("nomad { cert_file = \"…\", key_file = \"…\" }   # nomad tls cert create -cli makes them")
        }
        ClientError::NotTls { address } => {
            config(&format!("nomad {{ address = {:?} }}", address.replacen("https:", "http:", 1)))
        }
        ClientError::TlsOnly { address } => {
            config(&format!("nomad {{ address = {:?} }}", address.replacen("http:", "https:", 1)))
        }
        ClientError::Token(_) | ClientError::TokenNeeded { .. } | ClientError::TokenUnknown => config(NEW_TOKEN),
        ClientError::Denied { right, .. } => config(&mend_of_right(*right)),
        ClientError::Unexpected { .. } | ClientError::Malformed { .. } | ClientError::TooLong { .. } => {
            config("nomad { address = \"http://127.0.0.1:4646\" }   # what answers there is not Nomad")
        }
        ClientError::InvalidCertificate { .. } | ClientError::Tls { .. } => Check::unavailable(
            name,
            detail,
            "timedatectl; nomad tls cert create -client   # a new certificate for Nomad",
        ),
        _ => Check::unavailable(name, detail, "systemctl start nomad   # or nomad { address = \"http://HOST:4646\" }"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Outcome;

    fn driver(detected: bool, healthy: bool) -> Driver {
        Driver { detected, healthy, health_description: "Failed to connect".into() }
    }

    #[test]
    fn a_node_without_drivers_that_see_mounts_is_a_problem_and_a_sick_one_a_warning() {
        let named = |list: &[(&str, Driver)]| {
            list.iter().map(|(name, driver)| ((*name).to_owned(), driver.clone())).collect::<BTreeMap<_, _>>()
        };
        let none = of_drivers(&named(&[("mock_driver", driver(true, true)), ("raw_exec", driver(false, false))]));
        assert!(none[0].is_problem() && none.len() == 1, "{none:?}");
        let sick = of_drivers(&named(&[("docker", driver(true, false)), ("raw_exec", driver(true, true))]));
        assert_eq!(sick.iter().map(|check| check.outcome).collect::<Vec<_>>(), [Outcome::Ok, Outcome::Warning]);
        let no_raw = of_drivers(&named(&[("docker", driver(true, true)), ("raw_exec", driver(false, false))]));
        assert_eq!(no_raw[1].name, "prestart");
    }

    #[test]
    fn allocations_that_the_token_may_not_read_are_counted() {
        let own = AgentSelf { allocations: Some(3), ..AgentSelf::default() };
        let acl = AgentSettings { has_acl: true, ..AgentSettings::default() };
        let one = Listing { ids: vec![AllocId::parse(NOBODY).unwrap()], ..Listing::default() };
        assert_eq!(allocations(&own, &acl, &one).outcome, Outcome::Warning);
        assert_eq!(allocations(&own, &AgentSettings::default(), &one).outcome, Outcome::Ok);
    }
}
