//! Volumes as things with a life: registered, changed, created, deregistered and deleted, on the word of an operator.
//!
//! All of it is decided here, in the loop that binds volumes: between the look whether somebody uses a volume and the
//! change of its definition nothing else happens. While a change is on its way to the disk or to the storage system, its
//! volume's name is not looked up ([`crate::volume::Registry::set_changing`]): who asks for it waits, and gets the old
//! definition or the new one, and never one that is in between.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use super::binding::Binding;
use super::definitions::DefinitionError;
use super::error::{BindError, whole};
use super::events::{Done, Timer};
use super::execute::{self, Kept, SetAsideError};
use super::reconciler::Reconciler;
use super::source::State;
use super::worker::Desk;
use crate::api::volumes::{DefinedBy, Outcome, UsedBy, VolumeList, VolumeReply, VolumeStatus};
use crate::backend::{self, Enforcement, SizeError, SourceKey, Whereabouts};
use crate::config::{AccessMode, NAME_RULE, Volume, is_name};
use crate::hcl::nearest;
use crate::job::{Kind, Refusal};
use crate::volume::{Placed, Resolved};

mod begin;
mod list;
mod users;
mod work;

pub use work::{WorkError, Worked};

/// So many changes may be under way at a time.
const MOST_CHANGES: usize = 64;

/// Where an answer goes.
type Reply = oneshot::Sender<Result<VolumeReply, Refusal>>;

/// What an operator asks of volumes.
pub enum VolumeAsk {
    /// Register a definition, or change one; and make the volume's directory.
    Register {
        /// The file's name, for mistakes.
        file: String,
        /// The definition.
        text: String,
        /// Whether its directory is made too.
        make: bool,
        /// The answer.
        reply: Reply,
    },
    /// Forget a definition.
    Deregister {
        /// The volume's name.
        name: String,
        /// The answer.
        reply: Reply,
    },
    /// Take a volume's directory out of the way, and forget its definition.
    Delete {
        /// The volume's name.
        name: String,
        /// It is one that nobody defined.
        dynamic: bool,
        /// The answer.
        reply: Reply,
    },
    /// All that is known.
    List {
        /// The answer.
        reply: oneshot::Sender<VolumeList>,
    },
}

/// A change of a volume that is under way.
pub(super) struct Change {
    doing: Doing,
    stage: Stage,
    /// Until when it is answered, at the latest.
    deadline: Instant,
    /// Gone once it was answered: what a worker is at goes on all the same.
    reply: Option<Reply>,
    answer: VolumeReply,
}

/// What is done.
enum Doing {
    Register {
        volume: Volume,
        text: String,
        /// Its directory is made, too.
        make: bool,
        /// A former size that nothing is to keep it to any more.
        unsize: Option<Placed>,
    },
    Deregister,
    Delete {
        placed: Placed,
        is_registered: bool,
    },
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The definition is on its way to the disk, or off it.
    Disk,
    /// It waits for its source.
    Source,
    /// Its source's worker is at it.
    Work,
}

impl Change {
    /// The volume on whose source something is to be done next.
    fn placed(&self, registry: &crate::volume::Registry) -> Option<Placed> {
        match &self.doing {
            Doing::Register { unsize: Some(placed), .. } | Doing::Delete { placed, .. } => Some(placed.clone()),
            Doing::Register { volume, make: true, .. } => registry.place(volume),
            Doing::Register { .. } | Doing::Deregister => None,
        }
    }
}

fn refusal(kind: Kind, message: String) -> Refusal {
    Refusal { kind, message, hint: None }
}

/// The volume's directory within its source's root.
fn within_source(placed: &Placed) -> Resolved {
    let mut volume = placed.volume.clone();
    volume.path = backend::of(&placed.backend).volumes_below().join(&volume.path);
    volume
}

