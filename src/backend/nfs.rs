//! `nfs`: an export, mounted once by the kernel's own client, and shared by every volume with the same options.
//!
//! It is mounted by `mount.nfs`, which knows what a program of the kernel's client needs beside the system call: NFS 3's
//! mount protocol, the start of rpc.statd, names, and the negotiation of versions. It is run with a deadline, in the
//! source's worker, in the host's network namespace. Every source has a superblock of its own (`nosharecache`), since
//! the kernel gives a mount that shares one the options of whoever came first; and what the kernel lists for the mount
//! is compared with what was asked for.

mod arguments;
mod mounting;
mod report;
mod rpc;

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use super::examine::{self, Needed};
use super::mount_point::{ask, look_at, make_private, with_parent};
use super::{AttachError, Attached, Backend, DetachError, Place};
use crate::check::Check;
use crate::config;
use crate::config::nfs::{GSSD_PATHS, MOUNT_PATHS, NfsBackend, NfsProto, NfsVersion, STATD_PATHS, Security};
use crate::sys::identity::{self, Identity};
use crate::sys::mount::{self, MountError};
use crate::sys::{network, resolve, table};

/// How long a server may take before it is mounted from.
const PATIENCE: Duration = Duration::from_secs(3);
/// What the kernel's client says of a file handle that the server cannot even read (EBADHANDLE, include/linux/errno.h).
const BAD_HANDLE: i32 = 521;
/// The end of the name of the place where a mount is tried beside one that has become stale.
const BESIDE: &str = ".new";

/// An export.
pub struct Nfs {
    settings: NfsBackend,
    definition: config::Backend,
}

/// What is mounted at a source's place.
enum Found {
    /// Nothing.
    Nothing,
    /// The export, and it answers.
    Sound(Attached),
    /// A mount whose root is not on the server any more, by what it says.
    Stale(io::Error),
}

impl Nfs {
    /// A backend with these settings, which are those of `definition`.
    pub fn new(settings: NfsBackend, definition: &config::Backend) -> Self {
        Self { settings, definition: definition.clone() }
    }

    fn find_mounted(&self, place: &Place) -> Result<Found, AttachError> {
        let Some((root, identity)) = look_at(&place.mount_point)? else { return Ok(Found::Nothing) };
        let entries = table::read_own().map_err(AttachError::host("read the mount table"))?;
        // The last entry is the one on top.
        let entry = entries.iter().rev().find(|entry| entry.mount_point == place.mount_point);
        if let Some(entry) = entry.filter(|entry| !table::is_nfs(&entry.fs_type)) {
            return Err(AttachError::Foreign {
                at: place.mount_point.clone(),
                fs_type: entry.fs_type.clone(),
                expected: "an NFS mount",
            });
        }
        drop(root);
        match ask(&self.definition, place, &place.mount_point, identity.mount_id)? {
            Ok(()) => Ok(Found::Sound(attached(place, identity, true))),
            Err(error) if is_stale(&error) => Ok(Found::Stale(error)),
            Err(source) => Err(AttachError::NoAnswer { source }),
        }
    }

    /// Mounts the export at a place where nothing is mounted, and compares the mount with what was asked for.
    fn mount(&self, place: &Place, at: &Path) -> Result<(), AttachError> {
        self.find_server(PATIENCE)?;
        mounting::run(&self.settings, &place.log, at, self.definition.attach_timeout)?;
        let entries = table::read_own().map_err(AttachError::host("read the mount table"))?;
        let entry = entries.iter().rev().find(|entry| entry.mount_point == at && table::is_nfs(&entry.fs_type));
        let difference = match entry {
            Some(entry) => arguments::find_difference(&self.settings, &entry.super_options),
            None => Some("mount.nfs has ended well, and nothing is mounted".to_owned()),
        };
        let Some(reason) = difference else { return Ok(()) };
        let _ = with_parent(at, mount::detach);
        Err(AttachError::Refused {
            reason,
            hint: "look for it in /etc/nfsmount.conf and /etc/nfsmount.conf.d".into(),
            passes: false,
            log: Vec::new(),
        })
    }

