//! Many objects, one after the other, fetched ahead of whoever reads them.
//!
//! Always true: an object that cannot be fetched does not keep the others from
//! being read; its reader gets the storage's reason. Memory is a few pieces.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures::{StreamExt, stream};
use tokio::sync::mpsc;

use crate::replica::Replica;
use crate::storage::{self, Key, Storage};

/// The most bytes in one request.
const PIECE: u64 = 512 << 10;

/// Requests at a time: an audit is in no hurry, and others use the storage too.
const AT_ONCE: usize = 6;

/// Where to read something, and how long it is said to be.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: Key,
    pub(super) size: u64,
}

struct Piece {
    place: usize,
    bytes: storage::Result<Bytes>,
}

/// Runs `consume` on a thread of its own while the places are fetched in order.
pub(super) async fn read_all<T: Send + 'static>(
    replica: &Replica,
    places: Vec<Place>,
    consume: impl FnOnce(&mut Objects) -> T + Send + 'static,
) -> T {
    let (sender, pieces) = mpsc::channel(2);
    let sizes = places.iter().map(|place| place.size).collect();
    let mut objects = Objects { pieces, next: 0, waiting: None, sizes };
    let consuming = tokio::task::spawn_blocking(move || consume(&mut objects));
    let requests = places.into_iter().enumerate().flat_map(|(at, Place { key, size })| {
        // An empty object has no bytes to ask for, only a name.
        starts(size).map(move |start| (at, key.clone(), start..size.min(start + PIECE)))
    });
    let storage = replica.storage();
    let mut fetched = std::pin::pin!(
        stream::iter(requests)
            .map(|(place, key, range)| {
                let storage = Arc::clone(storage);
                async move { Piece { place, bytes: get(&storage, &key, range).await } }
            })
            .buffered(AT_ONCE)
    );
    while let Some(piece) = fetched.next().await {
        if sender.send(piece).await.is_err() {
            break;
        }
    }
    drop(sender);
    match consuming.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => unreachable!("a task was cancelled: {error}"),
        },
    }
}

fn starts(size: u64) -> impl Iterator<Item = u64> {
    (0..size).step_by(usize::try_from(PIECE).unwrap_or(usize::MAX))
}

async fn get(storage: &Arc<dyn Storage>, key: &Key, range: Range<u64>) -> storage::Result<Bytes> {
    let wanted = range.end - range.start;
    let bytes = storage.get(key, range).await?;
    if bytes.len() as u64 == wanted { Ok(bytes) } else { Err(storage::Error::cut_short(key, wanted, bytes.len())) }
}

/// The objects as they arrive.
pub(super) struct Objects {
    pieces: mpsc::Receiver<Piece>,
    next: usize,
    waiting: Option<Piece>,
    sizes: Vec<u64>,
}

impl Objects {
    /// The next one; to be called once for each place.
    pub(super) fn next(&mut self) -> Object<'_> {
        let place = self.next;
        self.next += 1;
        let left = self.sizes.get(place).copied().unwrap_or(0);
        Object { objects: self, place, current: Bytes::new(), left, failed: None }
    }

    /// The next piece of a place, unless there are none left.
    fn piece(&mut self, place: usize) -> Option<storage::Result<Bytes>> {
        loop {
            let piece = match self.waiting.take() {
                Some(piece) => piece,
                None => self.pieces.blocking_recv()?,
            };
            match piece.place {
                // What a reader did not want of an earlier one.
                earlier if earlier < place => {}
                same if same == place => return Some(piece.bytes),
                _ => {
                    self.waiting = Some(piece);
                    return None;
                }
            }
        }
    }
}

/// One object being read.
pub(super) struct Object<'a> {
    objects: &'a mut Objects,
    place: usize,
    current: Bytes,
    left: u64,
    failed: Option<storage::Error>,
}

impl Object<'_> {
    /// Why it could not be fetched, if that is so.
    pub(super) fn failure(&mut self) -> Option<storage::Error> {
        self.failed.take()
    }
}

impl Read for Object<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.failed.is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        while self.current.is_empty() {
            if self.left == 0 {
                return Ok(0);
            }
            match self.objects.piece(self.place) {
                Some(Ok(bytes)) => self.current = bytes,
                Some(Err(error)) => {
                    self.failed = Some(error);
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                None => return Ok(0),
            }
            self.left = self.left.saturating_sub(self.current.len() as u64);
        }
        let size = out.len().min(self.current.len());
        self.current.copy_to_slice(&mut out[..size]);
        Ok(size)
    }
}
