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

    /// One filer of the list accepts a connection. `weed mount` itself would try for minutes before it says so.
    fn find_filer(&self) -> Result<(), AttachError> {
        let mut last = None;
        for filer in &self.settings.filers {
            match filer::connect(filer, CONNECT_TIMEOUT) {
                Ok(_) => return Ok(()),
                Err(source) => last = Some(AttachError::Unreachable { what: "filer", server: filer.clone(), source }),
            }
        }
        last.map_or(Ok(()), Err)
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
        full::find(question)
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
            return Ok(attached);
        }
        let weed = program::find_executable(self.settings.program.as_deref(), "weed", &WEED_PATHS)?;
        self.find_filer()?;
        let cache = self.cache(place);
        fuse::make_private(&cache)?;
        let place = Place { cache, ..place.clone() };
        if let Some(buffer) = arguments::write_buffer(&self.settings, &place) {
            fuse::make_private(&buffer)?;
        }
        let arguments = arguments::of(&self.settings, &place);
        self.mount(&place).start(&weed, arguments, self.settings.memory_limit)
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
