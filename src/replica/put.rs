//! Putting a segment on the replica once, and noticing another writer.
//!
//! Names are the fence: two writers that both believe they come next want the
//! same name, and a storage gives it to one of them. Who comes second compares.
//! Its own segment there means that an earlier answer was lost. Anything else
//! means that somebody else writes here, and this one must stop for good.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;

use crate::ltx::{Header, Level, Trailer};
use crate::storage::{self, Body, ErrorKind, Key, Put, PutOptions};
use crate::types::{Generation, Timestamp, TxidRange};

use super::Replica;

/// Why a segment is not on the replica.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The name holds another segment.
    #[error(
        "replica {replica} is fenced: {key} was written at {written} by {}: \
         stop one of the two writers, then start again the one that is to go on",
        author(*ours, *theirs)
    )]
    Fenced {
        /// The replica's name.
        replica: String,
        /// The contested name.
        key: Key,
        /// The transactions it stands for.
        txids: TxidRange,
        /// The generation that wanted to write.
        ours: Option<Generation>,
        /// The generation that has written; `None` if it is not brooklet's.
        theirs: Option<Generation>,
        /// The time of the segment that is there.
        written: Timestamp,
    },
    /// The storage says no.
    #[error("{0}")]
    Storage(storage::Error),
}

fn author(ours: Option<Generation>, theirs: Option<Generation>) -> String {
    match theirs {
        None => "a program that is not brooklet".into(),
        Some(theirs) if ours == Some(theirs) => format!("another run of our own generation {theirs}"),
        Some(theirs) => format!("generation {theirs}"),
    }
}

impl From<storage::Error> for PutError {
    fn from(e: storage::Error) -> Self {
        Self::Storage(e)
    }
}

impl Replica {
    /// Puts a segment under its name, or finds that it is there already. `Ok`
    /// means that the name holds these bytes, durably. After
    /// [`PutError::Storage`] it may hold them or not: put the same bytes again,
    /// because other bytes would meet these and look like another writer's.
    pub async fn put_segment(
        &self,
        level: Level,
        txids: TxidRange,
        body: Body,
        timestamp: Timestamp,
    ) -> Result<(), PutError> {
        let key = self.key(level, txids);
        let (body, ends) = Ends::of(body).await?;
        ends.check(&key, txids)?;
        let options = PutOptions { how: Put::New, timestamp: Some(timestamp) };
        match self.storage.put(&key, body, options).await {
            Err(e) if e.kind == ErrorKind::Exists => self.compare(key, txids, ends, e).await,
            outcome => Ok(outcome?),
        }
    }

    /// The name is taken: by us?
    async fn compare(&self, key: Key, txids: TxidRange, ours: Ends, taken: storage::Error) -> Result<(), PutError> {
        let Some((our_header, our_trailer, size)) = ours.known() else {
            let message = format!("{key} is taken, and its new content was not read to the end: list again");
            return Err(storage::Error::new(ErrorKind::Exists, message).caused_by(taken).into());
        };
        let gone = |e: storage::Error| match e.kind {
            // Whoever removed it is at work here, so the name is not ours to try again.
            ErrorKind::Missing => {
                storage::Error::new(ErrorKind::Exists, format!("{key} was taken and is gone: list again"))
            }
            _ => e,
        };
        let head = self.piece(&key, 0..Header::SIZE as u64).await.map_err(gone)?;
        let their_header = Header::decode(&head).map_err(|e| {
            let message = format!("{key} is taken by something that is not a segment: move it away");
            storage::Error::new(ErrorKind::Refused, message).caused_by(e)
        })?;
        if their_header == our_header && self.ends_with(&key, our_trailer, size).await.map_err(gone)? {
            return Ok(());
        }
        Err(PutError::Fenced {
            replica: self.name().to_owned(),
            key,
            txids,
            ours: our_header.generation,
            theirs: their_header.generation,
            written: their_header.timestamp,
        })
    }

