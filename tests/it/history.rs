//! A database whose every state is known, and the segments that tell its history.
//!
//! The model is the list of all states as plain pages. What a restore gives is
//! compared with it byte for byte.
#![allow(clippy::cast_possible_truncation, reason = "the numbers are small")]

use std::sync::Arc;

use brooklet::ltx::{Decoder, Encoder, Encoding, Header, Level, Proof, merge};
use brooklet::replica::{Layout, Replica};
use brooklet::storage::{Body, Key, Put, PutOptions, Storage};
use brooklet::types::{
    Checksum, Generation, PageSize, Pgno, RollingChecksum, Timestamp, Txid, TxidRange, lock_page, page_checksum,
};

/// The time of transaction 1; each later one is a second later.
pub(crate) const START: i64 = 1_700_000_000_000;

pub(crate) fn txid(n: u64) -> Txid {
    Txid::new(n).unwrap()
}

pub(crate) fn range(min: u64, max: u64) -> TxidRange {
    TxidRange::new(txid(min), txid(max)).unwrap()
}

pub(crate) fn time_of(n: u64) -> Timestamp {
    Timestamp::from_millis(START + i64::try_from(n).unwrap() * 1000)
}

/// One segment as it is on a replica.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) level: u8,
    pub(crate) txids: TxidRange,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Clone)]
pub(crate) struct History {
    page_size: PageSize,
    encoding: Encoding,
    /// Whether segments carry the database checksum, as ours do and Litestream's do not.
    pub(crate) proofs: bool,
    states: Vec<Vec<Vec<u8>>>,
    pub(crate) segments: Vec<Stored>,
}

impl History {
    pub(crate) fn new(page_size: u32, proofs: bool, encoding: Encoding) -> Self {
        let page_size = PageSize::new(page_size).unwrap();
        Self { page_size, encoding, proofs, states: Vec::new(), segments: Vec::new() }
    }

    pub(crate) fn end(&self) -> u64 {
        self.states.len() as u64
    }

    /// The file that a restore to transaction `n` must give.
    pub(crate) fn file(&self, n: u64) -> Vec<u8> {
        self.states[n as usize - 1].concat()
    }

    /// The next transaction: some pages changed, then the database has `size`
    /// pages. Pages that grew are filled too. Stored at level 0.
    pub(crate) fn commit(&mut self, changes: impl IntoIterator<Item = (u32, Vec<u8>)>, size: u32) {
        let mut changed = std::collections::BTreeMap::from_iter(changes);
        let mut pages = self.states.last().cloned().unwrap_or_default();
        for grown in pages.len() as u32 + 1..=size {
            changed.entry(grown).or_insert_with(|| vec![0xee; self.page_size.bytes()]);
        }
        changed.remove(&lock_page(self.page_size).get());
        changed.retain(|pgno, _| *pgno <= size);
        pages.resize(size as usize, vec![0; self.page_size.bytes()]);
        for (pgno, page) in &changed {
            pages[*pgno as usize - 1].clone_from(page);
        }
        self.states.push(pages);
        let n = self.end();
        self.store(0, range(n, n), changed.into_keys());
    }

    /// All pages of the database at `n`, at level 9.
    pub(crate) fn snapshot(&mut self, n: u64) {
        let pages = 1..=self.states[n as usize - 1].len() as u32;
        let lock = lock_page(self.page_size).get();
        self.store(9, range(1, n), pages.filter(move |pgno| *pgno != lock));
    }

    /// The merge of the level-0 segments `min` to `max`, at another level.
    pub(crate) fn merge(&mut self, level: u8, min: u64, max: u64) {
        let inputs = (min..=max).map(|n| Decoder::new(self.get(0, range(n, n)).bytes.as_slice()).unwrap()).collect();
        let (bytes, _) = merge(inputs, Vec::new(), range(min, max), self.encoding).unwrap();
        self.segments.push(Stored { level, txids: range(min, max), bytes });
    }

    pub(crate) fn get(&self, level: u8, txids: TxidRange) -> &Stored {
        self.segments.iter().find(|stored| stored.level == level && stored.txids == txids).unwrap()
    }

    pub(crate) fn remove(&mut self, level: u8, txids: TxidRange) {
        self.segments.retain(|stored| stored.level != level || stored.txids != txids);
    }

