//! Chance, for those who must not all do the same at one instant.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// A number from 0 to 1 that differs from process to process and call to call, so that the agents of a cluster whose
/// servers come back do not all ask at one instant.
pub fn fraction() -> f64 {
    // Each RandomState has keys of its own; hashing nothing with it is a random number without a crate for it.
    let random = RandomState::new().build_hasher().finish() >> 32;
    random as f64 / f64::from(u32::MAX)
}
