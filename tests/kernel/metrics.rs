//! Who may read the metrics, and what they do not hold up.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::agent::Agent;
use crate::scene::{PATIENCE, in_private_namespace, signal, stop, wait_until};

fn ask(mut stream: impl Read + Write, path: &str, headers: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Waits until something listens there.
fn connect(address: SocketAddr) -> TcpStream {
    let until = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < until, "{address}: {error}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn over_tcp_there_are_metrics_in_either_format_and_nothing_else() {
    in_private_namespace(|| {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let agent = Agent::configured(&format!("metrics {{\n  address = \"{address}\"\n}}\n"));
        agent.wait();
        let open = ask(connect(address), "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n");
        assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0"), "{open}");
        assert!(open.contains("\n# TYPE saddlebag_faults counter\n") && open.ends_with("\n# EOF\n"), "{open}");
        let older = ask(connect(address), "/metrics", "");
        assert!(older.contains("content-type: text/plain; version=0.0.4"), "{older}");
        assert!(older.contains("\n# TYPE saddlebag_faults_total counter\n") && !older.contains("# EOF"), "{older}");
        for path in ["/v1/status", "/v1/mount", "/"] {
            assert!(ask(connect(address), path, "").starts_with("HTTP/1.1 404 "), "{path}");
        }
        let own = ask(UnixStream::connect(agent.socket()).unwrap(), "/metrics", "");
        assert!(own.contains("\nsaddlebag_nomad_connected 0\n"), "{own}");
    });
}

#[test]
fn an_address_that_is_taken_costs_the_agent_nothing_else() {
    in_private_namespace(|| {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let agent = Agent::configured(&format!("metrics {{\n  address = \"{address}\"\n}}\n"));
        agent.wait();
        let own = ask(UnixStream::connect(agent.socket()).unwrap(), "/metrics", "");
        assert!(own.contains("\nsaddlebag_build_info{"), "{own}");
    });
}

#[test]
fn a_guard_that_hangs_holds_up_no_scrape_and_is_told_as_down() {
    in_private_namespace(|| {
        let agent = Agent::start(&[], None, Stdio::null());
        agent.wait();
        let scrape = || ask(UnixStream::connect(agent.socket()).unwrap(), "/metrics", "");
        let is_up = || scrape().contains("\nsaddlebag_guard_up 1\n");
        wait_until("a guard", || agent.guard_pid().is_some());
        let guard = agent.guard_pid().unwrap();
        // One that is busy does not always answer a scrape in time.
        wait_until("a guard that is up", is_up);
        stop(guard);
        // Connections to it fill its queue, and none of these is answered.
        let down: Vec<String> = (0..4).map(|_| scrape()).collect();
        signal(guard, Signal::SIGCONT);
        for told in down {
            assert!(told.contains("\nsaddlebag_guard_up 0\n"), "{told}");
            assert!(told.contains("\nsaddlebag_start_time_seconds "), "{told}");
        }
        wait_until("a guard that is up again", is_up);
    });
}
