//! The log as systemd's journal takes it natively: each message with its fields, so that `journalctl
//! SADDLEBAG_ALLOC=…` finds what was decided for an allocation.
//!
//! The protocol is one datagram for each message (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>). `MESSAGE` holds the
//! fields too, since that is all that `journalctl -u saddlebag` shows.

use std::fmt::{self, Debug, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The journal's socket.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// The longest value that is sent, in bytes. A datagram must fit into the socket's buffer; what a program that failed
/// has written may be long.
const LONGEST_VALUE: usize = 8 << 10;

/// Sends messages to the journal.
pub struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// Connects to the journal.
    ///
    /// # Errors
    /// The kernel's, where nobody listens there.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        // The agent's one thread does not wait for a journal that hangs.
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// Sends a datagram. A journal that was restarted has a new socket at the old place.
    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let refused = match self.socket.send(datagram) {
            Err(error) if is_lost(&error) => error,
            sent => return sent.map(drop),
        };
        self.socket.connect(SOCKET).map_err(|_| refused)?;
        self.socket.send(datagram).map(drop)
    }
}

fn is_lost(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotConnected | io::ErrorKind::NotFound)
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        let priority = priority(*event.metadata().level());
        let text = said.text();
        if self.send(&said.datagram(&text, priority, event.metadata())).is_err() {
            // The stream to the journal, or where stderr went else: as good as without the fields.
            eprintln!("<{priority}>{text}");
        }
    }
}

/// The priority of a level, by syslog(3).
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// What an event says.
#[derive(Default)]
struct Said {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Said {
    fn add(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            name => self.fields.push((name, value)),
        }
    }

    /// The message with its fields, on one line.
    fn text(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            let plain = |c: char| c.is_ascii_graphic() && c != '"';
            // Writing to a string cannot fail.
            let _ = if !value.is_empty() && value.chars().all(plain) {
                write!(text, " {name}={value}")
            } else {
                write!(text, " {name}={value:?}")
            };
        }
        text
    }

    fn datagram(&self, text: &str, priority: u8, metadata: &tracing::Metadata<'_>) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(512);
        put(&mut datagram, "MESSAGE", text);
        put(&mut datagram, "PRIORITY", &priority.to_string());
        put(&mut datagram, "SYSLOG_IDENTIFIER", "saddlebag");
        put(&mut datagram, "TARGET", metadata.target());
        if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
            put(&mut datagram, "CODE_FILE", file);
            put(&mut datagram, "CODE_LINE", &line.to_string());
        }
        for (name, value) in &self.fields {
            let name: String =
                name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
            put(&mut datagram, &format!("SADDLEBAG_{name}"), value);
        }
        datagram
    }
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}"));
    }
}

/// One field: `NAME=value`, or with its length where a line break would end it.
fn put(datagram: &mut Vec<u8>, name: &str, value: &str) {
    let end = (0..=value.len().min(LONGEST_VALUE)).rev().find(|end| value.is_char_boundary(*end)).unwrap_or(0);
    let value = &value[..end];
    datagram.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        datagram.push(b'\n');
        datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        datagram.push(b'=');
    }
    datagram.extend_from_slice(value.as_bytes());
    datagram.push(b'\n');
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Journal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_several_lines_has_its_length() {
        let mut datagram = Vec::new();
        put(&mut datagram, "A", "b");
        put(&mut datagram, "C", "d\ne");
        assert_eq!(datagram, b"A=b\nC\n\x03\0\0\0\0\0\0\0d\ne\n");
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let mut datagram = Vec::new();
        put(&mut datagram, "A", &format!("a{}", "ü".repeat(LONGEST_VALUE)));
        assert_eq!(datagram.len(), "A=\n".len() + LONGEST_VALUE - 1);
        assert!(std::str::from_utf8(&datagram).is_ok());
    }

    #[test]
    fn the_message_is_one_line_with_its_fields() {
        let fields = vec![("alloc", "8f1c".to_owned()), ("reason", "a b\nc".to_owned()), ("task", String::new())];
        let said = Said { message: "not mounted".into(), fields };
        assert_eq!(said.text(), r#"not mounted alloc=8f1c reason="a b\nc" task="""#);
    }
}
