//! What the agent logs of a decision, for programs and in systemd's journal.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;

use serde_json::Value;

use crate::agent::{ALLOC, Agent};
use crate::scene::{PATIENCE, in_private_namespace};

#[test]
fn each_line_of_the_json_log_is_an_object_with_its_fields() {
    in_private_namespace(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let agent = Agent::start(&["--log-format", "json"], None, File::create(&path).unwrap().into());
        agent.ask();
        drop(agent);
        let log = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let said = |message: &str| {
            let found = lines.iter().find(|line| line["fields"]["message"] == message);
            found.unwrap_or_else(|| panic!("{message}:\n{log}")).clone()
        };
        let asked = said("a task asks for its volumes");
        assert_eq!(
            (asked["fields"]["alloc"].as_str(), asked["fields"]["task"].as_str()),
            (Some(ALLOC), Some("storage"))
        );
        let refused = said("the volumes were not there in time");
        assert_eq!((refused["level"].as_str(), refused["fields"]["alloc"].as_str()), (Some("WARN"), Some(ALLOC)));
        assert!(refused["fields"]["reason"].as_str().is_some_and(|reason| reason.contains("Nomad")), "{refused}");
    });
}

#[test]
fn the_journal_gets_each_message_with_its_fields() {
    in_private_namespace(|| {
        nix::mount::mount(None::<&str>, "/run", Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>).unwrap();
        std::fs::create_dir_all("/run/systemd/journal").unwrap();
        let journal = UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
        journal.set_read_timeout(Some(PATIENCE)).unwrap();
        // The stream that systemd gives a service as its standard error.
        let (stream, _kept) = UnixStream::pair().unwrap();
        let stream = OwnedFd::from(stream);
        let metadata = File::from(stream.try_clone().unwrap()).metadata().unwrap();
        let variable = format!("{}:{}", metadata.st_dev(), metadata.st_ino());
        let agent = Agent::start(&[], Some(variable), stream.into());
        let asking = std::thread::scope(|scope| {
            scope.spawn(|| agent.ask());
            wait_for(&journal, "the volumes were not there in time")
        });
        assert_eq!(asking["SADDLEBAG_ALLOC"], ALLOC);
        assert_eq!(asking["SYSLOG_IDENTIFIER"], "saddlebag");
        assert_eq!(asking["PRIORITY"], "4");
        assert!(asking["SADDLEBAG_REASON"].contains("Nomad could not be asked"), "{asking:?}");
        // What `journalctl -u` shows has the fields too.
        assert!(asking["MESSAGE"].contains(&format!(" alloc={ALLOC} reason=\"")), "{asking:?}");
        assert!(Path::new("/run/systemd/journal/socket").exists());
    });
}

/// Reads datagrams until one says that.
fn wait_for(journal: &UnixDatagram, message: &str) -> BTreeMap<String, String> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = journal.recv(&mut buffer).expect("a message");
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        // None of these has a value of several lines.
        let fields: BTreeMap<String, String> = text
            .lines()
            .map(|line| line.split_once('=').unwrap_or_else(|| panic!("no field: {line:?}")))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        if fields["MESSAGE"].starts_with(message) {
            return fields;
        }
    }
}
