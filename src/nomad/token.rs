//! The ACL token: where it comes from, and how it is kept out of everything but one header.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use reqwest::header::HeaderValue;

/// A token file holds a UUID or a JWT; a longer one is something else, `/dev/zero` for example.
const MAX_TOKEN_BYTES: u64 = 16 * 1024;

/// A text that shows itself to nobody: its `Debug` is a fixed word, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text as a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where the ACL token comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TokenSource {
    /// No token is sent: Nomad's ACLs are off, or its anonymous policy suffices.
    #[default]
    None,
    /// This token (`NOMAD_TOKEN`).
    Fixed(Secret),
    /// The first line of this file, which is read again whenever it has changed.
    File(PathBuf),
}

/// Why there is no token to send. No variant holds any part of the token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("the token file {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file has nothing in it.
    #[error("the token file {} is empty; write the SecretID of an ACL token into it", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is too long for a token.
    #[error("the token file {} is longer than {MAX_TOKEN_BYTES} bytes, so it holds no ACL token", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The token has characters that no header can carry.
    #[error("{origin} holds characters that no ACL token has")]
    BadCharacters {
        /// The file, or the setting.
        origin: String,
    },
}

/// What tells one state of a file from another without reading it.
///
/// The inode is there because secrets are replaced by rename; the size because the clock of a file system may be coarse.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A token source with what was last read from it.
pub(super) struct Token {
    source: TokenSource,
    cached: Mutex<Option<(Stamp, HeaderValue)>>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl Token {
    pub(super) fn new(source: TokenSource) -> Self {
        Self { source, cached: Mutex::new(None) }
    }

    /// Whether a token is configured at all.
    pub(super) fn is_configured(&self) -> bool {
        self.source != TokenSource::None
    }

    /// What to send as `X-Nomad-Token` now.
    pub(super) fn read_header(&self) -> Result<Option<HeaderValue>, TokenError> {
        match &self.source {
            TokenSource::None => Ok(None),
            TokenSource::Fixed(Secret(text)) => header(text.trim(), || "the configured token".to_owned()).map(Some),
            TokenSource::File(path) => self.read_file(path).map(Some),
        }
    }

    fn read_file(&self, path: &Path) -> Result<HeaderValue, TokenError> {
        let unreadable = |source| TokenError::Unreadable { path: path.to_owned(), source };
        let now = Stamp::of(&std::fs::metadata(path).map_err(unreadable)?);
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((stamp, value)) = cached.as_ref()
            && *stamp == now
        {
            return Ok(value.clone());
        }
        // The stamp of the open file belongs to the text that is read; the path may name another one by now.
        let file = File::open(path).map_err(unreadable)?;
        let stamp = Stamp::of(&file.metadata().map_err(unreadable)?);
        let mut text = String::new();
        file.take(MAX_TOKEN_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong { path: path.to_owned() });
        }
        let token = text.trim().lines().next().unwrap_or_default();
        if token.is_empty() {
            return Err(TokenError::Empty { path: path.to_owned() });
        }
        let value = header(token, || format!("the token file {}", path.display()))?;
        *cached = Some((stamp, value.clone()));
        Ok(value)
    }
}

fn header(token: &str, origin: impl FnOnce() -> String) -> Result<HeaderValue, TokenError> {
    let mut value = HeaderValue::from_str(token).map_err(|_| TokenError::BadCharacters { origin: origin() })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_token(path: &Path) -> Token {
        Token::new(TokenSource::File(path.to_owned()))
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "first\n").unwrap();
        let token = file_token(&path);
        assert_eq!(token.read_header().unwrap().unwrap(), "first");
        // As secrets are replaced: written aside and renamed, with the same size and perhaps the same time.
        let aside = dir.path().join("aside");
        std::fs::write(&aside, "other\n").unwrap();
        std::fs::rename(&aside, &path).unwrap();
        assert_eq!(token.read_header().unwrap().unwrap(), "other");
    }

    #[test]
    fn a_missing_empty_or_endless_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let error = file_token(&path).read_header().unwrap_err();
        assert!(matches!(error, TokenError::Unreadable { .. }), "{error}");
        std::fs::write(&path, " \n").unwrap();
        let error = file_token(&path).read_header().unwrap_err();
        assert!(matches!(error, TokenError::Empty { .. }) && error.to_string().contains("token"), "{error}");
        let error = file_token(Path::new("/dev/zero")).read_header().unwrap_err();
        assert!(matches!(error, TokenError::TooLong { .. }), "{error}");
    }

    #[test]
    fn the_token_shows_itself_in_no_debug_output() {
        let source = TokenSource::Fixed(Secret::new("s3cret"));
        let token = Token::new(source.clone());
        let header = token.read_header().unwrap();
        assert_eq!(header.as_ref().unwrap(), "s3cret");
        let shown = format!("{source:?} {token:?} {header:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
        let error = Token::new(TokenSource::Fixed(Secret::new("s3c\nret"))).read_header().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3c"), "{error:?}");
    }
}
