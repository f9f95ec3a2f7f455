//! The command line against agents that answer, refuse, come late, die in the middle or talk nonsense, on real sockets.
#![allow(clippy::expect_used)] // helpers of tests, which clippy.toml does not count as tests

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::Path as UrlPath;
use axum::http::StatusCode;
use axum::routing::{get, post};
use saddlebag::api::types::{
    AttachRequest, BindingStatus, DetachReply, DetachRequest, Detached, ErrorReply, Explanation, GuardStatus, Happened,
    MountReply, MountRequest, Mounted, NomadStatus, SourceStatus, Status, Step, StepState,
};
use saddlebag::backend::Enforcement;
use saddlebag::job::{OnFailure, Refusal};

const ALLOC: &str = "8f1c9b52-5bd0-4c5a-b6a3-0f7a3c9f2f11";

/// The program with an environment of the test's own, and no terminal.
fn saddlebag(args: &[&str], environment: &[(&str, &Path)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_saddlebag"))
        .args(args)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .expect("the program starts")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit code, not a signal")
}

/// An agent that serves these routes until the test's process ends; it listens when this returns.
fn serve(socket: &Path, routes: axum::Router) {
    let (listening, listens) = mpsc::channel();
    // Bound under a short name and moved: the kernel keeps the socket, whatever the length of its path.
    let short = tempfile::tempdir().expect("a directory");
    let (bound, socket) = (short.path().join("s"), socket.to_owned());
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::UnixListener::bind(&bound).expect("a socket");
            fs::rename(&bound, &socket).expect("moved into place");
            listening.send(()).expect("the test waits");
            axum::serve(listener, routes).await.expect("it serves");
        });
    });
    listens.recv().expect("it listens");
}

/// An agent that reads a request on each connection and then does this with it.
fn serve_raw(socket: &Path, mut answer: impl FnMut(usize, UnixStream) + Send + 'static) {
    let listener = UnixListener::bind(socket).expect("a socket");
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.expect("a connection");
            // A whole request fits into the first packet.
            let _ = stream.read(&mut [0; 4096]).expect("a request");
            answer(number, stream);
        }
    });
}

fn mounted(volume: &str, read_only: bool, already: bool) -> Mounted {
    let destination = format!("local/{volume}");
    Mounted { volume: volume.into(), task: "postgres".into(), destination, read_only, already }
}

fn reply() -> MountReply {
    MountReply { alloc: ALLOC.into(), bindings: vec![mounted("pgdata", false, false), mounted("conf", true, true)] }
}

const MOUNTED: &str = "pgdata mounted at local/pgdata for task postgres (read-write)\n\
                       conf was already mounted at local/conf for task postgres (read-only)\n";

fn mounting() -> axum::Router {
    axum::Router::new().route(
        "/v1/mount",
        post(|Json(request): Json<MountRequest>| async move {
            assert_eq!(request, MountRequest { alloc: Some(ALLOC.into()), task: Some("storage".into()) });
            Json(reply())
        }),
    )
}

fn refusing() -> axum::Router {
    let refusal = Refusal::configuration("no volume is called \"pgdat\"").hint("did you mean \"pgdata\"?");
    let reply = ErrorReply { error: refusal, exit_code: 78 };
    axum::Router::new()
        .route("/v1/mount", post(|| async move { (StatusCode::UNPROCESSABLE_ENTITY, Json(reply)).clone() }))
}

/// The shared directory of an allocation as Nomad makes it, and what Nomad says of it to a prestart task.
struct Allocation {
    dir: tempfile::TempDir,
}

impl Allocation {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("logs")).expect("logs");
        Self { dir }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn socket(&self) -> PathBuf {
        self.path("saddlebag.sock")
    }

    fn log(&self, stream: &str) -> String {
        fs::read_to_string(self.path(&format!("logs/storage.{stream}.0"))).unwrap_or_default()
    }

    fn mount(&self, flags: &[&str]) -> Output {
        let mut args = vec!["mount"];
        args.extend(flags);
        saddlebag(
            &args,
            &[
                ("NOMAD_ALLOC_ID", Path::new(ALLOC)),
                ("NOMAD_TASK_NAME", Path::new("storage")),
                ("NOMAD_ALLOC_DIR", self.dir.path()),
            ],
        )
    }
}

