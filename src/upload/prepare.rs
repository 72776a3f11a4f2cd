//! Spooled segments, merged into the one object that goes up next.
//!
//! Always true: the object holds what its inputs hold, each of which was read to
//! its end and verified; however many there are, no more than `FAN_IN` are open
//! at a time. A crash leaves scratch files, which the spool removes when it opens.

use std::io::{BufReader, BufWriter, Read};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::durable::Draft;
use crate::ltx::{self, Decoder, Encoding, Level};
use crate::replica::Segment;
use crate::spool::{Seq, Spool, Spooled};
use crate::storage::Body;
use crate::types::{Timestamp, Txid, TxidRange};

/// Most segments that are merged at a time: each costs an open file, a buffer and a page.
const FAN_IN: usize = 64;
/// Most segments that go into one object: two rounds of merging.
pub(super) const BATCH_SEGMENTS: usize = FAN_IN * FAN_IN;
/// Objects made of fewer spooled bytes than this are built in memory, others on disk.
const IN_MEMORY: u64 = 8 << 20;
/// What is read from or written to a file at a time.
const BUFFER: usize = 64 * 1024;

/// An object, ready to be put.
pub(super) struct Prepared {
    pub(super) txid: Txid,
    /// The newest segment in it.
    pub(super) through: Seq,
    /// All that are in it.
    pub(super) made_of: Vec<Spooled>,
    pub(super) timestamp: Timestamp,
    pub(super) header: ltx::Header,
    size: u64,
    body: Content,
}

enum Content {
    Memory(Bytes),
    Disk(Draft),
}

impl Prepared {
    pub(super) fn segment(&self) -> Segment {
        let txids = TxidRange::single(self.txid);
        Segment { level: Level::L0, txids, size: self.size, created: self.timestamp }
    }

    pub(super) fn body(&self) -> Body {
        match &self.body {
            Content::Memory(bytes) => Body::Bytes(bytes.clone()),
            Content::Disk(draft) => Body::File(PathBuf::from(draft.path())),
        }
    }

    /// Whether it can be put again.
    pub(super) fn is_at_hand(&self) -> bool {
        match &self.body {
            Content::Memory(_) => true,
            Content::Disk(draft) => draft.path().exists(),
        }
    }
}

/// Why spooled segments did not become an object.
pub(super) enum Unprepared {
    /// They are damaged or gone, up to and including `through`.
    Unusable { through: Seq, error: ltx::Error },
    /// Something else failed, which says nothing about them: no room, too many open files.
    Passing(ltx::Error),
}

/// Merges spooled segments into one object for `txid`.
pub(super) async fn prepare(
    spool: Arc<Spool>,
    segments: Vec<Spooled>,
    txid: Txid,
    encoding: Encoding,
) -> Result<Prepared, Unprepared> {
    let through = segments.last().map_or(Seq::FIRST, |s| s.seq);
    let work = tokio::task::spawn_blocking(move || merge(&spool, &segments, txid, encoding));
    let error = match work.await {
        Ok(Ok(prepared)) => return Ok(prepared),
        Ok(Err(error)) => error,
        Err(error) => ltx::Error::Io(std::io::Error::other(error)),
    };
    Err(match &error {
        ltx::Error::Io(cause) if cause.kind() != std::io::ErrorKind::NotFound => Unprepared::Passing(error),
        _ => Unprepared::Unusable { through, error },
    })
}

fn merge(spool: &Spool, segments: &[Spooled], txid: Txid, encoding: Encoding) -> Result<Prepared, ltx::Error> {
    let newest = segments.last().ok_or(ltx::Error::NothingToMerge)?;
    let txids = TxidRange::single(txid);
    let bytes: u64 = segments.iter().map(|s| s.size).sum();
    let (header, size, body) = if segments.len() <= FAN_IN {
        let inputs = segments.iter().map(|segment| open(spool, segment)).collect::<Result<_, _>>()?;
        join(spool, inputs, bytes, txids, encoding)?
    } else {
        let groups = segments.chunks(segments.len().div_ceil(FAN_IN).max(FAN_IN));
        let drafts = groups.map(|group| {
            let inputs = group.iter().map(|segment| open(spool, segment)).collect::<Result<_, _>>()?;
            write(spool, inputs, txids, encoding)
        });
        let drafts = drafts.collect::<Result<Vec<_>, _>>()?;
        let reopen = |(_, _, draft): &(ltx::Header, u64, Draft)| {
            let file = std::fs::File::open(draft.path()).map_err(ltx::Error::Io)?;
            Decoder::new(BufReader::with_capacity(BUFFER, file))
        };
        let inputs = drafts.iter().map(reopen).collect::<Result<_, _>>()?;
        let bytes = drafts.iter().map(|(_, size, _)| size).sum();
        join(spool, inputs, bytes, txids, encoding)?
    };
    let (through, timestamp, made_of) = (newest.seq, newest.header.timestamp, segments.to_vec());
    Ok(Prepared { txid, through, made_of, timestamp, header, size, body })
}

