//! From texts to a configuration. Pure: the environment is handed in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::blocks::{self, path};
use super::{Backend, BackendKind, Config, HostBackend, Nomad, Policy, Token, Volume, cross, kinds};
use crate::hcl::{Document, Located, Problem, Section, Source, Spanned};

/// The most text of one file, in bytes.
pub(super) const MOST_BYTES: usize = 1 << 20;

/// Looks up a variable of the environment.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// A configuration that was read, with what its operator should know.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is allowed, and most likely not meant.
    pub warnings: Vec<Located>,
    /// The files that it came from, in the order in which they were read.
    pub files: Vec<PathBuf>,
}

/// All mistakes of a configuration, by file and line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Invalid {
    /// Every mistake that was found.
    pub problems: Vec<Located>,
}

/// Something that was said, with the place where it was.
#[derive(Debug, Clone)]
pub(super) struct Said<T> {
    pub value: T,
    /// Which of the sources.
    pub file: usize,
    /// Where in it, in bytes.
    pub at: usize,
}

/// What all files say together, before it is checked as a whole.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    state_dir: Option<Said<PathBuf>>,
    run_dir: Option<Said<PathBuf>>,
    status_group: Option<Said<String>>,
    hook_timeout: Option<Said<Duration>>,
    probe_interval: Option<Said<Duration>>,
    nomad: Option<Said<blocks::NomadWords>>,
    pub metrics: Option<Said<Option<SocketAddr>>>,
    pub backends: BTreeMap<String, Said<Backend>>,
    pub volumes: BTreeMap<String, Said<Volume>>,
    /// Names of backends whose blocks are wrong: a volume that names one is not wrong for that.
    pub wrong_backends: Vec<String>,
    /// Whether any backend or volume block is there, right or wrong.
    has_storage: bool,
    policy: Policy,
}

impl Config {
    /// Reads the text of one file; the name is for its mistakes. The environment is not looked at.
    ///
    /// # Errors
    /// [`Invalid`], with every mistake.
    pub fn parse(text: &str, file: &str) -> Result<Self, Invalid> {
        Self::read(&[Source { name: file, text }], &|_| None).map(|loaded| loaded.config)
    }