impl Reconciler {
    pub(super) fn take_volume_ask(&mut self, ask: VolumeAsk) {
        match ask {
            VolumeAsk::Register { file, text, make, reply } => match self.begin_registering(&file, text, make) {
                Ok((name, doing, answer)) => self.begin_change(&name, doing, answer, reply),
                // Who asked may have gone.
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
            VolumeAsk::Deregister { name, reply } => match self.begin_deregistering(&name) {
                Ok(Some(answer)) => self.begin_change(&name, Doing::Deregister, answer, reply),
                Ok(None) => drop(reply.send(Ok(self.absent(&name)))),
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
            VolumeAsk::Delete { name, dynamic, reply } => match self.begin_deleting(&name, dynamic) {
                Ok(Some((doing, answer))) => self.begin_change(&name, doing, answer, reply),
                Ok(None) => drop(reply.send(Ok(self.absent(&name)))),
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
            VolumeAsk::List { reply } => drop(reply.send(self.list_volumes())),
        }
    }

    fn begin_change(&mut self, name: &str, doing: Doing, answer: VolumeReply, reply: Reply) {
        if self.changes.len() >= MOST_CHANGES {
            let message = format!("{MOST_CHANGES} changes of volumes are under way already");
            return drop(reply.send(Err(refusal(Kind::TryAgain, message))));
        }
        let deadline = Instant::now() + self.config.hook_timeout;
        let is_on_source = matches!(doing, Doing::Delete { .. } | Doing::Register { unsize: Some(_), .. });
        let stage = if is_on_source { Stage::Source } else { Stage::Disk };
        let change = Change { doing, stage, deadline, reply: Some(reply), answer };
        self.changes.insert(name.to_owned(), change);
        self.registry.set_changing(name, true);
        self.set_timer(deadline, Timer::Volume(name.to_owned()));
        match stage {
            Stage::Source => self.want_source_of_change(name),
            _ => self.store_definition(name),
        }
    }

    /// Has the definition written, or removed: nobody is answered before that survives a power cut.
    fn store_definition(&mut self, name: &str) {
        let Some(change) = self.changes.get_mut(name) else { return };
        change.stage = Stage::Disk;
        let text = match &change.doing {
            Doing::Register { text, .. } => Some(text.clone()),
            Doing::Deregister | Doing::Delete { .. } => None,
        };
        let (definitions, name) = (self.definitions.clone(), name.to_owned());
        self.submit(Desk::Ledger, move || {
            let stored = match text {
                Some(text) => definitions.write(&name, &text),
                None => definitions.remove(&name),
            };
            Done::DefinitionStored(name, stored)
        });
    }

    pub(super) fn note_definition_stored(&mut self, name: &str, stored: Result<(), DefinitionError>) {
        let Some(change) = self.changes.get_mut(name) else { return };
        if let Err(error) = stored {
            let reason = whole(&error);
            let (message, hint) = match (&change.doing, &change.answer.kept) {
                (Doing::Delete { .. }, Some(kept)) => (
                    format!("volume {name:?} lies at {kept}, and its definition is still there: {reason}"),
                    "delete it again when the disk of the agent's state_dir is well",
                ),
                _ => (
                    format!("volume {name:?} stays as it is: {reason}"),
                    "look at the disk of the agent's state_dir on this client",
                ),
            };
            return self.end_change(name, Err(refusal(Kind::Unavailable, message).hint(hint)));
        }
        match &change.doing {
            Doing::Register { volume, text, make, .. } => {
                let (volume, text, make) = (volume.clone(), text.clone(), *make);
                let place = self.definitions.path(name).display().to_string();
                tracing::info!(volume = name, outcome = ?change.answer.outcome, "a volume is registered");
                self.registry.register(volume, place, text);
                if make {
                    return self.want_source_of_change(name);
                }
            }
            Doing::Deregister | Doing::Delete { .. } => {
                tracing::info!(volume = name, "a volume is no longer registered");
                self.registry.deregister(name);
            }
        }
        self.end_change_well(name);
    }

    fn want_source_of_change(&mut self, name: &str) {
        let Some(change) = self.changes.get_mut(name) else { return };
        change.stage = Stage::Source;
        let Some(placed) = change.placed(&self.registry) else { return };
        let key = backend::key_of(&placed.backend);
        self.ensure_source(&key, &placed.backend);
        if let Some(source) = self.sources.get_mut(&key) {
            // Who asks is worth a try at once: somebody may have mended it.
            source.retry = source.retry.map(|_| Instant::now());
        }
        self.attach(&key);
        self.serve_change(name);
    }

    /// Goes on with what waits for a source.
    pub(super) fn serve_changes(&mut self) {
        let waiting: Vec<String> = self
            .changes
            .iter()
            .filter(|(_, change)| change.stage == Stage::Source)
            .map(|(name, _)| name.clone())
            .collect();
        for name in waiting {
            self.serve_change(&name);
        }
    }

    fn serve_change(&mut self, name: &str) {
        let Some(change) = self.changes.get_mut(name).filter(|change| change.stage == Stage::Source) else { return };
        let Some(placed) = change.placed(&self.registry) else { return };
        let key = backend::key_of(&placed.backend);
        let Some(source) = self.sources.get(&key) else { return };
        if let State::Failed(refusal, _) = &source.state
            && !source.is_worth_waiting
        {
            let refusal = refusal.clone();
            return self.end_change(name, Err(refusal));
        }
        let Some(attached) = source.attached().filter(|_| source.is_usable()).cloned() else { return };
        let place = source.place.clone();
        change.stage = Stage::Work;
        let work = match &change.doing {
            Doing::Register { unsize: Some(_), .. } => work::unsize,
            Doing::Register { .. } => work::make,
            Doing::Deregister | Doing::Delete { .. } => work::set_aside,
        };
        let (name, size) = (name.to_owned(), placed.volume.size);
        self.submit(Desk::Source(key), move || {
            let volume = within_source(&placed);
            let worked = work(&placed.backend, &place, &volume, &attached);
            Done::VolumeWorked(name, size, worked)
        });
    }

    pub(super) fn note_volume_worked(&mut self, name: &str, size: Option<u64>, worked: Result<Worked, WorkError>) {
        let Some(change) = self.changes.get_mut(name) else { return };
        let Some(placed) = change.placed(&self.registry) else { return };
        let directory = (backend::key_of(&placed.backend), within_source(&placed).path);
        let worked = match worked {
            Ok(worked) => worked,
            Err(error) => {
                // A limit that was to be lifted may have been.
                if !matches!(change.doing, Doing::Register { unsize: None, .. }) {
                    self.sizes.remove(&directory);
                }
                let refusal = error.refusal(&placed.volume, matches!(change.doing, Doing::Register { .. }));
                if error.blames_source() {
                    self.doubt_source(&directory.0);
                }
                return self.end_change(name, Err(refusal));
            }
        };
        match worked {
            Worked::Made { created, at, sized } => {
                change.answer.created = Some(created);
                change.answer.directory = Some(at.display().to_string());
                if let (true, Some(size)) = (sized, size) {
                    self.sizes.insert(directory, (size, None));
                }
                self.end_change_well(name);
            }
            Worked::Unsized => {
                if let Doing::Register { unsize, .. } = &mut change.doing {
                    *unsize = None;
                }
                self.sizes.remove(&directory);
                self.store_definition(name);
            }
            Worked::SetAside(Kept { at, already }) => {
                change.answer.kept = at.as_ref().map(|at| at.display().to_string());
                let is_registered = matches!(change.doing, Doing::Delete { is_registered: true, .. });
                if already && !is_registered {
                    change.answer.outcome = Outcome::Absent;
                }
                if let (Some(at), false) = (at, already) {
                    tracing::info!(volume = name, at = %at.display(), "a volume is deleted: its data lies there, whole");
                }
                self.sizes.remove(&directory);
                if is_registered { self.store_definition(name) } else { self.end_change_well(name) }
            }
        }
    }

    fn end_change_well(&mut self, name: &str) {
        let Some(answer) = self.changes.get(name).map(|change| change.answer.clone()) else { return };
        self.end_change(name, Ok(answer));
    }

    fn end_change(&mut self, name: &str, answer: Result<VolumeReply, Refusal>) {
        let Some(change) = self.changes.remove(name) else { return };
        self.registry.set_changing(name, false);
        if let Err(refusal) = &answer {
            tracing::warn!(volume = name, reason = %refusal, "a volume is not changed");
        }
        let source = change.placed(&self.registry).map(|placed| backend::key_of(&placed.backend));
        if let Some(reply) = change.reply {
            // Who asked may have gone.
            let _ = reply.send(answer);
        }
        if let Some(source) = source {
            self.linger(&source);
        }
        // Who asked for the volume meanwhile has waited.
        let waiting = self.entries.values().filter(|entry| !entry.hooks.is_empty() || !entry.orders.is_empty());
        let waiting: Vec<_> = waiting.map(|entry| entry.id.clone()).collect();
        for alloc in waiting {
            self.touch(&alloc);
        }
    }

    /// Its time is over. What a worker is at goes on, and its volume stays closed until it is done.
    pub(super) fn give_up_change(&mut self, name: &str) {
        let Some(change) = self.changes.get(name).filter(|change| change.deadline <= Instant::now()) else { return };
        let waited = humantime::format_duration(Duration::from_secs(self.config.hook_timeout.as_secs()));
        let placed = change.placed(&self.registry);
        let source = placed.and_then(|placed| self.sources.get(&backend::key_of(&placed.backend)));
        let why = match (change.stage, source.map(|source| (&source.state, source))) {
            (Stage::Disk, _) => {
                refusal(Kind::TryAgain, format!("the agent's state_dir did not answer within {waited}"))
            }
            (Stage::Source, Some((State::Failed(refused, _), _))) => refused.clone(),
            (_, Some((_, source))) => self.say_trouble(source, name, &waited.to_string()).unwrap_or_else(|| {
                let message = format!("volume {name}: backend {} did not answer within {waited}", source.name());
                refusal(Kind::TryAgain, message).hint("see `saddlebag status`")
            }),
            (_, None) => refusal(Kind::TryAgain, format!("volume {name}: it was not done within {waited}")),
        };
        match change.stage {
            Stage::Source => self.end_change(name, Err(why)),
            Stage::Disk | Stage::Work => {
                if let Some(reply) = self.changes.get_mut(name).and_then(|change| change.reply.take()) {
                    let _ = reply.send(Err(why));
                }
            }
        }
    }

    /// Whether a change is to be made on that source.
    pub(super) fn is_changed_on(&self, key: &SourceKey) -> bool {
        let on = |change: &Change| change.placed(&self.registry).map(|placed| backend::key_of(&placed.backend));
        self.changes.values().any(|change| on(change).as_ref() == Some(key))
    }
}

fn empty_answer(name: &str, outcome: Outcome) -> VolumeReply {
    VolumeReply { volume: name.to_owned(), outcome, created: None, directory: None, kept: None, warnings: Vec::new() }
}
