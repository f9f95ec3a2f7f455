//! What saddlebag itself says to a filer: attributes of a bucket, and rules for what is stored below a directory.
//!
//! The messages are those of weed/pb/filer.proto; their fields are named by the numbers there.

use std::path::Path;
use std::time::{Duration, SystemTime};

use md5::{Digest, Md5};

use super::rpc::{Filers, RpcError};
use super::rules::{self, Rule, RulesError};
use super::wire::{self, Malformed, Message};
use crate::chance;

/// Where a filer's rules are (weed/filer/filer_conf.go).
const RULES_FOLDER: &str = "/etc/seaweedfs";
/// Their file.
const RULES_FILE: &str = "filer.conf";
/// A bucket with this attribute keeps its empty directories (weed/s3api/s3_constants/extend_key.go).
const ALLOW_EMPTY_FOLDERS: &str = "Seaweed-X-Amz-Allow-Empty-Folders";
/// What a filer says of a name that is not there (`ErrNotFound` in weed/pb/filer_pb/filer_client.go).
const NOT_FOUND: &str = "no entry is found in filer store";
/// How often a change is tried again where somebody else made one in between.
const TRIES: u32 = 8;

/// `WriteCondition.Kind` of weed/pb/filer.proto.
mod condition {
    pub(super) const IF_NOT_EXISTS: u64 = 1;
    pub(super) const IF_ETAG_MATCH: u64 = 3;
    pub(super) const IF_UNMODIFIED_SINCE: u64 = 5;
}
/// `ObjectMutation.Type`.
mod mutation {
    pub(super) const PUT: u64 = 0;
    pub(super) const PATCH_EXTENDED: u64 = 2;
}
/// `FilerError.PRECONDITION_FAILED`.
const PRECONDITION_FAILED: u64 = 6;

/// Why a filer was not brought to what a volume needs.
#[derive(Debug, thiserror::Error)]
pub(super) enum MetadataError {
    /// It could not be asked, or said no.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// What it answered is not understood.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Its rules are not understood, and so they are left as they are.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The rules do not lie in the filer itself.
    #[error("{RULES_FOLDER}/{RULES_FILE} is not stored in the filer itself")]
    Elsewhere,
    /// It took the request and said that it failed.
    #[error("the filer says: {0}")]
    Failed(String),
    /// Others changed the same again and again.
    #[error("others change {RULES_FOLDER}/{RULES_FILE} all the time")]
    Contended,
}

impl MetadataError {
    /// Whether the same may go well in a moment.
    pub(super) fn is_temporary(&self) -> bool {
        match self {
            Self::Rpc(error) => error.is_temporary(),
            Self::Contended => true,
            _ => false,
        }
    }
}

/// The directory whose directories are buckets: `/buckets`, unless the filer is set up otherwise.
///
/// # Errors
/// [`MetadataError`].
pub(super) fn buckets_directory(filers: Filers<'_>) -> Result<String, MetadataError> {
    let answer = filers.call("GetFilerConfiguration", &[])?;
    let said = String::from_utf8_lossy(wire::bytes_of(&answer, 5)?).trim_end_matches('/').to_owned();
    Ok(if said.is_empty() { "/buckets".to_owned() } else { said })
}

