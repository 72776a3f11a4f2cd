//! S3 and everything that speaks S3.
//!
//! Always true: keys are sent byte for byte; an object appears whole, from one
//! request or from parts that one request joins; no request of ours is retried
//! below this room but the parts of an upload, whose body may not come twice;
//! no error, log line or debug output shows a secret.
//!
//! A crash can leave the parts of an unfinished upload, which listings do not
//! show and the bucket's owner pays for. `tidy` removes those that are old.

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

use std::fmt;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::runtime;

use super::{Body, Error, Key, Object, PutOptions, Result, Storage};
use crate::types::Timestamp;
use failure::Failure;
use link::Link;

pub use options::{Credentials, Encryption, Options};

/// A bucket as a storage.
#[derive(Clone)]
pub struct S3Storage(Arc<Bucket>);

struct Bucket {
    options: Options,
    link: Link,
    /// The service does not know batch deletion.
    deletes_singly: AtomicBool,
}

impl S3Storage {
    /// The bucket that the options name. Nothing is contacted yet.
    pub fn new(options: Options) -> Self {
        let link = Link::new(options.clone());
        Self(Arc::new(Bucket { options, link, deletes_singly: AtomicBool::new(false) }))
    }

    /// The same for everybody with these options on this runtime: thousands of
    /// databases in one bucket need one client and one set of credentials.
    pub fn shared(options: Options) -> Self {
        type Known = Vec<(Option<runtime::Id>, Weak<Bucket>)>;
        static KNOWN: Mutex<Known> = Mutex::new(Vec::new());
        let here = runtime::Handle::try_current().ok().map(|runtime| runtime.id());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, bucket)| bucket.strong_count() > 0);
        let same = |(there, bucket): &(_, Weak<Bucket>)| {
            bucket.upgrade().filter(|bucket| *there == here && bucket.options == options)
        };
        if let Some(bucket) = known.iter().find_map(same) {
            return Self(bucket);
        }
        let new = Self::new(options);
        known.push((here, Arc::downgrade(&new.0)));
        new
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
}

impl Bucket {
    fn name(&self) -> &str {
        &self.options.bucket
    }

    /// For `map_err`: what was being done to which object.
    fn failed<'a>(&'a self, action: &'a str, key: &'a Key) -> impl Fn(Failure) -> Error + 'a {
        move |failure| match failure.verdict().kind {
            super::ErrorKind::Missing => Error::missing(key),
            _ => failure.into_error(&format!("{action} {key} in bucket {}", self.name())),
        }
    }
}
