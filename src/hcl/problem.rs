//! A mistake in a text: where it is, one sentence, a suggestion.

use std::fmt;
use std::ops::Range;

/// A mistake, by its place in the text in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The bytes that are wrong.
    pub span: Range<usize>,
    /// One sentence without a full stop.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Problem {
    /// A mistake at that place.
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), hint: None }
    }

    /// The same with a suggestion.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with `did you mean …?` where something known is near.
    #[must_use]
    pub fn near<'a>(self, word: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(word, known) {
            Some(near) => self.hint(format!("did you mean {near:?}?")),
            None => self,
        }
    }
}

/// A text with its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source<'a> {
    /// The file's name, as people should see it.
    pub name: &'a str,
    /// What it says.
    pub text: &'a str,
}

impl Source<'_> {
    /// The line and column, both from 1, of a byte; a column counts characters.
    pub fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = self.text.get(..end).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before.get(start..).unwrap_or_default().chars().count() + 1;
        (line, column)
    }

    /// The mistake with its place for people.
    pub fn locate(&self, problem: Problem) -> Located {
        let (line, column) = self.line_and_column(problem.span.start);
        Located { file: self.name.to_owned(), line, column, message: problem.message, hint: problem.hint }
    }
}

/// A mistake with its place: prints as `FILE:LINE:COLUMN: sentence (suggestion)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Located {
    /// The file's name.
    pub file: String,
    /// Its line, from 1.
    pub line: usize,
    /// Its column, from 1, in characters.
    pub column: usize,
    /// One sentence without a full stop.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// The known word that is nearest to what was written, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A word of hostile length would cost its square; nothing that long is a misspelling.
    if word.len() > 256 {
        return None;
    }
    let folded = word.to_lowercase();
    let allowed = 1 + folded.chars().count().min(24) / 4;
    // Case is the least of mistakes; between two that are equally near it decides.
    let far = |candidate: &str| {
        let unfolded = strsim::damerau_levenshtein(word, candidate);
        (strsim::damerau_levenshtein(&folded, &candidate.to_lowercase()), unfolded)
    };
    let known: Vec<&str> = known.into_iter().collect();
    let begins = |candidate: &&str| candidate.strip_prefix(word).is_some_and(|rest| rest.starts_with('_'));
    known
        .iter()
        .copied()
        .map(|candidate| (far(candidate), candidate))
        .filter(|((distance, _), candidate)| *distance <= allowed && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
        .or_else(|| known.iter().copied().find(begins))
}
