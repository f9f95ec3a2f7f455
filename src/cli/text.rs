//! Small pieces of text: what others wrote made safe to show, and numbers as people read them.

use std::borrow::Cow;

/// The text in one line: line ends and tabs become spaces, other control characters U+FFFD.
///
/// Messages carry what jobs, servers and programs said; an escape sequence in them must not reach a terminal.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(
        text.trim_end()
            .chars()
            .map(|c| match c {
                '\n' | '\r' | '\t' => ' ',
                c if c.is_control() => char::REPLACEMENT_CHARACTER,
                c => c,
            })
            .collect(),
    )
}

/// Each line as [`one_line`] has it.
pub fn one_line_each(text: &str) -> String {
    text.lines().map(one_line).collect::<Vec<_>>().join("\n")
}

/// A sentence with its full stop.
pub fn sentence(text: &str) -> String {
    let text = one_line(text);
    let text = text.trim();
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

/// Seconds in the two largest units that say something: `12s`, `3m5s`, `2h`, `4d3h`.
pub fn age(seconds: u64) -> String {
    let parts = [(seconds / 86_400, 'd'), (seconds / 3_600 % 24, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let shown = parts.iter().skip(first).take(2).enumerate();
    shown.filter(|(at, (count, _))| *at == 0 || *count > 0).map(|(_, (count, unit))| format!("{count}{unit}")).collect()
}

/// Bytes in the largest binary unit of which there is at least one: `117 MiB`.
pub fn bytes(count: u64) -> String {
    let mut rest = count;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if rest < 1024 {
            return format!("{rest} {unit}");
        }
        rest /= 1024;
    }
    format!("{rest} TiB")
}

/// `1 volume`, `2 volumes`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The first eight characters of an id, as Nomad's own tables show it.
pub fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_at_most_two_units_and_no_empty_one() {
        let shown = [0, 12, 60, 185, 7_200, 7_260, 86_400, 86_460, 356_400].map(age);
        assert_eq!(shown, ["0s", "12s", "1m", "3m5s", "2h", "2h1m", "1d", "1d", "4d3h"]);
    }

    #[test]
    fn bytes_keep_their_meaning() {
        assert_eq!(
            [0, 1023, 1024, 122_683_392, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1 KiB", "117 MiB", "16777215 TiB"]
        );
    }

    #[test]
    fn a_sentence_ends_once() {
        assert_eq!(sentence("no such host\n"), "no such host.");
        assert_eq!(sentence("Really?"), "Really?");
    }
}
