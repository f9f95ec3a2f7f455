//! The agent's log: on stderr, for people or for programs, or in systemd's journal, with fields.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::args::{LogFormat, LogLevel};
use crate::cli::journal::{self, Journal};

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Sends the messages of this program, from that level up, to stderr; of the libraries only what is a warning or worse.
/// What was set up before stays.
pub fn start(level: LogLevel, format: LogFormat) {
    let level = LevelFilter::from(level);
    let wanted = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("saddlebag", level);
    let log = tracing_subscriber::registry().with(wanted);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // A second set-up is refused; the first one goes on.
    let _ = match format {
        LogFormat::Json => log.with(lines.json()).try_init(),
        LogFormat::Text if is_stderr_the_journal() => {
            if let Ok(journal) = Journal::connect(Path::new(journal::SOCKET)) {
                let _ = log.with(journal).try_init();
                return;
            }
            let bare = tracing_subscriber::fmt::format().without_time().with_level(false).with_target(false);
            log.with(lines.with_ansi(false).event_format(Prioritised(bare))).try_init()
        }
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            log.with(lines.with_ansi(colours).with_target(false)).try_init()
        }
    };
}

/// Whether stderr is the stream to the journal that JOURNAL_STREAM names as DEVICE:INODE (systemd.exec(5)); the variable
/// alone is inherited by programs whose stderr went elsewhere.
fn is_stderr_the_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(std::io::stderr().as_fd()) else { return false };
    named == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// Puts `<N>` before each message: the journal takes it as the priority (sd-daemon(3)).
struct Prioritised<F>(Format<F, ()>);

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    Format<F, ()>: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> Result<(), fmt::Error> {
        write!(writer, "<{}>", journal::priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}