    /// The export in the place of a mount whose root is gone from the server. A server that has just started may say so of
    /// an export that it does not have yet; then the former mount is good again as soon as it has it, and stays.
    fn replace(&self, place: &Place, stale: &io::Error) -> Result<Attached, AttachError> {
        let beside = beside(&place.mount_point);
        make_private(&beside)?;
        // What an agent that died has left there.
        take_away(&beside)?;
        self.mount(place, &beside)?;
        let outcome = self.exchange(place, &beside, stale);
        take_away(&beside)?;
        // Nothing is in it.
        let _ = fs::remove_dir(&beside);
        outcome
    }

    fn exchange(&self, place: &Place, beside: &Path, stale: &io::Error) -> Result<Attached, AttachError> {
        match self.find_mounted(place)? {
            Found::Sound(attached) => return Ok(attached),
            Found::Nothing | Found::Stale(_) => {}
        }
        tracing::warn!(source = %place.key, reason = %stale, "the export was replaced on the server: it is mounted anew");
        let host = |what: &'static str| move |error: MountError| AttachError::host(what)(io::Error::other(error));
        let opened = |path: &Path| {
            resolve::open_root(path).map_err(|error| AttachError::host("open the source")(io::Error::other(error)))
        };
        // A clone, since a mount below a shared one cannot be moved.
        let clone = mount::clone_detached(opened(beside)?.as_fd()).map_err(host("clone the new mount"))?;
        mount::set_flags(clone.as_fd(), mount::Flags::default()).map_err(host("make the new mount private"))?;
        let identity = identity::identify(clone.as_fd()).map_err(AttachError::host("look at the new mount"))?;
        take_away(&place.mount_point)?;
        mount::place(clone.as_fd(), opened(&place.mount_point)?.as_fd())
            .map_err(host("put the new mount in its place"))?;
        Ok(attached(place, identity, false))
    }

    /// The server takes a connection, speaks NFS, and the version that is asked for.
    fn find_server(&self, patience: Duration) -> Result<(), AttachError> {
        let NfsBackend { server, port, proto, version, .. } = &self.settings;
        if *proto == NfsProto::Rdma {
            return Ok(());
        }
        let number = if *version == NfsVersion::V3 { 3 } else { 4 };
        let ask = || {
            let addresses =
                rpc::resolve(server, *port, *proto == NfsProto::Tcp6).map_err(rpc::Silence::NoConnection)?;
            rpc::ask(&addresses, number, patience)
        };
        let what = "NFS server";
        let address = format!("{server} (port {port})");
        let refused = |reason: String, hint: &str| {
            Err(AttachError::Refused { reason, hint: hint.into(), passes: true, log: Vec::new() })
        };
        match network::in_host_network(ask).map_err(AttachError::host("enter the host's network"))? {
            Ok(rpc::Reply::Serves) => Ok(()),
            Ok(rpc::Reply::OtherVersions(least, most)) => refused(
                format!("server {server} serves NFS {least} to {most}, and {number} was asked for"),
                "set `version`, or enable that version on the server",
            ),
            Ok(rpc::Reply::Refuses) => {
                refused(format!("what answers at {address} is no NFS server"), "check `server` and `port`")
            }
            Err(rpc::Silence::NoConnection(source)) => Err(AttachError::Unreachable { what, server: address, source }),
            Err(rpc::Silence::NoReply) => Err(AttachError::NoReply { what, server: address, after: patience }),
        }
    }
}

