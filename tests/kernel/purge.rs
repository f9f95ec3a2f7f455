//! A stand-in for Nomad's agent: this very test program, copied under the name `nomad`, removing a directory with
//! the system calls that Go's `os.RemoveAll` makes, in its order.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::scene::wait_until;

const VARIABLE: &str = "SADDLEBAG_TEST_DO";

/// Starts `program`, a copy of this one, to do `what` (`remove-all`, `open-file` or `open-directory`) to `path`.
/// Its exit code is the errno, 0 for success.
pub fn start(program: &Path, what: &str, path: &Path) -> Child {
    let mut command = Command::new(program);
    command.args(["purge::the_other_process", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(VARIABLE, format!("{what}:{}", path.display())).stdout(std::process::Stdio::null());
    let mut child = None;
    wait_until("a program that nobody writes to", || {
        child = match command.spawn() {
            // A program that another test was starting while the copy was written has it open until it is executed.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => None,
            started => Some(started.unwrap()),
        };
        child.is_some()
    });
    child.unwrap()
}

/// As [`start`], and waits for the errno.
pub fn run(program: &Path, what: &str, path: &Path) -> i32 {
    errno_of(start(program, what, path))
}

pub fn errno_of(mut child: Child) -> i32 {
    child.wait().unwrap().code().expect("ended by itself")
}

#[test]
fn the_other_process() {
    let Ok(order) = std::env::var(VARIABLE) else { return };
    let (what, path) = order.split_once(':').unwrap();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let result = match what {
        "remove-all" => {
            let path = Path::new(path);
            let parent = rustix::fs::open(path.parent().unwrap(), flags, Mode::empty()).unwrap();
            remove_all_from(parent.as_fd(), path.file_name().unwrap())
        }
        "open-directory" => rustix::fs::open(path, flags | OFlags::DIRECTORY, Mode::empty()).map(drop),
        "open-file" => rustix::fs::open(path, flags, Mode::empty()).map(drop),
        other => panic!("{other}"),
    };
    std::process::exit(result.err().map_or(0, Errno::raw_os_error));
}

fn remove_all_from(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM | Errno::ACCESS) => {}
        Err(errno) => return Err(errno),
    }
    let mut recursion = Ok(());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => recursion = Err(errno),
        Ok(directory) => {
            let names: Vec<_> = Dir::read_from(&directory)?
                .map(|entry| Ok(entry?.file_name().to_owned()))
                .collect::<Result<_, Errno>>()?;
            for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
                let removed = remove_all_from(directory.as_fd(), OsStr::from_bytes(name.to_bytes()));
                recursion = recursion.and(removed);
            }
        }
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(recursion.err().unwrap_or(errno)),
    }
}

#[test]
fn the_stand_in_removes_a_plain_tree() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let tree = directory.path().join("tree");
    std::fs::create_dir_all(tree.join("a/b")).unwrap();
    std::fs::write(tree.join("a/b/file"), "x").unwrap();
    assert_eq!(
        remove_all_from(
            rustix::fs::open(directory.path(), OFlags::PATH, Mode::empty()).unwrap().as_fd(),
            OsStr::new("tree")
        ),
        Ok(())
    );
    assert!(!tree.exists());
}
