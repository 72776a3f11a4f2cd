//! The bytes of many objects, one after the other, fetched ahead of the reader.
//!
//! Always true: what is held is a few pieces of half a megabyte, however large
//! the objects are. The reader runs on a thread of its own, because unpacking
//! takes time; it sees a transfer that broke as an end that comes too early, and
//! whoever feeds it knows better.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use futures::{StreamExt, stream};
use tokio::sync::mpsc;

use super::error::Error;
use super::{Archive, Item};
use crate::storage;

/// The most bytes in one request: large enough that the transfer takes longer
/// than the request's way there and back.
const PIECE: u64 = 512 << 10;

/// Pieces that wait for the reader, besides those that are under way.
const WAITING: usize = 2;

/// Sends the objects' bytes, in order, until all are sent or nobody listens.
pub async fn feed(
    archive: &Archive,
    items: impl IntoIterator<Item = Item>,
    parallelism: usize,
    sender: mpsc::Sender<Bytes>,
) -> Result<(), Error> {
    let pieces = items.into_iter().flat_map(|item| {
        let starts = (0..item.size).step_by(usize::try_from(PIECE).unwrap_or(usize::MAX));
        starts.map(move |start| (item, start..item.size.min(start + PIECE)))
    });
    let fetched = stream::iter(pieces).map(|(item, range)| async move {
        let key = archive.key(&item);
        let wanted = range.end - range.start;
        let bytes = archive.storage.get(&key, range).await?;
        if bytes.len() as u64 != wanted {
            return Err(Error::from(storage::Error::cut_short(&key, wanted, bytes.len())));
        }
        Ok(bytes)
    });
    let mut fetched = std::pin::pin!(fetched.buffered(parallelism.clamp(1, 64)));
    while let Some(bytes) = fetched.next().await {
        if sender.send(bytes?).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The other end of [`feed`].
pub struct Arrivals {
    pieces: mpsc::Receiver<Bytes>,
    current: Bytes,
    left: u64,
}

impl Arrivals {
    /// A reader and the sender that feeds it.
    pub fn channel() -> (mpsc::Sender<Bytes>, Self) {
        let (sender, pieces) = mpsc::channel(WAITING);
        (sender, Self { pieces, current: Bytes::new(), left: 0 })
    }

    /// The next object, in the order in which they are fed. What the one before
    /// it left unread is skipped, which happens only if it was damaged.
    pub fn object(&mut self, size: u64) -> io::Result<&mut Self> {
        io::copy(self, &mut io::sink())?;
        self.left = size;
        Ok(self)
    }
}

impl Read for Arrivals {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(bytes) => self.current = bytes,
                None => {
                    self.left = 0;
                    return Ok(0);
                }
            }
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let size = out.len().min(self.current.len()).min(left);
        self.current.copy_to_slice(&mut out[..size]);
        self.left -= size as u64;
        Ok(size)
    }
}
