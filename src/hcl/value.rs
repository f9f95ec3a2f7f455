//! Values: from an expression to a type, or one sentence why not.

use std::ops::Range;
use std::time::Duration;

use hcl_edit::Span;
use hcl_edit::expr::{Expression, ObjectKey};
use hcl_edit::template::Element;

use super::Problem;

/// A value with the bytes that say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    /// What was read.
    pub value: T,
    /// Where it stands.
    pub span: Range<usize>,
}

/// A piece of a text that may hold references.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text as it is meant, escapes decoded.
    Literal(String),
    /// What stands between `${` and `}`, as written.
    Reference(String),
}

/// A text that may hold `${…}` references, which are its own parts: whatever they are replaced by is never read again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// The pieces in their order.
    pub parts: Vec<Part>,
}

/// What an expression is, for a sentence that wants another one.
pub(super) fn describe(expression: &Expression) -> &'static str {
    match expression {
        Expression::Null(_) => "null",
        Expression::Bool(_) => "true or false",
        Expression::Number(_) => "a number",
        Expression::String(_) => "a string",
        Expression::Array(_) => "a list",
        Expression::Object(_) => "an object",
        Expression::StringTemplate(_) | Expression::HeredocTemplate(_) => "a string with ${…}",
        Expression::Variable(_) => "a bare word",
        Expression::FuncCall(_) => "a function call",
        _ => "an expression",
    }
}

pub(super) fn span_of(node: &impl Span) -> Range<usize> {
    node.span().unwrap_or(0..0)
}

fn wrong(key: &str, wanted: &str, expression: &Expression) -> Problem {
    let problem = Problem::new(span_of(expression), format!("{key} must be {wanted}, not {}", describe(expression)));
    match expression {
        Expression::Variable(_) => problem.hint("put it in double quotes"),
        _ => problem,
    }
}

/// A string, heredocs included, with its references.
pub(super) fn text(key: &str, expression: &Expression, source: &str) -> Result<Text, Problem> {
    let elements: Vec<&Element> = match expression {
        Expression::String(literal) => {
            return Ok(Text { parts: vec![Part::Literal(literal.value().clone())] });
        }
        Expression::StringTemplate(template) => template.iter().collect(),
        Expression::HeredocTemplate(heredoc) => heredoc.template.iter().collect(),
        other => return Err(wrong(key, "a string", other)),
    };
    let mut parts = Vec::new();
    for element in elements {
        match element {
            Element::Literal(literal) => parts.push(Part::Literal(literal.value().clone())),
            Element::Interpolation(_) => {
                let span = element.span().unwrap_or(0..0);
                let inner = source
                    .get(span.clone())
                    .and_then(|written| written.strip_prefix("${"))
                    .and_then(|written| written.strip_suffix('}'));
                match inner {
                    Some(inner) => parts.push(Part::Reference(inner.to_owned())),
                    None => return Err(Problem::new(span, format!("{key} holds a ${{…}} that cannot be read"))),
                }
            }
            Element::Directive(_) => {
                let span = element.span().unwrap_or(0..0);
                return Err(Problem::new(span, format!("{key} holds a %{{…}} directive, and only ${{NAME}} is known"))
                    .hint("write %%{ where the text %{ is meant"));
            }
        }
    }
    Ok(Text { parts })
}

/// A string without any reference.
pub(super) fn string(key: &str, expression: &Expression, source: &str) -> Result<String, Problem> {
    let Text { parts } = text(key, expression, source)?;
    let mut whole = String::new();
    for part in parts {
        match part {
            Part::Literal(literal) => whole.push_str(&literal),
            Part::Reference(reference) => {
                let message = format!("{key} cannot hold a reference: ${{{reference}}}");
                return Err(Problem::new(span_of(expression), message).hint("write $${ where the text ${ is meant"));
            }
        }
    }
    Ok(whole)
}

pub(super) fn boolean(key: &str, expression: &Expression) -> Result<bool, Problem> {
    match expression {
        Expression::Bool(value) => Ok(*value.value()),
        Expression::String(text) if matches!(text.value().as_str(), "true" | "false") => {
            Err(wrong(key, "true or false", expression).hint(format!("write {key} = {}", text.value())))
        }
        other => Err(wrong(key, "true or false", other)),
    }
}

pub(super) fn integer(key: &str, expression: &Expression) -> Result<u64, Problem> {
    match expression {
        Expression::Number(number) => number
            .value()
            .as_u64()
            .ok_or_else(|| Problem::new(span_of(expression), format!("{key} must be a whole number from 0"))),
        other => Err(wrong(key, "a whole number", other)),
    }
}

pub(super) fn strings(key: &str, expression: &Expression, source: &str) -> Result<Vec<Spanned<String>>, Problem> {
    match expression {
        Expression::Array(array) => array
            .iter()
            .map(|item| {
                let value = string(&format!("each item of {key}"), item, source)?;
                Ok(Spanned { value, span: span_of(item) })
            })
            .collect(),
        other => {
            let problem = wrong(key, "a list of strings", other);
            match other {
                Expression::String(text) => Err(problem.hint(format!("write {key} = [{:?}]", text.value()))),
                _ => Err(problem),
            }
        }
    }
}

/// Strings with their names, in the order in which they stand.
pub type Pairs = Vec<(Spanned<String>, Spanned<String>)>;

/// An object of strings; its keys are words or strings, each once.
pub(super) fn map(key: &str, expression: &Expression, source: &str) -> Result<Pairs, Problem> {
    let Expression::Object(object) = expression else { return Err(wrong(key, "an object of strings", expression)) };
    let mut items = Pairs::new();
    for (name, value) in object {
        let (name, span) = match name {
            ObjectKey::Ident(ident) => (ident.as_str().to_owned(), span_of(ident)),
            ObjectKey::Expression(named) => (string(&format!("each name in {key}"), named, source)?, span_of(named)),
        };
        if items.iter().any(|(before, _)| before.value == name) {
            return Err(Problem::new(span, format!("{key} has {name:?} twice")));
        }
        let said = value.expr();
        let value = Spanned { value: string(&format!("{name} in {key}"), said, source)?, span: span_of(said) };
        items.push((Spanned { value: name, span }, value));
    }
    Ok(items)
}

/// A size in bytes: a whole number with B, KiB, MiB, GiB or TiB, or with kB, MB, GB or TB.
pub(super) fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let factor: u64 = match unit.trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The same size as it is written, exactly: in the largest binary unit that it is a whole number of.
pub fn written_size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift) {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes}B"),
    }
}

/// A duration such as `30s` or `1h 30m`: more than nothing, at most a year.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let duration = humantime::parse_duration(text).ok()?;
    (duration <= Duration::from_secs(366 * 24 * 3600)).then_some(duration)
}

/// Permission bits in octal, `0750` or `750`.
pub(super) fn mode(text: &str) -> Option<u32> {
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    if octal { u32::from_str_radix(text, 8).ok() } else { None }
}

/// `UID:GID`, both in decimal; not the number that stands for "unchanged" in chown(2).
pub(super) fn owner(text: &str) -> Option<(u32, u32)> {
    let id = |text: &str| {
        let decimal = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if decimal { text.parse::<u32>().ok().filter(|id| *id != u32::MAX) } else { None }
    };
    let (uid, gid) = text.split_once(':')?;
    Some((id(uid)?, id(gid)?))
}
