//! Makes a replica for measuring restores: a base of an existing database and many
//! small segments after it, as a busy day without merging leaves them.
//!
//! ```text
//! segments DATABASE REPLICA COUNT PAGES
//! ```
//!
//! Each segment changes `PAGES` pages somewhere, never page 1. Prints the pages of
//! the database and the bytes of the replica as JSON.
#![allow(clippy::unwrap_used, reason = "a tool for measurements may stop at the first surprise")]

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use brooklet::ltx::{Encoder, Encoding, Header, Proof, file_name};
use brooklet::types::{
    Checksum, Generation, PageSize, Pgno, RollingChecksum, Timestamp, Txid, TxidRange, lock_page, page_checksum,
};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [database, replica, count, changes] = words.as_slice() else {
        panic!("segments DATABASE REPLICA COUNT PAGES");
    };
    let mut bytes = Vec::new();
    File::open(database).unwrap().read_to_end(&mut bytes).unwrap();
    let size = u32::from(u16::from_be_bytes([bytes[16], bytes[17]]));
    let page_size = PageSize::new(if size == 1 { 65536 } else { size }).unwrap();
    let pages = u32::try_from(bytes.len() / page_size.bytes()).unwrap();
    let folder = Path::new(replica).join("ltx/0");
    fs::create_dir_all(&folder).unwrap();
    let mut history = History { bytes, page_size, pages, sum: RollingChecksum::default(), written: 0 };
    for pgno in history.numbers() {
        history.sum.toggle(history.checksum(pgno));
    }
    let all: Vec<Pgno> = history.numbers().collect();
    history.store(&folder, 1, &all, None);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for n in 2..=count.parse::<u64>().unwrap() + 1 {
        let before = history.sum.checksum();
        let mut changed: Vec<Pgno> = (0..changes.parse::<u32>().unwrap())
            .filter_map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let number = 2 + u32::try_from(random % u64::from(pages - 1)).unwrap();
                Pgno::new(number).filter(|pgno| *pgno != lock_page(page_size))
            })
            .collect();
        changed.sort_unstable();
        changed.dedup();
        for pgno in &changed {
            history.change(*pgno, n);
        }
        history.store(&folder, n, &changed, Some(before));
    }
    println!("{{\"pages\": {pages}, \"replica_bytes\": {}}}", history.written);
}

struct History {
    bytes: Vec<u8>,
    page_size: PageSize,
    pages: u32,
    sum: RollingChecksum,
    written: u64,
}

impl History {
    fn numbers(&self) -> impl Iterator<Item = Pgno> + use<> {
        let lock = lock_page(self.page_size);
        (1..=self.pages).filter_map(Pgno::new).filter(move |pgno| *pgno != lock)
    }

    fn place(&self, pgno: Pgno) -> std::ops::Range<usize> {
        let start = usize::try_from(pgno.offset(self.page_size)).unwrap();
        start..start + self.page_size.bytes()
    }

    fn checksum(&self, pgno: Pgno) -> Checksum {
        page_checksum(pgno, &self.bytes[self.place(pgno)])
    }

    fn change(&mut self, pgno: Pgno, n: u64) {
        self.sum.toggle(self.checksum(pgno));
        let end = self.place(pgno).end;
        self.bytes[end - 8..end].copy_from_slice(&n.to_be_bytes());
        self.sum.toggle(self.checksum(pgno));
    }

    fn store(&mut self, folder: &Path, n: u64, pages: &[Pgno], before: Option<Checksum>) {
        let txids = TxidRange::single(Txid::new(n).unwrap());
        let header = Header {
            page_size: self.page_size,
            commit: self.pages,
            txids,
            timestamp: Timestamp::from_millis(1_700_000_000_000 + i64::try_from(n).unwrap() * 1000),
            wal: None,
            generation: Generation::new(0xaf),
            proof: Some(Proof { before, after: self.sum.checksum() }),
        };
        let mut encoder = Encoder::new(Vec::new(), header, Encoding::Block).unwrap();
        for pgno in pages {
            encoder.page(*pgno, &self.bytes[self.place(*pgno)]).unwrap();
        }
        let (segment, finished) = encoder.finish().unwrap();
        self.written += finished.size;
        fs::write(folder.join(file_name(txids)), segment).unwrap();
    }
}
