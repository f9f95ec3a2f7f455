//! Bodies: the keys and blocks that are expected, and what to say of all others.

use std::ops::Range;
use std::time::Duration;

use hcl_edit::expr::Expression;
use hcl_edit::structure::{Attribute, Block, Body, Structure};

use super::value::{self, Pairs, span_of};
use super::{Problem, Spanned, Text, depth};

/// A text that is HCL.
#[derive(Debug)]
pub struct Document {
    text: String,
    body: Body,
}

impl Document {
    /// Reads a text of at most `limit` bytes.
    ///
    /// # Errors
    /// The first place where it is no HCL, or that it is too long.
    pub fn parse(text: &str, limit: usize) -> Result<Self, Problem> {
        if text.len() > limit {
            let message = format!("the text has {} bytes, and at most {limit} are read", text.len());
            return Err(Problem::new(0..0, message));
        }
        if let Some(at) = depth::find_too_deep(text) {
            let message = format!("the text nests deeper than {} levels, or calculates", depth::DEEPEST);
            return Err(Problem::new(at..at, message).hint("values are written out: there are no expressions"));
        }
        match hcl_edit::parser::parse_body(text) {
            Ok(body) => Ok(Self { text: text.to_owned(), body }),
            Err(error) => Err(not_hcl(text, &error)),
        }
    }

    /// Its outermost section.
    pub fn section(&self) -> Section<'_> {
        Section::new(&self.text, String::new(), 0..0, &self.body)
    }
}

fn not_hcl(text: &str, error: &hcl_edit::parser::Error) -> Problem {
    let offset = error.location().offset();
    let span = offset..offset;
    let message = error.message();
    if message.contains("redefined") {
        let rest = text.get(offset..).unwrap_or_default();
        let key: String = rest.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-')).take(64).collect();
        return Problem::new(span, format!("{key} is set twice in one place"));
    }
    let problem = Problem::new(span, format!("this is not HCL: {message}"));
    let line = error.line().trim();
    let (before, behind) = line.split_once('{').unwrap_or((line, ""));
    let in_label = before.ends_with('$') && before.contains('"') && !before.contains('=');
    if in_label {
        problem.hint("a label cannot hold ${…}: give the block a plain label and write the reference in a key")
    } else if !in_label && !before.contains('=') && behind.matches('=').count() > 1 {
        problem.hint("write each key of a block on a line of its own")
    } else {
        problem
    }
}

