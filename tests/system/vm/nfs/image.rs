//! An image volume on the export: a file system of its own whose disk is a file of the NFS server.

use super::{WRITER_OF_IMAGE, assert_in_order, configure, one_more_mount};
use crate::machine::Machine as _;
use crate::node::Node;
use crate::qemu::Qemu;
use crate::vm::assert_all_there;
use anyhow::{Context as _, ensure};

/// Its size when it is made, and later.
pub const SIZES: [&str; 2] = ["64MiB", "96MiB"];

/// The volume's block.
pub fn volume(size: &str) -> String {
    format!(
        "volume \"disk\" {{\n  backend = \"nas\"\n  format = \"ext4\"\n  size = \"{size}\"\n  \
         access_mode = \"single-node-writer\"\n  create = true\n  owner = \"65534:65534\"\n}}\n"
    )
}

/// What its task has written, by the task's own mount.
pub fn log(node: &Node<Qemu>) -> anyhow::Result<String> {
    node.machine.run(&format!("cat {}/log", node.place_of(WRITER_OF_IMAGE)?))
}

/// Waits until its task has written more.
pub fn wait_for_more(node: &Node<Qemu>, when: &str) -> anyhow::Result<()> {
    let count = || log(node).unwrap_or_default().lines().count();
    let before = count();
    node.machine.wait(&format!("the image is written to {when}"), || Ok((count() > before + 3).then_some(())))
}

/// All that is acknowledged is in it, and its task was not restarted.
pub fn assert_nothing_lost(node: &Node<Qemu>) -> anyhow::Result<()> {
    let acknowledged = node.machine.acknowledged()?;
    let log = log(node)?;
    assert_all_there(WRITER_OF_IMAGE, "disk", &acknowledged, &log)?;
    assert_in_order("disk", &log)?;
    ensure!(node.restarts(WRITER_OF_IMAGE)? == 0, "{WRITER_OF_IMAGE} was restarted");
    Ok(())
}

/// The size of its file system in MiB, and its mount's id.
fn look(node: &Node<Qemu>) -> anyhow::Result<(u64, String)> {
    let place = node.place_of(WRITER_OF_IMAGE)?;
    let size = node.machine.run(&format!("df --output=size -BM {place} | tail -n 1 | tr -dc 0-9"))?;
    let id = node.machine.run(&format!("awk '$5 == \"{place}\" {{ print $1 }}' /proc/1/mountinfo"))?;
    Ok((size.parse().with_context(|| format!("a size: {size}"))?, id))
}

/// An ext4 grows under its task, by the right that the shipped unit has.
pub fn it_grows_while_it_is_written_to(node: &Node<Qemu>) -> anyhow::Result<()> {
    let (size, id) = look(node)?;
    ensure!((40..64).contains(&size), "an ext4 in {}: {size} MiB", SIZES[0]);
    configure(node, SIZES[1], &one_more_mount())?;
    let (size, now) = node.machine.wait("the image has grown", || {
        let found = look(node)?;
        Ok((found.0 > size + 24).then_some(found))
    })?;
    ensure!(size < 96 && now == id, "an ext4 in {}: {size} MiB, mounts {id} {now}", SIZES[1]);
    wait_for_more(node, "after it has grown")?;
    assert_nothing_lost(node)
}
