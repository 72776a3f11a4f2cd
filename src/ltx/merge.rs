//! Several segments into one: the newest version of each page wins, pages past
//! the end of the database are dropped.
//!
//! Always true: the result brings a database to the same state as its inputs
//! applied one after the other, or there is no result. In particular a page
//! that one input cut off and no later one wrote again is never brought back
//! from an earlier one. Memory: one page and its payload for each input.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read, Write};

use crate::types::{Pgno, TxidRange, lock_page};

use super::numbering::following;
use super::{Decoder, Encoder, Encoding, Error, Finished, Header, Proof, WalSpan};

/// Merges `inputs`, oldest first, into one segment over `txids`. They must have
/// one page size and their proofs must meet; their TXIDs do not matter, because
/// what waits locally is numbered only when it is uploaded. For segments from a
/// replica see [`check_txids`]. A single input is renumbered.
pub fn merge<R: Read, W: Write>(
    mut inputs: Vec<Decoder<R>>,
    out: W,
    txids: TxidRange,
    encoding: Encoding,
) -> Result<(W, Finished), Error> {
    let headers: Vec<Header> = inputs.iter().map(|input| *input.header()).collect();
    let header = merged_header(&headers, txids)?;
    let mut encoder = Encoder::new(out, header, encoding)?;
    let mut alive = Alive::new(&headers, header.commit);
    let mut pages = vec![Vec::new(); inputs.len()];

    // The lowest page first, and of that page the newest version.
    let mut heads = BinaryHeap::with_capacity(inputs.len());
    for (i, (input, page)) in inputs.iter_mut().zip(&mut pages).enumerate() {
        heads.extend(input.next_page(page)?.map(|pgno| Reverse((pgno, Reverse(i)))));
    }
    let mut written: Option<Pgno> = None;
    while let Some(Reverse((pgno, Reverse(i)))) = heads.pop() {
        if written != Some(pgno) && pgno.get() <= header.commit {
            alive.push(pgno, i)?;
            match inputs[i].payload() {
                Some((stored, payload)) if stored == encoding => {
                    encoder.page_compressed(pgno, &pages[i], payload)?;
                }
                _ => encoder.page(pgno, &pages[i])?,
            }
            written = Some(pgno);
        }
        heads.extend(inputs[i].next_page(&mut pages[i])?.map(|pgno| Reverse((pgno, Reverse(i)))));
    }
    // The heap is empty, so every input has returned `None`: all are verified.
    alive.finish()?;
    encoder.finish()
}

/// The header of the merge of segments with these headers, oldest first.
pub fn merged_header(headers: &[Header], txids: TxidRange) -> Result<Header, Error> {
    let (first, rest) = headers.split_first().ok_or(Error::NothingToMerge)?;
    let mut merged = Header { txids, ..*first };
    for (next, position) in rest.iter().zip(1..) {
        if next.page_size != merged.page_size {
            return Err(Error::PageSizes { position, expected: merged.page_size, found: next.page_size });
        }
        // Neighbours are compared even if the result will have no proof.
        check_link(&headers[position - 1], next, position)?;
        merged = Header {
            proof: joined_proof(merged.proof, next.proof),
            wal: joined_span(merged.wal, next.wal),
            txids,
            ..*next
        };
    }
    Ok(merged)
}

fn check_link(older: &Header, newer: &Header, position: usize) -> Result<(), Error> {
    if let (Some(Proof { after, .. }), Some(Proof { before: Some(before), .. })) = (older.proof, newer.proof)
        && before != after
    {
        return Err(Error::Unlinked { position, after, before });
    }
    Ok(())
}

fn joined_proof(older: Option<Proof>, newer: Option<Proof>) -> Option<Proof> {
    Some(Proof { before: older?.before, after: newer?.after })
}

/// One span if the second begins where the first ends in the same run of the
/// WAL, else the newer one.
fn joined_span(older: Option<WalSpan>, newer: Option<WalSpan>) -> Option<WalSpan> {
    match (older, newer) {
        (Some(older), Some(newer))
            if older.salts == newer.salts && older.offset.checked_add(older.size) == Some(newer.offset) =>
        {
            Some(WalSpan { size: older.size.checked_add(newer.size)?, ..older })
        }
        _ => newer,
    }
}

/// Checks that segments from a replica, oldest first, leave no transaction out,
/// and gives the range they cover. They may overlap, but each must reach
/// further than the one before.
pub fn check_txids(ranges: impl IntoIterator<Item = TxidRange>) -> Result<TxidRange, Error> {
    let mut ranges = ranges.into_iter();
    let mut covered = ranges.next().ok_or(Error::NothingToMerge)?;
    for next in ranges {
        let gap = Error::Gap { reached: covered.max(), next };
        if next.max() <= covered.max() || next.min().get() - 1 > covered.max().get() {
            return Err(gap);
        }
        covered = TxidRange::new(covered.min(), next.max()).ok_or(gap)?;
    }
    Ok(covered)
}

/// Watches that no page comes back from the dead. A version of page `p` is dead
/// if a newer input ends below `p`; pages above the lowest end of all inputs
/// but the last must therefore be there, in a version that is alive.
struct Alive {
    /// For each input, the lowest end among the newer ones.
    floors: Vec<u32>,
    lock: u32,
    commit: u32,
    expected: Option<u32>,
}

impl Alive {
    fn new(headers: &[Header], commit: u32) -> Self {
        let mut floors = vec![u32::MAX; headers.len()];
        let mut floor = u32::MAX;
        for (slot, header) in floors.iter_mut().zip(headers).rev() {
            *slot = floor;
            floor = floor.min(header.commit);
        }
        let lock = headers.first().map_or(0, |header| lock_page(header.page_size).get());
        // Whatever lies above the lowest end was written after that input.
        Self { floors, lock, commit, expected: following(floor, lock) }
    }

    fn push(&mut self, pgno: Pgno, input: usize) -> Result<(), Error> {
        let number = pgno.get();
        if let Some(expected) = self.expected.filter(|expected| number >= *expected) {
            if number > expected {
                return Err(Error::Lost { pgno: expected });
            }
            self.expected = following(number, self.lock);
        }
        if self.floors[input] < number {
            return Err(Error::Lost { pgno: number });
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), Error> {
        match self.expected {
            Some(pgno) if pgno <= self.commit => Err(Error::Lost { pgno }),
            _ => Ok(()),
        }
    }
}