#[test]
fn mount_asks_the_allocations_own_socket_and_says_what_is_where() {
    let allocation = Allocation::new();
    serve(&allocation.socket(), mounting());
    let output = allocation.mount(&[]);
    assert_eq!((stdout(&output), stderr(&output), code(&output)), (MOUNTED, "", 0));
}

#[test]
fn flags_win_over_what_nomad_says() {
    let allocation = Allocation::new();
    let routes = axum::Router::new().route(
        "/v1/mount",
        post(|Json(request): Json<MountRequest>| async move {
            assert_eq!(request, MountRequest { alloc: Some("other".into()), task: Some("hook".into()) });
            Json(MountReply { alloc: "other".into(), bindings: vec![] })
        }),
    );
    serve(&allocation.path("elsewhere"), routes);
    let socket = allocation.path("elsewhere");
    let output = allocation.mount(&["-alloc=other", "-task", "hook", "-socket", socket.to_str().expect("UTF-8")]);
    let said = "allocation other asks for no volume: nothing to mount\n";
    assert_eq!((stdout(&output), stderr(&output), code(&output)), (said, "", 0));
}

#[test]
fn a_refusal_is_one_sentence_a_hint_and_the_replys_exit_code() {
    let allocation = Allocation::new();
    serve(&allocation.socket(), refusing());
    let output = allocation.mount(&[]);
    let said = "saddlebag: no volume is called \"pgdat\"\n  hint: did you mean \"pgdata\"?\n";
    assert_eq!((stdout(&output), stderr(&output), code(&output)), ("", said, 78));
}

#[test]
fn without_an_agent_mount_ends_at_its_deadline_and_names_both_sockets() {
    let allocation = Allocation::new();
    let start = Instant::now();
    let output = allocation.mount(&["--timeout", "300ms"]);
    assert!(start.elapsed() >= Duration::from_millis(300), "it waits to the end");
    assert!(start.elapsed() < Duration::from_secs(30), "and not for the minute that it has by default");
    assert_eq!(code(&output), 69);
    let own = allocation.socket();
    let said = format!(
        "saddlebag: no agent answers at {} or /run/saddlebag/saddlebag.sock (tried for 300ms)\n  hint: is the agent \
         running on this Nomad client (`systemctl status saddlebag`)?",
        own.display()
    );
    assert!(stderr(&output).starts_with(&said), "{}", stderr(&output));
}

#[test]
fn mount_waits_for_a_socket_that_appears_later() {
    let allocation = Allocation::new();
    // What a killed agent leaves: a socket where nobody listens.
    drop(UnixListener::bind(allocation.socket()).expect("a socket"));
    let socket = allocation.socket();
    let agent = thread::spawn(move || {
        thread::sleep(Duration::from_millis(400));
        serve(&socket, mounting());
    });
    let output = allocation.mount(&[]);
    agent.join().expect("the agent came");
    assert_eq!((stdout(&output), code(&output)), (MOUNTED, 0), "{}", stderr(&output));
}

#[test]
fn an_agent_that_is_killed_in_the_middle_is_asked_again() {
    let allocation = Allocation::new();
    let body = serde_json::to_string(&reply()).expect("JSON");
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    serve_raw(&allocation.socket(), move |number, mut stream| {
        let sent = match number {
            0 => "",                    // before a word of the answer
            1 => answer.split_at(10).0, // within its head
            2 => answer.split_at(60).0, // within its body
            _ => answer.as_str(),
        };
        stream.write_all(sent.as_bytes()).expect("sent");
    });
    let output = allocation.mount(&["--timeout", "60s"]);
    assert_eq!((stdout(&output), code(&output)), (MOUNTED, 0), "{}", stderr(&output));
}

#[test]
fn an_agent_that_always_dies_in_the_middle_is_a_reason_to_try_again_later() {
    let allocation = Allocation::new();
    serve_raw(&allocation.socket(), |_, stream| drop(stream));
    // The last try begins long before this time is over: one that the deadline cuts off says another thing.
    let output = allocation.mount(&["--timeout", "500ms"]);
    assert_eq!(code(&output), 75);
    let said = "saddlebag: the agent closed the connection before it answered, again and again for 500ms\n";
    assert!(stderr(&output).starts_with(said), "{}", stderr(&output));
}

