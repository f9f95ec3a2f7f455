//! Who may ask what on which socket, and what the agent makes of garbage.

use crate::support::{World, require};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// A user that has no rights here, and a group that every machine has.
const STRANGER: &str = "65534";
const GROUP: &str = "daemon";

const JOB: &str = r#"
job "JOB" {
  group "app" {
    meta {
      storage_volume = "JOB"
    }
    task "storage" {
      driver = "raw_exec"
      lifecycle {
        hook = "prestart"
      }
      config {
        command = "saddlebag"
        args    = ["mount"]
      }
      resources {
        cpu    = 20
        memory = 16
      }
    }
    task "main" {
      driver = "docker"
      config {
        image        = "saddlebag-test:1"
        network_mode = "host"
        command      = "sleep"
        args         = ["600"]
      }
      resources {
        cpu    = 20
        memory = 16
      }
    }
  }
}
"#;

/// Two allocations with a volume each.
struct Scene {
    world: World,
    one: String,
    other: String,
}

impl Scene {
    fn new(name: &str) -> anyhow::Result<Self> {
        let world = World::new(name)?;
        world.start_agent(&format!("status_group = \"{GROUP}\""))?;
        for job in ["one", "other"] {
            world.run_job(&JOB.replace("JOB", job), &[])?;
        }
        let (one, other) = (world.wait_running("one")?, world.wait_running("other")?);
        Ok(Self { world, one, other })
    }

    fn own_socket(&self) -> PathBuf {
        self.world.alloc_dir(&self.one).join("alloc/saddlebag.sock")
    }

    fn host_socket(&self) -> PathBuf {
        self.world.run_dir().join("saddlebag.sock")
    }

    /// saddlebag as another user, in that group.
    fn as_stranger(&self, group: &str, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", STRANGER, "--regid", group, "--clear-groups"]).arg(self.world.saddlebag_path());
        command.args(arguments).arg("--socket").arg(self.host_socket()).output().context("starting setpriv")
    }

    /// The agent lives, answers, and has not panicked.
    fn assert_well(&self, after: &str) -> anyhow::Result<()> {
        self.world.agent_pid().with_context(|| format!("no agent after {after}"))?;
        let status = self.world.saddlebag(&["status", "--json"]).with_context(|| format!("after {after}"))?;
        assert_eq!(serde_json::from_str::<Value>(&status)?["bindings"].as_array().map(Vec::len), Some(2), "{after}");
        let log = std::fs::read_to_string(self.world.log("agent"))?;
        assert!(!log.contains("panicked"), "a panic after {after}:\n{log}");
        Ok(())
    }
}

/// One request by curl; the status and the answer.
fn ask(socket: &Path, path: &str, body: Option<&Value>) -> anyhow::Result<(u16, Value)> {
    let mut curl = Command::new("curl");
    curl.args(["-s", "--max-time", "20", "-w", "\n%{http_code}", "--unix-socket"]).arg(socket);
    if let Some(body) = body {
        curl.args(["-d", &body.to_string()]);
    }
    let answer = String::from_utf8(curl.arg(format!("http://saddlebag{path}")).output()?.stdout)?;
    let (body, status) = answer.rsplit_once('\n').context("curl prints a status")?;
    Ok((status.parse()?, serde_json::from_str(body).with_context(|| body.to_owned())?))
}

#[test]
fn an_allocations_own_socket_acts_for_that_allocation_and_nothing_else() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "curl");
    let scene = Scene::new("own-socket")?;
    let socket = scene.own_socket();

    let (status, reply) = ask(&socket, "/v1/mount", Some(&json!({ "task": "storage" })))?;
    assert_eq!((status, &reply["bindings"][0]["already"]), (200, &json!(true)), "its own, said twice: {reply}");
    let (status, reply) = ask(&socket, "/v1/mount", Some(&json!({ "alloc": scene.other, "task": "storage" })))?;
    assert_eq!((status, &reply["exit_code"]), (403, &json!(77)), "{reply}");
    let (status, reply) = ask(&socket, &format!("/v1/allocation/{}", scene.other), None)?;
    assert_eq!((status, &reply["exit_code"]), (403, &json!(77)), "{reply}");
    let (status, reply) = ask(&socket, &format!("/v1/allocation/{}", scene.one), None)?;
    assert_eq!((status, &reply["alloc"]), (200, &json!(scene.one)), "{reply}");
    let (status, reply) = ask(&socket, "/v1/status", None)?;
    let of: Vec<&Value> = reply["bindings"].as_array().context("bindings")?.iter().map(|b| &b["alloc"]).collect();
    assert_eq!((status, of), (200, vec![&json!(scene.one)]), "{reply}");
    assert!(!reply.to_string().contains(&scene.other), "nothing of another allocation: {reply}");

    // The command line says the same, and with the exit code.
    let mut mount = scene.world.command(&scene.world.saddlebag_path());
    let done = mount.args(["mount", "--alloc", &scene.other, "--task", "storage", "--socket"]).arg(&socket).output()?;
    assert_eq!(done.status.code(), Some(77));
    let said = String::from_utf8(done.stderr)?;
    let wanted = format!("saddlebag: this socket acts for allocation {} and for no other\n", &scene.one[..8]);
    assert_eq!(said, wanted);
    // A task of any user has its socket.
    let looked = Command::new("setpriv")
        .args(["--reuid", STRANGER, "--regid", STRANGER, "--clear-groups", "stat", "-c", "%a %F"])
        .arg(&socket)
        .output()?;
    assert_eq!(String::from_utf8(looked.stdout)?.trim(), "666 socket");
    scene.assert_well("questions to an allocation's own socket")
}

