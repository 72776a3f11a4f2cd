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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::slice::from_ref;

    use proptest::prelude::*;

    use crate::types::{PageSize, Salts};

    use super::super::forge::{header, page, proof, range, segment};
    use super::*;

    type Pages = BTreeMap<u32, Vec<u8>>;

    fn read(file: &[u8]) -> (Header, Pages) {
        let mut decoder = Decoder::new(file).unwrap();
        let (mut pages, mut page) = (Pages::new(), Vec::new());
        while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
            pages.insert(pgno.get(), page.clone());
        }
        (*decoder.header(), pages)
    }

    fn merged(files: &[Vec<u8>], txids: TxidRange, encoding: Encoding) -> Result<Vec<u8>, Error> {
        let inputs = files.iter().map(|file| Decoder::new(&file[..])).collect::<Result<Vec<_>, _>>()?;
        merge(inputs, Vec::new(), txids, encoding).map(|(file, _)| file)
    }

    /// A segment of the database of one version: `(transaction, commit, pages)`.
    fn version(txid: u64, commit: u32, version: u8, numbers: &[u32]) -> Vec<u8> {
        let pages: Vec<_> = numbers.iter().map(|n| (*n, page(*n, version))).collect();
        segment(header(range(txid, txid), commit), &pages, Encoding::Block)
    }

    fn example() -> [Vec<u8>; 3] {
        [version(1, 4, 0xa, &[1, 2, 3, 4]), version(2, 5, 0xb, &[2, 5]), version(3, 3, 0xc, &[1])]
    }

    #[test]
    fn the_newest_page_wins_and_pages_past_the_end_are_dropped() {
        let (header, pages) = read(&merged(&example(), range(1, 3), Encoding::Block).unwrap());
        assert_eq!((header.txids, header.commit), (range(1, 3), 3));
        assert_eq!(pages, [(1, page(1, 0xc)), (2, page(2, 0xb)), (3, page(3, 0xa))].into());
        let (header, pages) = read(&merged(&example()[1..], range(2, 3), Encoding::Frame).unwrap());
        assert_eq!((header.txids, header.commit), (range(2, 3), 3));
        assert_eq!(pages, [(1, page(1, 0xc)), (2, page(2, 0xb))].into());
    }

    /// F12.
    #[test]
    fn a_page_cut_off_by_a_shrink_never_comes_back() {
        let forgot_4 = version(4, 5, 0xd, &[1, 5]);
        let wrote_4 = version(4, 5, 0xd, &[1, 4, 5]);
        let with = |last: &Vec<u8>| merged(&[&example()[..], from_ref(last)].concat(), range(1, 4), Encoding::Block);
        assert!(matches!(with(&forgot_4), Err(Error::Lost { pgno: 4 })));
        assert!(with(&wrote_4).is_ok());
        // The same hole if the dead version is not among the inputs.
        let later = merged(&[example()[2].clone(), forgot_4], range(3, 4), Encoding::Block);
        assert!(matches!(later, Err(Error::Lost { pgno: 4 })));
        // A hole at the very end.
        let forgot_5 = merged(&[example()[2].clone(), version(4, 5, 0xd, &[4])], range(3, 4), Encoding::Block);
        assert!(matches!(forgot_5, Err(Error::Lost { pgno: 5 })));
        // A version that a later shrink would cut off again does not matter.
        let shrunk = merged(
            &[example()[2].clone(), version(4, 5, 0xd, &[5]), version(5, 3, 0xe, &[1])],
            range(3, 5),
            Encoding::Block,
        );
        assert!(shrunk.is_ok());
    }

    #[test]
    fn one_segment_is_renumbered_and_otherwise_stays_as_it_is() {
        let span = WalSpan { offset: 32, size: 536, salts: Salts { first: 1, second: 2 } };
        let original = Header { wal: Some(span), proof: proof(Some(1), 2), ..header(range(7, 7), 9) };
        let file = segment(original, &[(4, page(4, 4)), (9, page(9, 9))], Encoding::Frame);
        let renumbered = merged(from_ref(&file), range(99, 99), Encoding::Frame).unwrap();
        assert_eq!(read(&renumbered), (Header { txids: range(99, 99), ..original }, read(&file).1));
        assert_eq!(renumbered[32..renumbered.len() - 8], file[32..file.len() - 8]);
        assert_eq!(merged(from_ref(&file), range(7, 7), Encoding::Frame).unwrap(), file);
    }

    #[test]
    fn nothing_is_merged_from_nothing() {
        assert!(matches!(merged(&[], range(1, 1), Encoding::Block), Err(Error::NothingToMerge)));
        assert!(matches!(check_txids([]), Err(Error::NothingToMerge)));
    }

    #[test]
    fn a_damaged_input_gives_no_result() {
        for position in 0..3 {
            let mut files = example();
            let last = files[position].len() - 1;
            files[position][last] ^= 1;
            assert!(matches!(merged(&files, range(1, 3), Encoding::Block), Err(Error::FileChecksum { .. })));
        }
    }

    /// F28.
    #[test]
    fn segments_whose_proofs_do_not_meet_are_refused() {
        let with = |proof| Header { proof, ..header(range(2, 2), 5) };
        let merge = |headers: &[Header]| merged_header(headers, range(2, 4)).map(|header| header.proof);
        let (a, b) = (with(proof(Some(1), 2)), with(proof(Some(2), 3)));
        assert_eq!(merge(&[a, b]).unwrap(), proof(Some(1), 3));
        assert!(matches!(merge(&[b, a]), Err(Error::Unlinked { position: 1, .. })));
        // A missing one in the middle shows.
        let c = with(proof(Some(3), 4));
        assert!(matches!(merge(&[a, c]), Err(Error::Unlinked { position: 1, .. })));
        assert!(matches!(merge(&[a, b, b]), Err(Error::Unlinked { position: 2, .. })));
        // A complete segment connects to anything; what follows it must connect.
        let base = with(proof(None, 2));
        assert_eq!(merge(&[base, b]).unwrap(), proof(None, 3));
        assert_eq!(merge(&[c, base, b]).unwrap(), proof(Some(3), 3));
        assert!(merge(&[base, a]).is_err());
        // Without proof on one side there is none on the result, but neighbours with proof still must meet.
        let foreign = with(None);
        assert_eq!(merge(&[foreign, a, b]).unwrap(), None);
        assert_eq!(merge(&[a, foreign, c]).unwrap(), None);
        assert!(merge(&[foreign, b, a]).is_err());
    }

    #[test]
    fn the_result_describes_the_newest_state_and_the_whole_span() {
        let salts = Salts { first: 1, second: 2 };
        let with =
            |offset, size, salts| Header { wal: Some(WalSpan { offset, size, salts }), ..header(range(2, 2), 5) };
        let wal = |headers: &[Header]| merged_header(headers, range(2, 4)).unwrap().wal;
        let (a, b, c) = (with(32, 10, salts), with(42, 5, salts), with(47, 1, salts));
        assert_eq!(wal(&[a, b, c]), Some(WalSpan { offset: 32, size: 16, salts }));
        assert_eq!(wal(&[a, c]), c.wal, "a gap");
        let restarted = with(32, 3, Salts { first: 2, second: 9 });
        assert_eq!(wal(&[a, b, restarted]), restarted.wal);
        let continued_elsewhere = with(42, 5, Salts { first: 2, second: 9 });
        assert_eq!(wal(&[a, continued_elsewhere]), continued_elsewhere.wal);
        assert_eq!(wal(&[a, header(range(2, 2), 5)]), None);
        assert_eq!(wal(&[header(range(2, 2), 5), a]), a.wal);

        let newest = Header { commit: 9, generation: None, ..c };
        let result = merged_header(&[a, newest], range(2, 4)).unwrap();
        assert_eq!(result, Header { txids: range(2, 4), ..newest });
    }

    #[test]
    fn page_sizes_must_agree() {
        let small = header(range(2, 2), 5);
        let large = Header { page_size: PageSize::new(1024).unwrap(), ..small };
        assert!(matches!(
            merged_header(&[small, small, large], range(2, 4)),
            Err(Error::PageSizes { position: 2, .. })
        ));
    }

    #[test]
    fn txids_may_overlap_but_not_leave_a_gap_or_stand_still() {
        let check = |ranges: &[(u64, u64)]| check_txids(ranges.iter().map(|(min, max)| range(*min, *max)));
        assert_eq!(check(&[(5, 5)]).unwrap(), range(5, 5));
        assert_eq!(check(&[(1, 3), (4, 4), (3, 9)]).unwrap(), range(1, 9));
        for refused in [&[(1, 3), (5, 5)][..], &[(1, 3), (2, 3)], &[(1, 3), (1, 2)], &[(2, 2), (1, 1)]] {
            assert!(matches!(check(refused), Err(Error::Gap { .. })), "{refused:?}");
        }
        assert!(check(&[(1, u64::MAX), (2, 3)]).is_err());
    }

    /// What the inputs do to a database, one after the other. `None` for a page
    /// that is part of the database but was written by none of them since it
    /// became so.
    fn applied(segments: &[(u32, Pages)]) -> BTreeMap<u32, Option<Vec<u8>>> {
        let mut database: BTreeMap<u32, Option<Vec<u8>>> = BTreeMap::new();
        let mut end = segments[0].0;
        for (commit, pages) in segments {
            database.retain(|number, _| number <= commit);
            database.extend((end + 1..=*commit).map(|number| (number, None)));
            database.extend(pages.iter().map(|(number, page)| (*number, Some(page.clone()))));
            end = *commit;
        }
        database
    }

    /// Segments of up to nine pages, with holes in their growth now and then.
    fn history() -> impl Strategy<Value = Vec<(u32, Pages)>> {
        let step = (1..9u32, prop::collection::vec(1..9u32, 0..5), prop::option::weighted(0.2, 1..9u32));
        prop::collection::vec(step, 1..7).prop_map(|steps| {
            let mut end = 9;
            (0u8..)
                .zip(steps)
                .map(|(i, (commit, mut numbers, forgotten))| {
                    numbers.extend(end + 1..=commit);
                    numbers.retain(|number| *number <= commit && Some(*number) != forgotten);
                    end = commit;
                    (commit, numbers.into_iter().map(|number| (number, page(number, i))).collect())
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn merging_equals_applying_one_after_the_other(
            history in history(),
            encodings in prop::collection::vec(any::<bool>(), 7),
            to_frames in any::<bool>(),
        ) {
            let encoding = |frames| if frames { Encoding::Frame } else { Encoding::Block };
            let files: Vec<_> = (2u64..)
                .zip(&history)
                .zip(encodings)
                .map(|((txid, (commit, pages)), frames)| {
                    let pages: Vec<_> = pages.clone().into_iter().collect();
                    segment(header(range(txid, txid), *commit), &pages, encoding(frames))
                })
                .collect();
            let txids = range(2, 1 + files.len() as u64);
            let expected = applied(&history);
            let lost = expected.iter().find(|(_, page)| page.is_none()).map(|(number, _)| *number);
            match (merged(&files, txids, encoding(to_frames)), lost) {
                (Ok(file), None) => {
                    let (header, pages) = read(&file);
                    prop_assert_eq!((header.txids, header.commit), (txids, history.last().unwrap().0));
                    let expected: Pages = expected.into_iter().map(|(n, page)| (n, page.unwrap())).collect();
                    prop_assert_eq!(pages, expected);
                }
                (Err(Error::Lost { pgno }), Some(lost)) => prop_assert_eq!(pgno, lost),
                (result, lost) => prop_assert!(false, "{:?} but lost {:?}", result.err(), lost),
            }
        }

        /// Where no page is lost, merging in two steps equals merging at once.
        #[test]
        fn merging_is_associative(history in history(), split in any::<prop::sample::Index>()) {
            let files: Vec<_> = (2u64..)
                .zip(&history)
                .map(|(txid, (commit, pages))| {
                    let pages: Vec<_> = pages.clone().into_iter().collect();
                    segment(header(range(txid, txid), *commit), &pages, Encoding::Block)
                })
                .collect();
            let split = split.index(files.len());
            let at_once = merged(&files, range(2, 9), Encoding::Block);
            if split > 0 && let (Ok(at_once), Ok(older), Ok(newer)) = (
                at_once,
                merged(&files[..split], range(2, 5), Encoding::Block),
                merged(&files[split..], range(6, 9), Encoding::Block),
            ) {
                prop_assert!(merged(&[older, newer], range(2, 9), Encoding::Block).unwrap() == at_once);
            }
        }
    }

    #[test]
    fn many_inputs_that_hold_the_same_page_are_all_read_to_their_end() {
        let files: Vec<_> = (2..102u8).map(|i| version(u64::from(i), 3, i, &[2, 3])).collect();
        let (_, pages) = read(&merged(&files, range(2, 101), Encoding::Block).unwrap());
        assert_eq!(pages, [(2, page(2, 101)), (3, page(3, 101))].into());
    }
}
