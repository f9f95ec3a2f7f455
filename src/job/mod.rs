//! What a job asks for: from the `storage_*` keys of its meta to checked requests.
//!
//! Pure: no I/O, no clock, no kernel. Everything here is hostile input.
//!
//! * `words` says which words apply to which task (Nomad's merge of meta);
//! * `form` reads them, as one name or URL or as volume blocks;
//! * `interpolate` replaces Nomad's runtime names, in texts that have been taken apart already;
//! * `destination` says where a volume may be;
//! * `read` puts it together.

mod destination;
mod form;
mod interpolate;
mod read;
pub mod refusal;
pub mod request;
mod words;

#[cfg(test)]
mod tests;

pub use read::{clash, likely_hook_task, read, read_wish};
pub use refusal::{Kind, Refusal};
pub use request::{Destination, OnFailure, Placement, Request, SourceName, Wish};
