//! `seaweedfs`: one `weed mount` of a filer's whole tree, shared by every volume with the same options.
//!
//! The filer's root is mounted, never a directory of it: `weed mount` creates the directory that it is asked for, so a
//! path with a typing error would come up as an empty volume. A volume's own directory is looked up within the mount,
//! where it is missing if it is missing.

mod arguments;
mod filer;
mod full;
mod metadata;
mod prepare;
mod quota;
mod rpc;
mod rules;
mod security;
mod wire;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::examine::{self, Needed};
use super::fuse::{self, FuseMount};
use super::probe::Question;
use super::{AttachError, Attached, Backend, DetachError, Enforcement, Place, PrepareError, SizeError, program};
use crate::check::Check;
use crate::config::{self, SeaweedfsBackend, WEED_PATHS};
use crate::volume::Resolved;

/// How long a filer may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The volumes of one filer.
pub struct Seaweedfs {
    settings: SeaweedfsBackend,
    definition: config::Backend,
}

impl Seaweedfs {
    /// A backend with these settings, which are those of `definition`.
    pub fn new(settings: SeaweedfsBackend, definition: &config::Backend) -> Self {
        Self { settings, definition: definition.clone() }
    }

    /// Filers that accept a connection, in the list's order and not more than are `wanted`. `weed mount` itself would try for
    /// minutes before it says that none does.
    ///
    /// # Errors
    /// None does.
    fn find_filers(&self, wanted: usize) -> Result<Vec<String>, AttachError> {
        let mut found = Vec::new();
        let mut last = None;
        for filer in &self.settings.filers {
            if found.len() == wanted {
                break;
            }
            match filer::connect(filer, CONNECT_TIMEOUT) {
                Ok(_) => found.push(filer.clone()),
                Err(source) => last = Some(AttachError::Unreachable { what: "filer", server: filer.clone(), source }),
            }
        }
        match last {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    /// Starts it with all filers; where it ends at that and not all of them accept connections, with those that do:
    /// 4.48 takes the last one's refusal for the answer of all, where the filers have no rules (`/etc/seaweedfs/filer.conf`).
    fn start(&self, weed: &Path, place: &Place) -> Result<Attached, AttachError> {
        self.find_filers(1)?;
        let all = &self.settings.filers;
        let start = |told: &[String]| {
            self.mount(place).start(weed, arguments::of(&self.settings, told, place), self.settings.memory_limit)
        };
        match start(all) {
            Err(ended @ AttachError::ProgramEnded { .. }) if all.len() > 1 => {
                let accepting = self.find_filers(all.len())?;
                if accepting.len() == all.len() {
                    return Err(ended);
                }
                tracing::warn!(source = %place.key, filers = accepting.join(","), "its mount program ended while a filer of the list refuses connections: it is started with the others");
                // It leaves a dead mount behind.
                if let Some(attached) = self.mount(place).find_mounted()? {
                    return Ok(attached);
                }
                start(&accepting)
            }
            started => started,
        }
    }

    /// Notes which filers its program was not told of, by that one's own command line: an agent that is killed between its start
    /// and this is followed by one that finds it, and notes the same.
    fn note_untold(&self, place: &Place, attached: &Attached) {
        let Some(line) = attached.pid.and_then(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok()) else {
            return;
        };
        let line = String::from_utf8_lossy(&line);
        let Some(told) = line.split('\0').find_map(|word| word.strip_prefix("-filer=")) else { return };
        let filers = self.settings.filers.iter().map(String::as_str);
        let untold: Vec<&str> = filers.filter(|filer| told.split(',').all(|told| told != *filer)).collect();
        let note = untold_note(&place.log);
        let noted = match untold.as_slice() {
            [] => std::fs::remove_file(&note).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }),
            untold => std::fs::write(&note, untold.join("\n")),
        };
        if let Err(error) = noted {
            tracing::warn!(source = %place.key, note = %note.display(), %error, "which filers its mount program knows is not noted");
        }
    }

    /// That its program does not know all filers of the list, and so does not go to them when the others are gone.
    fn find_untold(&self, question: &Question) -> Option<String> {
        let noted = std::fs::read_to_string(untold_note(&question.log)).ok()?;
        let untold: Vec<&str> =
            noted.lines().filter(|line| self.settings.filers.iter().any(|filer| filer == line)).collect();
        (!untold.is_empty()).then(|| {
            format!(
                "its mount program was started while {} refused connections, and never goes there",
                untold.join(" and ")
            )
        })
    }

