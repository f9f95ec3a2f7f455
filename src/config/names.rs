//! What may be the name of a backend or a volume.

/// How a name is described where one is refused.
pub const NAME_RULE: &str = "1 to 128 letters, digits, `.`, `_` and `-`, the first a letter or digit";

/// Whether the text can name a backend or a volume: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
///
/// Such a name is a plain path component: never empty, `.` or `..`, and without a `/`.
pub fn is_name(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
