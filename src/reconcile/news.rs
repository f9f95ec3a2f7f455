//! What Nomad and the guard say.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::entry::Entry;
use super::error::whole;
use super::events::Done;
use super::execute;
use super::reconciler::Reconciler;
use super::worker::Desk;
use crate::backend;
use crate::guard::wire::{Hello, NomadExe};
use crate::job::{self, Placement};
use crate::nomad::model::{AllocId, Node};
use crate::nomad::watch::News;
use crate::nomad::wire::Listing;
use crate::sys::{memory, process};

/// From so many allocations on, the memory that reading their list took is given back.
const LARGE_LISTING: usize = 200;

/// What is noted of Nomad for the next boot, when mounts are to be there before Nomad is.
#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    alloc_root: PathBuf,
    node_id: String,
}

impl Reconciler {
    fn note_path(&self) -> PathBuf {
        self.config.state_dir.join("nomad.json")
    }

    /// Where Nomad's allocations were when it was last heard.
    pub(super) fn recall_alloc_root(&mut self) {
        let noted = fs::read(self.note_path()).ok().and_then(|text| serde_json::from_slice::<Noted>(&text).ok());
        let configured = self.config.nomad.alloc_dir.clone();
        if let Some(alloc_root) = configured.or(noted.map(|noted| noted.alloc_root)) {
            self.use_alloc_root(&alloc_root);
        }
    }

    pub(super) fn hear(&mut self, news: News) {
        self.nomad.heard = if matches!(news, News::Lost(_)) { self.nomad.heard } else { Some(SystemTime::now()) };
        match news {
            News::Connected { node, alloc_dir, version, node_id } => {
                self.connect(node, alloc_dir, version, &node_id);
            }
            News::Listing(listing) => self.take_listing(listing),
            News::Lost(reason) => {
                tracing::warn!(reason, "Nomad cannot be asked; nothing that is mounted is touched");
                self.nomad.connected = false;
                self.nomad.reason = Some(reason);
            }
        }
    }

    fn connect(&mut self, node: Node, alloc_dir: Option<PathBuf>, version: String, node_id: &str) {
        tracing::info!(node = node.name, node_id, version, "Nomad answers");
        self.nomad.connected = true;
        self.nomad.reason = None;
        self.nomad.node = Some(node);
        self.nomad.version = Some(version);
        self.nomad.obstacle = None;
        if let Some(alloc_root) = self.config.nomad.alloc_dir.clone().or(alloc_dir) {
            self.use_alloc_root(&alloc_root);
            let noted = Noted { alloc_root, node_id: node_id.to_owned() };
            let path = self.note_path();
            let write = || -> std::io::Result<()> {
                let temporary = path.with_extension("new");
                fs::write(&temporary, serde_json::to_vec(&noted)?)?;
                fs::rename(&temporary, &path)
            };
            if let Err(error) = write() {
                tracing::warn!(reason = whole(&error), "Nomad's allocation root is not noted for the next boot");
            }
        } else {
            self.nomad.obstacle = Some(
                "Nomad does not say where its allocations are: write nomad { alloc_dir = \"…\" } into the agent's configuration".into(),
            );
        }
        self.know_nomad();
        self.sweep_later();
        self.touch_all();
    }

    /// Finds Nomad's own process: the guard must know its executable, and it must see the mounts that we make. What was
    /// found is noted for the next boot, when mounts are there before Nomad is.
    fn know_nomad(&mut self) {
        let (port, guard) = (self.config.nomad.port(), self.guard_client.clone());
        let note = self.config.state_dir.join("nomad-executable.json");
        self.submit(Desk::Host, move || {
            let noted = fs::read(&note).ok().and_then(|text| serde_json::from_slice::<NomadExe>(&text).ok());
            let pid = port.and_then(process::find_listener);
            let found = pid.map(|pid| NomadExe {
                identity: process::exe_identity(pid).ok(),
                name: process::exe_name(pid).ok().map(|name| name.to_string_lossy().into_owned()),
            });
            if let Some(found) = found.as_ref().filter(|found| Some(*found) != noted.as_ref()) {
                let write = || -> std::io::Result<()> {
                    let temporary = note.with_extension("new");
                    fs::write(&temporary, serde_json::to_vec(found)?)?;
                    fs::rename(&temporary, &note)
                };
                if let Err(error) = write() {
                    tracing::warn!(reason = whole(&error), "Nomad's executable is not noted for the next boot");
                }
            }
            let known: Vec<NomadExe> = noted.into_iter().chain(found).collect();
            if known.is_empty() {
                tracing::warn!("Nomad's process was not found by the port of its address: the guard takes for Nomad what is called nomad or nomad-VERSION");
            } else if let Err(error) = guard.tell_nomad(&known) {
                tracing::warn!(reason = whole(&error), "the guard was not told which executable Nomad is: it takes for Nomad what is called nomad or nomad-VERSION");
            }
            let Some(pid) = pid else { return Done::Nothing };
            match (process::mount_namespace(pid), process::own_mount_namespace()) {
                (Ok(theirs), Ok(ours)) if theirs != ours => Done::Obstacle(format!(
                    "Nomad's agent (process {pid}) runs in another mount namespace than saddlebag, so neither its tasks would see a mount nor the guard its deletions"
                )),
                _ => Done::Nothing,
            }
        });
    }

    pub(super) fn note_obstacle(&mut self, obstacle: String) {
        tracing::error!("{obstacle}");
        self.nomad.obstacle = Some(obstacle);
    }

