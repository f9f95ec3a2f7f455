//! The client and the watch against a real Nomad, each test with an agent of its own.

// clippy.toml allows these in test functions, but not in what helps them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "nomad_api/agent.rs"]
mod agent;
#[path = "nomad_api/pki.rs"]
mod pki;
#[path = "nomad_api/watched.rs"]
mod watched;

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use agent::{Nomad, Plan, nomad_program};
use saddlebag::nomad::client::Client;
use saddlebag::nomad::error::{ClientError, Right};
use saddlebag::nomad::model::{AllocId, Allocation, ClientStatus, Desired, Hook, TaskState};
use saddlebag::nomad::settings::Settings;
use saddlebag::nomad::token::TokenSource;
use saddlebag::nomad::watch::{News, WAIT};
use saddlebag::nomad::wire::Listing;
use watched::Watched;

/// Long enough for Nomad to start and for two busy cores.
const PATIENCE: Duration = Duration::from_secs(60);

/// A job that asks for storage at all three levels of meta; its prestart task takes a moment.
const SHOP: &str = r#"
job "shop" {
  meta {
    owner         = "job"
    storage_tasks = "main"
  }
  group "db" {
    meta {
      storage_volume = "pg-${NOMAD_ALLOC_INDEX}"
    }
    task "storage" {
      driver = "raw_exec"
      lifecycle {
        hook = "prestart"
      }
      config {
        command = "sleep"
        args    = ["1"]
      }
      resources {
        cpu    = 20
        memory = 11
      }
    }
    task "main" {
      driver = "raw_exec"
      meta {
        storage_read_only = "true"
      }
      config {
        command = "sleep"
        args    = ["600"]
      }
      resources {
        cpu    = 30
        memory = 12
      }
    }
  }
}
"#;

/// A job that has nothing to do with storage.
const PLAIN: &str = r#"
job "plain" {
  group "web" {
    task "main" {
      driver = "raw_exec"
      config {
        command = "sleep"
        args    = ["600"]
      }
      resources {
        cpu    = 20
        memory = 10
      }
    }
  }
}
"#;

/// [`SHOP`] with a script in place of one of its sleeps. [`GO_ON`] ends it when the test says so by [`go_on`].
fn shop_with(sleep: &str, script: &str) -> String {
    let command = |program: &str, args: &str| format!("{program:?}\n        args    = [{args}]");
    let job = SHOP.replace(&command("sleep", &format!("{sleep:?}")), &command("sh", &format!("\"-c\", {script:?}")));
    assert_ne!(job, SHOP);
    job
}

/// Waits until it is told to go on, but not for ever.
const GO_ON: &str = "for i in $(seq 1200); do [ -e $NOMAD_ALLOC_DIR/go ] && break; sleep 0.1; done";

/// Tells the scripts of an allocation to go on.
fn go_on(nomad: &Nomad, alloc: &AllocId) {
    std::fs::write(nomad.alloc_dir().join(alloc.as_str()).join("alloc/go"), "").unwrap();
}

/// Asks until the answer satisfies, and gives it.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the agent's node is ready for jobs, and gives its id.
async fn node_of(client: &Client) -> String {
    until("a registered node", || async {
        let id = client.agent_self().await.ok()?.node_id?;
        client.node(&id).await.ok().map(|_| id)
    })
    .await
}

fn running(listing: &Listing) -> Option<&Allocation> {
    listing.allocations.iter().find(|alloc| {
        alloc.status == ClientStatus::Running
            && alloc.tasks.iter().any(|task| task.hook == Hook::Main && task.state == TaskState::Running)
    })
}

