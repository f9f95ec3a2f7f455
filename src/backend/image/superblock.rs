//! What the first bytes of an image say. Pure.
//!
//! ext4: fs/ext4/ext4.h, `struct ext4_super_block`, little-endian, 1024 bytes into the device. XFS:
//! fs/xfs/libxfs/xfs_format.h, `struct xfs_dsb`, big-endian, at its start.

use crate::config::Format;

/// So many bytes of the beginning are looked at.
pub const LENGTH: usize = 4096;

const EXT_AT: usize = 1024;
const EXT_MAGIC: u16 = 0xEF53;
const EXT_VALID: u16 = 1;
const EXT_ERROR: u16 = 2;
/// COMPAT_HAS_JOURNAL
const EXT_JOURNAL: u32 = 0x4;
/// INCOMPAT_EXTENTS: neither ext2 nor ext3 has it.
const EXT_EXTENTS: u32 = 0x40;
/// INCOMPAT_64BIT
const EXT_64BIT: u32 = 0x80;
const XFS_MAGIC: &[u8] = b"XFSB";

/// A file system that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Which one.
    pub format: Format,
    /// The size of its blocks, in bytes.
    pub block_size: u64,
    /// The smallest write that it makes, in bytes: a device with larger blocks cannot hold it.
    pub sector_size: u64,
    /// The bytes that it takes for its own.
    pub size: u64,
    /// Whether it calls itself whole: what a journal mends when it is mounted is whole, what is marked as damaged is not.
    pub is_whole: bool,
}

/// What the beginning of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A file system that is known.
    Known(Superblock),
    /// One of the same family that cannot hold a volume; its name.
    Relative(&'static str),
    /// Something else, or nothing.
    Unknown,
}

/// Reads the first [`LENGTH`] bytes of a file. Fewer, and numbers that make no sense, are unknown.
pub fn read(bytes: &[u8]) -> Seen {
    read_xfs(bytes).or_else(|| read_ext(bytes)).unwrap_or(Seen::Unknown)
}

fn read_ext(bytes: &[u8]) -> Option<Seen> {
    let block = bytes.get(EXT_AT..EXT_AT + 1024)?;
    let short = |at: usize| Some(u16::from_le_bytes(block.get(at..at + 2)?.try_into().ok()?));
    let long = |at: usize| Some(u32::from_le_bytes(block.get(at..at + 4)?.try_into().ok()?));
    if short(56)? != EXT_MAGIC {
        return None;
    }
    let (compatible, incompatible) = (long(92)?, long(96)?);
    if compatible & EXT_JOURNAL == 0 {
        return Some(Seen::Relative("ext2, or an ext4 without a journal"));
    }
    if incompatible & EXT_EXTENTS == 0 {
        return Some(Seen::Relative("ext3"));
    }
    let shift = long(24)?;
    if shift > 6 {
        return None;
    }
    let block_size = 1024_u64 << shift;
    let high = if incompatible & EXT_64BIT != 0 { u64::from(long(336)?) } else { 0 };
    let blocks = high << 32 | u64::from(long(4)?);
    let state = short(58)?;
    Some(Seen::Known(Superblock {
        format: Format::Ext4,
        block_size,
        sector_size: block_size.min(4096),
        size: blocks.checked_mul(block_size)?,
        is_whole: state & EXT_VALID != 0 && state & EXT_ERROR == 0,
    }))
}

fn read_xfs(bytes: &[u8]) -> Option<Seen> {
    let long = |at: usize| Some(u64::from(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?)));
    if bytes.get(..4)? != XFS_MAGIC {
        return None;
    }
    let block_size = long(4)?;
    let blocks = long(8)? << 32 | long(12)?;
    let sector_size = u64::from(u16::from_be_bytes(bytes.get(102..104)?.try_into().ok()?));
    let is_sane = |size: u64, least: u64| size.is_power_of_two() && (least..=65536).contains(&size);
    if !is_sane(block_size, 512) || !is_sane(sector_size, 512) {
        return None;
    }
    let size = blocks.checked_mul(block_size)?;
    // An XFS says nothing of damage in its superblock: its mount finds what its log does not mend.
    Some(Seen::Known(Superblock { format: Format::Xfs, block_size, sector_size, size, is_whole: true }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ext4(state: u16, compatible: u32, incompatible: u32) -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        let mut put = |at: usize, value: &[u8]| bytes[EXT_AT + at..EXT_AT + at + value.len()].copy_from_slice(value);
        put(56, &EXT_MAGIC.to_le_bytes());
        put(58, &state.to_le_bytes());
        put(4, &4096_u32.to_le_bytes());
        put(24, &2_u32.to_le_bytes());
        put(92, &compatible.to_le_bytes());
        put(96, &incompatible.to_le_bytes());
        bytes
    }

    #[test]
    fn an_ext4_says_its_size_and_whether_it_is_whole() {
        let wanted = |is_whole| {
            Seen::Known(Superblock {
                format: Format::Ext4,
                block_size: 4096,
                sector_size: 4096,
                size: 16 << 20,
                is_whole,
            })
        };
        assert_eq!(read(&ext4(EXT_VALID, EXT_JOURNAL, EXT_EXTENTS)), wanted(true));
        assert_eq!(read(&ext4(EXT_VALID | EXT_ERROR, EXT_JOURNAL, EXT_EXTENTS)), wanted(false));
        assert_eq!(read(&ext4(0, EXT_JOURNAL, EXT_EXTENTS)), wanted(false));
    }

    #[test]
    fn its_relatives_are_not_taken_for_it() {
        assert_eq!(read(&ext4(EXT_VALID, EXT_JOURNAL, 0)), Seen::Relative("ext3"));
        assert!(matches!(read(&ext4(EXT_VALID, 0, EXT_EXTENTS)), Seen::Relative(_)));
    }

    #[test]
    fn an_xfs_says_its_size_and_its_sectors() {
        let mut bytes = vec![0; LENGTH];
        bytes[..4].copy_from_slice(XFS_MAGIC);
        bytes[4..8].copy_from_slice(&4096_u32.to_be_bytes());
        bytes[8..16].copy_from_slice(&76_800_u64.to_be_bytes());
        bytes[102..104].copy_from_slice(&512_u16.to_be_bytes());
        let Seen::Known(found) = read(&bytes) else { panic!("an XFS") };
        assert_eq!((found.format, found.size, found.sector_size), (Format::Xfs, 300 << 20, 512));
        bytes[4] = 1;
        assert_eq!(read(&bytes), Seen::Unknown);
    }

    proptest! {
        #[test]
        fn whatever_a_file_holds_is_read_without_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..LENGTH), kind in 0..3) {
            if kind == 1 && bytes.len() > EXT_AT + 60 {
                bytes[EXT_AT + 56..EXT_AT + 58].copy_from_slice(&EXT_MAGIC.to_le_bytes());
            }
            if kind == 2 && bytes.len() > 4 {
                bytes[..4].copy_from_slice(XFS_MAGIC);
            }
            let _ = read(&bytes);
        }
    }
}
