//! The ledger: one small durable file for each allocation, so that the next agent, after a crash or a power cut, knows
//! every mount that may exist.
//!
//! A new page is renamed into place first and made durable right after: it is *visible* to the next agent before its
//! mounts are made (a killed agent loses nothing that the kernel has), and *durable* before the hook is answered (a
//! power cut takes the mounts with it, and Nomad runs prestart again for a hook that was not answered). A page that
//! replaces another is made durable before it is renamed, so no power cut can tear what was known.
//!
//! A page says its form ([`Record::VERSION`]). A version may add fields to it as long as every one of them has a default
//! that is safe: a reader ignores what it does not know and does not keep it, so a field is lost by a downgrade and a
//! mount never is. What cannot be said so, a new kind of stage or placement for one, needs another number.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::binding::Record;
use crate::nomad::model::AllocId;

/// The largest page that is read; a page holds a few hundred bytes for each binding.
const LARGEST_PAGE: u64 = 4 << 20;

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The ledger's folder.
    #[error("cannot use the ledger's folder {}", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Writing a page.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The page.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The page that is there is kept, so none can take its place.
    #[error("{} cannot be read and is kept", .0.display())]
    Unreadable(PathBuf),
    /// Removing a page.
    #[error("cannot remove {}", .path.display())]
    Remove {
        /// The page.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A page that cannot be understood. It is left where it is.
#[derive(Debug)]
pub struct BadPage {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// The folder of pages.
#[derive(Debug, Clone)]
pub struct Ledger {
    folder: PathBuf,
}

/// A page that is in place, and not yet certain to survive a power cut.
#[derive(Debug)]
#[must_use = "a page that is not made durable is lost by a power cut"]
pub struct Visible {
    page: File,
    path: PathBuf,
    folder: PathBuf,
}

impl Ledger {
    /// Opens the ledger, and makes its folder (mode 0700) where there is none.
    ///
    /// # Errors
    /// [`LedgerError::Folder`] where the folder cannot be made.
    pub fn open(folder: &Path) -> Result<Self, LedgerError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| LedgerError::Folder { path: folder.to_owned(), source })?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn page(&self, alloc: &AllocId) -> PathBuf {
        self.folder.join(format!("{alloc}.json"))
    }

    fn write_temporary(&self, record: &Record) -> Result<(File, PathBuf), LedgerError> {
        let path = self.folder.join(format!(".{}.new", record.alloc));
        let write = || -> io::Result<File> {
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            let mut text = serde_json::to_vec_pretty(record)?;
            text.push(b'\n');
            file.write_all(&text)?;
            Ok(file)
        };
        let written = match write() {
            // Somebody has removed the whole folder: what this agent knows is the ledger from then on.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::open(&self.folder)?;
                write()
            }
            written => written,
        };
        match written {
            Ok(file) => Ok((file, path)),
            Err(source) => {
                // On a full disk its half would be in the way of the next try.
                let _ = fs::remove_file(&path);
                Err(LedgerError::Write { path, source })
            }
        }
    }

    /// Whether a page could be written now: room for one is taken and given back.
    ///
    /// # Errors
    /// [`LedgerError::Write`] with the disk's reason.
    pub fn try_to_write(&self) -> Result<(), LedgerError> {
        let path = self.folder.join(".room.new");
        let write = || -> io::Result<()> {
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(&[b' '; 4096])?;
            file.sync_all()
        };
        let written = write();
        let _ = fs::remove_file(&path);
        written.map_err(|source| LedgerError::Write { path, source })
    }

    /// Puts a page in place where the next agent will find it. For an allocation that has none.
    ///
    /// # Errors
    /// [`LedgerError::Write`]: nothing was changed.
    pub fn show(&self, record: &Record) -> Result<Visible, LedgerError> {
        let (page, temporary) = self.write_temporary(record)?;
        let path = self.page(&record.alloc);
        fs::rename(&temporary, &path).map_err(|source| LedgerError::Write { path: path.clone(), source })?;
        Ok(Visible { page, path, folder: self.folder.clone() })
    }

    /// Replaces a page, durably.
    ///
    /// # Errors
    /// [`LedgerError::Write`]: the old page is still there.
    pub fn replace(&self, record: &Record) -> Result<(), LedgerError> {
        let (page, temporary) = self.write_temporary(record)?;
        let path = self.page(&record.alloc);
        let put = || -> io::Result<()> {
            page.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        put().map_err(|source| LedgerError::Write { path: path.clone(), source })
    }

    /// Removes a page. Not synced: a page that comes back after a power cut names mounts that are gone with it, and is
    /// removed again.
    ///
    /// # Errors
    /// [`LedgerError::Remove`]; a page that is not there is no error.
    pub fn forget(&self, alloc: &AllocId) -> Result<(), LedgerError> {
        let path = self.page(alloc);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(LedgerError::Remove { path, source: error }),
            _ => Ok(()),
        }
    }

    /// Reads every page. Left-over temporary files are removed: their page was never in place.
    ///
    /// # Errors
    /// [`LedgerError::Folder`] where the folder cannot be read; a page that cannot be read is in the second list.
    pub fn read(&self) -> Result<(Vec<Record>, Vec<BadPage>), LedgerError> {
        let folder = |source| LedgerError::Folder { path: self.folder.clone(), source };
        let (mut records, mut bad) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.folder).map_err(folder)? {
            let path = entry.map_err(folder)?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with('.') && name.ends_with(".new") {
                // One that stays (on a disk that became read-only) is in nobody's way: it is written over.
                if let Err(error) = fs::remove_file(&path) {
                    tracing::warn!(path = %path.display(), %error, "half a page of a former agent stays");
                }
            } else if let Some(alloc) = name.strip_suffix(".json") {
                match read_page(&path, alloc) {
                    Ok(record) => records.push(record),
                    Err(reason) => bad.push(BadPage { path, reason }),
                }
            }
        }
        records.sort_by(|a, b| a.alloc.cmp(&b.alloc));
        Ok((records, bad))
    }
}