#[test]
fn an_agent_that_says_nothing_is_left_at_the_deadline() {
    let allocation = Allocation::new();
    let mut kept = Vec::new();
    serve_raw(&allocation.socket(), move |_, stream| kept.push(stream));
    let output = allocation.mount(&["--timeout", "300ms"]);
    let said = "saddlebag: the agent did not answer within 300ms\n  hint: `saddlebag explain 8f1c9b52` on this client \
                shows what it waits for\n";
    assert_eq!((stderr(&output), code(&output)), (said, 75));
}

#[test]
fn garbage_is_an_error_that_says_so_and_never_a_panic() {
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 64 << 20);
    let answers = [
        "SSH-2.0-OpenSSH_9.2p1\r\n\r\n".to_owned(),
        "\0\u{1}\u{2}\u{3}\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 500 Oops\r\ncontent-length: 5\r\n\r\nhello".to_owned(),
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
        format!("{long}{}", " ".repeat(17 << 20)),
    ];
    for answer in answers {
        let allocation = Allocation::new();
        let shown = answer.chars().take(60).collect::<String>();
        serve_raw(&allocation.socket(), move |_, mut stream| {
            // The long one is left before its end.
            let _ = stream.write_all(answer.as_bytes());
        });
        let output = allocation.mount(&["--timeout", "60s"]);
        assert_eq!(code(&output), 69, "{shown:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with("saddlebag: "), "{shown:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("of another version"), "{shown:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("panicked"), "{shown:?}: {}", stderr(&output));
        for verb in [&["status"][..], &["explain", ALLOC]] {
            let output = saddlebag(verb, &[("SADDLEBAG_SOCKET", &allocation.socket())]);
            assert_eq!(code(&output), 69, "{shown:?}: {}", stderr(&output));
            assert!(stderr(&output).starts_with("saddlebag: "), "{shown:?}: {}", stderr(&output));
        }
    }
}

#[test]
fn a_socket_may_be_as_deep_as_a_path_can_be() {
    let allocation = Allocation::new();
    let mut deep = allocation.dir.path().to_owned();
    for _ in 0..10 {
        deep.push("a-folder-with-a-rather-long-name");
    }
    fs::create_dir_all(&deep).expect("folders");
    let socket = deep.join("saddlebag.sock");
    assert!(socket.as_os_str().len() > 300, "longer than sun_path holds");
    serve(&socket, mounting());
    let output = allocation.mount(&["--socket", socket.to_str().expect("UTF-8")]);
    assert_eq!((stdout(&output), code(&output)), (MOUNTED, 0), "{}", stderr(&output));
}

#[test]
fn with_logs_disabled_the_lines_are_where_nomad_looks_for_them() {
    let allocation = Allocation::new();
    serve(&allocation.socket(), mounting());
    allocation.mount(&[]);
    allocation.mount(&[]);
    assert_eq!(allocation.log("stdout"), format!("{MOUNTED}{MOUNTED}"));
    assert_eq!(allocation.log("stderr"), "");

    fs::remove_file(allocation.socket()).expect("gone");
    serve(&allocation.socket(), refusing());
    let output = allocation.mount(&[]);
    assert_eq!(allocation.log("stderr"), stderr(&output));
}

#[test]
fn where_nomad_collects_the_output_its_files_are_left_alone() {
    let allocation = Allocation::new();
    let pipe = allocation.path("logs/.storage.stderr.fifo");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    serve(&allocation.socket(), mounting());
    let output = allocation.mount(&[]);
    assert_eq!((stdout(&output), code(&output)), (MOUNTED, 0));
    assert_eq!(allocation.log("stdout"), "");
}

#[test]
fn a_log_is_never_written_through_a_planted_symlink() {
    let allocation = Allocation::new();
    serve(&allocation.socket(), mounting());
    let victim = tempfile::NamedTempFile::new().expect("a file");

    symlink(victim.path(), allocation.path("logs/storage.stdout.0")).expect("planted");
    assert_eq!(code(&allocation.mount(&[])), 0, "a log that cannot be written is no reason to fail");

    let elsewhere = tempfile::tempdir().expect("a directory");
    fs::rename(allocation.path("logs"), allocation.path("logs.old")).expect("moved");
    symlink(elsewhere.path(), allocation.path("logs")).expect("planted");
    assert_eq!(code(&allocation.mount(&[])), 0);

    assert_eq!(fs::read_to_string(victim.path()).expect("read"), "");
    assert_eq!(fs::read_dir(elsewhere.path()).expect("read").count(), 0);
}

fn binding(volume: &str, namespace: &str, job: &str, state: &str, reason: Option<&str>) -> BindingStatus {
    BindingStatus {
        volume: volume.into(),
        alloc: ALLOC.into(),
        namespace: namespace.into(),
        job: job.into(),
        group: "db".into(),
        task: "postgres".into(),
        destination: format!("local/{volume}"),
        source: "main".into(),
        read_only: volume == "conf",
        size: (volume == "pgdata").then_some(10 << 30),
        size_enforced: if volume == "pgdata" { Enforcement::Advisory } else { Enforcement::Unlimited },
        size_reason: (volume == "pgdata").then(|| "quota is off".to_owned()),
        by_hand: false,
        state: state.into(),
        age_seconds: 3_725,
        reason: reason.map(Into::into),
        last_fault: None,
        last_repair: None,
    }
}

fn status() -> Status {
    Status {
        recovery: Default::default(),
        index: 0,
        version: "0.1.0".into(),
        pid: 4711,
        uptime_seconds: 90_061,
        nomad: NomadStatus {
            address: "http://127.0.0.1:4646".into(),
            connected: true,
            version: Some("1.10.5".into()),
            node_id: Some("f7476465-1111-2222-3333-444455556666".into()),
            node_name: Some("client-1".into()),
            reason: None,
        },
        guard: GuardStatus { running: true, pid: Some(4712), reason: None },
        sources: vec![
            SourceStatus {
                log: None,
                name: "main".into(),
                backends: vec!["main".into()],
                volumes: vec!["notes".into(), "pgdata".into()],
                kind: "seaweedfs".into(),
                state: "attached".into(),
                mount_point: Some("/run/saddlebag/sources/main".into()),
                pid: Some(4713),
                memory_bytes: Some(122_683_392),
                bindings: 2,
                age_seconds: 59,
                reason: None,
            },
            SourceStatus {
                log: None,
                name: "archive".into(),
                backends: vec!["archive".into()],
                volumes: Vec::new(),
                kind: "seaweedfs".into(),
                state: "failed".into(),
                mount_point: None,
                pid: None,
                memory_bytes: None,
                bindings: 0,
                age_seconds: 5,
                reason: Some("the filer 10.0.0.9:8888 does not answer".into()),
            },
        ],
        bindings: vec![
            binding("pgdata", "default", "shop", "mounted", None),
            binding("conf", "default", "shop", "mounted", None),
            binding("old", "default", "reports", "failed", Some("its source \"archive\" has failed\u{1b}[31m.")),
        ],
    }
}

fn showing(status: Status) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("s");
    serve(&socket, axum::Router::new().route("/v1/status", get(|| async move { Json(status.clone()) })));
    (dir, socket)
}

