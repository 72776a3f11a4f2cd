//! A storage with something between it and whoever uses it: what counts, cuts,
//! delays or changes requests on their way.
//!
//! Always true: a request that a [`Between`] says nothing about goes through as it is.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use brooklet::storage::{Body, Key, Object, PutOptions, Result, Storage};
use bytes::Bytes;

/// What happens to requests on their way to `storage`.
#[async_trait]
pub(crate) trait Between: Send + Sync + 'static {
    async fn list(&self, storage: &dyn Storage, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        storage.list(prefix, after).await
    }

    async fn get(&self, storage: &dyn Storage, key: &Key, range: Range<u64>) -> Result<Bytes> {
        storage.get(key, range).await
    }

    async fn put(&self, storage: &dyn Storage, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        storage.put(key, body, options).await
    }
}

/// The storage as it is seen from behind a [`Between`].
pub(crate) struct Behind<B> {
    storage: Arc<dyn Storage>,
    pub(crate) between: B,
}

impl<B: Between> Behind<B> {
    pub(crate) fn new(between: B, storage: Arc<dyn Storage>) -> Arc<Self> {
        Arc::new(Self { storage, between })
    }
}

#[async_trait]
impl<B: Between> Storage for Behind<B> {
    fn kind(&self) -> &'static str {
        self.storage.kind()
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        self.between.list(&*self.storage, prefix, after).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.between.get(&*self.storage, key, range).await
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        self.between.put(&*self.storage, key, body, options).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        self.storage.delete(keys).await
    }
}