    fn take_listing(&mut self, listing: Listing) {
        let is_large = listing.ids.len() >= LARGE_LISTING;
        let known: HashSet<&AllocId> = listing.ids.iter().collect();
        let gone: Vec<AllocId> =
            self.entries.values().filter(|entry| !known.contains(&entry.id)).map(|entry| entry.id.clone()).collect();
        for alloc in gone {
            let Some(entry) = self.entries.get_mut(&alloc) else { continue };
            if entry.allocation.is_none() && entry.page.is_none() && !entry.hooks.is_empty() {
                // A hook that came before any listing named its allocation.
                continue;
            }
            if !std::mem::replace(&mut entry.missing, true) {
                entry.looks = 0;
                self.look_again(&alloc);
            }
            if let Some(entry) = self.entries.get_mut(&alloc) {
                entry.allocation = None;
            }
            self.touch(&alloc);
        }
        let heard = Instant::now();
        for allocation in listing.allocations {
            let alloc = allocation.id.clone();
            let entry = self.entries.entry(alloc.clone()).or_insert_with(|| Entry::boxed(alloc.clone()));
            entry.missing = false;
            entry.collected = false;
            entry.heard = Some(heard);
            if !entry.hooks.is_empty() {
                self.touch(&alloc);
            }
            let Some(entry) = self.entries.get_mut(&alloc) else { continue };
            if entry.allocation.as_ref() == Some(&allocation) {
                continue;
            }
            let is_new = entry.allocation.is_none();
            entry.hear(allocation);
            if is_new {
                self.warm(&alloc);
            }
            self.touch(&alloc);
        }
        self.nomad.allocations = listing.ids;
        self.serve_all_questions();
        if self.recovery.holds_sources() {
            self.find_unexplained();
        }
        if is_large {
            memory::give_back();
        }
    }

    /// Attaches the sources that an allocation will ask for, so that they are there when it does.
    fn warm(&mut self, alloc: &AllocId) {
        let Some(entry) = self.entries.get(alloc) else { return };
        let (Some(allocation), Some(node)) = (&entry.allocation, &self.nomad.node) else { return };
        if entry.is_over() || entry.page.is_some() {
            return;
        }
        let Some(task) = job::likely_hook_task(allocation) else { return };
        // A job that will be refused is refused when it asks.
        let Ok((_, bindings)) = self.read_job(allocation, Some(task), node) else { return };
        for (binding, definition) in bindings {
            // What lies on another source is one volume's own and is attached for that one's task: nothing keeps it until
            // then, and another node may have it.
            let (key, definition) = match backend::beneath(&definition) {
                Some(beneath) => (backend::key_of(beneath), beneath.clone()),
                None => (binding.source, definition),
            };
            self.ensure_source(&key, &definition);
            self.attach(&key);
            self.linger(&key);
        }
    }

    /// Says hello to the guard, or starts one, away from the loop.
    pub(super) fn note_guard(&mut self, hello: Result<Hello, String>) {
        match (&self.guard, &hello) {
            (Ok(old), Ok(new)) if old.lineage() == new.lineage() => {}
            (_, Ok(new)) => {
                tracing::info!(pid = new.pid, took_over = new.took_over, "the guard answers");
                // Another guard knows no mark of its predecessor's: every binding is handed to it once more.
                for live in self.entries.values_mut().flat_map(|entry| entry.bindings.values_mut()) {
                    if live.binding.placement == Placement::Mount {
                        live.doubt();
                        if live.error.as_ref().is_some_and(|error| error.retry.is_some()) {
                            live.error = None;
                        }
                    }
                }
                self.mark_all_anew();
                self.touch_all();
            }
            (_, Err(reason)) => tracing::error!(reason, "the guard does not answer; nothing is mounted until it does"),
        }
        let is_new = hello.is_ok();
        self.guard = hello;
        if is_new {
            self.know_nomad();
        }
    }

    /// Hands every mount that may be there to the guard, whatever is known of it and whatever its server does.
    fn mark_all_anew(&mut self) {
        let Some(host) = self.host.clone() else { return };
        let recorded = self
            .entries
            .values()
            .flat_map(|entry| entry.bindings.iter().map(|(key, live)| (entry.id.clone(), live, entry.identity(key))))
            .filter(|(_, live, _)| live.intent.is_some() && live.binding.placement == Placement::Mount)
            .map(|(alloc, live, identity)| (alloc, live.binding.clone(), identity));
        let mut of_sources: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for marked in recorded {
            of_sources.entry(marked.1.source.clone()).or_default().push(marked);
        }
        self.guard_unexplained_anew();
        // A mark may wait for its source's server: nobody else waits with it.
        for (source, recorded) in of_sources {
            let host = host.clone();
            self.submit(Desk::Source(source), move || {
                for (alloc, binding, identity) in &recorded {
                    if let Err(error) = execute::mark_anew(&host, alloc, binding, identity.as_ref()) {
                        tracing::error!(%alloc, task = binding.key.task, volume = binding.volume.name, reason = whole(&error), "a mount is not in the new guard's care yet");
                    }
                }
                Done::Nothing
            });
        }
    }

    /// The sources of an allocation's job, for people.
    pub(super) fn source_name(&self, key: &backend::SourceKey) -> String {
        self.sources.get(key).map_or_else(|| key.to_string(), super::source::Source::name)
    }
}
