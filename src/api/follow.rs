//! Following the status, in the manner of Nomad's blocking queries: a question with the index of the last answer is
//! answered once something has changed.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};

use super::serve;
use super::types::Status;
use crate::job::{Kind, Refusal};

/// The header that says the answer's index, beside the field of the same meaning.
pub const INDEX_HEADER: &str = "x-saddlebag-index";
/// How long an answer is held back where nothing else is said.
const WAIT: Duration = Duration::from_secs(30);

/// The index and the wait of a query; nothing where it has no index.
///
/// # Errors
/// A refusal that shows what is expected.
pub fn read(query: &str) -> Result<Option<(u64, Duration)>, Refusal> {
    let usage = |message: String| Refusal {
        kind: Kind::Usage,
        message,
        hint: Some("GET /v1/status?index=N&wait=30s answers when the status is another than N".into()),
    };
    let (mut index, mut wait) = (None, WAIT);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("index", value)) => {
                index = Some(value.parse().map_err(|_| usage(format!("the index must be a number, not {value:?}")))?);
            }
            Some(("wait", value)) => {
                wait = humantime::parse_duration(value)
                    .map_err(|_| usage(format!("wait must be a time such as 30s, not {value:?}")))?;
            }
            _ => return Err(usage(format!("{pair:?} is neither an index nor a wait"))),
        }
    }
    Ok(index.map(|index| (index, wait)))
}

/// The answer with its header.
pub fn answer(status: Result<Status, Refusal>) -> Response {
    match status {
        Ok(status) => ([(INDEX_HEADER, status.index.to_string())], Json(status)).into_response(),
        Err(refusal) => serve::refuse(refusal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_or_refused() {
        let seconds = |seconds| Duration::from_secs(seconds);
        assert_eq!(read("").unwrap(), None);
        assert_eq!(read("index=7").unwrap(), Some((7, seconds(30))));
        assert_eq!(read("wait=2m&index=0").unwrap(), Some((0, seconds(120))));
        assert_eq!(read("wait=2m").unwrap(), None);
        for wrong in ["index=", "index=-1", "index=1&wait=long", "indx=1", "index"] {
            assert_eq!(read(wrong).unwrap_err().kind, Kind::Usage, "{wrong}");
        }
    }
}
