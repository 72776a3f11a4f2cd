//! S3 and everything that speaks S3.
//!
//! Always true: keys are sent byte for byte; an object appears whole, from one
//! request or from parts that one request joins; no request of ours is retried
//! below this room but the parts of an upload, whose body may not come twice;
//! no error, log line or debug output shows a secret.
//!
//! A crash can leave the parts of an unfinished upload, which listings do not
//! show and the bucket's owner pays for. `tidy` removes those that are old.

mod copy;
mod credentials;
mod delete;
mod failure;
mod headers;
mod link;
mod listing;
mod multipart;
mod options;
mod parts;
pub mod providers;
mod put;
mod read;
mod transport;
mod trust;

use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::Bytes;

use super::{Body, Counts, Error, Key, Known, Object, Operation, PutOptions, Result, Storage};
use crate::types::Timestamp;
use failure::Failure;
use link::Link;

pub use options::{COPY_SIZE, Credentials, Encryption, Options};

/// A bucket as a storage.
#[derive(Clone)]
pub struct S3Storage(Arc<Bucket>);

struct Bucket {
    shared: Arc<Shared>,
    counts: Arc<Counts>,
}

/// What all who use one bucket in the same way have in common.
struct Shared {
    options: Options,
    link: Link,
    /// The service does not know batch deletion.
    deletes_singly: AtomicBool,
    known: Known,
}

impl std::ops::Deref for Bucket {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl S3Storage {
    /// The bucket that the options name. Nothing is contacted yet.
    pub fn new(options: Options) -> Self {
        Self::of(Arc::new(Shared::new(options)))
    }

    /// The same, with one client for all who give the same options.
    pub fn shared(options: Options) -> Self {
        static ALL: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|shared| shared.strong_count() > 0);
        let found = all.iter().filter_map(Weak::upgrade).find(|shared| shared.options == options);
        Self::of(found.unwrap_or_else(|| {
            let shared = Arc::new(Shared::new(options));
            all.push(Arc::downgrade(&shared));
            shared
        }))
    }

    fn of(shared: Arc<Shared>) -> Self {
        Self(Arc::new(Bucket { shared, counts: Arc::default() }))
    }

    /// Every request made through this value, as the service sees them: also the
    /// parts of an upload.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.0.counts
    }

    /// Whether the service honours conditions, for all who share the client.
    pub fn known(&self) -> &Known {
        &self.0.known
    }
}

impl Shared {
    fn new(options: Options) -> Self {
        let link = Link::new(options.clone());
        Self { options, link, deletes_singly: AtomicBool::new(false), known: Known::default() }
    }
}

/// Where it is and nothing else: the rest is long, and some of it secret.
impl fmt::Debug for S3Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { bucket, endpoint, .. } = &self.0.options;
        f.debug_struct("S3Storage").field("bucket", bucket).field("endpoint", endpoint).finish_non_exhaustive()
    }
}

#[async_trait]
impl Storage for S3Storage {
    fn kind(&self) -> &'static str {
        "s3"
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>) -> Result<Vec<Object>> {
        self.0.list(prefix, after).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.0.get(key, range).await
    }

    async fn put(&self, key: &Key, body: Body, options: PutOptions) -> Result<()> {
        put::put(&self.0, key, body, options).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        self.0.delete(keys).await
    }

    async fn tidy(&self, prefix: &Key, before: Timestamp) -> Result<u64> {
        self.0.abort_stale_uploads(prefix, before).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<bool> {
        copy::copy(&self.0, from, to).await
    }

    async fn timestamp(&self, key: &Key) -> Result<Option<Timestamp>> {
        self.0.timestamp(key).await
    }
}

impl Bucket {
    fn name(&self) -> &str {
        &self.options.bucket
    }

    /// Sends a request and counts it, each time that it is sent.
    async fn send<T, E, F>(
        &self,
        operation: Operation,
        request: impl Fn(Client) -> F + Send + Sync,
    ) -> std::result::Result<T, Failure>
    where
        F: Future<Output = std::result::Result<T, SdkError<E, HttpResponse>>> + Send,
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let counted = |client| {
            let (counted, answer) = (self.counts.begin(operation), request(client));
            async move { counted.end_as(answer.await, failure::kind) }
        };
        self.link.send(counted).await
    }

    /// For `map_err`: what was being done to which object.
    fn failed<'a>(&'a self, action: &'a str, key: &'a Key) -> impl Fn(Failure) -> Error + 'a {
        move |failure| match failure.verdict().kind {
            super::ErrorKind::Missing => Error::missing(key),
            _ => failure.into_error(&format!("{action} {key} in bucket {}", self.name())),
        }
    }
}
