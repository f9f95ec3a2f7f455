//! SeaweedFS, whole: what is said of a volume is so on a real cluster, and what its tasks see while parts of that are away.

mod limits;
mod parts;
mod said;

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// A MiB that no compression makes small.
fn piece() -> Vec<u8> {
    (0..1_u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

/// Appends so many MiB, each on the storage before the next; how many were, and why no more.
fn write(file: &Path, mib: usize) -> (usize, Option<std::io::Error>) {
    let piece = piece();
    let opened = std::fs::File::options().create(true).append(true).mode(0o644).open(file);
    let mut open = match opened {
        Ok(open) => open,
        Err(error) => return (0, Some(error)),
    };
    for done in 0..mib {
        if let Err(error) = open.write_all(&piece).and_then(|()| open.sync_all()) {
            return (done, Some(error));
        }
    }
    (mib, None)
}
