//! Places that keep named bytes: the contract, and the backends that honour it.
//!
//! Always true of every backend and wrapper: an object is whole or absent, a
//! listing is in key order, a read returns exactly what was asked for, and of
//! any number of writers creating one name exactly one succeeds. `replica` builds
//! its promises on these four. One suite of tests runs against all of them.
//!
//! Nothing here knows segments, naming or retries: those are one layer up, or a
//! wrapper around the trait.

mod conditions;
mod counted;
mod error;
mod file;
mod key;
mod look_first;
mod memory;
mod progress;
mod retry;
pub mod s3;
mod throttle;

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::types::Timestamp;

pub use conditions::{Conditional, Conditions, Known, PROBE};
pub use counted::{Counted, Counts, Failure, Operation, Snapshot, TIME_BOUNDS};
pub use error::{Error, ErrorKind, Result};
pub use file::FileStorage;
pub use key::{Key, KeyError};
pub use look_first::LookFirst;
pub use memory::MemoryStorage;
pub use progress::Progress;
pub use retry::{Dice, Retry};
pub use throttle::{Pace, Throttle};

/// The objects in one page of a listing: what S3 returns at most.
pub const LIST_PAGE: usize = 1000;

/// A place that keeps named bytes. No retries, no naming scheme, no segments.
///
/// While a request moves bytes it says so through `Progress::current`, at least
/// every few seconds: a request that says nothing for 20 seconds is taken for dead.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// What kind of place this is, as configuration names it: `file`, `s3`.
    fn kind(&self) -> &'static str;

    /// The first `LIST_PAGE` of the objects in the folder `prefix` and its
    /// subfolders that sort after `after`, in key order (byte order of the whole
    /// key). Fewer than that, or none, means that there are no more: a backend
    /// whose own pages are shorter fetches several. A folder that does not exist
    /// is empty. Unfinished uploads are not objects.
    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>>;

    /// Exactly these bytes of one object, or an error: never fewer. `Missing`
    /// when there is no such object, also for an empty range; `Refused` when the
    /// object ends before the range does.
    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes>;

    /// The whole body or nothing: no reader ever sees half an object, and after
    /// success it survives power loss. `Put::New` refuses with `Exists` if the
    /// key is taken, and leaves what is there alone; `Put::Replace` does not look.
    /// After any other error the object may or may not have been stored. A body
    /// that ends in an error is not stored.
    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()>;

    /// Removes the keys. A key that is already gone counts as removed. After an
    /// error some may be gone and some not.
    async fn delete(&self, keys: &[Key]) -> Result<()>;

    /// Removes what unfinished puts into the folder `prefix` left behind before
    /// `before`, if it is not gone by itself. Returns how many. Objects are not touched.
    async fn tidy(&self, prefix: &Key, before: Timestamp) -> Result<u64> {
        let _ = (prefix, before);
        Ok(0)
    }

    /// Gives the free name `to` the content and the time of `from`, without moving
    /// it through this machine. `false`: this storage cannot, and nothing happened.
    /// Refuses with `Exists` if `to` is taken.
    async fn copy(&self, from: &Key, to: &Key) -> Result<bool> {
        let _ = (from, to);
        Ok(false)
    }

    /// The time that was given when an object was put, if it is kept beside it.
    async fn timestamp(&self, key: &Key) -> Result<Option<Timestamp>> {
        let _ = key;
        Ok(None)
    }
}

/// Wrappers take what they wrap by value; this lets them share it.
#[async_trait]
impl<S: Storage + ?Sized> Storage for Arc<S> {
    fn kind(&self) -> &'static str {
        (**self).kind()
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        (**self).list(prefix, after).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        (**self).get(key, range).await
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        (**self).put(key, body, options).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        (**self).delete(keys).await
    }

    async fn tidy(&self, prefix: &Key, before: Timestamp) -> Result<u64> {
        (**self).tidy(prefix, before).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<bool> {
        (**self).copy(from, to).await
    }

    async fn timestamp(&self, key: &Key) -> Result<Option<Timestamp>> {
        (**self).timestamp(key).await
    }
}

/// What to store.
pub enum Body {
    /// Bytes at hand.
    Bytes(Bytes),
    /// The content of a local file, which nobody changes meanwhile.
    File(PathBuf),
    /// Bytes as they come. Cannot be sent a second time.
    Stream(BoxStream<'static, io::Result<Bytes>>),
}

impl Body {
    /// The same body again, if it can be had a second time.
    pub fn again(&self) -> Option<Self> {
        match self {
            Self::Bytes(bytes) => Some(Self::Bytes(bytes.clone())),
            Self::File(path) => Some(Self::File(path.clone())),
            Self::Stream(_) => None,
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// Whether a put may meet an object of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The name must be free.
    New,
    /// Whatever is there gives way.
    Replace,
}

/// How to store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutOptions {
    /// Whether the name must be free.
    pub how: Put,
    /// The time of the content, kept beside it where the storage can (mtime,
    /// object metadata). `None`: the time of storing.
    pub timestamp: Option<Timestamp>,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub key: Key,
    /// Its length in bytes.
    pub size: u64,
    /// The time given at `put` where a listing shows it, else when it was stored.
    pub modified: Timestamp,
}