#[tokio::test]
async fn a_job_is_seen_from_its_start_to_its_collection() {
    let Some(program) = nomad_program("a_job_is_seen_from_its_start_to_its_collection") else { return };
    let mut nomad = Nomad::prepare(&program, Plan::default());
    nomad.start();
    let client = nomad.client();
    let id = node_of(&client).await;

    let mut watched = Watched::start(client.clone());
    let News::Connected { node, alloc_dir, version, node_id } = watched.next().await else { panic!("not connected") };
    assert_eq!((&node.id, &node_id), (&id, &id));
    assert_eq!((node.datacenter.as_str(), node.pool.as_str()), ("dc1", "default"));
    assert_eq!(node.attributes["kernel.name"], "linux");
    assert_eq!(node.attributes["nomad.version"], version);
    assert_eq!(alloc_dir, Some(nomad.alloc_dir()));
    watched.listing("an empty node", |listing| listing.ids.is_empty()).await;

    nomad.run_job("plain", PLAIN);
    // Nomad's client tells of its tasks once a second, and not of what was over by then.
    nomad.run_job("shop", &shop_with("1", GO_ON));
    let during = watched
        .listing("the prestart task", |listing| {
            let task = listing.allocations.first().and_then(|alloc| alloc.task("storage"));
            task.is_some_and(|task| task.state == TaskState::Running)
        })
        .await;
    let alloc = &during.allocations[0];
    assert_eq!((alloc.name.as_str(), alloc.index, alloc.namespace.as_str()), ("shop.db[0]", 0, "default"));
    assert_eq!((alloc.region.as_str(), alloc.job_name.as_str(), &alloc.job_parent_id), ("global", "shop", &None));
    assert_eq!((alloc.job_meta["owner"].as_str(), alloc.job_meta["storage_tasks"].as_str()), ("job", "main"));
    assert_eq!(alloc.group_meta["storage_volume"], "pg-${NOMAD_ALLOC_INDEX}");
    let main = alloc.task("main").unwrap();
    assert_eq!(main.meta["storage_read_only"], "true");
    assert_eq!((main.hook, main.state, main.started), (Hook::Main, TaskState::Pending, false));
    assert_eq!((main.driver.as_str(), main.cpu_mhz, main.memory_mb), ("raw_exec", 30, 12));
    assert_eq!(alloc.task("storage").unwrap().hook, Hook::Prestart);

    go_on(&nomad, &alloc.id);
    let up = watched.listing("a running job", |listing| running(listing).is_some() && listing.others == 1).await;
    assert_eq!(up.ids.len(), 2);
    let alloc = up.allocations[0].id.clone();
    assert_eq!(client.allocation(&alloc).await.unwrap().unwrap(), up.allocations[0]);
    let unknown = AllocId::parse("00000000-0000-0000-0000-000000000000").unwrap();
    assert_eq!(client.allocation(&unknown).await.unwrap(), None);

    // The held back query answers by itself when a job is stopped, and not only when its time is over.
    let asked = Instant::now();
    nomad.nomad(&["job", "stop", "-detach", "shop"]);
    let stopped = |listing: &Listing| listing.allocations.iter().any(|alloc| alloc.desired == Desired::Stop);
    watched.listing("the stop", stopped).await;
    println!("stop: seen {:?} after it was asked for", asked.elapsed());
    assert!(asked.elapsed() < WAIT);
    let ended = |alloc: &Allocation| {
        alloc.status == ClientStatus::Complete && alloc.tasks.iter().all(|task| task.state == TaskState::Dead)
    };
    watched.listing("its end", |listing| listing.allocations.iter().all(ended)).await;

    nomad.nomad(&["job", "stop", "-purge", "-detach", "shop"]);
    nomad.nomad(&["system", "gc"]);
    let gone = || async { client.allocation(&alloc).await.unwrap().is_none().then_some(()) };
    until("the allocation to be collected", gone).await;
    watched.handle.refresh_now();
    let rest = watched.listing("nothing but the plain job", |listing| !listing.ids.contains(&alloc)).await;
    assert_eq!((rest.allocations.len(), rest.others, rest.ids.len()), (0, 1, 1));
}

/// Nomad's servers delete the allocations of a purged job with the job, before the client has stopped any task. So an
/// allocation's absence from the listing does not mean that its tasks are over.
#[tokio::test]
async fn a_purged_allocation_is_not_listed_while_its_tasks_still_run() {
    let Some(program) = nomad_program("a_purged_allocation_is_not_listed_while_its_tasks_still_run") else { return };
    let mut nomad = Nomad::prepare(&program, Plan::default());
    nomad.start();
    let client = nomad.client();
    let mut watched = Watched::start(client.clone());
    watched.connected().await;
    // The task of this one goes on until it is told to end, or its kill_timeout is over; the other keeps the node's
    // listing from being empty.
    let stubborn = shop_with("600", &format!("trap '' INT; {GO_ON}"));
    let stubborn = stubborn.replace("task \"main\" {\n", "task \"main\" {\n      kill_timeout = \"30s\"\n");
    assert!(stubborn.contains("kill_timeout"));
    nomad.run_job("plain", PLAIN);
    nomad.run_job("shop", &stubborn);
    let up = watched.listing("both jobs", |listing| running(listing).is_some() && listing.others == 1).await;
    let alloc = up.allocations[0].id.clone();
    while let Ok(Some(News::Listing(_))) = tokio::time::timeout(Duration::from_secs(1), watched.news.recv()).await {}

    let asked = Instant::now();
    nomad.nomad(&["job", "stop", "-purge", "-detach", "shop"]);
    let by_itself = tokio::time::timeout(Duration::from_secs(1), watched.news.recv()).await;
    println!("purge: in the first second the held back query brings {by_itself:?}");
    watched.handle.refresh_now();
    let without = watched.listing("its absence", |listing| !listing.ids.contains(&alloc)).await;
    println!("purge: not listed any more {:?} after it was asked for", asked.elapsed());
    assert_eq!((without.allocations.len(), without.others), (0, 1));
    assert_eq!(client.allocation(&alloc).await.unwrap(), None);
    assert!(agent::task_runs_below(&nomad.alloc_dir().join(alloc.as_str())), "its tasks are over already");
    go_on(&nomad, &alloc);
}