#[test]
fn status_shows_tables_and_says_in_full_what_is_not_well() {
    let (_dir, socket) = showing(status());
    let output = saddlebag(&["status"], &[("SADDLEBAG_SOCKET", &socket)]);
    let page = "\
Agent = 0.1.0 (pid 4711, up 1d1h)
Nomad = connected to 1.10.5 at http://127.0.0.1:4646
Node  = f7476465 (client-1)
Guard = running (pid 4712)

Sources
Source   Kind       State     Volumes  Memory   Age  Mounted at
main     seaweedfs  attached  2        117 MiB  59s  /run/saddlebag/sources/main
archive  seaweedfs  failed    0        -        5s   -
One mount serves: notes, pgdata

Volumes
Volume  Alloc     Job      Task      Source  Access      Size            State    Age
pgdata  8f1c9b52  shop     postgres  main    read-write  10GiB advisory  mounted  1h2m
conf    8f1c9b52  shop     postgres  main    read-only   unlimited       mounted  1h2m
old     8f1c9b52  reports  postgres  main    read-write  unlimited       failed   1h2m

Not well
Source archive has failed: the filer 10.0.0.9:8888 does not answer.
Volume old for task postgres of job reports (allocation 8f1c9b52) has failed: its source \"archive\" has failed\u{fffd}[31m.
Size 10GiB of volume pgdata for task postgres of job shop is not enforced: quota is off.
";
    assert_eq!((stdout(&output), stderr(&output), code(&output)), (page, "", 0));
}

