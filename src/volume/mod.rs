//! Volumes: from a job's name or URL to a place on a backend, under the policy. Pure.

pub mod registry;
pub mod resolved;

#[cfg(test)]
mod tests;

pub use registry::{Defined, Placed, Registry, Unusable};
pub use resolved::Resolved;