#[tokio::test]
async fn a_blocking_query_returns_at_a_change_and_at_its_end() {
    let Some(program) = nomad_program("a_blocking_query_returns_at_a_change_and_at_its_end") else { return };
    let mut nomad = Nomad::prepare(&program, Plan::default());
    nomad.start();
    let client = nomad.client();
    let id = node_of(&client).await;
    let empty = client.allocations(&id, 0, Duration::ZERO).await.unwrap();
    let (mut index, wait) = (empty.index, Duration::from_secs(1));
    // The index of a listing without allocations is that of all nodes, which grows while the client registers itself.
    loop {
        let asked = Instant::now();
        let answer = client.allocations(&id, index, wait).await.unwrap();
        assert_eq!(answer.ids.len(), 0);
        if answer.index == index {
            assert!(asked.elapsed() >= wait, "nothing has changed after {:?}", asked.elapsed());
            break;
        }
        assert!(answer.index > index);
        index = answer.index;
    }

    let held_back = tokio::spawn({
        let (client, id) = (client.clone(), id.clone());
        async move {
            loop {
                let answer = client.allocations(&id, index, Duration::from_secs(300)).await.unwrap();
                assert!(answer.index > index);
                if !answer.ids.is_empty() {
                    return answer;
                }
                index = answer.index;
            }
        }
    });
    nomad.run_job("shop", SHOP);
    let changed = tokio::time::timeout(PATIENCE, held_back).await.expect("an answer before the wait is over");
    assert_eq!(changed.unwrap().allocations.len(), 1);
}

#[tokio::test]
async fn nomad_may_come_late_and_come_again() {
    let Some(program) = nomad_program("nomad_may_come_late_and_come_again") else { return };
    let mut nomad = Nomad::prepare(&program, Plan::default());
    let mut watched = Watched::start(nomad.client());
    let News::Lost(reason) = watched.next().await else { panic!("connected to nothing") };
    assert_eq!(
        reason,
        format!(
            "connection refused at http://127.0.0.1:{}: is Nomad's agent running there, and is this its address?",
            nomad.port
        )
    );
    // Said once, however often it was tried.
    let again = tokio::time::timeout(Duration::from_secs(2), watched.news.recv()).await;
    assert!(again.is_err(), "{again:?}");

    nomad.start();
    watched.connected().await;
    nomad.run_job("shop", SHOP);
    let before = watched.listing("a running job", |listing| running(listing).is_some()).await;

    nomad.kill();
    let reason = watched.lost().await;
    assert!(reason.contains("broke off") || reason.contains("refused"), "{reason}");
    nomad.start();
    watched.connected().await;
    let after = watched.listing("the job that went on", |listing| running(listing).is_some()).await;
    assert_eq!(after.ids, before.ids);
}

#[tokio::test]
async fn a_pure_server_and_a_wrong_scheme_are_named_as_such() {
    let Some(program) = nomad_program("a_pure_server_and_a_wrong_scheme_are_named_as_such") else { return };
    let mut nomad = Nomad::prepare(&program, Plan { no_client: true, ..Plan::default() });
    nomad.start();
    let agent = until("an answer", || async { nomad.client().agent_self().await.ok() }).await;
    assert_eq!((agent.is_client, agent.node_id, agent.alloc_dir), (false, None, None));
    let mut watched = Watched::start(nomad.client());
    let News::Lost(reason) = watched.next().await else { panic!("connected to a server") };
    assert!(reason.contains("is no client but a server"), "{reason}");
    let tls = Settings { address: nomad.settings().address.replace("http", "https"), ..nomad.settings() };
    let error = Client::new(&tls).unwrap().agent_self().await.unwrap_err();
    assert!(matches!(error, ClientError::NotTls { .. }), "{error:?}");
}