fn read_page(path: &Path, alloc: &str) -> Result<Record, String> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(LARGEST_PAGE).read_to_end(&mut text).map_err(|error| error.to_string())?;
    #[derive(serde::Deserialize)]
    struct Form {
        version: u32,
    }
    let form: Form = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if form.version != Record::VERSION {
        return Err(format!("it has form {}, and this version reads form {}", form.version, Record::VERSION));
    }
    let record: Record = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if record.alloc.as_str() != alloc {
        return Err(format!("it speaks of allocation {}", record.alloc));
    }
    Ok(record)
}

impl Visible {
    /// Returns when the page survives a power cut. On every journalling file system of Linux the page's own fsync
    /// commits the rename with it; the folder's fsync is for those that promise less, and costs nothing then.
    ///
    /// # Errors
    /// [`LedgerError::Write`] with the disk's error.
    pub fn make_durable(self) -> Result<(), LedgerError> {
        let sync = || -> io::Result<()> {
            self.page.sync_all()?;
            File::open(&self.folder)?.sync_all()
        };
        sync().map_err(|source| LedgerError::Write { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_record(id: &str) -> Record {
        Record {
            version: Record::VERSION,
            alloc: AllocId::parse(id).expect("an id"),
            namespace: "default".into(),
            job: "shop".into(),
            group: "db".into(),
            hook_task: "storage".into(),
            bindings: Vec::new(),
        }
    }

    const ONE: &str = "11111111-2222-3333-4444-555555555555";
    const TWO: &str = "aaaaaaaa-2222-3333-4444-555555555555";

    #[test]
    fn a_page_is_read_back_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(folder.path()).expect("open");
        ledger.show(&a_record(ONE)).expect("show").make_durable().expect("durable");
        let mut changed = a_record(ONE);
        changed.job = "other".into();
        ledger.replace(&changed).expect("replace");
        let (records, bad) = ledger.read().expect("read");
        assert_eq!(records, [changed]);
        assert!(bad.is_empty());
    }

    #[test]
    fn a_torn_or_newer_or_foreign_page_is_reported_and_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(folder.path()).expect("open");
        fs::write(folder.path().join(format!("{ONE}.json")), "{\"version\": 1, \"al").expect("write");
        fs::write(folder.path().join(format!("{TWO}.json")), "{\"version\": 2}").expect("write");
        let moved = serde_json::to_string(&a_record(ONE)).expect("json");
        fs::write(folder.path().join("bbbbbbbb-2222-3333-4444-555555555555.json"), moved).expect("write");
        let (records, bad) = ledger.read().expect("read");
        assert!(records.is_empty());
        assert_eq!(bad.len(), 3);
        assert!(bad.iter().all(|page| page.path.exists()));
        assert!(bad.iter().any(|page| page.reason.contains("form 2")));
    }

    /// A page as 0.1.0 wrote it.
    fn a_former_page() -> String {
        let page = include_str!("../../tests/fixtures/ledger-0.1.0/page.json.in");
        let numbers = ["DOCKER_MOUNT", "RAW_EXEC_MOUNT", "MAJOR", "MINOR", "INODE", "SINCE"];
        let page = numbers.iter().fold(page.to_owned(), |page, name| page.replace(&format!("@{name}@"), "7"));
        page.replace("@ALLOC@", ONE)
    }

    #[test]
    fn a_page_of_the_former_version_is_read_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(folder.path()).expect("open");
        fs::write(folder.path().join(format!("{ONE}.json")), a_former_page()).expect("write");
        let (records, bad) = ledger.read().expect("read");
        assert!(bad.is_empty(), "{bad:?}");
        assert_eq!(records[0].bindings.len(), 2);
        // Written again it is the same, so that the former version reads it in turn.
        let again: serde_json::Value = serde_json::to_value(&records[0]).expect("json");
        let former: serde_json::Value = serde_json::from_str(&a_former_page()).expect("json");
        assert_eq!(again["bindings"][0]["stage"], former["bindings"][0]["stage"]);
        assert_eq!(again["version"], former["version"]);
    }

