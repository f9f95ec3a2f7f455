//! Sources: attached at the start or when first needed, attached again when lost, taken away when long unused.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::events::{Done, Timer};
use super::plan::Wanted;
use super::probes::Fault;
use super::reconciler::{Reconciler, StartError};
use super::source::{Source, State};
use super::worker::Desk;
use crate::backend::prober::Prober;
use crate::backend::program::Running;
use crate::backend::{self, AttachError, Attached, DetachError, SourceKey};
use crate::config;

/// How often it is looked whether what an unused source lies on is there to let it go.
const LET_GO_RETRY: Duration = Duration::from_secs(1);
/// The longest wait between two tries while a prestart task waits: its own deadline may be near.
const LONGEST_AWAITED_RETRY: Duration = Duration::from_secs(1);

impl Reconciler {
    /// Makes the folders of the sources, and recalls how sources that are on the ledger's pages were attached: the
    /// configuration may have changed since.
    pub(super) fn recall_sources(&mut self) -> Result<(), StartError> {
        let config = &self.config;
        // 0711: tasks of any user reach what is linked for them, and nobody can list it.
        let folders = [
            (config.state_dir.clone(), 0o711),
            (config.links_dir(), 0o711),
            (config.sources_dir(), 0o700),
            (config.logs_dir(), 0o700),
        ];
        for (path, mode) in folders {
            make_folder(&path, mode).map_err(|source| StartError::Directory { path, source })?;
        }
        let definitions: Vec<config::Backend> = self.config.backends.values().cloned().collect();
        for definition in definitions {
            self.ensure_source(&backend::key_of(&definition), &definition);
        }
        let images: BTreeMap<SourceKey, config::Backend> =
            self.registry.images().into_iter().map(|image| (backend::key_of(&image), image)).collect();
        for (key, noted) in self.read_definitions() {
            // An image may have been given another size since.
            let definition = images.get(&key).cloned().unwrap_or(noted);
            if let Some(beneath) = backend::beneath(&definition) {
                let beneath = beneath.clone();
                self.ensure_source(&backend::key_of(&beneath), &beneath);
            }
            if !self.sources.contains_key(&key) {
                let mut source = self.new_source(&key, definition);
                source.keep = false;
                // An earlier agent may have left it mounted.
                source.is_recalled = true;
                self.set_timer(Instant::now() + source.definition.linger, Timer::Source(key.clone()));
                self.sources.insert(key, source);
            }
        }
        Ok(())
    }

    fn new_source(&self, key: &SourceKey, definition: config::Backend) -> Source {
        let (results, of) = (self.results.clone(), key.clone());
        let prober = Prober::new(key.clone(), move |report| {
            // Gone with the agent.
            let _ = results.send(Done::Probed(of.clone(), report));
        });
        Source::new(key.clone(), definition, &self.config, prober)
    }