#[tokio::test]
async fn the_shipped_policy_suffices_and_each_of_its_lines_is_needed() {
    let Some(program) = nomad_program("the_shipped_policy_suffices_and_each_of_its_lines_is_needed") else { return };
    let plan = Plan { extra: "acl {\n enabled = true\n}".to_owned(), ..Plan::default() };
    let mut nomad = Nomad::prepare(&program, plan);
    nomad.start();
    // A leader says no; a question that any server may answer is answered before there is one.
    let nobody = "00000000-0000-0000-0000-000000000000";
    until("a leader", || async {
        matches!(nomad.client().node(nobody).await, Err(ClientError::TokenNeeded { .. })).then_some(())
    })
    .await;
    let bootstrap: serde_json::Value = serde_json::from_str(&nomad.nomad(&["acl", "bootstrap", "-json"])).unwrap();
    nomad.token = Some(bootstrap["SecretID"].as_str().unwrap().to_owned());
    let id = node_of(&nomad.client()).await;
    nomad.run_job("shop", SHOP);
    let up = until("a running job", || async {
        let listing = nomad.client().allocations_now(&id).await.unwrap();
        running(&listing).cloned()
    })
    .await;

    let shipped = std::fs::read_to_string(saddlebag::nomad::error::SHIPPED_POLICY).unwrap();
    let token_file = tempfile::NamedTempFile::new().unwrap();
    let settings = Settings { token: TokenSource::File(token_file.path().to_owned()), ..nomad.settings() };
    // One client throughout: each new token is picked up from the file.
    let client = Client::new(&settings).unwrap();
    let use_policy = |name: &str, policy: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), policy).unwrap();
        nomad.nomad(&["acl", "policy", "apply", name, file.path().to_str().unwrap()]);
        let token = nomad.nomad(&["acl", "token", "create", "-type=client", "-policy", name, "-json"]);
        let token: serde_json::Value = serde_json::from_str(&token).unwrap();
        std::fs::write(token_file.path(), token["SecretID"].as_str().unwrap()).unwrap();
    };

    use_policy("whole", &shipped);
    let agent = client.agent_self().await.unwrap();
    assert_eq!((agent.node_id.as_ref(), agent.allocations), (Some(&id), Some(1)));
    assert_eq!(client.node(&id).await.unwrap().id, id);
    assert_eq!(client.allocations(&id, 0, Duration::ZERO).await.unwrap().allocations.len(), 1);
    assert!(client.allocation(&up.id).await.unwrap().is_some());
    assert!(client.may_read_jobs("default").await.unwrap());
    let mut watched = Watched::start(client.clone());
    watched.connected().await;
    watched.listing("the job", |listing| listing.allocations.len() == 1).await;
    drop(watched);
    client.restart_task(&up.id, "main").await.unwrap();
    use_policy("no-lifecycle", &shipped.replace(", \"alloc-lifecycle\"", ""));
    let line = r#"namespace "*" { capabilities = ["read-job", "alloc-lifecycle"] }"#;
    denied(client.restart_task(&up.id, "main").await, Right::AllocLifecycle, line);
    denied(client.stop_allocation(&up.id).await, Right::AllocLifecycle, line);

    use_policy("no-agent", &without(&shipped, "agent"));
    denied(client.agent_self().await, Right::AgentRead, r#"agent { policy = "read" }"#);
    use_policy("no-node", &without(&shipped, "node"));
    denied(client.node(&id).await, Right::NodeRead, r#"node { policy = "read" }"#);
    denied(client.allocations_now(&id).await, Right::NodeRead, r#"node { policy = "read" }"#);

    // Without read-job nothing is denied: what cannot be read is left out. The agent's own count gives it away.
    use_policy("no-jobs", &without(&shipped, "namespace"));
    let listing = client.allocations(&id, 0, Duration::ZERO).await.unwrap();
    assert_eq!((listing.ids.len(), listing.others), (0, 0));
    assert!(listing.index >= 1);
    assert_eq!(client.agent_self().await.unwrap().allocations, Some(1));
    assert!(!client.may_read_jobs("default").await.unwrap());
    assert_eq!(client.allocation(&up.id).await.unwrap(), None);

    std::fs::write(token_file.path(), "00000000-0000-0000-0000-000000000000").unwrap();
    let error = client.agent_self().await.unwrap_err();
    assert!(matches!(error, ClientError::TokenUnknown) && !error.to_string().contains("00000000"), "{error}");
    let anonymous = Client::new(&Settings { token: TokenSource::None, ..settings.clone() }).unwrap();
    let error = anonymous.agent_self().await.unwrap_err();
    assert!(matches!(error, ClientError::TokenNeeded { right: Right::AgentRead, .. }), "{error}");
    std::fs::remove_file(token_file.path()).unwrap();
    let error = client.agent_self().await.unwrap_err();
    assert!(matches!(error, ClientError::Token(_)) && error.is_temporary(), "{error}");

    // Nomad's API on a socket, as each task has one.
    let socket = nomad.alloc_dir().join(up.id.as_str()).join("main/secrets/api.sock");
    let token = nomad.settings().token;
    let by_socket = |path: &Path| {
        let address = format!("unix://{}", path.display());
        Client::new(&Settings { address, token: token.clone(), ..Settings::default() }).unwrap()
    };
    assert_eq!(by_socket(&socket).allocations_now(&id).await.unwrap().allocations.len(), 1);
    let error = by_socket(&socket.with_extension("gone")).agent_self().await.unwrap_err();
    assert!(matches!(error, ClientError::NoSocket { .. }), "{error:?}");
    // The runtime closes that connection when it next runs; open, it would keep Nomad from collecting the allocation.
    tokio::time::sleep(Duration::from_millis(200)).await;
}

/// The policy without the block of that name.
fn without(policy: &str, block: &str) -> String {
    let start = policy.find(&format!("\n{block} ")).expect("the block is there");
    let end = start + policy[start..].find("\n}\n").expect("it ends") + 3;
    format!("{}\n{}", &policy[..start], &policy[end..])
}

fn denied<T: std::fmt::Debug>(answer: Result<T, ClientError>, lacks: Right, line: &str) {
    let error = answer.unwrap_err();
    assert!(matches!(&error, ClientError::Denied { right, .. } if *right == lacks), "{error}");
    let text = error.to_string();
    assert!(text.contains(line) && text.contains("examples/nomad/saddlebag-policy.hcl"), "{text}");
    assert!(!error.is_temporary());
}

#[tokio::test]
async fn tls_with_a_private_authority_and_client_certificates() {
    let Some(program) = nomad_program("tls_with_a_private_authority_and_client_certificates") else { return };
    let pki = pki::Pki::make();
    let stranger = pki::Pki::make();
    let mut nomad = Nomad::prepare(&program, Plan { tls: Some(pki.dir().to_owned()), ..Plan::default() });
    nomad.start();
    let good = Settings {
        ca_file: Some(pki.file("ca.pem")),
        cert_file: Some(pki.file("client.pem")),
        key_file: Some(pki.file("client.key")),
        tls_server_name: Some(pki::SERVER_NAME.to_owned()),
        ..nomad.settings()
    };
    let client = Client::new(&good).unwrap();
    let id = node_of(&client).await;
    assert_eq!(client.node(&id).await.unwrap().id, id);
    let failure = |settings: Settings| async move {
        let error = Client::new(&settings).unwrap().agent_self().await.unwrap_err();
        println!("{error}");
        assert!(!error.is_temporary(), "{error}");
        error
    };

    let error = failure(Settings { ca_file: Some(stranger.file("ca.pem")), ..good.clone() }).await;
    assert!(matches!(error, ClientError::UnknownAuthority { .. }), "{error:?}");
    assert!(error.to_string().contains(stranger.file("ca.pem").to_str().unwrap()), "{error}");
    let error = failure(Settings { ca_file: None, ..good.clone() }).await;
    assert!(matches!(error, ClientError::UnknownAuthority { .. }), "{error:?}");
    let error = failure(Settings { cert_file: None, key_file: None, ..good.clone() }).await;
    assert!(matches!(error, ClientError::ClientCertificateMissing { .. }), "{error:?}");
    let error = failure(Settings {
        cert_file: Some(stranger.file("client.pem")),
        key_file: Some(stranger.file("client.key")),
        ..good.clone()
    })
    .await;
    assert!(matches!(error, ClientError::ClientCertificateRefused { .. }), "{error:?}");
    let error = failure(Settings { tls_server_name: None, ..good.clone() }).await;
    assert!(matches!(&error, ClientError::WrongName { name, .. } if name == "127.0.0.1"), "{error:?}");
    let plain = Settings { address: good.address.replace("https", "http"), ..Settings::default() };
    let error = failure(plain).await;
    assert!(matches!(error, ClientError::TlsOnly { .. }), "{error:?}");
    let trusting = Settings { skip_verify: true, ca_file: None, tls_server_name: None, ..good };
    Client::new(&trusting).unwrap().agent_self().await.unwrap();
}
