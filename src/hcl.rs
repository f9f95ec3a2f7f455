//! Strict reading of HCL: expected keys and types, every mistake with its place.
//!
//! Built on `hcl-edit`, which keeps the place of everything it reads. How long a text may be and how deep it may nest is
//! looked at before it is parsed.
//! Nothing is evaluated: there are no functions, no expressions and no templates other than plain `${…}` references,
//! which are handed on as what they are and never read a second time.

mod body;
mod depth;
mod problem;
mod value;

#[cfg(test)]
mod tests;

pub use body::{Document, Section};
pub use problem::{Located, Problem, Source, nearest};
pub use value::{Part, Spanned, Text, written_size};
