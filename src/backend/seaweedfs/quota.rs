//! The size of a volume: `weed mount` keeps a collection to a quota, so a volume with a size and a collection of its own has
//! a mount of its own with that quota. It is told a new one while it runs.

use std::path::Path;

use super::metadata::PATIENCE;
use super::rpc::{self, RpcError};
use super::wire::Message;
use crate::backend::SizeError;

/// `Configure` of weed/pb/mount.proto.
const CONFIGURE: &str = "/messaging_pb.SeaweedMount/Configure";

/// Tells the mount program that listens at this socket how many bytes its collection may have; 0 for no limit.
///
/// # Errors
/// [`SizeError`].
pub(super) fn set(socket: &Path, bytes: u64) -> Result<(), SizeError> {
    let request = Message::new().number(1, bytes).into_bytes();
    let set = rpc::call_socket(socket, CONFIGURE, &request, PATIENCE);
    set.map(drop).map_err(|error| match error {
        RpcError::Refused { message, .. } => {
            SizeError::Refused { program: "weed mount".into(), reason: message, hint: None }
        }
        error => SizeError::Refused {
            program: "weed mount".into(),
            reason: error.to_string(),
            hint: Some("its size is set again when the volume is next used".into()),
        },
    })
}
