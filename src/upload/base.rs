//! A base: the whole database, read while it is sent.
//!
//! Always true: nothing of it is kept, neither in memory nor on disk, and what
//! could not be read from the database is never taken for a whole object.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::{self, Stream};

use super::{Error, Uploader};
use crate::capture::{Base, BaseReader};
use crate::ltx::Level;
use crate::replica::Segment;
use crate::storage::Body;
use crate::types::{Txid, TxidRange};

impl Uploader {
    /// Puts a base above everything that the replica holds. Where its history has
    /// a hole, a snapshot that spans all of it follows, so that restores need not
    /// cross the hole.
    ///
    /// # Errors
    /// Why not; a new base is then needed.
    pub async fn put_base(&mut self, base: Base) -> Result<(), Error> {
        let Some(standing) = self.standing.as_ref().filter(|_| self.history == Some(base.generation())) else {
            return Err(Error::Base("a new history has begun meanwhile".to_owned()));
        };
        let txid = Txid::after(standing.position);
        let broken = standing.position.is_some() && !standing.whole;
        // Whatever goes wrong, the next look tells what arrived: a base is not read a second time in the same state.
        self.forget();
        self.claim(txid)?;
        self.put_complete(&base, Level::L0, TxidRange::single(txid)).await?;
        self.wrote = Some(txid);
        if broken {
            let all = TxidRange::new(Txid::FIRST, txid).expect("the first TXID is the lowest");
            self.put_complete(&base, Level::SNAPSHOT, all).await?;
        }
        self.confirm(txid, base.point().seq, base.timestamp());
        Ok(())
    }

    async fn put_complete(&mut self, base: &Base, level: Level, txids: TxidRange) -> Result<(), Error> {
        let reader = base.encode(txids, Some(self.encoding)).map_err(|e| Error::Base(e.chain()))?;
        let sent = Arc::new(Sent::default());
        let body = Body::Stream(Box::pin(pieces(reader, sent.clone())));
        let put = self.replica.put_segment(level, txids, body, base.timestamp()).await;
        if let Some(trouble) = sent.trouble.lock().expect("no holder of this lock panics").take() {
            return Err(Error::Base(trouble));
        }
        self.note_fence(put)?;
        let size = sent.bytes.load(Ordering::Relaxed);
        self.shelf.put(Segment { level, txids, size, created: base.timestamp() }, base.header(txids));
        Ok(())
    }
}

/// What became of a base on its way.
#[derive(Default)]
struct Sent {
    bytes: AtomicU64,
    /// Why the database could not be read.
    trouble: Mutex<Option<String>>,
}

/// The base in pieces, each read when the storage asks for it.
fn pieces(reader: BaseReader, sent: Arc<Sent>) -> impl Stream<Item = io::Result<Bytes>> + use<> {
    stream::unfold(Some(reader), move |reader| {
        let sent = sent.clone();
        async move {
            let mut reader = reader?;
            let piece = tokio::task::spawn_blocking(move || {
                let piece = reader.piece();
                (piece, reader)
            });
            match piece.await {
                Ok((Ok(Some(bytes)), reader)) => {
                    sent.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    Some((Ok(Bytes::from(bytes)), Some(reader)))
                }
                Ok((Ok(None), _)) => None,
                Ok((Err(error), _)) => {
                    let text = error.chain();
                    *sent.trouble.lock().expect("no holder of this lock panics") = Some(text.clone());
                    Some((Err(io::Error::other(text)), None))
                }
                Err(error) => Some((Err(io::Error::other(error)), None)),
            }
        }
    })
}