/// A segment of the spool, which must be the one that was captured.
fn open(spool: &Spool, segment: &Spooled) -> Result<Decoder<BufReader<std::fs::File>>, ltx::Error> {
    let decoder = Decoder::new(spool.reader(segment.seq).map_err(ltx::Error::Io)?)?;
    match *decoder.header() == segment.header {
        true => Ok(decoder),
        false => Err(ltx::Error::Header { reason: "it is not the one that was captured" }),
    }
}

/// Merges in memory or on disk, as their size asks for.
fn join<R: Read>(
    spool: &Spool,
    inputs: Vec<Decoder<R>>,
    bytes: u64,
    txids: TxidRange,
    encoding: Encoding,
) -> Result<(ltx::Header, u64, Content), ltx::Error> {
    if bytes > IN_MEMORY {
        let (header, size, draft) = write(spool, inputs, txids, encoding)?;
        return Ok((header, size, Content::Disk(draft)));
    }
    let header = merged(&inputs, txids)?;
    let (out, finished) = ltx::merge(inputs, Vec::new(), txids, encoding)?;
    Ok((header, finished.size, Content::Memory(out.into())))
}

/// Merges into a scratch file.
fn write<R: Read>(
    spool: &Spool,
    inputs: Vec<Decoder<R>>,
    txids: TxidRange,
    encoding: Encoding,
) -> Result<(ltx::Header, u64, Draft), ltx::Error> {
    let header = merged(&inputs, txids)?;
    let draft = spool.scratch("upload").map_err(ltx::Error::Io)?;
    let (out, finished) = ltx::merge(inputs, BufWriter::with_capacity(4 * BUFFER, draft), txids, encoding)?;
    let draft = out.into_inner().map_err(|e| ltx::Error::Io(e.into_error()))?;
    Ok((header, finished.size, draft))
}

fn merged<R: Read>(inputs: &[Decoder<R>], txids: TxidRange) -> Result<ltx::Header, ltx::Error> {
    let headers: Vec<ltx::Header> = inputs.iter().map(|input| *input.header()).collect();
    ltx::merged_header(&headers, txids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Point;
    use crate::types::{Checksum, Generation, PageSize, Pgno};

    const PAGE: usize = 512;

    /// A spool of segments that each change one page of a small database; each leads to the checksum of its number.
    fn spool(dir: &std::path::Path, count: u64) -> (Spool, Vec<Spooled>) {
        let (spool, _) = Spool::open(dir, None, 0o700).unwrap();
        let seq = |n: u64| Seq::new(n).unwrap();
        spool.restart(Point { seq: seq(1), checksum: Checksum::from_crc(1), timestamp: None }).unwrap();
        let add = |n: u64| {
            let proof = ltx::Proof { before: Some(Checksum::from_crc(n - 1)), after: Checksum::from_crc(n) };
            let header = ltx::Header {
                page_size: PageSize::new(512).unwrap(),
                commit: 9,
                txids: seq(n).as_txids(),
                timestamp: Timestamp::from_millis(i64::try_from(n).unwrap()),
                wal: None,
                generation: Generation::new(7),
                proof: Some(proof),
            };
            let mut encoder = ltx::Encoder::new(Vec::new(), header, Encoding::Block).unwrap();
            let pgno = Pgno::new(u32::try_from(1 + n % 9).unwrap()).unwrap();
            encoder.page(pgno, &[u8::try_from(n % 256).unwrap(); PAGE]).unwrap();
            let bytes = encoder.finish().unwrap().0;
            let mut draft = spool.draft(seq(n), 0o600).unwrap();
            draft.append(&bytes).unwrap();
            let spooled = Spooled { seq: seq(n), size: bytes.len() as u64, header };
            spool.publish(draft, spooled.clone()).unwrap();
            spooled
        };
        let segments = (2..count + 2).map(add).collect();
        (spool, segments)
    }

    fn files(dir: &std::path::Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn a_long_backlog_becomes_one_object_in_rounds() {
        for count in [1, 64, 65, 128, 400] {
            let dir = tempfile::tempdir().unwrap();
            let (spool, segments) = spool(dir.path(), count);
            let before = files(dir.path());
            let txid = Txid::new(5).unwrap();
            let prepared = merge(&spool, &segments, txid, Encoding::Block).unwrap();
            let Content::Memory(bytes) = &prepared.body else { panic!("it is small") };
            let inputs = segments.iter().map(|s| open(&spool, s).unwrap()).collect();
            let (at_once, _) = ltx::merge(inputs, Vec::new(), TxidRange::single(txid), Encoding::Block).unwrap();
            assert!(*bytes == at_once, "{count}");
            assert_eq!(prepared.header, *Decoder::new(&at_once[..]).unwrap().header(), "{count}");
            assert_eq!((prepared.through.get(), prepared.size), (count + 1, at_once.len() as u64));
            assert_eq!(files(dir.path()), before, "nothing stays behind");
        }
    }

    #[test]
    fn a_segment_that_is_not_the_captured_one_is_not_merged() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, mut segments) = spool(dir.path(), 100);
        segments[80].header.timestamp = Timestamp::from_millis(0);
        assert!(merge(&spool, &segments, Txid::FIRST, Encoding::Block).is_err());
        spool.drop_through(segments[0].seq).unwrap();
        assert!(matches!(
            merge(&spool, &segments, Txid::FIRST, Encoding::Block),
            Err(ltx::Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound
        ));
    }
}
