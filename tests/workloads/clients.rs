//! Clients of a SQL server that commit one row after another, and remember what was acknowledged.

use crate::scene::Scene;
use anyhow::Context as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

/// What both servers understand.
pub const TABLES: &str = "CREATE TABLE acked (writer bigint, number bigint, body text, PRIMARY KEY (writer, number)); \
     CREATE INDEX by_number ON acked (number); \
     CREATE TABLE counters (writer bigint PRIMARY KEY, written bigint); \
     INSERT INTO counters VALUES (0, 0), (1, 0), (2, 0);";

/// A line for each writer: rows, the last number, rows that are not as they were written, what its counter says.
pub const LOOK: &str = "SELECT c.writer, count(a.number), coalesce(max(a.number), -1), \
     coalesce(sum(CASE WHEN a.body = repeat(md5(concat('', a.number)), 20) THEN 0 ELSE 1 END), 0) - \
     CASE WHEN count(a.number) = 0 THEN 1 ELSE 0 END, max(c.written) \
     FROM counters c LEFT JOIN acked a ON a.writer = c.writer GROUP BY c.writer ORDER BY c.writer";

/// One for each counter.
const CLIENTS: usize = 3;

/// Clients at work.
pub struct Clients {
    all: Vec<Client>,
}

struct Client {
    child: Child,
    thread: JoinHandle<()>,
    acknowledged: Arc<AtomicU64>,
}

/// What the clients know of their rows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Known {
    /// Of each client, how many rows were acknowledged: those numbered below.
    pub acknowledged: [u64; CLIENTS],
}

impl Known {
    /// Compares what is known with what the server answers to [`LOOK`]; what it has committed and not acknowledged, at most
    /// one row of each client, is known from now on.
    ///
    /// # Errors
    /// Where a row is missing, doubled or another.
    pub fn assert_there(&mut self, answer: &str) -> anyhow::Result<()> {
        let mut lines = answer.lines();
        for (client, known) in self.acknowledged.iter_mut().enumerate() {
            let line = lines.next().with_context(|| format!("no line for client {client}: {answer}"))?;
            let numbers: Vec<i64> =
                line.split_whitespace().map(str::parse).collect::<Result<_, _>>().context("numbers")?;
            let [writer, rows, last, other, counted] = numbers[..] else { anyhow::bail!("{line}") };
            let rows = u64::try_from(rows)?;
            anyhow::ensure!(usize::try_from(writer)? == client, "{answer}");
            anyhow::ensure!(rows >= *known, "client {client}: {known} rows were acknowledged, {rows} are there");
            anyhow::ensure!(rows <= *known + 1, "client {client}: {rows} rows of which {known} were acknowledged");
            anyhow::ensure!(u64::try_from(last + 1)? == rows, "client {client}: {rows} rows, and the last is {last}");
            anyhow::ensure!(other == 0, "client {client}: {other} rows are not as they were written");
            anyhow::ensure!(u64::try_from(counted)? == rows, "client {client}: {rows} rows, {counted} counted");
            *known = rows;
        }
        Ok(())
    }

    /// All rows.
    pub fn sum(&self) -> u64 {
        self.acknowledged.iter().sum()
    }
}

impl Clients {
    /// Starts them, each by such a command inside the task: one that reads statements and prints each answer at once.
    ///
    /// # Errors
    /// Where one cannot be started.
    pub fn start(scene: &Scene, command: &[&str], known: &Known) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        for (writer, first) in known.acknowledged.iter().copied().enumerate() {
            let mut command = scene.inside(command)?;
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
            let (mut says, answers) = (child.stdin.take().context("a pipe")?, child.stdout.take().context("a pipe")?);
            let acknowledged = Arc::new(AtomicU64::new(first));
            let count = Arc::clone(&acknowledged);
            let thread = std::thread::spawn(move || {
                let mut answers = BufReader::new(answers).lines();
                for number in first.. {
                    let statement = format!(
                        "BEGIN; INSERT INTO acked VALUES ({writer}, {number}, repeat(md5('{number}'), 20)); UPDATE counters \
                         SET written = written + 1 WHERE writer = {writer}; COMMIT; SELECT {number};"
                    );
                    // The pipe breaks when the client ends with its server.
                    if writeln!(says, "{statement}").is_err() {
                        return;
                    }
                    match answers.next() {
                        Some(Ok(line)) if line.trim() == number.to_string() => {
                            count.store(number + 1, Ordering::SeqCst)
                        }
                        _ => return,
                    }
                }
            });
            all.push(Client { child, thread, acknowledged });
        }
        Ok(Self { all })
    }

    /// How many rows were acknowledged so far.
    pub fn count(&self) -> u64 {
        self.all.iter().map(|client| client.acknowledged.load(Ordering::SeqCst)).sum()
    }

    /// All still work.
    ///
    /// # Errors
    /// Where one has ended.
    pub fn assert_working(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.all.iter().any(|client| client.thread.is_finished()), "a client has ended by itself");
        Ok(())
    }

    /// Waits for their end, which is that of their server.
    ///
    /// # Errors
    /// Where one cannot be waited for.
    pub fn end(self) -> anyhow::Result<Known> {
        let mut known = Known::default();
        for (client, last) in self.all.into_iter().zip(&mut known.acknowledged) {
            let Client { mut child, thread, acknowledged } = client;
            // It notices by itself that its server has gone; one that waits for input does not.
            thread.join().map_err(|_| anyhow::anyhow!("a client's thread"))?;
            child.kill()?;
            child.wait()?;
            *last = acknowledged.load(Ordering::SeqCst);
        }
        Ok(known)
    }
}
