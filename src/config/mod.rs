//! See the crate's first page.

/// The agent configuration.
#[derive(Debug, Clone)]
pub struct Config {}