    #[test]
    fn what_a_later_version_adds_to_a_page_is_no_obstacle() {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(folder.path()).expect("open");
        let mut page: serde_json::Value = serde_json::from_str(&a_former_page()).expect("json");
        page["later"] = "than this".into();
        page["bindings"][0]["later"] = 1.into();
        page["bindings"][0]["binding"]["later"] = true.into();
        page["bindings"][0]["binding"]["volume"]["later"] = serde_json::Value::Null;
        page["bindings"][0]["stage"]["mounted"]["later"] = 2.into();
        fs::write(folder.path().join(format!("{ONE}.json")), page.to_string()).expect("write");
        let (records, bad) = ledger.read().expect("read");
        assert!(bad.is_empty(), "{bad:?}");
        assert_eq!(records[0].bindings.len(), 2);
    }

    #[test]
    fn a_folder_that_somebody_removed_is_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("ledger");
        let ledger = Ledger::open(&place).expect("open");
        fs::remove_dir(&place).expect("remove");
        ledger.replace(&a_record(ONE)).expect("replace");
        assert_eq!(ledger.read().expect("read").0.len(), 1);
    }

    #[test]
    fn a_page_that_never_came_into_place_is_swept() {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(folder.path()).expect("open");
        fs::write(folder.path().join(format!(".{ONE}.new")), "half").expect("write");
        assert!(ledger.read().expect("read").0.is_empty());
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 0);
    }

    #[test]
    fn forgetting_twice_is_no_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(folder.path()).expect("open");
        ledger.show(&a_record(ONE)).expect("show").make_durable().expect("durable");
        ledger.forget(&a_record(ONE).alloc).expect("forget");
        ledger.forget(&a_record(ONE).alloc).expect("forget again");
        assert!(ledger.read().expect("read").0.is_empty());
    }
}