#[test]
fn status_says_in_words_what_is_not_there() {
    let mut bare = status();
    bare.sources.clear();
    bare.bindings.clear();
    bare.guard = GuardStatus { running: false, pid: None, reason: Some("it was killed".into()) };
    bare.nomad = NomadStatus {
        connected: false,
        version: None,
        node_id: None,
        node_name: None,
        reason: Some("connection refused".into()),
        ..bare.nomad
    };
    let (_dir, socket) = showing(bare);
    let output = saddlebag(&["status", "--socket", socket.to_str().expect("UTF-8")], &[]);
    let page = "\
Agent = 0.1.0 (pid 4711, up 1d1h)
Nomad = not connected to http://127.0.0.1:4646: connection refused
Guard = not running: it was killed

Sources
No sources: no volume has needed one yet.

Volumes
No volumes: no allocation on this node uses one.
";
    assert_eq!((stdout(&output), stderr(&output), code(&output)), (page, "", 0));
}

#[test]
fn status_filters_by_job_and_namespace() {
    let mut two = status();
    two.bindings.push(binding("media", "web", "shop", "mounted", None));
    let (_dir, socket) = showing(two);
    let ask = |flags: &[&str]| {
        let output = saddlebag(&[&["status", "-json"], flags].concat(), &[("SADDLEBAG_SOCKET", &socket)]);
        let shown: Status = serde_json::from_slice(&output.stdout).expect("JSON");
        shown.bindings.into_iter().map(|binding| binding.volume).collect::<Vec<_>>()
    };
    assert_eq!(ask(&[]), ["pgdata", "conf", "old", "media"]);
    assert_eq!(ask(&["-job", "shop"]), ["pgdata", "conf", "media"]);
    assert_eq!(ask(&["-namespace=web", "-job=shop"]), ["media"]);

    let output = saddlebag(&["status", "--job", "none"], &[("SADDLEBAG_SOCKET", &socket)]);
    assert!(stdout(&output).contains("\nNo volumes of such a job on this node.\n"), "{}", stdout(&output));
    let output = saddlebag(&["status", "--namespace", "web"], &[("SADDLEBAG_SOCKET", &socket)]);
    assert!(stdout(&output).contains("\nVolume  Alloc     Namespace  Job "), "{}", stdout(&output));
}

fn explanation() -> Explanation {
    let step = |name: &str, state, detail: &str| Step {
        name: name.into(),
        state,
        detail: detail.into(),
        hint: None,
        log: vec![],
    };
    Explanation {
        alloc: ALLOC.into(),
        namespace: "default".into(),
        job: "shop".into(),
        group: "db".into(),
        summary: "pgdata is not mounted: its source has failed".into(),
        steps: vec![
            step("read the job", StepState::Done, "one volume, for task postgres"),
            Step {
                hint: Some("start the filer, or correct `filer` in the backend".into()),
                log: vec!["mount: dial tcp".into(), "exit 1\u{7}".into()],
                ..step("attach source main", StepState::Failed, "weed mount ended with status 1")
            },
            step("bind at local/pgdata", StepState::Waiting, ""),
        ],
    }
}

#[test]
fn explain_numbers_the_steps_and_shows_what_failed_and_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("s");
    let answer = |UrlPath(id): UrlPath<String>| async move {
        if ALLOC.starts_with(&id) {
            return Ok(Json(explanation()));
        }
        let error = Refusal {
            kind: saddlebag::job::Kind::Unavailable,
            message: format!("no allocation on this node begins with {id}"),
            hint: None,
        };
        Err((StatusCode::SERVICE_UNAVAILABLE, Json(ErrorReply { error, exit_code: 69 })))
    };
    serve(&socket, axum::Router::new().route("/v1/allocation/{id}", get(answer)));
    let page = "\
Allocation = 8f1c9b52-5bd0-4c5a-b6a3-0f7a3c9f2f11
Job        = shop (namespace default, group db)
Summary    = pgdata is not mounted: its source has failed

