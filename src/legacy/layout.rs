//! Names of objects, and what a listing of them says. Pure.

use std::collections::BTreeSet;

use crate::types::{Generation, Timestamp};

/// One object of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The lineage it belongs to.
    pub generation: Generation,
    /// The number of the log that was current.
    pub index: u32,
    /// What it holds.
    pub part: Part,
    /// Its length in the storage.
    pub size: u64,
    /// When it was stored: the only time there is in this format.
    pub created: Timestamp,
}

/// What an object holds. A snapshot sorts before the slices of its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The database file.
    Snapshot,
    /// Bytes of the log from `offset` on.
    Log {
        /// Where they begin, before compression.
        offset: u64,
    },
}

/// The highest index that any release can have written.
const MAX_INDEX: u32 = 0x7fff_ffff;

impl Item {
    /// Reads a name below `generations/`; `None` if it is not one of the two kinds.
    pub fn parse(name: &str, size: u64, created: Timestamp) -> Option<Self> {
        let (generation, rest) = name.split_once('/')?;
        let generation = generation.parse().ok()?;
        let (folder, file) = rest.split_once('/')?;
        let (index, part) = match folder {
            "snapshots" => (file.strip_suffix(".snapshot.lz4")?, Part::Snapshot),
            "wal" => {
                let (index, offset) = file.strip_suffix(".wal.lz4")?.split_once('_')?;
                (index, Part::Log { offset: hex(offset, 8..=16)? })
            }
            _ => return None,
        };
        let index = u32::try_from(hex(index, 8..=8)?).ok().filter(|index| *index <= MAX_INDEX)?;
        Some(Self { generation, index, part, size, created })
    }

    /// The name below `generations/`.
    pub fn name(&self) -> String {
        let Self { generation, index, .. } = self;
        match self.part {
            Part::Snapshot => format!("{generation}/snapshots/{index:08x}.snapshot.lz4"),
            Part::Log { offset } => format!("{generation}/wal/{index:08x}_{offset:08x}.wal.lz4"),
        }
    }
}

fn hex(digits: &str, length: std::ops::RangeInclusive<usize>) -> Option<u64> {
    let legal = length.contains(&digits.len()) && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if legal { u64::from_str_radix(digits, 16).ok() } else { None }
}

/// From the first to the last object of a generation, in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The lineage.
    pub generation: Generation,
    /// The time of its oldest object.
    pub start: Timestamp,
    /// The time of its newest object.
    pub end: Timestamp,
}

/// The objects of an archive: by generation; in each the snapshots, then the
/// slices, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    items: Vec<Item>,
}

impl Listing {
    /// Puts them in order.
    pub fn new(mut items: Vec<Item>) -> Self {
        items.sort_by_key(|item| (item.generation, item.part != Part::Snapshot, item.index, item.part));
        Self { items }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// All of them.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The snapshots of all generations.
    pub fn snapshots(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| item.part == Part::Snapshot)
    }

    /// The slices of all generations.
    pub fn slices(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| item.part != Part::Snapshot)
    }

    /// The time of the newest object.
    pub fn newest(&self) -> Option<Timestamp> {
        self.items.iter().map(|item| item.created).max()
    }

    /// The generations, the one that began first first.
    pub fn generations(&self) -> Vec<Span> {
        let names: BTreeSet<Generation> = self.items.iter().map(|item| item.generation).collect();
        let mut spans: Vec<Span> = names.into_iter().filter_map(|generation| self.span(generation)).collect();
        spans.sort_by_key(|span| (span.start, span.end));
        spans
    }

    fn span(&self, generation: Generation) -> Option<Span> {
        let times = || self.items.iter().filter(|item| item.generation == generation).map(|item| item.created);
        Some(Span { generation, start: times().min()?, end: times().max()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Option<Item> {
        Item::parse(name, 7, Timestamp::from_millis(9))
    }

    #[test]
    fn names_of_the_official_program_are_read_and_written_alike() {
        for name in [
            "0123456789abcdef/snapshots/00000000.snapshot.lz4",
            "0123456789abcdef/wal/00000000_00000000.wal.lz4",
            "0123456789abcdef/wal/0000001f_00004080.wal.lz4",
            "0123456789abcdef/wal/7fffffff_100000020.wal.lz4",
        ] {
            assert_eq!(parse(name).unwrap().name(), name);
        }
    }

    #[test]
    fn other_names_are_nobodys() {
        for name in [
            "",
            "0123456789abcdef",
            "0123456789abcdef/snapshots/",
            "0123456789ABCDEF/snapshots/00000000.snapshot.lz4",
            "0123456789abcde/snapshots/00000000.snapshot.lz4",
            "0123456789abcdef/snapshots/0000000.snapshot.lz4",
            "0123456789abcdef/snapshots/00000000.snapshot.lz4.tmp",
            "0123456789abcdef/snapshots/80000000.snapshot.lz4",
            "0123456789abcdef/wal/00000000.wal.lz4",
            "0123456789abcdef/wal/00000000_0000000.wal.lz4",
            "0123456789abcdef/wal/00000000_+0000000.wal.lz4",
            "0123456789abcdef/wal/00000000_00000000_00000000.wal.lz4",
            "0123456789abcdef/wal/0000000000000000/0000000000000000.wal.lz4",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    #[test]
    fn offsets_sort_as_numbers() {
        let names =
            ["wal/00000000_100000020.wal.lz4", "wal/00000000_ff000020.wal.lz4", "snapshots/00000003.snapshot.lz4"];
        let items = names.iter().map(|name| parse(&format!("0123456789abcdef/{name}")).unwrap()).collect();
        let listing = Listing::new(items);
        let order: Vec<Part> = listing.items().iter().map(|item| item.part).collect();
        assert_eq!(order, [Part::Snapshot, Part::Log { offset: 0xff00_0020 }, Part::Log { offset: 0x1_0000_0020 }]);
    }
}