    /// Whether the object has this trailer in its last bytes, and this size.
    async fn ends_with(&self, key: &Key, trailer: Trailer, size: u64) -> Result<bool, storage::Error> {
        let unless_shorter = |read: storage::Result<Bytes>| match read {
            Err(e) if e.kind == ErrorKind::Refused => Ok(None),
            read => read.map(Some),
        };
        let tail = unless_shorter(self.piece(key, size - Trailer::SIZE as u64..size).await)?;
        let same = tail.is_some_and(|tail| tail[..] == trailer.encode());
        Ok(same && unless_shorter(self.piece(key, size..size + 1).await)?.is_none())
    }
}

/// The first and last bytes of a body: enough to recognise a segment by.
#[derive(Clone, Debug, Default)]
struct Ends(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    head: Vec<u8>,
    tail: Vec<u8>,
    size: u64,
    complete: bool,
}

impl Ends {
    /// Looks at a body, or arranges to see it pass by.
    async fn of(body: Body) -> Result<(Body, Self), storage::Error> {
        let ends = Self::default();
        let body = match body {
            Body::Bytes(bytes) => {
                ends.see(&bytes);
                ends.see_end();
                Body::Bytes(bytes)
            }
            Body::File(path) => {
                let unreadable = |e: io::Error| {
                    let message = format!("cannot read the segment {} to upload it", path.display());
                    storage::Error::new(ErrorKind::Refused, message).caused_by(e)
                };
                let seen = read_ends(&path).await.map_err(unreadable)?;
                *ends.0.lock().unwrap_or_else(PoisonError::into_inner) = seen;
                Body::File(path)
            }
            Body::Stream(chunks) => {
                let watcher = ends.clone();
                let last = ends.clone();
                let seen = chunks.inspect(move |chunk| {
                    if let Ok(bytes) = chunk {
                        watcher.see(bytes);
                    }
                });
                let end = futures::stream::poll_fn(move |_| {
                    last.see_end();
                    std::task::Poll::Ready(None)
                });
                Body::Stream(seen.chain(end).boxed())
            }
        };
        Ok((body, ends))
    }

    fn see(&self, bytes: &Bytes) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = Header::SIZE - seen.head.len();
        seen.head.extend(bytes.iter().take(wanted));
        seen.tail.extend(&bytes[bytes.len().saturating_sub(Trailer::SIZE)..]);
        let excess = seen.tail.len().saturating_sub(Trailer::SIZE);
        seen.tail.drain(..excess);
        seen.size += bytes.len() as u64;
    }

    fn see_end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).complete = true;
    }

    /// Refuses to give a name to a body that says it is something else. A stream
    /// has said nothing yet.
    fn check(&self, key: &Key, txids: TxidRange) -> Result<(), storage::Error> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.complete {
            return Ok(());
        }
        let refused = |what: String| storage::Error::new(ErrorKind::Refused, format!("not stored as {key}: {what}"));
        let header = Header::decode(&seen.head).map_err(|e| refused("it is not a segment".into()).caused_by(e))?;
        if header.txids != txids {
            return Err(refused(format!("the segment holds transactions {}", header.txids)));
        }
        Ok(())
    }

    /// Header, trailer and size, once all of the body has been seen.
    fn known(&self) -> Option<(Header, Trailer, u64)> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.complete {
            return None;
        }
        let trailer = Trailer::decode(seen.tail.first_chunk()?).ok()?;
        Some((Header::decode(&seen.head).ok()?, trailer, seen.size))
    }
}

async fn read_ends(path: &std::path::Path) -> io::Result<Seen> {
    use tokio::io::{AsyncReadExt, AsyncSeekExt};

    let mut file = tokio::fs::File::open(path).await?;
    let size = file.metadata().await?.len();
    let mut head = Vec::new();
    (&mut file).take(Header::SIZE as u64).read_to_end(&mut head).await?;
    file.seek(io::SeekFrom::Start(size.saturating_sub(Trailer::SIZE as u64))).await?;
    let mut tail = Vec::new();
    file.take(Trailer::SIZE as u64).read_to_end(&mut tail).await?;
    Ok(Seen { head, tail, size, complete: true })
}
