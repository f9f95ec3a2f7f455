//! `gluster`: one `glusterfs` of a Gluster volume, shared by all of saddlebag's volumes on it.
//!
//! The Gluster volume's root is mounted, never a directory of it (`--subdir-mount`): a volume's own directory is looked up
//! within the mount, where it is missing if it is missing, and a second client for another directory would double what is
//! kept in memory and every connection to every brick.
//!
//! A client needs glusterd when it comes up, to hear which bricks there are, and later only to hear of changes. What it
//! stores and reads is between it and the bricks. So a glusterd that is away ails a source that is mounted, and no more; and
//! bricks that are all away make it one that is cut off, whose `glusterfs` lives and answers ENOTCONN itself.

mod arguments;
mod bricks;
mod command;
mod log;
mod quota;
mod server;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::examine::{self, Needed};
use super::fuse::{self, FuseMount};
use super::probe::Question;
use super::{AttachError, Attached, Backend, DetachError, Enforcement, Place, SizeError, program};
use crate::check::{Check, Outcome};
use crate::config::{self, GLUSTERFS_PATHS, GlusterBackend, GlusterQuota, GlusterTls};
use crate::volume::Resolved;

/// How long the servers may take to answer before a client is started.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long they may take while the mount itself answers.
const GLANCE: Duration = Duration::from_millis(700);

/// The volumes on one Gluster volume.
pub struct Gluster {
    settings: GlusterBackend,
    definition: config::Backend,
}

impl Gluster {
    /// A backend with these settings, which are those of `definition`.
    pub fn new(settings: GlusterBackend, definition: &config::Backend) -> Self {
        Self { settings, definition: definition.clone() }
    }

    fn mount<'a>(&'a self, place: &'a Place) -> FuseMount<'a> {
        FuseMount {
            fs_type: "fuse.glusterfs",
            what: "a GlusterFS mount",
            definition: &self.definition,
            place,
            // Its mount point alone would be no mark: others name it too.
            argument: arguments::log_file(&place.log),
            read_log: log::last_errors,
        }
    }

    /// The servers that the client is to ask, the first one that answers before all others: `glusterfs` would wait for one
    /// that hangs.
    fn find_servers(&self, patience: Duration) -> Result<Vec<String>, AttachError> {
        server::order(&self.settings.servers, self.settings.port, self.is_management_encrypted(), patience)
    }

    fn is_management_encrypted(&self) -> bool {
        let said = self.settings.tls.as_ref().and_then(|tls| tls.management);
        said.unwrap_or_else(|| Path::new(GlusterTls::SECURE_ACCESS).exists())
    }

    /// The files of the connections' certificates are there: `glusterfs` would end with a word about OpenSSL.
    fn find_certificates(&self) -> Result<(), AttachError> {
        let tls = self.settings.tls.iter();
        let named = tls.flat_map(|tls| [&tls.certificate, &tls.key, &tls.ca]).flatten().map(PathBuf::from);
        let folders = || GlusterTls::FOLDERS.iter().map(Path::new).filter(|folder| folder.is_dir());
        // Which of the folders it was built for, only glusterfs itself knows: the first that is there is named.
        let own = GlusterTls::FILES.iter().filter(|_| self.is_management_encrypted());
        let own = own.filter_map(|file| {
            let mut places = folders().map(|folder| folder.join(file));
            let first = places.next()?;
            Some(if first.is_file() { first } else { places.find(|place| place.is_file()).unwrap_or(first) })
        });
        match named.chain(own).find(|path| !path.is_file()) {
            Some(missing) => Err(AttachError::NoFile { what: "TLS", path: missing }),
            None => Ok(()),
        }
    }
}

impl Backend for Gluster {
    fn kind(&self) -> &'static str {
        "gluster"
    }

    fn volumes_below(&self) -> PathBuf {
        PathBuf::from(self.settings.path.trim_start_matches('/'))
    }

    fn has_server(&self) -> bool {
        true
    }

    fn examine(&self) -> Vec<Check> {
        let glusterfs = Needed {
            name: "glusterfs",
            configured: self.settings.program.as_deref(),
            places: &GLUSTERFS_PATHS,
            version: &["--version"],
            install: "apt install glusterfs-client",
        };
        let mut checks = vec![glusterfs.look()];
        let GlusterBackend { servers, port, .. } = &self.settings;
        for server in servers {
            let mend = format!("systemctl start glusterd   # on {server}; or servers = [\"HOST\"] as they are reached");
            let ask = |patience| {
                let one = std::slice::from_ref(server);
                server::order(one, *port, self.is_management_encrypted(), patience).map(drop)
            };
            checks.push(examine::servers("glusterd", &format!("glusterd {server}:{port}"), ask, &mend));
        }
        // One of the list is enough: that another one is away is worth a word.
        if checks.iter().any(|check| check.name == "glusterd" && !check.is_problem()) {
            for check in checks.iter_mut().filter(|check| check.name == "glusterd" && check.is_problem()) {
                check.outcome = Outcome::Warning;
                check.fault = None;
            }
        }
        checks
    }

    fn find_ailment(&self, question: &Question) -> Option<String> {
        bricks::find_away(&question.root, &self.settings.volume).or_else(|| {
            let error = self.find_servers(GLANCE).err()?;
            Some(format!("{}: what is mounted works, and does not hear of changes to the volume", error.sentence()))
        })
    }

    fn options(&self) -> String {
        let GlusterBackend { servers, port, volume, path: _, options, xlator_options, tls, .. } = &self.settings;
        let GlusterBackend { memory_limit, program, read_only, quota, .. } = &self.settings;
        // Not `path`: it is of the directories in it, which share a mount.
        format!(
            "{servers:?} {port} {volume:?} {options:?} {xlator_options:?} {tls:?} {memory_limit} {program:?} {read_only} {quota:?}"
        )
    }

    fn attach(&self, place: &Place) -> Result<Attached, AttachError> {
        fuse::make_private(&place.mount_point)?;
        if let Some(attached) = self.mount(place).find_mounted()? {
            return Ok(attached);
        }
        let glusterfs = program::find_executable(self.settings.program.as_deref(), "glusterfs", &GLUSTERFS_PATHS)?;
        self.find_certificates()?;
        let servers = self.find_servers(CONNECT_TIMEOUT)?;
        let args: Vec<OsString> = arguments::all(&self.settings, &servers, place);
        self.mount(place).start(&glusterfs, args, self.settings.memory_limit)
    }

    fn enforcement(&self, volume: &Resolved) -> Enforcement {
        match (&self.settings.quota, volume.size) {
            (GlusterQuota::Off, size) => Enforcement::without_limits(size),
            (_, Some(_)) => Enforcement::Enforced,
            (_, None) => Enforcement::Unlimited,
        }
    }

    fn set_size(
        &self,
        _place: &Place,
        _attached: &Attached,
        directory: &Path,
        bytes: Option<u64>,
    ) -> Result<(), SizeError> {
        quota::set(&self.settings.quota, &self.settings.volume, directory, bytes)
    }

    fn detach(&self, place: &Place) -> Result<(), DetachError> {
        fuse::detach(place)
    }
}