/// What stands at a path, as the filer has it.
fn find_entry(filers: Filers<'_>, directory: &str, name: &str) -> Result<Option<Vec<u8>>, MetadataError> {
    let request = Message::new().text(1, directory).text(2, name).into_bytes();
    match filers.call("LookupDirectoryEntry", &request) {
        Ok(answer) => {
            let entry = wire::bytes_of(&answer, 1)?;
            Ok((!entry.is_empty()).then(|| entry.to_vec()))
        }
        Err(RpcError::Refused { message, .. }) if message.contains(NOT_FOUND) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes one change at the filer that owns the path, under its lock. False where the condition does not hold.
fn change(filers: Filers<'_>, path: &str, condition: Option<Message>, change: Message) -> Result<bool, MetadataError> {
    let mut request = Message::new().text(1, path);
    if let Some(clause) = condition {
        request = request.message(2, Message::new().message(1, clause));
    }
    // The route names the filer that owns the path, to which any other hands this on: all writers meet at one lock.
    let request = request.message(3, change).text(7, path).into_bytes();
    let answer = filers.call("ObjectTransaction", &request)?;
    if wire::number_of(&answer, 2)? == PRECONDITION_FAILED {
        return Ok(false);
    }
    match wire::bytes_of(&answer, 1)? {
        [] => Ok(true),
        said => {
            let said = String::from_utf8_lossy(said).chars().filter(|c| !c.is_control()).take(400).collect();
            Err(MetadataError::Failed(said))
        }
    }
}

/// What became of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bucket {
    /// It is not there.
    Missing,
    /// It keeps its empty directories, and did before.
    Keeps,
    /// It does from now on.
    KeepsNow,
}

/// Has a bucket keep its empty directories, as `s3.bucket.allowEmptyFolders -enable` of `weed shell` does. Only that
/// attribute is written.
///
/// # Errors
/// [`MetadataError`].
pub(super) fn allow_empty_folders(filers: Filers<'_>, buckets: &str, name: &str) -> Result<Bucket, MetadataError> {
    let keeps = |entry: &[u8]| -> Result<bool, Malformed> {
        let said = wire::pair_of(entry, 5, ALLOW_EMPTY_FOLDERS)?.unwrap_or_default();
        Ok(said.trim_ascii().eq_ignore_ascii_case(b"true"))
    };
    let Some(entry) = find_entry(filers, buckets, name)? else { return Ok(Bucket::Missing) };
    if keeps(&entry)? {
        return Ok(Bucket::Keeps);
    }
    let patch = Message::new().number(1, mutation::PATCH_EXTENDED).text(2, buckets).text(3, name).pair(
        5,
        ALLOW_EMPTY_FOLDERS,
        b"true",
    );
    change(filers, &format!("{buckets}/{name}"), None, patch)?;
    match find_entry(filers, buckets, name)? {
        None => Ok(Bucket::Missing),
        Some(entry) if keeps(&entry)? => Ok(Bucket::KeepsNow),
        Some(_) => Err(MetadataError::Failed(format!("bucket {name} does not keep the attribute"))),
    }
}

/// Sees to it that a filer stores what is below a directory as `rule` says, and changes nothing else of its rules. It
/// says whether anything was changed.
///
/// The rules are one file that everybody rewrites whole. It is written only where it still is what was read, and then
/// read again: `fs.configure` of `weed shell` writes without looking, and may have written over it.
///
/// # Errors
/// [`MetadataError`].
pub(super) fn apply_rule(filers: Filers<'_>, rule: &Rule) -> Result<bool, MetadataError> {
    let mut has_changed = false;
    for turn in 0..TRIES {
        let entry = find_entry(filers, RULES_FOLDER, RULES_FILE)?;
        let content = match &entry {
            None => &[][..],
            Some(entry) => content_of(entry)?,
        };
        let Some(wanted) = rules::with(content, rule)? else { return Ok(has_changed) };
        if turn > 0 {
            std::thread::sleep(pause(turn));
        }
        has_changed |= put_rules(filers, entry.as_deref(), wanted.as_bytes())?;
    }
    Err(MetadataError::Contended)
}

/// How long others are left alone before another try: twice as long each time, and never as long as anybody else waits.
fn pause(turn: u32) -> Duration {
    Duration::from_millis(40 << turn).mul_f64(0.25 + 0.75 * chance::fraction())
}

/// The rules as they lie in their entry.
fn content_of(entry: &[u8]) -> Result<&[u8], MetadataError> {
    let content = wire::bytes_of(entry, 9)?;
    let size = wire::number_of(wire::bytes_of(entry, 4)?, 1)?;
    // A file of chunks has its content elsewhere: taken for empty, it would be lost.
    let is_whole = !content.is_empty() || (size == 0 && wire::bytes_of(entry, 3)?.is_empty());
    if is_whole { Ok(content) } else { Err(MetadataError::Elsewhere) }
}

fn put_rules(filers: Filers<'_>, former: Option<&[u8]>, content: &[u8]) -> Result<bool, MetadataError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let digest = Md5::digest(content);
    let attributes = Message::new().number(1, content.len() as u64).number(2, now).bytes(14, &digest);
    let (entry, clause) = match former {
        None => {
            let attributes = attributes.number(3, 0o644).number(6, now);
            let entry = Message::new().text(1, RULES_FILE).message(4, attributes).bytes(9, content);
            (entry, Message::new().number(1, condition::IF_NOT_EXISTS))
        }
        Some(former) => {
            let before = wire::bytes_of(former, 4)?;
            let etag: String = wire::bytes_of(before, 14)?.iter().map(|byte| format!("{byte:02x}")).collect();
            let clause = if etag.is_empty() {
                Message::new().number(1, condition::IF_UNMODIFIED_SINCE).number(3, wire::number_of(before, 2)?)
            } else {
                Message::new().number(1, condition::IF_ETAG_MATCH).text(2, &etag)
            };
            (Message::from_read(former).message(4, attributes).bytes(9, content), clause)
        }
    };
    let put = Message::new().number(1, mutation::PUT).text(2, RULES_FOLDER).message(4, entry);
    change(filers, &format!("{RULES_FOLDER}/{RULES_FILE}"), Some(clause), put)
}

/// How long a filer may take for one thing that is asked of it here.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The filers of a backend, as this module asks them.
pub(super) fn filers<'a>(addresses: &'a [String], security: Option<&'a Path>) -> Filers<'a> {
    Filers { addresses, security, patience: PATIENCE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_lie_in_chunks_are_never_taken_for_none() {
        let attributes = Message::new().number(1, 100);
        let chunked = Message::new().text(1, RULES_FILE).message(4, attributes.clone()).into_bytes();
        assert!(matches!(content_of(&chunked), Err(MetadataError::Elsewhere)));
        let whole = Message::new().message(4, attributes).bytes(9, b"{}").into_bytes();
        assert_eq!(content_of(&whole).unwrap(), b"{}");
        assert_eq!(content_of(&Message::new().text(1, RULES_FILE).into_bytes()).unwrap(), b"");
    }
}
