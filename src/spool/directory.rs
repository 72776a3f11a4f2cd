//! The directory of a spool: one file a segment, named by its batch.
//!
//! Always true: what is found here is the newest run of segments that connect
//! without a hole. What is damaged, or cut off from that run, is told, so that it
//! can be removed; what merely cannot be read just now is an error.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{Seq, Spooled};
use crate::durable;
use crate::ltx;
use crate::types::TxidRange;

/// What a directory holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) segments: BTreeMap<Seq, Spooled>,
    /// Files that are of no use.
    pub(super) useless: Vec<PathBuf>,
}

/// Looks at every segment in the directory.
pub(super) fn read(dir: &Path) -> io::Result<Found> {
    let (mut segments, mut useless) = (BTreeMap::new(), Vec::new());
    durable::point("spool::list")?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(txids) = name.to_str().and_then(ltx::parse_file_name) else { continue };
        match read_header(&entry.path(), txids)? {
            Some(segment) => drop(segments.insert(segment.seq, segment)),
            None => useless.push(entry.path()),
        }
    }
    let segments = newest_run(segments, |lost| useless.push(path_in(dir, lost.seq)));
    Ok(Found { segments, useless })
}

/// Keeps the newest segments that connect without a hole; tells about the others.
fn newest_run(mut found: BTreeMap<Seq, Spooled>, mut lost: impl FnMut(&Spooled)) -> BTreeMap<Seq, Spooled> {
    let mut start = found.keys().next_back().copied();
    for (seq, segment) in found.iter().rev() {
        let connected = seq.before().and_then(|before| found.get(&before)).is_some_and(|previous| {
            previous.header.generation == segment.header.generation
                && previous.proof().zip(segment.proof()).is_some_and(|((_, after), (before, _))| after == before)
        });
        start = Some(*seq);
        if !connected {
            break;
        }
    }
    let Some(start) = start else { return found };
    let kept = found.split_off(&start);
    found.values().for_each(&mut lost);
    kept
}

/// `None`: damaged. F105: what cannot be read just now is an error instead, as it may be whole.
fn read_header(path: &Path, txids: TxidRange) -> io::Result<Option<Spooled>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut bytes = [0u8; ltx::Header::SIZE];
    match file.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let (Ok(header), Some(seq)) = (ltx::Header::decode(&bytes), Seq::new(txids.max().get())) else { return Ok(None) };
    let segment = Spooled { seq, size, header };
    Ok((segment.header.txids == txids && segment.proof().is_some()).then_some(segment))
}

pub(super) fn path_in(dir: &Path, seq: Seq) -> PathBuf {
    dir.join(ltx::file_name(seq.as_txids()))
}

/// A file that is already gone counts as removed.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match durable::point("spool::remove").and_then(|()| std::fs::remove_file(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{add, open, pending};
    use super::*;
    use crate::spool::Spool;

    /// F105: for want of descriptors, say.
    #[test]
    fn a_segment_that_cannot_be_read_is_not_taken_for_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path());
        (2..=3).for_each(|seq| assert_eq!(add(&spool, seq), 0));
        drop(spool);
        let unreadable = path_in(dir.path(), Seq::new(4).unwrap());
        std::fs::create_dir(&unreadable).unwrap();
        assert!(Spool::open(dir.path(), None, 0o700).is_err());
        std::fs::remove_dir(&unreadable).unwrap();
        assert_eq!(open(dir.path()).newest(), Seq::new(3));
    }

    /// F60: a missing or damaged file cuts off what came before it, and only that.
    #[test]
    fn damage_keeps_what_still_connects() {
        for (damaged, kept) in [(2, vec![3, 4]), (3, vec![4]), (4, vec![2, 3])] {
            let dir = tempfile::tempdir().unwrap();
            let spool = open(dir.path());
            (2..=4).for_each(|seq| assert_eq!(add(&spool, seq), 0));
            std::fs::write(path_in(dir.path(), Seq::new(damaged).unwrap()), b"LTX1 but short").unwrap();
            drop(spool);
            let (spool, opened) = Spool::open(dir.path(), None, 0o700).unwrap();
            assert!(!opened.removed.is_empty());
            assert_eq!(pending(&spool, kept[0] - 1), Some(kept));
        }
    }
}
