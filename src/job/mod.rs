//! What a job asks for: from the `storage_*` keys of its meta to checked requests.
//!
//! Pure: no I/O, no clock, no kernel. Everything here is hostile input.

pub mod refusal;
pub mod request;

pub use refusal::{Kind, Refusal};
pub use request::{Destination, OnFailure, Placement, Request, SourceName};
