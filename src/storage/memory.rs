//! The contract in its shortest form: a sorted map. Lives as long as the process;
//! tests and simulations use it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;

use super::{Body, Error, ErrorKind, Key, LIST_PAGE, Object, Put, PutOptions, Result, Storage};
use crate::types::Timestamp;

/// Objects in memory.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    objects: Mutex<BTreeMap<Key, (Bytes, Timestamp)>>,
}

impl MemoryStorage {
    /// An empty storage.
    pub fn new() -> Self {
        Self::default()
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<Key, (Bytes, Timestamp)>> {
        // Every change is one map operation, so a panic elsewhere leaves no half of it.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn kind(&self) -> &'static str {
        "memory"
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        // Keys in a folder sort behind the folder's own name, but not next to it
        // ("a-b" comes before "a/b"), so what is not in it is skipped.
        let start = after.unwrap_or(prefix);
        let objects = self.objects();
        let behind = objects.range((Bound::Excluded(start), Bound::Unbounded));
        let page = behind.filter(|(key, _)| key.is_in(prefix)).take(LIST_PAGE);
        Ok(page
            .map(|(key, (bytes, modified))| Object { key: key.clone(), size: bytes.len() as u64, modified: *modified })
            .collect())
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let bytes = self.objects().get(key).map(|(bytes, _)| bytes.clone()).ok_or_else(|| Error::missing(key))?;
        let size = bytes.len() as u64;
        match (usize::try_from(range.start), usize::try_from(range.end)) {
            (Ok(start), Ok(end)) if start <= end && end <= bytes.len() => Ok(bytes.slice(start..end)),
            _ => Err(Error::out_of_range(key, &range, size)),
        }
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        if *key == Key::ROOT {
            return Err(Error::new(ErrorKind::Refused, "an object needs a name"));
        }
        let bytes = match body {
            Body::Bytes(bytes) => bytes,
            Body::File(path) => tokio::fs::read(&path)
                .await
                .map_err(|e| Error::new(ErrorKind::Refused, format!("cannot read {}", path.display())).caused_by(e))?
                .into(),
            Body::Stream(chunks) => chunks
                .try_fold(BytesMut::new(), |mut whole, chunk| async move {
                    whole.extend_from_slice(&chunk);
                    Ok(whole)
                })
                .await
                .map_err(|e| Error::broken_off(key, e))?
                .freeze(),
        };
        let modified = options.timestamp.unwrap_or_else(|| SystemTime::now().into());
        let mut objects = self.objects();
        if options.how == Put::New && objects.contains_key(key) {
            return Err(Error::exists(key));
        }
        objects.insert(key.clone(), (bytes, modified));
        Ok(())
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        let mut objects = self.objects();
        for key in keys {
            objects.remove(key);
        }
        Ok(())
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<bool> {
        let mut objects = self.objects();
        let object = objects.get(from).cloned().ok_or_else(|| Error::missing(from))?;
        if objects.contains_key(to) {
            return Err(Error::exists(to));
        }
        objects.insert(to.clone(), object);
        Ok(true)
    }
}
