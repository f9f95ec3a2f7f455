//! How deep a text nests, found before the parser walks it.
//!
//! The parser is recursive. It stops at 64 levels by itself, which a thread's 2 MiB of stack can just bear without
//! optimisation; nothing that is meant for this program nests a quarter as deep. This walk keeps brackets in strings,
//! comments and heredocs apart well enough for that; a text that deceives it still meets the parser's own bound.

/// The deepest nesting of blocks, lists and references.
pub(super) const DEEPEST: usize = 16;

/// What the walk is inside of.
enum Inside<'a> {
    /// Brackets of any kind, `${` and `%{` included.
    Brackets,
    /// A quoted string.
    Quotes,
    /// A heredoc that ends at a line of this word.
    Heredoc(&'a str),
}

/// The byte at which the text nests deeper than [`DEEPEST`], or has more operators than any value here could need.
pub(super) fn find_too_deep(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut inside: Vec<Inside<'_>> = Vec::new();
    let mut operators = 0;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let next = bytes.get(at + 1).copied();
        let opens_reference = matches!(byte, b'$' | b'%') && next == Some(b'{');
        let is_escaped = next == Some(byte) && bytes.get(at + 2) == Some(&b'{');
        let mut step = 1;
        match inside.last() {
            Some(Inside::Quotes | Inside::Heredoc(_)) if matches!(byte, b'$' | b'%') && is_escaped => step = 3,
            Some(Inside::Quotes | Inside::Heredoc(_)) if opens_reference => {
                // What follows `%{ if … }` is inside of it without any bracket.
                operators += usize::from(byte == b'%');
                inside.push(Inside::Brackets);
                step = 2;
            }
            Some(Inside::Quotes) => match byte {
                b'\\' => step = 2,
                b'"' => drop(inside.pop()),
                _ => {}
            },
            Some(Inside::Heredoc(word)) => {
                if byte == b'\n' && is_last_line(text.get(at + 1..).unwrap_or_default(), word) {
                    inside.pop();
                }
            }
            Some(Inside::Brackets) | None => match byte {
                b'"' => inside.push(Inside::Quotes),
                b'{' | b'[' | b'(' => inside.push(Inside::Brackets),
                b'}' | b']' | b')' => drop(inside.pop()),
                b'#' => step = length_until(text, at, "\n"),
                b'/' if next == Some(b'/') => step = length_until(text, at, "\n"),
                b'/' if next == Some(b'*') => step = length_until(text, at + 2, "*/") + 2,
                b'<' if next == Some(b'<') => {
                    let word = heredoc_word(text.get(at + 2..).unwrap_or_default());
                    inside.push(Inside::Heredoc(word));
                    step = length_until(text, at, "\n");
                }
                b'!' | b'?' | b'+' | b'*' | b'&' | b'|' | b':' => operators += 1,
                b'-' if !at
                    .checked_sub(1)
                    .and_then(|before| bytes.get(before))
                    .is_some_and(u8::is_ascii_alphanumeric) =>
                {
                    operators += 1;
                }
                _ => {}
            },
        }
        if inside.len() > 2 * DEEPEST || operators > DEEPEST {
            return Some(at);
        }
        let brackets = inside.iter().filter(|inside| matches!(inside, Inside::Brackets)).count();
        if brackets > DEEPEST {
            return Some(at);
        }
        at += step;
    }
    None
}

fn length_until(text: &str, at: usize, end: &str) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    rest.find(end).unwrap_or(rest.len()).max(1)
}

fn heredoc_word(text: &str) -> &str {
    let text = text.strip_prefix('-').unwrap_or(text);
    text.split(|c: char| c.is_whitespace()).next().unwrap_or_default()
}

fn is_last_line(text: &str, word: &str) -> bool {
    text.trim_start_matches([' ', '\t']).strip_prefix(word).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}