    fn mount<'a>(&'a self, place: &'a Place) -> FuseMount<'a> {
        FuseMount {
            fs_type: "fuse.seaweedfs",
            what: "a SeaweedFS mount",
            definition: &self.definition,
            place,
            argument: arguments::mount_point(&place.mount_point),
            read_log: program::last_lines,
        }
    }
}

impl Backend for Seaweedfs {
    fn kind(&self) -> &'static str {
        "seaweedfs"
    }

    fn volumes_below(&self) -> PathBuf {
        PathBuf::from(self.settings.path.trim_start_matches('/'))
    }

    fn has_server(&self) -> bool {
        true
    }

    fn cache(&self, place: &Place) -> PathBuf {
        match &self.settings.cache_dir {
            Some(folder) if !place.is_trial => folder.join(&place.key.0),
            _ => place.cache.clone(),
        }
    }

    fn command_to_make(&self, path: &Path) -> Option<String> {
        let filer = filer::http_address(self.settings.filers.first()?);
        let path = Path::new(&self.settings.path).join(path);
        Some(format!("curl -X POST http://{filer}{}/", path.display().to_string().trim_end_matches('/')))
    }

    fn examine(&self) -> Vec<Check> {
        let weed = Needed {
            name: "weed",
            configured: self.settings.program.as_deref(),
            places: &WEED_PATHS,
            version: &["version"],
            install: "install -m755 weed /usr/local/bin/   # of github.com/seaweedfs/seaweedfs/releases",
        };
        let fusermount = Needed {
            name: "fusermount3",
            configured: None,
            places: &["/usr/bin/fusermount3", "/bin/fusermount3", "/usr/local/bin/fusermount3"],
            version: &["--version"],
            install: "apt install fuse3",
        };
        let servers = self.settings.filers.iter().map(|filer| {
            let mend =
                format!("systemctl start seaweedfs-filer   # on {filer}; or filer = \"HOST:PORT\" as it listens");
            let ask = |patience| filer::ask_any(std::slice::from_ref(filer), patience);
            examine::servers("filer", &format!("filer {filer}"), ask, &mend)
        });
        let mut checks = vec![weed.look(), fusermount.look()];
        checks.extend(examine::one_is_enough(servers.collect()));
        checks
    }

    fn find_ailment(&self, question: &Question) -> Option<String> {
        full::find(question).or_else(|| self.find_untold(question))
    }

    fn probe(&self, patience: Duration) -> Result<(), AttachError> {
        filer::ask_any(&self.settings.filers, patience)
    }

    fn options(&self) -> String {
        arguments::options(&self.settings)
    }

    fn attach(&self, place: &Place) -> Result<Attached, AttachError> {
        fuse::make_private(&place.mount_point)?;
        if let Some(attached) = self.mount(place).find_mounted()? {
            self.note_untold(place, &attached);
            return Ok(attached);
        }
        let weed = program::find_executable(self.settings.program.as_deref(), "weed", &WEED_PATHS)?;
        let cache = self.cache(place);
        fuse::make_private(&cache)?;
        let place = Place { cache, ..place.clone() };
        if let Some(buffer) = arguments::write_buffer(&self.settings, &place) {
            fuse::make_private(&buffer)?;
        }
        let attached = self.start(&weed, &place)?;
        self.note_untold(&place, &attached);
        Ok(attached)
    }

    fn enforcement(&self, volume: &Resolved) -> Enforcement {
        match (self.settings.quota, volume.size) {
            (Some(_), Some(_)) => Enforcement::Enforced,
            (_, size) => Enforcement::without_limits(size),
        }
    }

    fn set_size(&self, place: &Place, _: &Attached, _: &Path, bytes: Option<u64>) -> Result<(), SizeError> {
        match self.settings.quota {
            Some(_) => quota::set(&place.socket, bytes.unwrap_or_default()),
            None => Ok(()),
        }
    }

    fn prepare(&self, volume: &Resolved) -> Result<(), PrepareError> {
        prepare::prepare(&self.settings, volume)
    }

    fn detach(&self, place: &Place) -> Result<(), DetachError> {
        fuse::detach(place)
    }
}

/// Where it is noted which filers a mount program was not told of.
fn untold_note(log: &Path) -> PathBuf {
    log.with_extension("untold-filers")
}