    fn store(&mut self, level: u8, txids: TxidRange, pages: impl Iterator<Item = u32>) {
        let pages: Vec<u32> = pages.collect();
        let bytes = self.encode(txids, &pages, self.header(txids));
        self.segments.push(Stored { level, txids, bytes });
    }

    /// A segment of those pages as they were at its end.
    pub(crate) fn encode(&self, txids: TxidRange, pages: &[u32], header: Header) -> Vec<u8> {
        self.encode_from(txids.max().get(), pages, header)
    }

    /// A segment of those pages as they were after transaction `n`.
    pub(crate) fn encode_from(&self, n: u64, pages: &[u32], header: Header) -> Vec<u8> {
        let state = &self.states[n as usize - 1];
        let mut encoder = Encoder::new(Vec::new(), header, self.encoding).unwrap();
        for pgno in pages {
            encoder.page(Pgno::new(*pgno).unwrap(), &state[*pgno as usize - 1]).unwrap();
        }
        encoder.finish().unwrap().0
    }

    /// Replaces a segment by one with the same pages and a changed header.
    pub(crate) fn rewrite(&mut self, level: u8, txids: TxidRange, change: impl FnOnce(&mut Header)) {
        let stored = self.get(level, txids);
        let mut decoder = Decoder::new(stored.bytes.as_slice()).unwrap();
        let mut header = *decoder.header();
        let mut pages = Vec::new();
        while let Some(pgno) = decoder.next_page(&mut Vec::new()).unwrap() {
            pages.push(pgno.get());
        }
        change(&mut header);
        let bytes = self.encode(txids, &pages, header);
        self.remove(level, txids);
        self.segments.push(Stored { level, txids, bytes });
    }

    /// Replaces a segment at level 0 by one that holds every page and says so.
    pub(crate) fn rewrite_complete(&mut self, txids: TxidRange) {
        let mut header = self.header(txids);
        header.proof.as_mut().unwrap().before = None;
        let all: Vec<u32> = (1..=header.commit).collect();
        let bytes = self.encode(txids, &all, header);
        self.remove(0, txids);
        self.segments.push(Stored { level: 0, txids, bytes });
    }

    pub(crate) fn header(&self, txids: TxidRange) -> Header {
        let (min, max) = (txids.min().get(), txids.max().get());
        let before = (min > 1).then(|| self.checksum(min - 1));
        Header {
            page_size: self.page_size,
            commit: self.states[max as usize - 1].len() as u32,
            txids,
            timestamp: time_of(max),
            wal: None,
            generation: if self.proofs { Generation::new(0xaf) } else { None },
            proof: self.proofs.then(|| Proof { before, after: self.checksum(max) }),
        }
    }

    pub(crate) fn checksum(&self, n: u64) -> Checksum {
        let lock = lock_page(self.page_size);
        let mut sum = RollingChecksum::default();
        for (page, pgno) in self.states[n as usize - 1].iter().zip(1..) {
            let pgno = Pgno::new(pgno).unwrap();
            if pgno != lock {
                sum.toggle(page_checksum(pgno, page));
            }
        }
        sum.checksum()
    }

    /// Puts all segments into a storage, below `root`.
    pub(crate) async fn replica(&self, storage: Arc<dyn Storage>, root: &str) -> Replica {
        put(&self.segments, storage, root).await
    }
}

/// The replica below `root`, whatever is there.
pub(crate) fn shelf(storage: Arc<dyn Storage>, root: &str) -> Replica {
    Replica::new(root.into(), storage, Key::new(root).unwrap(), Layout::Decimal)
}

pub(crate) async fn put(segments: &[Stored], storage: Arc<dyn Storage>, root: &str) -> Replica {
    let replica = shelf(Arc::clone(&storage), root);
    for stored in segments {
        let key = replica.key(Level::new(stored.level).unwrap(), stored.txids);
        let timestamp = Some(time_of(stored.txids.max().get()));
        let options = PutOptions { how: Put::New, timestamp };
        storage.put(&key, Body::from(stored.bytes.clone()), options).await.unwrap();
    }
    replica
}

/// A page that LZ4 cannot shrink, different for every seed.
pub(crate) fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut page = Vec::with_capacity(size);
    while page.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        page.extend_from_slice(&state.to_le_bytes());
    }
    page.truncate(size);
    page
}