Steps
1. done     read the job
            one volume, for task postgres
2. FAILED   attach source main
            weed mount ended with status 1
            hint: start the filer, or correct `filer` in the backend
            its log ends with:
              | mount: dial tcp
              | exit 1\u{fffd}
3. waiting  bind at local/pgdata
";
    let output = saddlebag(&["explain", "8F1C"], &[("SADDLEBAG_SOCKET", &socket)]);
    assert_eq!((stdout(&output), stderr(&output), code(&output)), (page, "", 0));

    let output = saddlebag(&["explain", "-json", ALLOC], &[("SADDLEBAG_SOCKET", &socket)]);
    assert_eq!(serde_json::from_slice::<Explanation>(&output.stdout).expect("JSON"), explanation());

    let output = saddlebag(&["explain", "0000"], &[("SADDLEBAG_SOCKET", &socket)]);
    assert_eq!((stderr(&output), code(&output)), ("saddlebag: no allocation on this node begins with 0000\n", 69));

    for bad in ["8f1", "../../x", "8f1c 9", "8f1c9b52-5bd0-4c5a-b6a3-0f7a3c9f2f11-0"] {
        let output = saddlebag(&["explain", bad], &[("SADDLEBAG_SOCKET", &socket)]);
        assert_eq!(code(&output), 64, "{bad}: {}", stderr(&output));
    }
}

#[test]
fn status_shows_what_last_happened_to_a_volume_and_whether_it_was_mended() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("agent.sock");
    let mut shown = status();
    let happened = |cause: &str, at: &str| Some(Happened { cause: cause.into(), at: at.into() });
    shown.bindings[0].last_fault = happened("its mount died", "2026-11-21T10:00:00Z");
    shown.bindings[0].last_repair = happened("its mount died", "2026-11-21T10:00:02Z");
    shown.bindings[1].last_fault = happened("something was mounted over it", "2026-11-21T11:00:00Z");
    shown.bindings[1].last_repair = happened("its mount died", "2026-11-21T09:00:00Z");
    shown.bindings[1].by_hand = true;
    let [first, second] = [0, 1].map(|at: usize| {
        let BindingStatus { volume, task, job, alloc, .. } = shown.bindings[at].clone();
        format!("{volume} for task {task} of job {job} (allocation {})", &alloc[..8])
    });
    let by_hand = format!("{} (by hand)", shown.bindings[1].volume);
    serve(&socket, axum::Router::new().route("/v1/status", get(move || async move { Json(shown) })));
    let output = saddlebag(&["status"], &[("SADDLEBAG_SOCKET", &socket)]);
    let said = format!(
        "Last faults\n2026-11-21T10:00:00Z  {first}: its mount died; mended 2026-11-21T10:00:02Z\n\
         2026-11-21T11:00:00Z  {second}: something was mounted over it; not mended yet\n"
    );
    assert!(stdout(&output).ends_with(&said), "{}", stdout(&output));
    assert!(stdout(&output).contains(&by_hand), "{}", stdout(&output));
}