    fn read_definitions(&self) -> Vec<(SourceKey, config::Backend)> {
        let Ok(entries) = fs::read_dir(self.config.sources_dir()) else { return Vec::new() };
        entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "json"))
            .filter_map(|entry| {
                let text = fs::read(entry.path()).ok()?;
                match serde_json::from_slice::<config::Backend>(&text) {
                    Ok(definition) => Some((backend::key_of(&definition), definition)),
                    Err(error) => {
                        tracing::warn!(path = %entry.path().display(), reason = super::error::whole(&error), "the note on a source cannot be read");
                        None
                    }
                }
            })
            .collect()
    }

    /// Knows the source from now on, also after a restart with another configuration.
    pub(super) fn ensure_source(&mut self, key: &SourceKey, definition: &config::Backend) {
        if let Some(beneath) = backend::beneath(definition) {
            self.ensure_source(&backend::key_of(beneath), beneath);
        }
        if let Some(source) = self.sources.get_mut(key) {
            source.names.insert(definition.name.clone());
            if source.beneath.is_some() && source.definition != *definition {
                source.definition = definition.clone();
                self.note_definition(key, definition);
            }
            let Some(source) = self.sources.get_mut(key) else { return };
            source.keep |= definition.attach_at_start && self.config.backends.contains_key(&definition.name);
            // What does not decide of the mount may have changed: the next one is made by it.
            if source.definition.name != definition.name || source.definition == *definition {
                return;
            }
            source.definition = definition.clone();
            self.note_definition(key, definition);
            return;
        }
        let mut source = self.new_source(key, definition.clone());
        source.keep &= self.config.backends.contains_key(&definition.name);
        self.sources.insert(key.clone(), source);
        self.note_definition(key, definition);
    }

    fn note_definition(&mut self, key: &SourceKey, definition: &config::Backend) {
        let path = self.config.sources_dir().join(format!("{key}.json"));
        let (definition, key) = (definition.clone(), key.clone());
        // On the ledger's desk, ahead of every page that will name the source: a page that is durable has its source's
        // note before it.
        self.submit(Desk::Ledger, move || {
            let note = || -> io::Result<()> {
                let temporary = path.with_extension("new");
                let mut file = fs::File::create(&temporary)?;
                file.write_all(&serde_json::to_vec_pretty(&definition)?)?;
                file.sync_all()?;
                fs::rename(&temporary, &path)
            };
            if let Err(error) = note() {
                tracing::warn!(source = %key, reason = super::error::whole(&error), "the source is not noted for the next agent; it is if the configuration stays");
            }
            Done::Nothing
        });
    }

    /// Attaches what the configuration wants attached before the first hook.
    pub(super) fn attach_what_is_kept(&mut self) {
        let kept: Vec<SourceKey> =
            self.sources.iter().filter(|(_, source)| source.keep).map(|(key, _)| key.clone()).collect();
        for key in kept {
            self.attach(&key);
        }
    }

    /// Asks the source's worker to attach it, unless it is attached, or waits for its next try.
    pub(super) fn attach(&mut self, key: &SourceKey) {
        let Some(source) = self.sources.get_mut(key) else { return };
        if !source.may_attach(Instant::now()) {
            return;
        }
        let beneath = source.beneath.clone();
        if let Some(beneath) = &beneath {
            let Some(attached) = self.find_beneath(beneath) else { return self.wait_for_beneath(key, beneath.clone()) };
            let may_create = !self.was_promised(key);
            let Some(source) = self.sources.get_mut(key) else { return };
            source.place.beneath = Some(attached);
            source.place.may_create = may_create;
        }
        let Some(source) = self.sources.get_mut(key) else { return };
        source.set(State::Attaching);
        source.retry = None;
        let (definition, place, key) = (source.definition.clone(), source.place.clone(), key.clone());
        self.submit(Desk::Source(key.clone()), move || {
            let attached = backend::of(&definition).attach(&place);
            Done::Attached(key, attached)
        });
    }

    pub(super) fn note_attached(&mut self, key: &SourceKey, attached: Result<Attached, AttachError>) {
        let Some(source) = self.sources.get_mut(key) else { return };
        match attached {
            Ok(attached) => {
                tracing::info!(source = %key, backend = source.name(), root = %attached.root.display(), found = attached.found, "attached");
                let pid = attached.pid;
                source.failures = 0;
                source.refused = None;
                source.set(State::Attached(attached));
                source.note_answer();
                if let Some(pid) = pid.filter(|pid| source.watched != Some(*pid)) {
                    source.watched = Some(pid);
                    self.watch_program(key, pid);
                }
                self.doubt_bindings(key);
                self.keep_probing(key);
                // It may have come up after the end of its lingering, which found nothing to detach then.
                self.linger(key);
                self.attach_above(key);
                self.explain_mounts();
            }
            Err(error) => {
                let refusal = error.refusal(&source.name());
                if source.note_refusal(&error) {
                    tracing::warn!(source = %key, reason = %refusal, hint = refusal.hint, "not attached");
                }
                let mut at = source.fail(refusal, error.log().to_vec(), error.is_temporary());
                if error.is_temporary() && self.is_awaited(key) {
                    at = at.min(Instant::now() + LONGEST_AWAITED_RETRY);
                    if let Some(source) = self.sources.get_mut(key) {
                        source.retry = Some(at);
                    }
                }
                self.set_timer(at, Timer::Source(key.clone()));
                self.fail_above(key);
            }
        }
        self.touch_users(key);
    }

    /// A step found that the source is not what it was: its worker looks at it again.
    pub(super) fn doubt_source(&mut self, key: &SourceKey) {
        let Some(source) = self.sources.get_mut(key) else { return };
        if source.attached().is_some() {
            source.set(State::Detached);
            // What lies on another may have to wait for that one, and nobody may need it by then: its mount is there.
            source.is_recalled |= source.beneath.is_some();
            self.attach(key);
        }
    }

    /// Whatever was proved before is looked at again.
    pub(super) fn doubt_bindings(&mut self, key: &SourceKey) {
        for live in self.entries.values_mut().flat_map(|entry| entry.bindings.values_mut()) {
            if live.binding.source == *key {
                live.doubt();
                // What its source had caused may be gone with it.
                live.error = live.error.take().filter(|error| error.leaving);
            }
        }
    }

    /// Tells when a mount program ends: a small thread waits for its pidfd, and costs nothing until then.
    fn watch_program(&self, key: &SourceKey, pid: i32) {
        let Some(source) = self.sources.get(key) else { return };
        let (results, of, kills) = (self.results.clone(), key.clone(), Arc::clone(&source.oom_kills));
        let wait = move || {
            let count = || kills.lock().unwrap_or_else(PoisonError::into_inner);
            count().watch(pid);
            // One that cannot be watched is gone already.
            if let Ok(running) = Running::watch(pid) {
                running.wait();
            }
            let _ = results.send(Done::ProgramEnded(of, pid, count().take_growth()));
        };
        let thread = std::thread::Builder::new().name("program-watch".into()).stack_size(64 << 10);
        if let Err(error) = thread.spawn(wait) {
            tracing::error!(source = %key, pid, reason = super::error::whole(&error), "the mount program is not watched: its end is noticed at the next use only");
        }
    }

    pub(super) fn note_program_ended(&mut self, key: &SourceKey, pid: i32, starved: bool) {
        let Some(source) = self.sources.get_mut(key).filter(|source| source.watched == Some(pid)) else { return };
        source.watched = None;
        if source.attached().is_none() {
            return;
        }
        let cause = source.note_loss(starved);
        tracing::error!(source = %key, pid, cause, log = ?backend::program::last_lines(&source.place.log).last(), "the mount program has ended: files that were open through it are lost to their tasks");
        let again = source.wait_after_loss(&cause);
        self.count_fault(key, if starved { Fault::OutOfMemory } else { Fault::Lost });
        let needed = self.is_needed(key);
        self.count_lost(key);
        self.doubt_bindings(key);
        self.lose_above(key, &cause);
        if let Some(at) = again {
            let wait = at.saturating_duration_since(Instant::now());
            tracing::warn!(source = %key, ?wait, "the mount program has ended several times in a row: it is started again after a wait");
            self.set_timer(at, Timer::Source(key.clone()));
        } else if needed {
            self.attach(key);
        }
        self.touch_users(key);
    }

    /// Whether a binding of it is wanted, or may still be there.
    pub(super) fn is_used(&self, key: &SourceKey) -> bool {
        self.is_changed_on(key) || self.is_lain_on(key) || self.is_bound(key)
    }

    fn is_bound(&self, key: &SourceKey) -> bool {
        self.entries.values().any(|entry| {
            let mut bindings = entry.bindings.iter().filter(|(_, live)| live.binding.source == *key);
            bindings.any(|(binding, live)| live.intent.is_some() || entry.wanted(binding) == Wanted::Bound)
        })
    }

    /// Whether it is to be attached.
    pub(super) fn is_needed(&self, key: &SourceKey) -> bool {
        self.sources.get(key).is_some_and(|source| source.keep) || self.is_used(key)
    }

    /// Whether a prestart task waits for it.
    fn is_awaited(&self, key: &SourceKey) -> bool {
        self.entries
            .values()
            .any(|entry| !entry.hooks.is_empty() && entry.bindings.values().any(|live| live.binding.source == *key))
    }

    /// Starts the time that an unused source is kept.
    pub(super) fn linger(&mut self, key: &SourceKey) {
        if self.is_used(key) {
            return;
        }
        let Some(source) = self.sources.get_mut(key).filter(|source| !source.keep) else { return };
        source.since = Instant::now();
        let at = source.since + source.linger();
        self.set_timer(at, Timer::Source(key.clone()));
    }

    pub(super) fn wake_source(&mut self, key: &SourceKey) {
        let used = self.is_used(key);
        let is_held = self.recovery.holds_sources();
        let Some(source) = self.sources.get_mut(key) else { return };
        match source.state {
            State::Failed(..) if used || source.keep => {
                self.attach(key);
                self.touch_users(key);
            }
            // A mount that nobody explains may be of it, and another program for the same filer would be a second one.
            State::Attached(_) | State::Detached | State::Failed(..) if is_held && !used && !source.keep => {
                let at = Instant::now() + source.definition.linger.max(Duration::from_secs(1));
                self.set_timer(at, Timer::Source(key.clone()));
            }
            // One that could not be attached again may still have its former mount, where it lies on another.
            State::Attached(_) | State::Detached | State::Failed(..)
                if !used
                    && !source.keep
                    && (source.is_recalled || source.attached().is_some())
                    && (source.beneath.is_some() || !matches!(source.state, State::Failed(..)))
                    && source.since.elapsed() >= source.linger() =>
            {
                self.let_go(key);
            }
            _ => {}
        }
    }

    /// Has it taken away. What lies on another source is let go there too, by a note: that one has to be there for it, and
    /// nothing of an unmount is begun while it hangs.
    fn let_go(&mut self, key: &SourceKey) {
        let beneath = self.sources.get(key).and_then(|source| source.beneath.clone());
        let on = beneath.as_ref().and_then(|beneath| self.find_beneath(beneath));
        if let (Some(beneath), None) = (&beneath, &on)
            && self.sources.contains_key(beneath)
        {
            self.attach(beneath);
            self.set_timer(Instant::now() + LET_GO_RETRY, Timer::Source(key.clone()));
            return;
        }
        let Some(source) = self.sources.get_mut(key) else { return };
        source.is_recalled = false;
        source.set(State::Detaching);
        source.place.beneath = on;
        let (definition, place, key) = (source.definition.clone(), source.place.clone(), key.clone());
        self.submit(Desk::Source(key.clone()), move || {
            let detached = backend::of(&definition).detach(&place);
            Done::Detached(key, detached)
        });
    }

    pub(super) fn note_detached(&mut self, key: &SourceKey, detached: Result<(), DetachError>) {
        let Some(source) = self.sources.get_mut(key) else { return };
        match detached {
            Ok(()) => {
                tracing::info!(source = %key, backend = source.name(), "detached: nothing used it");
                source.set(State::Detached);
                source.watched = None;
                source.detach_failures = 0;
                let beneath = source.beneath.clone();
                // Its group stays with the guard: a mount of it that nobody remembers is still kept from Nomad.
                if let Some(beneath) = beneath {
                    self.linger(&beneath);
                }
            }
            Err(error) => {
                tracing::warn!(source = %key, reason = super::error::whole(&error), "not detached; it is tried again");
                // It is found attached, and then lingers once more.
                source.set(State::Detached);
                source.detach_failures = source.detach_failures.saturating_add(1);
                self.attach(key);
            }
        }
        self.touch_users(key);
    }
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