#[test]
fn the_hosts_socket_answers_root_and_lets_a_group_look() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "setpriv");
    let scene = Scene::new("host-socket")?;
    let explain = ["explain", scene.one.as_str()];
    let mount = ["mount", "--alloc", scene.one.as_str(), "--task", "storage"];

    for verb in [["status"].as_slice(), &explain, &mount] {
        let done = scene.as_stranger(STRANGER, verb)?;
        let said = String::from_utf8(done.stderr)?;
        assert_eq!(done.status.code(), Some(77), "{verb:?} as a stranger: {said}");
        assert!(said.starts_with("saddlebag: this socket answers root only\n  hint: "), "{said}");
        assert!(done.stdout.is_empty(), "nothing is shown to a stranger");
    }
    for verb in [["status"].as_slice(), &explain] {
        let done = scene.as_stranger(GROUP, verb)?;
        assert!(done.status.success(), "{verb:?} in the group: {}", String::from_utf8_lossy(&done.stderr));
        assert!(String::from_utf8(done.stdout)?.contains("one"));
    }
    let done = scene.as_stranger(GROUP, &mount)?;
    let said = String::from_utf8(done.stderr)?;
    assert_eq!(done.status.code(), Some(77), "{said}");
    assert!(said.starts_with("saddlebag: only root may ask for mounts on this socket\n  hint: "), "{said}");

    let answered = scene.world.saddlebag(&mount)?;
    assert_eq!(answered, "one was already mounted at local/one for task main (read-write)\n");
    scene.assert_well("questions to the host's socket")
}

#[test]
fn garbage_on_any_socket_harms_nobody() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed");
    let scene = Scene::new("garbage")?;
    let questions = scene.world.run_dir().join("questions.sock");
    let huge_header = format!("GET /v1/status HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(4 << 20));
    let huge_body =
        format!("POST /v1/mount HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}", 8 << 20, "x".repeat(8 << 20));
    let lying = "POST /v1/mount HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n";
    let half = "POST /v1/mount HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{\"task\":";
    let chunks = "POST /v1/mount HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n";
    let paths = "GET /v1/allocation/%00%ff%2e%2e%2f HTTP/1.1\r\nHost: x\r\n\r\n";
    let deep = format!("POST /v1/mount HTTP/1.1\r\nHost: x\r\nContent-Length: 16000\r\n\r\n{}", "[".repeat(16_000));
    let question = "{\"alloc\": \"../../etc\", \"task\": 7}\n";
    let long_line = "x".repeat(1 << 20);
    let texts =
        [huge_header.as_str(), &huge_body, lying, half, chunks, paths, &deep, question, &long_line, "\0\u{1}\u{2}"];

    for socket in [scene.own_socket(), scene.host_socket(), questions.clone()] {
        for text in texts {
            send(&socket, text.as_bytes())?;
        }
        let mut noise = vec![0; 1 << 16];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut noise)?;
        send(&socket, &noise)?;
        scene.assert_well(&format!("garbage on {}", socket.display()))?;
    }

    // A body that is well-formed and wrong is told so.
    for (body, why) in [(json!({ "tsak": "storage" }), "unknown field"), (json!([1, 2]), "not a request")] {
        let (status, reply) = ask(&scene.own_socket(), "/v1/mount", Some(&body))?;
        assert_eq!((status, &reply["exit_code"]), (400, &json!(64)), "{reply}");
        assert!(reply["error"]["message"].as_str().is_some_and(|message| message.contains(why)), "{reply}");
    }
    let (status, reply) = ask(&scene.host_socket(), "/v2/everything", None)?;
    assert_eq!((status, &reply["exit_code"]), (404, &json!(64)), "{reply}");

    // A thousand connections that say nothing, on each socket in turn; the others are answered meanwhile.
    for socket in [scene.own_socket(), questions] {
        let idle = connect_many(&socket, 1000);
        scene.assert_well(&format!("{} idle connections on {}", idle.len(), socket.display()))?;
        drop(idle);
    }
    let idle = connect_many(&scene.host_socket(), 1000);
    let (status, _) = ask(&scene.own_socket(), "/v1/status", None)?;
    assert_eq!(status, 200, "an allocation's own socket while {} idle connections hold the host's", idle.len());
    // Those who say nothing are hung up on, and then the host's is there again.
    scene.assert_well("a thousand idle connections on the host's socket")?;
    drop(idle);

    // New jobs get their volumes as before.
    scene.world.run_job(&JOB.replace("JOB", "later"), &[])?;
    scene.world.wait_running("later").map(drop)
}

/// Sends bytes and reads what comes back, for a second at the most; a server that hangs up is as good as an answer.
fn send(socket: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    stream.set_read_timeout(Some(Duration::from_millis(300)))?;
    let _ = stream.write_all(bytes);
    let mut answer = [0; 4096];
    let _ = stream.read(&mut answer);
    Ok(())
}

/// As many connections as there is room for: a full queue of the kernel refuses more.
fn connect_many(socket: &Path, most: usize) -> Vec<UnixStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket as new_socket};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use std::os::fd::AsRawFd as _;
    // The usual soft limit of 1,024 is this whole process's, in which another test runs at the same time.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let room = maximum.and_then(|maximum| usize::try_from(maximum / 2).ok()).unwrap_or(most);
    let mut all = Vec::new();
    for _ in 0..most.min(room) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let Ok(stream) = new_socket(AddressFamily::Unix, SockType::Stream, flags, None) else { break };
        let Ok(address) = UnixAddr::new(socket) else { break };
        // The agent takes them as it finds time.
        for _ in 0..20 {
            if connect(stream.as_raw_fd(), &address).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        all.push(UnixStream::from(stream));
    }
    all
}