    /// Reads several texts as one configuration; no text at all is the embedded default.
    ///
    /// # Errors
    /// [`Invalid`], with every mistake of every text.
    pub fn read(sources: &[Source<'_>], environment: Environment<'_>) -> Result<Loaded, Invalid> {
        let mut gathered = Gathered::default();
        let mut problems = Vec::new();
        for (file, source) in sources.iter().enumerate() {
            let mut of_file = Vec::new();
            match Document::parse(source.text, MOST_BYTES) {
                Ok(document) => gathered.gather(sources, file, document.section(), &mut of_file),
                Err(problem) => of_file.push(problem),
            }
            problems.extend(of_file.into_iter().map(|problem| source.locate(problem)));
        }
        let warnings = cross::check(&gathered, sources, &mut problems);
        let config = gathered.finish(sources, environment, &mut problems);
        if problems.is_empty() {
            Ok(Loaded { config, warnings, files: Vec::new() })
        } else {
            problems.sort();
            Err(Invalid { problems })
        }
    }
}

impl Gathered {
    fn gather(&mut self, sources: &[Source<'_>], file: usize, mut section: Section<'_>, problems: &mut Vec<Problem>) {
        let state_dir = path(&mut section, "state_dir");
        set_once(&mut self.state_dir, state_dir, "state_dir", file, sources, problems);
        let run_dir = path(&mut section, "run_dir");
        set_once(&mut self.run_dir, run_dir, "run_dir", file, sources, problems);
        let group = blocks::group_name(&mut section, "status_group");
        set_once(&mut self.status_group, group, "status_group", file, sources, problems);
        let timeout = blocks::positive(&mut section, "hook_timeout");
        set_once(&mut self.hook_timeout, timeout, "hook_timeout", file, sources, problems);
        let interval = blocks::interval(&mut section, "probe_interval");
        set_once(&mut self.probe_interval, interval, "probe_interval", file, sources, problems);
        for (_, inner) in section.blocks("nomad", &[]) {
            let span = inner.span();
            let nomad = blocks::nomad(inner, problems);
            set_once(&mut self.nomad, Some(Spanned { value: nomad, span }), "nomad", file, sources, problems);
        }
        for (_, inner) in section.blocks("metrics", &[]) {
            let span = inner.span();
            let address = blocks::metrics(inner, problems);
            set_once(&mut self.metrics, Some(Spanned { value: address, span }), "metrics", file, sources, problems);
        }
        for (labels, inner) in section.blocks("backend", &["KIND", "NAME"]) {
            self.has_storage = true;
            let name = labels.get(1).map(|label| label.value.clone()).unwrap_or_default();
            match kinds::backend(&labels, inner, problems) {
                Some(backend) => add(&mut self.backends, backend, "backend", file, sources, problems),
                None => self.wrong_backends.push(name),
            }
        }
        for (labels, inner) in section.blocks("volume", &["NAME"]) {
            self.has_storage = true;
            if let Some(volume) = blocks::volume(&labels, inner, problems) {
                add(&mut self.volumes, volume, "volume", file, sources, problems);
            }
        }
        for (_, inner) in section.blocks("policy", &[]) {
            self.policy.allow_url.extend(blocks::policy(inner, problems));
        }
        section.finish(problems);
    }

    fn finish(self, sources: &[Source<'_>], environment: Environment<'_>, problems: &mut Vec<Located>) -> Config {
        let value =
            |said: Option<Said<PathBuf>>, default: &str| said.map_or_else(|| PathBuf::from(default), |said| said.value);
        let state_dir = value(self.state_dir, "/var/lib/saddlebag");
        let mut backends: BTreeMap<String, Backend> =
            self.backends.into_iter().map(|(name, said)| (name, said.value)).collect();
        if !self.has_storage {
            let embedded = embedded(&state_dir);
            backends.insert(embedded.name.clone(), embedded);
        }
        let places = self.volumes.iter().map(|(name, said)| (name.clone(), place(said, sources))).collect();
        Config {
            places,
            run_dir: value(self.run_dir, "/run/saddlebag"),
            status_group: self.status_group.map(|said| said.value),
            hook_timeout: self.hook_timeout.map_or(Duration::from_secs(45), |said| said.value),
            probe_interval: self.probe_interval.map_or(blocks::PROBE_INTERVAL, |said| said.value),
            metrics_address: self.metrics.and_then(|said| said.value),
            nomad: nomad(self.nomad, sources, environment, problems),
            backends,
            volumes: self.volumes.into_iter().map(|(name, said)| (name, said.value)).collect(),
            policy: self.policy,
            state_dir,
        }
    }
}

/// The backend of an agent that was told of none: directories of this host, made at first use.
fn embedded(state_dir: &std::path::Path) -> Backend {
    Backend {
        name: "embedded".to_owned(),
        kind: BackendKind::Host(HostBackend { path: state_dir.join("volumes") }),
        dynamic: true,
        linger: Backend::LINGER,
        attach_at_start: true,
        attach_timeout: Backend::ATTACH_TIMEOUT,
    }
}

/// The files' words, then the environment's, then the default. A variable that is set and empty counts as not set.
fn nomad(
    said: Option<Said<blocks::NomadWords>>,
    sources: &[Source<'_>],
    environment: Environment<'_>,
    problems: &mut Vec<Located>,
) -> Nomad {
    let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
    let mut problem = |name: &str, message: String| {
        problems.push(Source { name, text: "" }.locate(Problem::new(0..0, message)));
    };
    let place = said.as_ref().map(|said| (said.file, said.at));
    let words = said.map(|said| said.value).unwrap_or_default();
    let address = words.address.or_else(|| {
        let address = variable("NOMAD_ADDR")?;
        if !blocks::is_address(&address) {
            problem("environment NOMAD_ADDR", blocks::address_rule(&address));
        }
        Some(address)
    });
    let skip_verify = variable("NOMAD_SKIP_VERIFY").is_some_and(|value| match value.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        other => {
            problem("environment NOMAD_SKIP_VERIFY", format!("the value must be true or false, not {other:?}"));
            false
        }
    });
    let file = |said: Option<PathBuf>, name: &str| said.or_else(|| variable(name).map(PathBuf::from));
    let cert_file = file(words.cert_file, "NOMAD_CLIENT_CERT");
    let key_file = file(words.key_file, "NOMAD_CLIENT_KEY");
    if cert_file.is_some() != key_file.is_some() {
        let message = "a client certificate needs both cert_file and key_file";
        match place.and_then(|(file, at)| sources.get(file).map(|source| (source, at))) {
            Some((source, at)) => problems.push(source.locate(Problem::new(at..at, message))),
            None => problem("environment NOMAD_CLIENT_CERT, NOMAD_CLIENT_KEY", message.to_owned()),
        }
    }
    Nomad {
        address: address.unwrap_or_else(|| "http://127.0.0.1:4646".to_owned()),
        token: variable("NOMAD_TOKEN").map(Token::new),
        token_file: words.token_file,
        ca_file: file(words.ca_file, "NOMAD_CACERT"),
        cert_file,
        key_file,
        tls_server_name: words.tls_server_name.or_else(|| variable("NOMAD_TLS_SERVER_NAME")),
        skip_verify,
        alloc_dir: words.alloc_dir,
    }
}

/// `FILE:LINE:COLUMN` of something that was said.
pub(super) fn place<T>(said: &Said<T>, sources: &[Source<'_>]) -> String {
    match sources.get(said.file) {
        Some(source) => {
            let (line, column) = source.line_and_column(said.at);
            format!("{}:{line}:{column}", source.name)
        }
        None => String::new(),
    }
}

fn set_once<T>(
    slot: &mut Option<Said<T>>,
    new: Option<Spanned<T>>,
    what: &str,
    file: usize,
    sources: &[Source<'_>],
    problems: &mut Vec<Problem>,
) {
    let Some(new) = new else { return };
    match slot {
        Some(first) => {
            let first = place(first, sources);
            problems.push(Problem::new(new.span, format!("{what} is set twice, first at {first}")));
        }
        None => *slot = Some(Said { value: new.value, file, at: new.span.start }),
    }
}

fn add<T>(
    all: &mut BTreeMap<String, Said<T>>,
    (name, new): (String, Spanned<T>),
    what: &str,
    file: usize,
    sources: &[Source<'_>],
    problems: &mut Vec<Problem>,
) {
    if let Some(first) = all.get(&name) {
        let first = place(first, sources);
        problems.push(Problem::new(new.span, format!("{what} {name:?} is defined twice, first at {first}")));
    } else {
        all.insert(name, Said { value: new.value, file, at: new.span.start });
    }
}
