//! The blocks of a configuration, each with its closed list of keys.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::model::AccessMode;
use super::url::{SCHEMES, UrlError};
use super::{Format, NAME_RULE, UrlPrefix, Volume, is_name};
use crate::hcl::{Problem, Section, Spanned, written_size};

/// How often sources are probed where nothing else is said.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// The least that a volume may be limited to.
const LEAST_SIZE: u64 = 1 << 20;

/// An image's size is a whole number of these.
const IMAGE_UNIT: u64 = 1 << 20;

/// What a `nomad` block says.
#[derive(Debug, Default)]
pub(super) struct NomadWords {
    pub address: Option<String>,
    pub token_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub tls_server_name: Option<String>,
    pub alloc_dir: Option<PathBuf>,
}

/// A string that is taken if `is_right` says so, else told of with `rule`.
pub(super) fn checked(
    section: &mut Section<'_>,
    key: &'static str,
    rule: &str,
    is_right: impl FnOnce(&str) -> bool,
) -> Option<Spanned<String>> {
    let said = section.string(key)?;
    if is_right(&said.value) {
        return Some(said);
    }
    section.problem(Problem::new(said.span, format!("{key} must be {rule}, not {:?}", said.value)));
    None
}

/// The components of a path, if all are plain.
fn components(text: &str) -> Option<Vec<&str>> {
    let components: Vec<&str> = text.split('/').filter(|component| !component.is_empty()).collect();
    let plain = |component: &&str| {
        !matches!(*component, "." | "..") && component.len() <= 255 && !component.chars().any(char::is_control)
    };
    (text.len() <= 1024 && components.iter().all(plain)).then_some(components)
}

/// An absolute path of plain components.
pub(super) fn path(section: &mut Section<'_>, key: &'static str) -> Option<Spanned<PathBuf>> {
    let is_right = |text: &str| text.starts_with('/') && components(text).is_some();
    let said = checked(section, key, "an absolute path without . and ..", is_right)?;
    let value = std::iter::once("/").chain(said.value.split('/').filter(|component| !component.is_empty())).collect();
    Some(Spanned { value, span: said.span })
}

/// A duration of more than nothing.
pub(super) fn positive(section: &mut Section<'_>, key: &'static str) -> Option<Spanned<Duration>> {
    let said = section.duration(key)?;
    if said.value.is_zero() {
        section.problem(Problem::new(said.span, format!("{key} must be more than 0s")));
        return None;
    }
    Some(said)
}

/// How often something is done: never, or not too often.
pub(super) fn interval(section: &mut Section<'_>, key: &'static str) -> Option<Spanned<Duration>> {
    let said = section.duration(key)?;
    if !said.value.is_zero() && said.value < Duration::from_secs(1) {
        section.problem(Problem::new(said.span, format!("{key} must be at least 1s, or 0s for never")));
        return None;
    }
    Some(said)
}

/// The name of a group of the host.
pub(super) fn group_name(section: &mut Section<'_>, key: &'static str) -> Option<Spanned<String>> {
    checked(section, key, "the name of a group of this host", |text| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@' | '\\');
        (1..=256).contains(&text.len()) && text.chars().all(allowed)
    })
}

/// Whether the text is an address of Nomad's HTTP API.
pub(super) fn is_address(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        !rest.trim_end_matches('/').is_empty()
            && !rest.starts_with('/')
            && !rest.chars().any(|c| c.is_control() || c.is_whitespace() || matches!(c, '@' | '?' | '#'))
    })
}

/// What to say of an address that is none.
pub(super) fn address_rule(text: &str) -> String {
    format!("address must be http://HOST:PORT or https://HOST:PORT, not {text:?}")
}

/// Reads a `nomad` block.
pub(super) fn nomad(mut section: Section<'_>, problems: &mut Vec<Problem>) -> NomadWords {
    let address = section.string("address").and_then(|said| {
        if is_address(&said.value) {
            return Some(said.value);
        }
        section.problem(Problem::new(said.span, address_rule(&said.value)));
        None
    });
    let mut file = |key| path(&mut section, key).map(|said| said.value);
    let words = NomadWords {
        address,
        token_file: file("token_file"),
        ca_file: file("ca_file"),
        cert_file: file("cert_file"),
        key_file: file("key_file"),
        alloc_dir: file("alloc_dir"),
        tls_server_name: None,
    };
    let tls_server_name = checked(&mut section, "tls_server_name", "a host's name", |text| {
        (1..=253).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    });
    section.finish(problems);
    NomadWords { tls_server_name: tls_server_name.map(|said| said.value), ..words }
}

/// Reads a `metrics` block.
pub(super) fn metrics(mut section: Section<'_>, problems: &mut Vec<Problem>) -> Option<SocketAddr> {
    section.require("address", "\"127.0.0.1:9469\"");
    let is_right = |text: &str| text.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0);
    let said = checked(&mut section, "address", "IP:PORT such as \"127.0.0.1:9469\"", is_right);
    section.finish(problems);
    said?.value.parse().ok()
}

/// The name in a label, if it is one.
pub(super) fn name_of(label: &Spanned<String>, what: &str, problems: &mut Vec<Problem>) -> Option<String> {
    if is_name(&label.value) {
        return Some(label.value.clone());
    }
    let shown: String = label.value.chars().take(100).collect();
    let problem = Problem::new(label.span.clone(), format!("{shown:?} cannot name a {what}"));
    problems.push(problem.hint(format!("a name is {NAME_RULE}")));
    None
}

