//! Making one segment of several that are on the replica.
//!
//! Always true: the name is given only to a segment whose inputs were read to
//! their ends, verified, and seen to follow each other; what was stored is then
//! seen to end with the checksum of what was made. Until that has happened
//! nobody relies on it. Nothing is staged: memory is bounded by the number of
//! inputs, and grows neither with their size nor with the database, but for a
//! few bytes for each page of the result's index.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::compact::{FAN_IN, Merge};
use super::error::MergeError;
use crate::ltx::{self, Decoder, Encoding, Finished, Header, Level};
use crate::replica::{PutError, Replica, Segment};
use crate::spool::Uploaded;
use crate::storage::{Body, ErrorKind};
use crate::types::TxidRange;

/// Bytes read ahead from all inputs of a merge together.
const READ_AHEAD: u64 = 24 << 20;
/// Bytes read ahead from one input: at least so many, so that small segments are one request each.
const CHUNK: std::ops::RangeInclusive<u64> = 64 << 10..=4 << 20;
/// A result of inputs smaller than this together is made in memory. It can be sent again, and compared.
const IN_MEMORY: u64 = 4 << 20;
/// What is made at a time of a result that is streamed.
const PIECE: usize = 256 << 10;
/// Pieces that wait for the storage.
const PIECES: usize = 8;
/// Inputs of a merge at most, counting the parts of what was uploaded as one: each
/// takes a buffer of [`CHUNK`]'s least size.
const OPEN_AT_ONCE: u64 = 2 * FAN_IN as u64;
/// Headers asked for at once.
const HEADERS_AT_ONCE: usize = 16;

/// Tells work that runs on another thread to end.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was told to.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The headers of segments, in their order.
pub(super) async fn headers(replica: &Replica, segments: &[Segment]) -> Result<Vec<Header>, MergeError> {
    let reads = segments.iter().copied().map(|segment| async move { replica.read_header(&segment).await });
    Ok(stream::iter(reads).buffered(HEADERS_AT_ONCE).try_collect().await?)
}

/// What is known of the inputs of a merge before they are read.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// What they say about themselves, in their order.
    pub(super) headers: Vec<Header>,
    /// What some of them were made of.
    pub(super) uploaded: Uploaded,
}

/// Makes the segment and puts it there.
pub(super) async fn merge(
    replica: &Arc<Replica>,
    merge: &Merge,
    inputs: Inputs,
    encoding: Encoding,
    stop: &Stop,
) -> Result<(Segment, Header), MergeError> {
    follow_each_other(merge, &inputs.headers)?;
    let header = ltx::merged_header(&inputs.headers, merge.txids).map_err(MergeError::of)?;
    let size: u64 = merge.inputs.iter().map(|input| input.size).sum();
    let segments = merge.inputs.iter().copied().zip(inputs.headers).collect();
    let work =
        Work { replica: replica.clone(), segments, uploaded: inputs.uploaded, header, encoding, stop: stop.clone() };
    let finished = if size <= IN_MEMORY {
        let (out, finished) = blocking(move || work.run(Vec::new())).await?;
        replica.put_segment(merge.level, merge.txids, Body::Bytes(out.into()), header.timestamp).await?;
        finished
    } else {
        streamed(replica, merge, header, work).await?
    };
    let segment = Segment { level: merge.level, txids: merge.txids, size: finished.size, created: header.timestamp };
    let trailer = replica.read_trailer(&segment).await?;
    if trailer.file_checksum != finished.file_checksum {
        return Err(MergeError::Stored { segment });
    }
    Ok((segment, header))
}

/// What is to be stored is sent while it is made.
async fn streamed(replica: &Replica, merge: &Merge, header: Header, work: Work) -> Result<Finished, MergeError> {
    let (sender, mut receiver) = mpsc::channel(PIECES);
    let made = tokio::spawn(blocking(move || {
        let mut pieces = Pieces { sender, piece: Vec::new() };
        match work.run(&mut pieces) {
            Ok((_, finished)) => pieces.flush().map(|()| finished).map_err(|e| MergeError::of(ltx::Error::Io(e))),
            Err(error) => {
                // So that the storage does not take the end of the pieces for the end of the segment.
                let broken = io::Error::other("the segment could not be made");
                let _ = pieces.sender.blocking_send(Err(broken));
                Err(error)
            }
        }
    }));
    let body = Body::Stream(stream::poll_fn(move |context| receiver.poll_recv(context)).boxed());
    let put = replica.put_segment(merge.level, merge.txids, body, header.timestamp).await;
    let made = made.await.unwrap_or_else(|error| Err(MergeError::Local(io::Error::other(error))));
    match (put, made) {
        (Ok(()), made) => made,
        // What was made is to blame before the storage that did not get it.
        (Err(_), Err(error)) if !error.is_broken_pipe() => Err(error),
        (Err(PutError::Storage(error)), _) if error.kind == ErrorKind::Exists => adopt(replica, merge, header).await,
        (Err(error), _) => Err(error.into()),
    }
}

