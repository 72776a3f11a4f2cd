//! Backups that Litestream 0.3 left behind: read, never written.
//!
//! Always true: nothing here changes the storage. Every byte of an object is
//! checked against the checksum it carries before what it says is believed, and
//! log frames are applied only as far as SQLite itself would: up to a commit,
//! along an unbroken chain of checksums. A file that the replay was writing when
//! it stopped is not a database; whoever asked for it throws it away.
//!
//! ```text
//! <root>/generations/<16 hex digits>/snapshots/<index>.snapshot.lz4    the database file
//! <root>/generations/<16 hex digits>/wal/<index>_<offset>.wal.lz4      a slice of log number <index>
//! ```
//!
//! An object is one LZ4 frame, or one inside an age envelope. The slices of one
//! index, in order of their offsets, are one log of SQLite; the logs, in order,
//! are replayed over the snapshot of the first one's index.

mod content;
mod error;
mod layout;
mod log;
mod plan;
mod replay;
mod stream;

use std::sync::Arc;

use crate::replica::Replica;
use crate::storage::{self, ErrorKind, Key, LIST_PAGE, Storage};

pub use content::{Content, Keys};
pub use error::{Damage, Error};
pub use layout::{Item, Listing, Part, Span};
pub use log::LogReader;
pub use plan::{Plan, PlanError, Wish, choose, detours, explain_holes};
pub use replay::{Target, check_snapshot, replay};
pub use stream::{Arrivals, feed};

/// The place in a storage where Litestream 0.3 kept one database.
#[derive(Clone)]
pub struct Archive {
    storage: Arc<dyn Storage>,
    folder: Key,
    keys: Keys,
}

impl Archive {
    /// What Litestream 0.3 would have written at the place of this replica.
    pub fn of(replica: &Replica) -> Result<Self, Error> {
        let keys = Keys::parse(replica.identities())?;
        Ok(Self { storage: Arc::clone(replica.storage()), folder: replica.beside_levels("generations"), keys })
    }

    /// Everything that is there. Other names are skipped.
    pub async fn list(&self) -> Result<Listing, Error> {
        let mut items = Vec::new();
        let mut after = None;
        loop {
            let page = self.storage.list(&self.folder, after.as_ref()).await?;
            let last = page.last().map(|object| object.key.clone());
            if last.is_some() && last <= after {
                let message =
                    format!("the listing of {} repeats itself: report this storage as not supported", self.folder);
                return Err(storage::Error::new(ErrorKind::Refused, message).into());
            }
            items.extend(page.iter().filter_map(|object| {
                let name = object.key.as_str().strip_prefix(self.folder.as_str())?.strip_prefix('/')?;
                Item::parse(name, object.size, object.modified)
            }));
            if page.len() < LIST_PAGE {
                return Ok(Listing::new(items));
            }
            after = last;
        }
    }

    /// Where an object is.
    pub fn key(&self, item: &Item) -> Key {
        self.folder.child(&item.name()).expect("digits are legal in a key")
    }

    /// The keys that open what is encrypted.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }
}