/// Reads a `volume` block; nothing where it is wrong.
pub(super) fn volume(
    labels: &[Spanned<String>],
    mut section: Section<'_>,
    problems: &mut Vec<Problem>,
) -> Option<(String, Spanned<Volume>)> {
    let before = problems.len();
    let name = name_of(labels.first()?, "volume", problems);
    let span = section.span();
    section.require("backend", "\"NAME\"");
    let backend = section.string("backend");
    let path = checked(&mut section, "path", "a directory without . and ..", |text| components(text).is_some());
    let mut boolean = |key, default: bool| section.boolean(key).map_or(default, |said| said.value);
    let create = boolean("create", false);
    let read_only = boolean("read_only", false);
    let (nosuid, nodev, noexec) = (boolean("nosuid", true), boolean("nodev", true), boolean("noexec", false));
    let access_mode = access_mode(&mut section);
    let size = volume_size(&mut section);
    let format = image_format(&mut section, access_mode, size);
    let owner = section.owner("owner").map(|said| said.value);
    let mode = section.mode("mode").map(|said| said.value);
    let collection = checked(&mut section, "collection", "the name of a collection", is_name).map(|said| said.value);
    section.finish(problems);
    if problems.len() > before {
        return None;
    }
    let name = name?;
    // An image is a file, and its name says so.
    let default_path = || if format.is_some() { format!("{name}.img") } else { name.clone() };
    let path = path.map_or_else(default_path, |said| said.value);
    let value = Volume {
        name: name.clone(),
        backend: backend?.value,
        path: components(&path)?.into_iter().collect(),
        create,
        size,
        format,
        read_only: read_only || access_mode.is_reader_only(),
        access_mode,
        owner,
        mode,
        collection,
        nosuid,
        nodev,
        noexec,
    };
    Some((name, Spanned { value, span }))
}

/// The file system of an image volume, with what such a volume has to say.
fn image_format(section: &mut Section<'_>, access_mode: AccessMode, size: Option<u64>) -> Option<Format> {
    let said = section.string("format")?;
    let names = Format::NAMES;
    let Some((name, format)) = names.iter().find(|(name, _)| *name == said.value) else {
        let problem = Problem::new(said.span, format!("{:?} is not a file system that an image can have", said.value));
        section.problem(match crate::hcl::nearest(&said.value, names.iter().map(|(name, _)| *name)) {
            Some(near) => problem.hint(format!("did you mean {near:?}?")),
            None => problem.hint(format!("they are {}", names.map(|(name, _)| name).join(" and "))),
        });
        return None;
    };
    let mut problem = |message: String, hint: String| {
        section.problem(Problem::new(said.span.clone(), message).hint(hint));
    };
    if access_mode != AccessMode::SingleNodeWriter {
        problem(
            "a volume with a format is attached by one node at a time".to_owned(),
            "write access_mode = \"single-node-writer\"".to_owned(),
        );
    }
    match size {
        None => problem("a volume with a format needs a size".to_owned(), "write size = \"10GiB\"".to_owned()),
        Some(size) if size < format.least_size() => problem(
            format!("{} is too small for {name}", written_size(size)),
            format!("the least is {}", written_size(format.least_size())),
        ),
        Some(size) if size % IMAGE_UNIT != 0 => problem(
            format!("the size of a volume with a format is a whole number of MiB, and {} is none", written_size(size)),
            format!("write size = \"{}MiB\"", size.div_ceil(IMAGE_UNIT)),
        ),
        Some(_) => {}
    }
    Some(*format)
}

/// Storage systems count in whole mebibytes, and their programs in signed numbers.
fn volume_size(section: &mut Section<'_>) -> Option<u64> {
    let said = section.size("size")?;
    if (LEAST_SIZE..=i64::MAX.unsigned_abs()).contains(&said.value) {
        return Some(said.value);
    }
    section.problem(Problem::new(said.span, "size must be at least 1MiB, and less than 8388608TiB"));
    None
}

fn access_mode(section: &mut Section<'_>) -> AccessMode {
    let Some(said) = section.string("access_mode") else { return AccessMode::default() };
    let names = AccessMode::NAMES;
    if let Some((_, mode)) = names.iter().find(|(name, _)| *name == said.value) {
        return *mode;
    }
    let problem = Problem::new(said.span, format!("{:?} is not an access mode", said.value));
    section.problem(match crate::hcl::nearest(&said.value, names.iter().map(|(name, _)| *name)) {
        Some(near) => problem.hint(format!("did you mean {near:?}?")),
        None => problem.hint(format!("the modes are {}", names.map(|(name, _)| name).join(", "))),
    });
    AccessMode::default()
}

/// Reads a `policy` block.
pub(super) fn policy(mut section: Section<'_>, problems: &mut Vec<Problem>) -> Vec<UrlPrefix> {
    let mut prefixes = Vec::new();
    for said in section.strings("allow_url").map(|said| said.value).unwrap_or_default() {
        match UrlPrefix::parse(&said.value) {
            Ok(prefix) => prefixes.push(prefix),
            Err(error) => {
                let shown: String = said.value.chars().take(100).collect();
                let problem =
                    Problem::new(said.span, format!("allow_url holds {shown:?}, which allows nothing: {error}"));
                section.problem(match &error {
                    UrlError::UnknownScheme(scheme) => problem.near(scheme, SCHEMES),
                    _ => problem,
                });
            }
        }
    }
    section.finish(problems);
    prefixes
}