#[test]
fn an_order_says_what_was_typed_and_what_was_done() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("agent.sock");
    let attach = |Json(request): Json<AttachRequest>| async move {
        let expected = AttachRequest {
            alloc: "8f1c9b52".into(),
            volume: "seaweedfs://filer:8888/old".into(),
            label: Some("dumps".into()),
            destination: Some("local/dumps".into()),
            tasks: vec!["db".into(), "web".into()],
            read_only: true,
            on_failure: OnFailure::Restart,
        };
        assert_eq!(request, expected);
        Json(reply())
    };
    let detach = |Json(request): Json<DetachRequest>| async move {
        assert_eq!((request.alloc.as_str(), request.volume.as_str(), request.force), (ALLOC, "dumps", true));
        let gone = |task: &str| Detached { volume: "dumps".into(), task: task.into(), destination: "local/d".into() };
        Json(DetachReply { alloc: ALLOC.into(), detached: vec![gone("db"), gone("web")] })
    };
    serve(&socket, axum::Router::new().route("/v1/attach", post(attach)).route("/v1/detach", post(detach)));
    let environment = [("SADDLEBAG_SOCKET", socket.as_path())];
    let attached = saddlebag(
        &[
            "volume",
            "attach",
            "8F1C9B52",
            "seaweedfs://filer:8888/old",
            "--name=dumps",
            "--destination",
            "local/dumps",
            "-task",
            "db",
            "-task=web",
            "--read-only",
            "--on-failure",
            "restart",
        ],
        &environment,
    );
    assert_eq!((stdout(&attached), stderr(&attached), code(&attached)), (MOUNTED, "", 0));
    let detached = saddlebag(&["volume", "detach", ALLOC, "dumps", "--force"], &environment);
    let said = "dumps detached from local/d of task db\ndumps detached from local/d of task web\n";
    assert_eq!((stdout(&detached), stderr(&detached), code(&detached)), (said, "", 0));
    let detached = saddlebag(&["volume", "detach", ALLOC, "dumps", "--force", "--json"], &environment);
    assert_eq!(serde_json::from_slice::<DetachReply>(&detached.stdout).expect("JSON").detached.len(), 2);
    let wrong = saddlebag(&["volume", "detach", "../../x", "dumps"], &environment);
    assert_eq!(code(&wrong), 64, "{}", stderr(&wrong));
}

#[test]
fn an_order_to_an_agent_that_is_killed_in_the_middle_is_given_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("agent.sock");
    let body = serde_json::to_string(&reply()).expect("JSON");
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    serve_raw(&socket, move |number, mut stream| {
        let sent = if number == 0 { answer.split_at(60).0 } else { answer.as_str() };
        stream.write_all(sent.as_bytes()).expect("sent");
    });
    let environment = [("SADDLEBAG_SOCKET", socket.as_path())];
    let output = saddlebag(&["volume", "attach", ALLOC, "dumps", "--timeout", "60s"], &environment);
    assert_eq!((stdout(&output), code(&output)), (MOUNTED, 0), "{}", stderr(&output));
    let nobody = dir.path().join("nobody.sock");
    let output =
        saddlebag(&["volume", "attach", ALLOC, "dumps", "--timeout", "300ms"], &[("SADDLEBAG_SOCKET", &nobody)]);
    assert_eq!(code(&output), 69, "{}", stderr(&output));
}

#[test]
fn a_wrong_command_line_ends_with_64_and_help_with_0() {
    for wrong in [&["bogus"][..], &[], &["mount", "--nope"], &["mount", "--timeout", "soon"], &["explain"], &["config"]]
    {
        assert_eq!(code(&saddlebag(wrong, &[])), 64, "{wrong:?}");
    }
    let verbs = ["agent", "guard", "mount", "status", "explain", "volume", "config", "completion", "version"];
    for verb in verbs {
        let output = saddlebag(&[verb, "-help"], &[]);
        assert_eq!((stderr(&output), code(&output)), ("", 0), "{verb}");
    }
    let output = saddlebag(&["config", "validate", "--help"], &[]);
    assert!(stdout(&output).contains("Examples:"), "{}", stdout(&output));
    let output = saddlebag(&["mount"], &[]);
    assert_eq!(code(&output), 64, "without NOMAD_ALLOC_ID");
}

#[test]
fn version_is_said_to_people_and_to_programs() {
    let output = saddlebag(&["version", "-json"], &[]);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["version"], env!("CARGO_PKG_VERSION"));
    let output = saddlebag(&["version"], &[]);
    assert!(stdout(&output).starts_with(concat!("saddlebag ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_configuration_that_cannot_be_read_ends_with_78() {
    let dir = tempfile::tempdir().expect("a directory");
    let missing = dir.path().join("missing.hcl");
    let output = saddlebag(&["config", "validate", "-config", missing.to_str().expect("UTF-8")], &[]);
    assert_eq!(code(&output), 78);
    assert!(stderr(&output).contains("missing.hcl"), "{}", stderr(&output));
}

#[test]
fn a_status_that_nobody_reads_any_more_is_no_error() {
    let (_dir, socket) = showing(status());
    let mut child = Command::new(env!("CARGO_BIN_EXE_saddlebag"))
        .args(["status", "--socket"])
        .arg(&socket)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((stderr(&output), code(&output)), ("", 0));
}