impl Backend for Nfs {
    fn kind(&self) -> &'static str {
        "nfs"
    }

    fn has_server(&self) -> bool {
        true
    }

    fn command_to_make(&self, path: &Path) -> Option<String> {
        let NfsBackend { server, export, .. } = &self.settings;
        Some(format!("mkdir -p {}   # on {server}", Path::new(export).join(path).display()))
    }

    fn examine(&self) -> Vec<Check> {
        let settings = &self.settings;
        let common = |name, places, version| Needed {
            name,
            configured: None,
            places,
            version,
            install: "apt install nfs-common",
        };
        let mount = Needed { configured: settings.program.as_deref(), ..common("mount.nfs", &MOUNT_PATHS, &["-V"]) };
        let mut checks = vec![mount.look()];
        if settings.version == NfsVersion::V3 && settings.lock {
            checks.push(common("rpc.statd", &STATD_PATHS, &[]).look());
        }
        if settings.sec != Security::Sys {
            checks.push(common("rpc.gssd", &GSSD_PATHS, &[]).look());
        }
        let server = format!("{} (port {})", settings.server, settings.port);
        let mend = format!(
            "systemctl start nfs-server; exportfs -v   # on {}; or server = \"HOST\" as it is named",
            settings.server
        );
        checks.push(examine::servers("server", &server, |patience| self.find_server(patience), &mend));
        checks
    }

    fn probe(&self, patience: Duration) -> Result<(), AttachError> {
        self.find_server(patience)
    }

    fn options(&self) -> String {
        let settings = &self.settings;
        format!("{} {} {:?}", arguments::remote(settings), arguments::options(settings), settings.program)
    }

    fn attach(&self, place: &Place) -> Result<Attached, AttachError> {
        make_private(&place.mount_point)?;
        match self.find_mounted(place)? {
            Found::Sound(attached) => Ok(attached),
            Found::Stale(error) => self.replace(place, &error),
            Found::Nothing => {
                self.mount(place, &place.mount_point)?;
                match self.find_mounted(place)? {
                    Found::Sound(mounted) => Ok(Attached { found: false, ..mounted }),
                    Found::Stale(source) => Err(AttachError::NoAnswer { source }),
                    Found::Nothing => Err(AttachError::host("find the new mount")(io::ErrorKind::NotFound.into())),
                }
            }
        }
    }

    fn detach(&self, place: &Place) -> Result<(), DetachError> {
        // Plain, not lazy: the kernel refuses while a file of the mount is open on this host. What is not written yet is
        // written first, for as long as that takes; it keeps nobody but this source's worker.
        match with_parent(&place.mount_point, mount::unmount) {
            Ok(()) | Err(MountError::NotAMountPoint | MountError::Missing) => {}
            Err(MountError::Busy) => return Err(DetachError::Busy),
            Err(error) => {
                return Err(DetachError::Host { what: "unmount the source".into(), source: io::Error::other(error) });
            }
        }
        // Empty, and of no use to anybody.
        let _ = fs::remove_dir(&place.mount_point);
        Ok(())
    }
}

fn attached(place: &Place, identity: Identity, found: bool) -> Attached {
    // Where another file system of the server begins, the client mounts it as it is walked into, and unmounts it after a
    // while: a volume there would be of a mount that comes and goes.
    Attached { root: place.mount_point.clone(), identity, pid: None, found, may_cross: false }
}

/// Whether the server does not know the root of the mount any more.
fn is_stale(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(number) if number == Errno::STALE.raw_os_error() || number == BAD_HANDLE)
}

fn beside(mount_point: &Path) -> PathBuf {
    let mut name = mount_point.as_os_str().to_owned();
    name.push(BESIDE);
    PathBuf::from(name)
}

/// Takes everything out of a place at once; who has it open, or bound elsewhere, keeps it.
fn take_away(at: &Path) -> Result<(), AttachError> {
    loop {
        match with_parent(at, mount::detach) {
            Ok(()) => {}
            Err(MountError::NotAMountPoint | MountError::Missing) => return Ok(()),
            Err(error) => return Err(AttachError::host("unmount a former mount")(io::Error::other(error))),
        }
    }
}
