//! A wrapper for storages that do not know conditions: it looks whether a name
//! is free, then writes.
//!
//! Always true: a name that was seen taken is not written to, and no condition is
//! sent. What it cannot promise: two writers that look at the same moment both
//! see a free name, and the later one wins. So the rule that of any number of
//! writers exactly one succeeds holds only if they are not that close together.
//! Use it where the storage offers nothing better.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Body, Error, ErrorKind, Key, Object, Put, PutOptions, Result, Storage};
use crate::types::Timestamp;

/// A storage that is asked before it is written to.
pub struct LookFirst(Arc<dyn Storage>);

impl LookFirst {
    /// Wraps a storage.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self(inner)
    }
}

#[async_trait]
impl Storage for LookFirst {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        self.0.list(prefix, after).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.0.get(key, range).await
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        if options.how == Put::New {
            // No bytes are wanted, only whether there are any to be had.
            match self.0.get(key, 0..0).await {
                Ok(_) => return Err(Error::exists(key)),
                Err(error) if error.kind == ErrorKind::Missing => {}
                Err(error) => return Err(error),
            }
        }
        self.0.put(key, body, PutOptions { how: Put::Replace, ..options }).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        self.0.delete(keys).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<bool> {
        // The copy's own condition would be ignored as all others are.
        match self.0.get(to, 0..0).await {
            Ok(_) => Err(Error::exists(to)),
            Err(error) if error.kind == ErrorKind::Missing => self.0.copy(from, to).await,
            Err(error) => Err(error),
        }
    }

    async fn timestamp(&self, key: &Key) -> Result<Option<Timestamp>> {
        self.0.timestamp(key).await
    }

    async fn tidy(&self, prefix: &Key, before: Timestamp) -> Result<u64> {
        self.0.tidy(prefix, before).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemoryStorage;
    use super::*;

    const NEW: PutOptions = PutOptions { how: Put::New, timestamp: None };

    #[tokio::test]
    async fn a_taken_name_is_left_alone_and_no_condition_is_sent() {
        /// Refuses conditions, as Backblaze B2 does.
        struct Strict(MemoryStorage);

        #[async_trait]
        impl Storage for Strict {
            fn kind(&self) -> &'static str {
                "strict"
            }
            async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
                self.0.list(prefix, after).await
            }
            async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
                self.0.get(key, range).await
            }
            async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
                match options.how {
                    Put::New => Err(Error::new(ErrorKind::Refused, "not implemented")),
                    Put::Replace => self.0.put(key, body, options).await,
                }
            }
            async fn delete(&self, keys: &[Key]) -> Result<()> {
                self.0.delete(keys).await
            }
        }

        let key = Key::new("a/b").unwrap();
        let strict = Arc::new(Strict(MemoryStorage::new()));
        assert!(strict.put(&key, vec![1].into(), NEW).await.is_err());
        let looking = LookFirst::new(strict);
        looking.put(&key, vec![1].into(), NEW).await.unwrap();
        let taken = looking.put(&key, vec![2].into(), NEW).await.unwrap_err();
        assert_eq!(taken.kind, ErrorKind::Exists);
        assert_eq!(looking.get(&key, 0..1).await.unwrap(), vec![1]);
        let empty = Key::new("a/empty").unwrap();
        looking.put(&empty, Vec::new().into(), NEW).await.unwrap();
        assert_eq!(looking.put(&empty, vec![2].into(), NEW).await.unwrap_err().kind, ErrorKind::Exists);
        looking.put(&key, vec![3].into(), PutOptions { how: Put::Replace, timestamp: None }).await.unwrap();
        assert_eq!(looking.get(&key, 0..1).await.unwrap(), vec![3]);
    }
}