/// A body whose keys are taken one by one; what nobody has taken is a mistake.
///
/// Mistakes gather in it until [`Section::finish`], so that all of a text are told at once.
#[derive(Debug)]
pub struct Section<'a> {
    text: &'a str,
    title: String,
    span: Range<usize>,
    attributes: Vec<&'a Attribute>,
    blocks: Vec<&'a Block>,
    keys: Vec<&'static str>,
    kinds: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl<'a> Section<'a> {
    fn new(text: &'a str, title: String, span: Range<usize>, body: &'a Body) -> Self {
        let (mut attributes, mut blocks) = (Vec::new(), Vec::new());
        for structure in body {
            match structure {
                Structure::Attribute(attribute) => attributes.push(attribute),
                Structure::Block(block) => blocks.push(block),
            }
        }
        Self { text, title, span, attributes, blocks, keys: Vec::new(), kinds: Vec::new(), problems: Vec::new() }
    }

    /// How it is called in a sentence: `volume "pgdata"`; empty for the outermost.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Where its first word stands.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Adds a mistake that its reader has found.
    pub fn problem(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Attribute> {
        self.keys.push(key);
        self.attributes.iter().find(|attribute| attribute.key.as_str() == key).copied()
    }

    fn read<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Expression, &str) -> Result<T, Problem>,
    ) -> Option<Spanned<T>> {
        let attribute = self.take(key)?;
        match read(&attribute.value, self.text) {
            Ok(value) => Some(Spanned { value, span: span_of(&attribute.value) }),
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    /// A string of a given form, described by what `wanted` says.
    fn read_form<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        form: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Spanned<T>> {
        self.read(key, |expression, source| {
            let text = value::string(key, expression, source)?;
            form(&text)
                .ok_or_else(|| Problem::new(span_of(expression), format!("{key} must be {wanted}, not {text:?}")))
        })
    }

    /// A string that may hold references.
    pub fn text(&mut self, key: &'static str) -> Option<Spanned<Text>> {
        self.read(key, |expression, source| value::text(key, expression, source))
    }

    /// A string; a reference in it is a mistake.
    pub fn string(&mut self, key: &'static str) -> Option<Spanned<String>> {
        self.read(key, |expression, source| value::string(key, expression, source))
    }

    /// `true` or `false`, without quotes.
    pub fn boolean(&mut self, key: &'static str) -> Option<Spanned<bool>> {
        self.read(key, |expression, _| value::boolean(key, expression))
    }

    /// A whole number from 0.
    pub fn integer(&mut self, key: &'static str) -> Option<Spanned<u64>> {
        self.read(key, |expression, _| value::integer(key, expression))
    }

    /// A list of strings.
    pub fn strings(&mut self, key: &'static str) -> Option<Spanned<Vec<Spanned<String>>>> {
        self.read(key, |expression, source| value::strings(key, expression, source))
    }

    /// Strings by their names, in the order in which they stand.
    pub fn map(&mut self, key: &'static str) -> Option<Spanned<Pairs>> {
        self.read(key, |expression, source| value::map(key, expression, source))
    }

    /// A size, in bytes.
    pub fn size(&mut self, key: &'static str) -> Option<Spanned<u64>> {
        self.read_form(key, "a size such as \"512MiB\" or \"1GiB\"", value::size)
    }

    /// A duration.
    pub fn duration(&mut self, key: &'static str) -> Option<Spanned<Duration>> {
        self.read_form(key, "a duration such as \"30s\" or \"5m\"", value::duration)
    }

    /// Permission bits.
    pub fn mode(&mut self, key: &'static str) -> Option<Spanned<u32>> {
        self.read_form(key, "permission bits in octal such as \"0750\"", value::mode)
    }

    /// An owner: uid and gid.
    pub fn owner(&mut self, key: &'static str) -> Option<Spanned<(u32, u32)>> {
        self.read_form(key, "a numeric owner such as \"70:70\" (uid:gid)", value::owner)
    }

    /// Whether the key is there, without taking it.
    pub fn is_set(&self, key: &str) -> bool {
        self.attributes.iter().any(|attribute| attribute.key.as_str() == key)
    }

    /// Says that a key is missing, if it is: one that is there and wrong has been told of already.
    pub fn require(&mut self, key: &'static str, example: &str) {
        if !self.is_set(key) {
            let message = format!("{} has no {key}", self.title);
            self.problems.push(Problem::new(self.span(), message).hint(format!("add {key} = {example}")));
        }
    }

    /// The blocks of one kind, with as many labels as `labels` has names for.
    pub fn blocks(&mut self, kind: &'static str, labels: &[&str]) -> Vec<(Vec<Spanned<String>>, Section<'a>)> {
        self.kinds.push(kind);
        let mut found = Vec::new();
        let of_kind: Vec<&'a Block> = self.blocks.iter().filter(|block| block.has_ident(kind)).copied().collect();
        for block in of_kind {
            let span = span_of(&block.ident);
            let given: Vec<Spanned<String>> = block
                .labels
                .iter()
                .map(|label| Spanned { value: label.as_str().to_owned(), span: span_of(label) })
                .collect();
            if given.len() != labels.len() {
                let form: String = labels.iter().map(|label| format!(" \"{label}\"")).collect();
                let wanted = match labels.len() {
                    0 => "no label".to_owned(),
                    1 => "one label".to_owned(),
                    many => format!("{many} labels"),
                };
                let message = format!("a {kind} block has {wanted}, and this one has {}", given.len());
                self.problems.push(Problem::new(span, message).hint(format!("write {kind}{form} {{ … }}")));
                continue;
            }
            let names: String = given.iter().map(|label| format!(" {:?}", label.value)).collect();
            found.push((given, Section::new(self.text, format!("{kind}{names}"), span, &block.body)));
        }
        found
    }

    /// Takes over the mistakes of a block of this one that has been read.
    pub fn take_over(&mut self, inner: Self) {
        let mut problems = Vec::new();
        inner.finish(&mut problems);
        self.problems.append(&mut problems);
    }

    /// Hands over all mistakes, with those of keys and blocks that nobody has asked for.
    pub fn finish(mut self, into: &mut Vec<Problem>) {
        let place = if self.title.is_empty() { "here".to_owned() } else { format!("in {}", self.title) };
        for attribute in &self.attributes {
            let key = attribute.key.as_str();
            if self.keys.contains(&key) {
                continue;
            }
            let span = span_of(&attribute.key);
            self.problems.push(if self.kinds.contains(&key) {
                Problem::new(span, format!("{key} is a block {place}, not a key")).hint(format!("write {key} … {{ }}"))
            } else {
                Problem::new(span, format!("unknown key {key:?} {place}")).near(key, self.keys.iter().copied())
            });
        }
        for block in &self.blocks {
            let kind = block.ident.as_str();
            if self.kinds.contains(&kind) {
                continue;
            }
            let span = span_of(&block.ident);
            self.problems.push(if self.keys.contains(&kind) {
                Problem::new(span, format!("{kind} is a key {place}, not a block")).hint(format!("write {kind} = …"))
            } else {
                Problem::new(span, format!("unknown block {kind:?} {place}")).near(kind, self.kinds.iter().copied())
            });
        }
        into.append(&mut self.problems);
    }
}
