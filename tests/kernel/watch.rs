//! `saddlebag status --watch` against a real agent.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::agent::Agent;
use crate::scene::{PATIENCE, in_private_namespace, signal};

/// A watch that runs, and the lines that it writes.
struct Watch {
    process: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Watch {
    fn start(agent: &Agent, arguments: &[&str]) -> Self {
        let mut command = agent.saddlebag();
        command.args(["status", "--watch", "--socket"]).arg(agent.socket()).args(arguments);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, stderr) = (read(process.stdout.take().unwrap()), read(process.stderr.take().unwrap()));
        Self { process, stdout, stderr }
    }

    /// Ends it as Ctrl-C does; returns the exit code.
    fn interrupt(mut self) -> Option<i32> {
        signal(self.process.id(), Signal::SIGINT);
        self.process.wait().unwrap().code()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Waits for a line of which that is true.
fn wait_until(lines: &Receiver<String>, what: &str, is_meant: impl Fn(&str) -> bool) {
    let mut seen = Vec::new();
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) if is_meant(&line) => return,
            Ok(line) => seen.push(line),
            Err(error) => panic!("no {what:?}: {error}: {seen:#?}"),
        }
    }
}

fn wait_for(lines: &Receiver<String>, text: &str) {
    wait_until(lines, text, |line| line.contains(text));
}

/// Waits until a guard runs that is not this one; the line may tell what was before, too.
fn wait_for_guard(lines: &Receiver<String>, before: u64) {
    wait_until(lines, "another guard", |line| {
        line.contains(" Guard: ") && line.ends_with(')') && !line.ends_with(&format!("(pid {before})"))
    });
}

/// Kills the guard, once the agent knows it.
fn kill_guard(agent: &Agent) -> u64 {
    loop {
        if let Some(pid) = agent.guard_pid() {
            signal(pid, Signal::SIGKILL);
            return u64::from(pid);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_watch_tells_each_change_and_outlives_the_agent() {
    in_private_namespace(|| {
        let mut agent = Agent::start(&[], None, Stdio::null());
        agent.wait();
        let watch = Watch::start(&agent, &[]);
        // First all that there is, then what changes.
        wait_for_guard(&watch.stdout, 0);
        let pid = kill_guard(&agent);
        wait_for_guard(&watch.stdout, pid);
        agent.restart();
        wait_for(&watch.stderr, "the agent does not answer");
        wait_for(&watch.stderr, "the agent answers again (pid ");
        wait_for(&watch.stdout, " Agent: ");
        let pid = kill_guard(&agent);
        wait_for_guard(&watch.stdout, pid);
        assert_eq!(watch.interrupt(), Some(0));
    });
}

#[test]
fn a_watch_in_json_is_a_document_for_each_change_and_none_without_one() {
    in_private_namespace(|| {
        let agent = Agent::start(&[], None, Stdio::null());
        agent.wait();
        let watch = Watch::start(&agent, &["--json"]);
        let next = || -> Value { serde_json::from_str(&watch.stdout.recv_timeout(PATIENCE).unwrap()).unwrap() };
        let mut last = next();
        while last["guard"]["running"] != true || last["nomad"]["reason"].is_null() {
            last = next();
        }
        let pid = kill_guard(&agent);
        loop {
            let status = next();
            let index = |status: &Value| status["index"].as_u64().unwrap();
            assert!(index(&status) > index(&last), "each document has an index of its own");
            last = status;
            if last["guard"]["running"] == true && last["guard"]["pid"] != pid {
                break;
            }
        }
        assert_eq!(watch.interrupt(), Some(0));
    });
}

#[test]
fn a_held_back_answer_comes_with_its_index_and_the_next_change() {
    in_private_namespace(|| {
        let agent = Agent::start(&[], None, Stdio::null());
        agent.wait();
        let ask = |query: &str| {
            let mut stream = UnixStream::connect(agent.socket()).unwrap();
            let request = format!("GET /v1/status{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
            stream
        };
        let answer = |stream: UnixStream| {
            let text = std::io::read_to_string(stream).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            (head.to_ascii_lowercase(), serde_json::from_str::<Value>(body).unwrap())
        };
        // Until nothing changes any more by itself.
        let mut index = 0;
        loop {
            let (head, status) = answer(ask(&format!("?index={index}&wait=1s")));
            assert!(head.contains(&format!("x-saddlebag-index: {}", status["index"])), "{head}");
            let is_all_known = status["guard"]["running"] == true && !status["nomad"]["reason"].is_null();
            if status["index"] == index && is_all_known {
                break;
            }
            index = status["index"].as_u64().unwrap();
        }
        let held_back = ask(&format!("?index={index}&wait=5m"));
        held_back.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut byte = [0];
        let waits = std::io::Read::read(&mut &held_back, &mut byte).unwrap_err();
        assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock, "it is held back");
        held_back.set_read_timeout(None).unwrap();
        kill_guard(&agent);
        assert!(answer(held_back).1["index"].as_u64().unwrap() > index);
        let (head, refusal) = answer(ask("?index=x"));
        assert!(head.starts_with("http/1.1 400"), "{head}: {refusal}");
    });
}
