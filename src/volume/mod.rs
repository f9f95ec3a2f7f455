//! Volumes: from a job's name or URL to a place on a backend, under the policy. Pure.

pub mod resolved;

pub use resolved::Resolved;
