//! The host's groups.

use nix::unistd::Group;

/// The id of the group of that name, as the host's name service has it.
pub fn find_group(name: &str) -> Option<u32> {
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}