/// The name is taken: by this merge, whose answer was lost, or by somebody else.
async fn adopt(replica: &Replica, merge: &Merge, header: Header) -> Result<Finished, MergeError> {
    let found = replica.list(merge.level).await?.into_iter().find(|segment| segment.txids == merge.txids);
    let Some(found) = found else { return Err(MergeError::Gone { key: replica.key(merge.level, merge.txids) }) };
    if replica.read_header(&found).await? != header {
        return Err(MergeError::Taken { segment: found });
    }
    let (replica, segment) = (replica.clone(), found);
    let trailer = blocking(move || {
        let reader = Reader::new(Arc::new(replica), segment, *CHUNK.end(), Stop::default());
        Decoder::new(reader).and_then(Decoder::finish).map_err(MergeError::of)
    });
    let file_checksum = trailer.await?.file_checksum;
    Ok(Finished { size: found.size, file_checksum, pages: 0 })
}

/// Reads a segment from its first byte to its last.
pub(super) async fn verify(replica: &Arc<Replica>, segment: Segment, stop: &Stop) -> Result<(), MergeError> {
    let reader = Reader::new(replica.clone(), segment, *CHUNK.end(), stop.clone());
    blocking(move || Decoder::new(reader).and_then(Decoder::finish).map(drop).map_err(MergeError::of)).await
}

/// Refuses inputs that leave a transaction out. A base that is only renamed is
/// an input by itself.
fn follow_each_other(merge: &Merge, headers: &[Header]) -> Result<(), MergeError> {
    let ranges = headers.iter().enumerate().map(|(at, header)| match at {
        0 if merge.level == Level::SNAPSHOT => TxidRange::new(merge.txids.min(), header.txids.max()),
        _ => Some(header.txids),
    });
    let covered = ltx::check_txids(ranges.flatten()).map_err(MergeError::of)?;
    if covered == merge.txids { Ok(()) } else { Err(MergeError::of(ltx::Error::NothingToMerge)) }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MergeError> + Send + 'static,
) -> Result<T, MergeError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(MergeError::Local(io::Error::other(error))))
}

/// A merge ready to be carried out on a thread of its own.
struct Work {
    replica: Arc<Replica>,
    /// With what each says about itself.
    segments: Vec<(Segment, Header)>,
    uploaded: Uploaded,
    header: Header,
    encoding: Encoding,
    stop: Stop,
}

impl Work {
    fn run<W: Write>(self, out: W) -> Result<(W, Finished), MergeError> {
        let total: u64 = self.segments.iter().map(|(segment, _)| segment.size).sum();
        let mut decoders = Vec::with_capacity(self.segments.len());
        for (segment, header) in &self.segments {
            if let Some(parts) = self.here(segment, header, decoders.len()) {
                decoders.extend(parts);
                continue;
            }
            let share = u128::from(READ_AHEAD) * u128::from(segment.size) / u128::from(total.max(1));
            let chunk = u64::try_from(share).unwrap_or(*CHUNK.end()).clamp(*CHUNK.start(), *CHUNK.end());
            let reader = Reader::new(self.replica.clone(), *segment, chunk, self.stop.clone());
            let decoder = Decoder::new(Source::There(reader)).map_err(MergeError::of)?;
            if decoder.header() != header {
                let reason = "it is not the one that was read before";
                return Err(MergeError::of(ltx::Error::Header { reason }));
            }
            decoders.push(decoder);
        }
        ltx::merge(decoders, out, self.header.txids, self.encoding).map_err(MergeError::of)
    }

    /// What a segment was made of, if it is still on this machine: seen to be what
    /// became that segment by its checksums of the database before and after.
    fn here(&self, segment: &Segment, header: &Header, open: usize) -> Option<Vec<Decoder<Source>>> {
        let txid = segment.txids.max();
        if segment.level != Level::L0 || self.uploaded.parts(txid)? + open as u64 > OPEN_AT_ONCE {
            return None;
        }
        let files = self.uploaded.open(txid)?.into_iter();
        let decoders = files.map(|file| Decoder::new(Source::Here(file))).collect::<Result<Vec<_>, _>>().ok()?;
        let headers: Vec<Header> = decoders.iter().map(|decoder| *decoder.header()).collect();
        (ltx::merged_header(&headers, segment.txids).ok()? == *header).then_some(decoders)
    }
}

/// Where an input is read from.
enum Source {
    Here(BufReader<File>),
    There(Reader),
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Here(file) => file.read(buffer),
            Self::There(replica) => replica.read(buffer),
        }
    }
}

/// A segment on the replica as a reader, for threads that may wait.
struct Reader {
    replica: Arc<Replica>,
    segment: Segment,
    chunk: u64,
    stop: Stop,
    runtime: Handle,
    ahead: Bytes,
    next: u64,
}

impl Reader {
    /// Needs a tokio runtime around it.
    fn new(replica: Arc<Replica>, segment: Segment, chunk: u64, stop: Stop) -> Self {
        Self { replica, segment, chunk, stop, runtime: Handle::current(), ahead: Bytes::new(), next: 0 }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ahead.is_empty() {
            if self.stop.is_stopped() {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the program is stopping"));
            }
            let end = (self.next + self.chunk).min(self.segment.size);
            if end == self.next {
                return Ok(0);
            }
            let read = self.runtime.block_on(self.replica.read(&self.segment, self.next..end));
            self.ahead = read.map_err(io::Error::other)?;
            self.next = end;
        }
        let taken = self.ahead.split_to(self.ahead.len().min(buffer.len()));
        buffer[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

/// Sends what is written, piece by piece.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece);
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the storage takes no more");
        self.sender.blocking_send(Ok(piece.into())).map_err(gone)
    }
}
